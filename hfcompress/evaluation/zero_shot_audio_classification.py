"""The task `zero-shot-audio-classification`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from hfcompress.evaluation.zero_shot import ZeroShotOptions, ZeroShotTask

__all__ = ["ZeroShotAudioClassification", "ZeroShotAudioOptions"]

_COMPARED = (
    "top1_agreement",
    "embedding_cosine_audio",
    "embedding_cosine_text",
    "neighbour_overlap_at_10_audio",
)


class ZeroShotAudioOptions(ZeroShotOptions):
    """What a recipe can say of `task: zero-shot-audio-classification`."""

    templates: tuple[str, ...] = Field(
        ("this is a sound of {label}.",),
        min_length=1,
        description="Sentences with `{label}`; their embeddings are averaged.",
    )


class ZeroShotAudioClassification(ZeroShotTask):
    """Accuracy of matching sounds to class names, and fidelity to the source's embeddings."""

    Options: ClassVar[type[ZeroShotOptions]] = ZeroShotAudioOptions
    name: ClassVar[str] = "zero-shot-audio-classification"
    modality: ClassVar[Literal["image", "audio"]] = "audio"
    columns: ClassVar[frozenset[str]] = frozenset({"audio", "label"})
    measures: ClassVar[tuple[str, ...]] = (
        "zero_shot_accuracy",
        "zero_shot_top5_accuracy",
        "mean_per_class_recall",
        "worst_class_recall",
        *_COMPARED,
    )
    compared: ClassVar[tuple[str, ...]] = _COMPARED
