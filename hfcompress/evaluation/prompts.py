"""What a model that reads an image and words takes for rows of images and prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hfcompress.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL.Image import Image
    from torch import Tensor

    from hfcompress.contracts import Model

__all__ = ["prompted_groups", "prompted_inputs"]


def prompted_groups(
    model: Model, images: Sequence[Image], prompts: Sequence[str] | None
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Yield what `generate` takes for rows that go together, with their places among `images`.

    A processor with a chat template gets each prompt as what a user says about the image; any other gets it as it is,
    or the image alone. Prompts that the model goes on writing are padded on their left. A class with a `generate` of
    its own may read them elsewhere, where padding could move them, so there only prompts of equal length go together.

    Args:
        model: The model that will generate.
        images: One a row.
        prompts: One a row, or none.

    Raises:
        DataError: A row holds no image.
        UsageError: The processor has a chat template and there is no prompt.
    """
    for row, image in enumerate(images):
        if not hasattr(image, "convert"):
            msg = f"row {row} of this batch holds {type(image).__name__} where an image was expected"
            raise DataError(msg)
    coloured = [image.convert("RGB") for image in images]
    processor: Any = model.processor
    if prompts is None:
        if getattr(processor, "chat_template", None):
            msg = "this model answers in a conversation; say what it is asked with `prompt: ...` under the task"
            raise UsageError(msg)
        yield list(range(len(images))), dict(processor(images=coloured, return_tensors="pt"))
        return
    for places in _together(model, prompts):
        chosen, texts = [coloured[place] for place in places], [prompts[place] for place in places]
        yield places, prompted_inputs(processor, chosen, texts)


def prompted_inputs(processor: Any, images: list[Image], texts: list[str]) -> dict[str, Tensor]:  # noqa: ANN401
    """Return what a processor makes of images in RGB and as many prompts, by its chat template if it has one."""
    tokenizer = processor.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not getattr(processor, "chat_template", None):
        return dict(processor(images=list(images), text=list(texts), padding=True, return_tensors="pt"))
    talks = [
        [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]
        for image, text in zip(images, texts, strict=True)
    ]
    return dict(
        processor.apply_chat_template(
            talks, add_generation_prompt=True, tokenize=True, padding=True, return_dict=True, return_tensors="pt"
        )
    )


def _together(model: Model, prompts: Sequence[str]) -> list[list[int]]:
    """Return the places of the prompts that can go through the model in one batch."""
    from transformers import GenerationMixin

    tokenizer: Any = model.processor.tokenizer  # type: ignore[attr-defined] # of every processor of images and texts
    stock = model.stock
    if not model.config.is_encoder_decoder and type(stock).generate is GenerationMixin.generate:
        tokenizer.padding_side = "left"
        return [list(range(len(prompts)))]
    groups: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(len(tokenizer(prompt)["input_ids"]), []).append(place)
    return list(groups.values())
