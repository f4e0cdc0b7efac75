"""The task `zero-shot-image-classification`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from hfcompress.evaluation.zero_shot import ZeroShotOptions, ZeroShotTask

__all__ = ["ZeroShotImageClassification", "ZeroShotImageOptions"]

_COMPARED = (
    "top1_agreement",
    "embedding_cosine_image",
    "embedding_cosine_text",
    "neighbour_overlap_at_10_image",
)


class ZeroShotImageOptions(ZeroShotOptions):
    """What a recipe can say of `task: zero-shot-image-classification`."""

    templates: tuple[str, ...] = Field(
        ("a photo of a {label}.",), min_length=1, description="Sentences with `{label}`; their embeddings are averaged."
    )


class ZeroShotImageClassification(ZeroShotTask):
    """Accuracy of matching images to class names, and fidelity to the source's embeddings."""

    Options: ClassVar[type[ZeroShotOptions]] = ZeroShotImageOptions
    name: ClassVar[str] = "zero-shot-image-classification"
    modality: ClassVar[Literal["image", "audio"]] = "image"
    columns: ClassVar[frozenset[str]] = frozenset({"image", "label"})
    measures: ClassVar[tuple[str, ...]] = (
        "zero_shot_accuracy",
        "zero_shot_top5_accuracy",
        "mean_per_class_recall",
        "worst_class_recall",
        *_COMPARED,
    )
    compared: ClassVar[tuple[str, ...]] = _COMPARED
