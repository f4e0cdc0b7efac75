"""Narrower residual streams of every family, with no code for any of them in the package."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from hfcompress.anatomy import Tower, find_towers, meta_model
from hfcompress.errors import ProofError, PruningError
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


def narrowed(model: PreTrainedModel, plan: WidthPlan) -> Narrowed:
    """Remove the channels that matter least by magnitude."""
    return apply_width(model, plan, "magnitude", "none", None, torch.Generator())


@pytest.mark.parametrize(("family", "name"), TOWERS)
def test_half_the_width_goes(family: str, name: str, tmp_path: Path) -> None:
    """The narrower model is the masked one, and its folder loads with the stock class and runs on real inputs."""
    model = build(FAMILIES[family])
    plan = plan_width(model.config, tower_of(model, name), 0.5)
    result = narrowed(model, plan)
    pruned = rebuild(plan.config, result.state)
    assert prove_width(result, pruned, plan, FAMILIES[family].inputs(model.config)) <= TOLERANCE
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


def test_compensation_keeps_what_the_model_gives() -> None:
    """On its calibration rows, a refitted narrower model is nearer to the original than one that is only sliced."""
    model = build(FAMILIES["clip"])
    plan = plan_width(model.config, tower_of(model, "vision"), 0.25)
    inputs = FAMILIES["clip"].inputs(model.config)
    pixels = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    batches = [{**inputs, "pixel_values": pixels}]
    errors = []
    for compensate in ("none", "least_squares"):
        generator = torch.Generator().manual_seed(0)
        result = apply_width(model, plan, "activation", compensate, batches, generator)
        pruned = rebuild(plan.config, result.state)
        assert prove_width(result, pruned, plan) <= TOLERANCE
        with torch.no_grad():
            expected, got = (one(**batches[0]).image_embeds for one in (model, pruned))
        errors.append(float((expected - got).norm()))
    assert errors[1] < errors[0] / 2


def test_ratio_that_rounds_up_to_nothing() -> None:
    """Whole heads go: a ratio that leaves all of them is an error that says what the width must be a multiple of."""
    config = FAMILIES["whisper"].config()
    with pytest.raises(PruningError, match=r"d_model is 48, can only become a multiple of 24"):
        plan_width(config, tower_of(meta_model(config), "model"), 0.25)


def test_parts_that_no_longer_fit_together() -> None:
    """Where made inputs run a model only part by part, one batch shows that its projector lost its input."""
    family = FAMILIES["granite_speech"]
    model = build(family)
    plan = plan_width(model.config, tower_of(model, "encoder"), 0.5)
    result = narrowed(model, plan)
    pruned = rebuild(plan.config, result.state)
    with pytest.raises(ProofError, match="the narrower model does not run where the original does"):
        prove_width(result, pruned, plan, family.inputs(model.config))


def test_removed_parameters_are_counted() -> None:
    """The plan counts what goes before any weight is read."""
    model = build(FAMILIES["clip"])
    plan = plan_width(model.config, tower_of(model, "text"), 0.5)
    pruned = rebuild(plan.config, narrowed(model, plan).state)
    assert model.num_parameters() - plan.removed_parameters == pruned.num_parameters()


def test_compensation_needs_rows() -> None:
    """Refitting without calibration rows is an error, not a pass-over."""
    model = build(FAMILIES["clip"])
    plan = plan_width(model.config, tower_of(model, "text"), 0.5)
    with pytest.raises(PruningError, match="least_squares` is not possible without calibration"):
        apply_width(model, plan, "magnitude", "least_squares", None, torch.Generator())
