"""Narrower residual streams of every family, with no code for any of them in the package."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from hfcompress.anatomy import Tower, find_towers, meta_model
from hfcompress.errors import PruningError
from hfcompress.pruning.residual import Narrowed, apply_width, prove_width
from hfcompress.pruning.surgery import TOLERANCE, rebuild
from hfcompress.pruning.width import WidthPlan, plan_width
from tests.families import FAMILIES, build

TOWERS = [
    ("blip2", "qformer"),
    ("blip2", "text"),
    ("blip2", "vision"),
    ("blip_captioning", "text"),
    ("blip_captioning", "vision"),
    ("blip_vqa", "vision"),
    ("chinese_clip", "text"),
    ("chinese_clip", "vision"),
    ("clap", "text"),
    ("clip", "text"),
    ("clip", "vision"),
    ("flava", "multimodal"),
    ("idefics3", "vision"),
    ("internvl", "text"),
    ("internvl", "vision"),
    ("janus", "vision"),
    ("llava", "text"),
    ("llava", "vision"),
    ("llava_qwen2", "text"),
    ("owlvit", "text"),
    ("pixtral", "vision"),
    ("pix2struct", "text"),
    ("qwen2_audio", "audio"),
    ("siglip", "text"),
    ("siglip", "vision"),
    ("trocr", "decoder"),
    ("trocr", "encoder"),
    ("vilt", "model"),
    ("vision_text_dual_encoder", "text"),
    ("vision_text_dual_encoder", "vision"),
    ("vit_gpt2", "decoder"),
    ("vit_gpt2", "encoder"),
    ("whisper", "model"),
]

pytestmark = [
    # classes of transformers 4 that warn of arguments which other classes of transformers still give them
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]


def tower_of(model: PreTrainedModel, name: str) -> Tower:
    """Return the first tower of that name."""
    return next(tower for tower in find_towers(model) if tower.name == name)


def narrowed(
    model: PreTrainedModel, plan: WidthPlan, importance: str = "magnitude", compensate: str = "none", rows: int = 0
) -> Narrowed:
    """Apply a plan, on `rows` batches of random pairs of an image and a text."""
    generator = torch.Generator().manual_seed(0)
    batches = [
        {
            "input_ids": torch.randint(4, 100, (8, 8), generator=generator),
            "pixel_values": torch.randn(8, 3, 32, 32, generator=generator),
        }
        for _ in range(rows)
    ]
    return apply_width(model, plan, importance, compensate, batches or None, generator)


@pytest.mark.parametrize(("family", "name"), TOWERS)
def test_half_the_width_goes(family: str, name: str, tmp_path: Path) -> None:
    """The narrower model is the masked one, and its folder loads with the stock class and runs on real inputs."""
    model = build(FAMILIES[family])
    plan = plan_width(model.config, tower_of(model, name), 0.5)
    result = narrowed(model, plan)
    pruned = rebuild(plan.config, result.state)
    assert prove_width(result, pruned, plan) <= TOLERANCE
    assert pruned.num_parameters() < model.num_parameters()
    pruned.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert "quantization_config" not in saved
    loaded, loading = getattr(transformers, saved["architectures"][0]).from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not loading["missing_keys"]
    assert not loading["mismatched_keys"]
    with torch.no_grad():
        loaded.eval()(**FAMILIES[family].inputs(loaded.config))


@pytest.mark.parametrize(
    ("family", "name", "why"),
    [
        ("clap", "audio", "no field of its configuration is a dimension of most of its parameters"),
        ("kosmos2", "text", "embed_positions.weights is computed from the width"),
        ("layoutlmv3", "model", "has its width from elsewhere than hidden_size"),
        ("speech2text", "model", "embed_positions.weights is computed from the width"),
    ],
)
def test_what_cannot_be_narrower(family: str, name: str, why: str) -> None:
    """A tower whose width no stock configuration can change is refused before any weight is read, with the reason."""
    config = FAMILIES[family].config()
    with pytest.raises(PruningError, match=rf"the width of the tower '{name}' cannot change: .*{why}"):
        plan_width(config, tower_of(meta_model(config), name), 0.5)
