"""Promises of the model with few blocks, on which `inspect` tries things."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import CLIPConfig, PretrainedConfig, WhisperConfig

from hfcompress.anatomy import meta_model, shapes_of
from hfcompress.pruning.depth import find_stacks
from hfcompress.pruning.shallow import shallow
from tests.families import FAMILIES


def test_two_blocks_stay() -> None:
    """Every stack that a configuration says shorter has two blocks left, and the configuration is told."""
    found = shallow(FAMILIES["clip"].config())
    assert {stack.size for stack in find_stacks(meta_model(found.config))} == {2} == set(found.left.values())
    assert found.edits.keys() == found.depths.keys()
    assert not found.obstacles


def test_what_no_configuration_says_stays() -> None:
    """A stack of blocks that no field counts is left as it is, with the reason."""
    found = shallow(FAMILIES["clipseg"].config())
    assert "no field of the configuration" in found.obstacles["decoder.layers"]
    assert found.left.keys() == found.depths.keys() - {"decoder.layers"}


LARGE_IMAGES = CLIPConfig(architectures=["CLIPModel"], vision_config={"image_size": 224, "patch_size": 16})
LONG_SOUNDS = WhisperConfig(
    architectures=["WhisperModel"],
    vocab_size=64,
    pad_token_id=1,
    d_model=16,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
)


@pytest.mark.parametrize(
    ("config", "field", "expected"),
    [(LARGE_IMAGES, "vision_config.image_size", 64), (LONG_SOUNDS, "max_source_positions", 16)],
    ids=["image", "sound"],
)
def test_inputs_are_small(config: PretrainedConfig, field: str, expected: int) -> None:
    """Images and sounds are made smaller in the copy alone, and no shape but those of positions follows them."""
    part, _, name = field.rpartition(".")
    before = getattr(getattr(config, part) if part else config, name)
    found = shallow(config).config
    whole, small = shapes_of(meta_model(config)), shapes_of(meta_model(found))

    assert getattr(getattr(found, part) if part else found, name) == expected
    assert getattr(getattr(config, part) if part else config, name) == before
    assert {key.split(".")[-2] for key in small if small[key] != whole[key]} <= {
        "position_embedding",
        "embed_positions",
    }


class LargeImagesOnly(CLIPConfig):  # type: ignore[misc] # transformers has no types
    """The configuration of a model that takes no images below some size, as some models of the Hub do not."""

    def __init__(self, **fields: Any) -> None:  # noqa: ANN401 - those of CLIP
        super().__init__(**fields)
        if self.vision_config.image_size < 224:
            msg = f"image_size must be 224 at least, got {self.vision_config.image_size}"
            raise ValueError(msg)


def test_configuration_that_refuses_small_images() -> None:
    """Where no smaller image is allowed, images stay as they are, and the blocks are few all the same."""
    vision = {"image_size": 224, "patch_size": 16}
    found = shallow(LargeImagesOnly(architectures=["CLIPModel"], vision_config=vision))
    assert found.config.vision_config.image_size == 224
    assert set(found.left.values()) == {2}
