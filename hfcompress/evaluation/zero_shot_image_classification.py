"""Zero-shot image classification: the class whose text embedding is nearest to the image's (Radford et al. 2021)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from hfcompress.contracts import Task, TaskOptions

__all__ = ["ZeroShotImageClassification", "ZeroShotOptions"]


class ZeroShotOptions(TaskOptions):
    """What a recipe can say of `task: zero-shot-image-classification`."""

    templates: tuple[str, ...] = Field(
        ("a photo of a {label}.",), min_length=1, description="Sentences with `{label}`; their embeddings are averaged."
    )
    labels: tuple[str, ...] | None = Field(
        None, description="Class names in the order of the label numbers; the dataset's own by default."
    )


class ZeroShotImageClassification(Task):
    """Top-1 accuracy of matching images to class names, and fidelity to the source's embeddings."""

    Options: ClassVar[type[ZeroShotOptions]] = ZeroShotOptions
    options: ZeroShotOptions
    columns: ClassVar[frozenset[str]] = frozenset({"image", "label"})
    measures: ClassVar[tuple[str, ...]] = (
        "zero_shot_accuracy",
        "embedding_cosine_image",
        "embedding_cosine_text",
        "top1_agreement",
    )
