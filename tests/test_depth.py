"""Removing whole blocks of every family: stacks, stock configurations, numbers of layers, and the proof."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import PretrainedConfig, PreTrainedModel

from hfcompress.anatomy import load_config, meta_model, shapes_of
from hfcompress.errors import ProofError, PruningError
from hfcompress.outputs import run
from hfcompress.probes import Probe, find_probes
from hfcompress.pruning.block_choice import block_influence, block_pattern, choose_blocks
from hfcompress.pruning.config_surgery import Fit, fit_config
from hfcompress.pruning.depth import Stack, blocks_of, drop_blocks, find_stacks
from hfcompress.pruning.layer_fields import indexed_blocks, stack_groups
from hfcompress.pruning.plan import tower_couplings
from hfcompress.pruning.skipping import run_features, shared_outputs, skip_blocks, skipped
from hfcompress.pruning.surgery import (
    TOLERANCE,
    Removal,
    compare_outputs,
    mask,
    rebuild,
    slice_shapes,
    slice_state,
)
from tests.families import FAMILIES, build

pytestmark = [
    # classes of transformers 4 that warn of arguments which other classes of transformers still give them
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]

SHORTER = [
    "align",
    "altclip",
    "blip2",
    "blip2_t5",
    "blip_captioning",
    "blip_vqa",
    "chinese_clip",
    "clap",
    "clip",
    "clipseg",
    "donut",
    "flava",
    "florence2",
    "gemma3",
    "got_ocr2",
    "groupvit",
    "idefics3",
    "internvl",
    "kosmos2",
    "layoutlmv3",
    "llava",
    "llava_feature_layers",
    "llava_qwen2",
    "lxmert",
    "owlvit",
    "paligemma",
    "pix2struct",
    "qwen2_5_vl",
    "qwen2_audio",
    "qwen2_vl",
    "qwen3_vl",
    "siglip",
    "siglip2",
    "smolvlm",
    "speech2text",
    "trocr",
    "video_llava",
    "vilt",
    "vipllava",
    "vision_text_dual_encoder",
    "vit_gpt2",
    "whisper",
    "xclip",
]
STUCK = {
    # a decoder block for each extracted layer, with a projection beside the stack
    ("clipseg", "decoder.layers"): "no field of the configuration",
    # links between the two stacks, one fewer than blocks, are in a list of their own
    ("bridgetower", "bridgetower.cross_modal_text_layers"): "no stock configuration",
    # the model's code reads the last hidden states of both towers by the number of cross-modal layers
    ("bridgetower", "bridgetower.text_model.encoder.layer"): "not the masked model",
}


@dataclass(frozen=True)
class Shortened:
    """A model without a block, and the outputs of the whole one that skips it."""

    model: PreTrainedModel
    fit: Fit
    whole: dict[str, torch.Tensor]
    short: dict[str, torch.Tensor]

    @property
    def difference(self) -> float:
        """Of all outputs that mean the same in both, there being some."""
        expected, got = shared_outputs(self.whole, self.short)
        assert expected
        return compare_outputs(expected, got)

    @property
    def edits(self) -> list[str]:
        """The edits in words."""
        return [str(edit) for edit in self.fit.edits]


def fitted(config: PretrainedConfig, blocks: Sequence[tuple[Stack, Sequence[int]]]) -> Fit:
    """Find the configuration without blocks, or raise."""
    wanted = shapes_of(meta_model(config))
    for stack, kept in blocks:
        wanted = drop_blocks(wanted, stack, kept)
    fit = fit_config(config, wanted, blocks)
    fit.require_exact(wanted)
    return fit


def shorten(name: str, stacks: Sequence[Stack], gone: int) -> Shortened:
    """Remove a block from each stack of a family's model."""
    model = build(FAMILIES[name])
    blocks = [(stack, [block for block in range(stack.size) if block != gone]) for stack in stacks]
    fit = fitted(model.config, blocks)
    probes = [Probe("", dict(FAMILIES[name].inputs(model.config)))]
    state = model.state_dict()
    for stack, kept in blocks:
        skip_blocks(model, stack, [gone])
        state = drop_blocks(state, stack, kept)
    short = rebuild(fit.config, state)
    return Shortened(short, fit, run(model, probes), run(short, probes))


def stack_of(name: str, ending: str) -> Stack:
    """Return the stack of a family's model whose name holds this; the names differ between versions of transformers."""
    (found,) = [stack for stack in find_stacks(meta_model(FAMILIES[name].config())) if ending in stack.name]
    return found


def without(stack: Stack, *gone: int) -> list[int]:
    """Return the blocks that stay."""
    return [block for block in range(stack.size) if block not in gone]


@pytest.mark.parametrize("name", SHORTER)
def test_every_stack_of_a_family_loses_a_block(name: str, tmp_path: Path) -> None:
    """The stock model of the shortened configuration is the whole model that skips the block, and survives the disk."""
    config = FAMILIES[name].config()
    for group in stack_groups(config):
        if (name, group[0].name) in STUCK:
            continue
        pattern = block_pattern(config, group[0], group[0].size - 1)
        named = indexed_blocks(config, group[0])
        free = [b for b in range(group[0].size) if b not in named and pattern.reachable(without(group[0], b))]
        shortened = shorten(name, group, free[len(free) // 2])
        assert shortened.difference <= TOLERANCE
        assert shortened.edits
        shortened.fit.config.save_pretrained(tmp_path)
        reloaded = shapes_of(meta_model(load_config(tmp_path)))
        assert reloaded == shapes_of(meta_model(shortened.fit.config))


def attempt(name: str, group: Sequence[Stack]) -> float:
    """Remove the second block, and return how far outputs are off."""
    block_pattern(FAMILIES[name].config(), group[0], group[0].size - 1)
    return shorten(name, group, 1).difference


@pytest.mark.parametrize(("name", "stack"), STUCK)
def test_stack_that_cannot_be_shortened(name: str, stack: str) -> None:
    """A stack that no configuration can say shorter, or that the model's code counts on, is refused."""
    (group,) = [
        group for group in stack_groups(FAMILIES[name].config()) if group[0].name == stack or group[-1].name == stack
    ]
    with pytest.raises((PruningError, ProofError), match=STUCK[name, stack]):
        attempt(name, group)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("clip", [4, 3]),
        ("clipseg", [4, 5, 3]),
        ("groupvit", [4, 2, 2]),
        ("donut", [2, 3, 2, 4]),
        ("florence2", [3, 3, 4]),
        ("align", [4]),
        ("clap", [4, 2, 2, 2]),
        ("blip2_t5", [3, 3, 4, 3]),
        ("speech2text", [3, 4]),
        ("qwen3_vl", [4, 4]),
        ("mllama", [4, 3, 5]),
    ],
)
def test_stacks(name: str, sizes: list[int]) -> None:
    """Blocks are what a stack is made of: no stages, halves of blocks, convolutions, projections or heads."""
    assert [stack.size for stack in find_stacks(meta_model(FAMILIES[name].config()))] == sizes


def test_drop_blocks() -> None:
    """The blocks that stay move up, and nothing else changes its name."""
    shapes = {
        "a.layers.0.w": (1,),
        "a.layers.1.w": (2,),
        "a.layers.2.w": (3,),
        "a.layers_norm": (4,),
        "b.layers.0.w": (5,),
    }
    expected = {"a.layers.0.w": (2,), "a.layers.1.w": (3,), "a.layers_norm": (4,), "b.layers.0.w": (5,)}
    assert drop_blocks(shapes, Stack("a.layers", 3), [1, 2]) == expected


@pytest.mark.parametrize(
    ("name", "gone", "expected"),
    [
        ("llava", 0, []),
        ("llava", 1, []),
        ("llava", 2, ["vision_feature_layer: -2 → -1"]),
        ("llava_feature_layers", 0, []),
        ("llava_feature_layers", 1, ["vision_feature_layer: [-3, -1] → [-2, -1]"]),
        ("llava_feature_layers", 2, ["vision_feature_layer: [-3, -1] → [-2, -1]"]),
    ],
)
def test_hidden_states_that_an_image_is_read_from(name: str, gone: int, expected: list[str]) -> None:
    """The language model reads the same hidden states of the image as before, whichever block goes."""
    shortened = shorten(name, [stack_of(name, "vision_tower")], gone)
    assert shortened.difference <= TOLERANCE
    assert shortened.edits == ["vision_config.num_hidden_layers: 3 → 2", *expected]


def test_towers_of_one_depth() -> None:
    """Towers that are as deep as each other and lose as many blocks, not the same ones, are told apart."""
    config = FAMILIES["llava_qwen2"].config()
    config.text_config.num_hidden_layers = 3
    config.text_config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    text, vision = Stack(stack_of("llava_qwen2", "language_model").name, 3), stack_of("llava_qwen2", "vision_tower")
    for blocks in ([(text, [1, 2]), (vision, [0, 1])], [(vision, [0, 1]), (text, [1, 2])]):
        found = fitted(config, blocks)
        assert found.config.text_config.layer_types == ["sliding_attention", "full_attention"]
        assert found.config.vision_feature_layer == -1
        assert len(found.edits) == 4


def test_features_show_a_wrong_number_of_a_layer() -> None:
    """A model that is probed part by part still proves where it reads its image from."""
    model, stack = build(FAMILIES["llava"]), stack_of("llava", "vision_tower")
    fit = fitted(model.config, [(stack, [0, 1])])
    probes = find_probes(model)
    state = drop_blocks(model.state_dict(), stack, [0, 1])
    skip_blocks(model, stack, [2])
    features = run_features(model, probes)
    assert compare_outputs(features, run_features(rebuild(fit.config, state), probes)) <= TOLERANCE
    fit.config.vision_feature_layer = -2
    with pytest.raises(ProofError, match="get_image_features"):
        compare_outputs(features, run_features(rebuild(fit.config, state), probes))


def test_layer_numbers_that_outputs_settle() -> None:
    """Numbers of layers beside both towers are told apart by the outputs that either reading gives."""
    vision, text = stack_of("clipseg", "vision_model"), stack_of("clipseg", "text_model")
    shortened = shorten("clipseg", [vision], 2)
    assert shortened.difference <= TOLERANCE
    assert "extract_layers: [0, 1, 3] → [0, 1, 2]" in shortened.edits
    assert indexed_blocks(FAMILIES["clipseg"].config(), vision) == {0, 1, 3}
    assert shorten("clipseg", [text], 0).edits == ["text_config.num_hidden_layers: 4 → 3"]


def test_layer_numbers_that_nothing_settles() -> None:
    """Where two stacks may be meant and no output tells which, the plan names the field."""
    stack = stack_of("mllama", "vision_model.transformer")
    with pytest.raises(PruningError, match=r"intermediate_layers_indices may or may not name layers of .*transformer"):
        fitted(FAMILIES["mllama"].config(), [(stack, without(stack, 1))])


def test_blocks_that_a_field_names_stay() -> None:
    """A block with attention of its own kind cannot go; the others can, and the numbers follow."""
    config, stack = FAMILIES["qwen2_5_vl"].config(), stack_of("qwen2_5_vl", "visual")
    assert indexed_blocks(config, stack) == {1, 4}
    with pytest.raises(PruningError, match=r"vision_config.fullatt_block_indexes names block 1 of .*visual.blocks"):
        fitted(config, [(stack, without(stack, 1))])
    edits = [str(edit) for edit in fitted(config, [(stack, without(stack, 0, 3))]).edits]
    assert edits == ["vision_config.depth: 5 → 3", "vision_config.fullatt_block_indexes: [1, 4] → [0, 2]"]


@pytest.mark.parametrize("gone", range(4))
def test_kinds_of_attention_stay_with_their_blocks(gone: int) -> None:
    """A list with one entry for each block loses that of the removed one."""
    shortened = shorten("gemma3", [stack_of("gemma3", "language_model")], gone)
    assert shortened.difference <= TOLERANCE
    assert shortened.edits == ["text_config.num_hidden_layers: 4 → 3", "text_config.layer_types: 4 → 3 entries"]
    kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    assert shortened.fit.config.text_config.layer_types == [kinds[block] for block in range(4) if block != gone]


def test_second_name_of_a_count() -> None:
    """A field that the configuration works out from the number of blocks says the new one as well."""
    stack = stack_of("whisper", "encoder.layers")
    assert fitted(FAMILIES["whisper"].config(), [(stack, [0, 2])]).config.num_hidden_layers == 2


def test_default_of_another_count_is_no_second_name() -> None:
    """A decoder that is as deep as the encoder by default keeps its blocks when the encoder loses some."""
    config = FAMILIES["blip2_t5"].config()
    config.text_config.num_decoder_layers = 4
    stack = stack_of("blip2_t5", "language_model.encoder")
    assert [str(edit) for edit in fitted(config, [(stack, [0, 1, 3])]).edits] == ["text_config.num_layers: 4 → 3"]


def test_shifted_windows_keep_their_turn() -> None:
    """A block with a shifted window cannot take the place of one without: no shape tells, its traits do."""
    config, stack = FAMILIES["donut"].config(), stack_of("donut", "layers.1.blocks")
    with pytest.raises(PruningError, match=r"keeps every block what it is: .*shift_size would change"):
        fitted(config, [(stack, [1, 2])])
    pattern = block_pattern(config, stack, 2)
    assert [block for block in range(3) if pattern.reachable(without(stack, block))] == [2]


def test_position_bias_stays_in_the_first_block() -> None:
    """Only the first block of a T5 has the position bias that all others use."""
    config, stack = FAMILIES["blip2_t5"].config(), stack_of("blip2_t5", "language_model.encoder")
    pattern = block_pattern(config, stack, 2)
    assert pattern.reachable([0, 2, 3])
    assert not pattern.reachable([1, 2, 3])


def test_blocks_and_units_at_once() -> None:
    """Blocks of both towers and feed-forward units go in one search, and exactly."""
    model = build(FAMILIES["clip"])
    blocks = [(stack_of("clip", "text_model"), [0, 3]), (stack_of("clip", "vision_model"), [2])]
    removals = [
        Removal(coupling, torch.arange(coupling.size // 2))
        for couplings in tower_couplings(meta_model(model.config)).values()
        for coupling in couplings
        if coupling.axis == "ffn"
    ]
    wanted, state = slice_shapes(shapes_of(model), removals), slice_state(model.state_dict(), removals)
    mask(model, removals)
    for stack, kept in blocks:
        wanted, state = drop_blocks(wanted, stack, kept), drop_blocks(state, stack, kept)
        skip_blocks(model, stack, without(stack, *kept))
    fit = fit_config(model.config, wanted, blocks)
    fit.require_exact(wanted)
    probes = [Probe("", dict(FAMILIES["clip"].inputs(model.config)))]
    assert compare_outputs(run(model, probes), run(rebuild(fit.config, state), probes)) <= TOLERANCE
    assert len(fit.edits) == 4


def test_skipping_ends() -> None:
    """A model that skipped a block for a while is what it was."""
    model = build(FAMILIES["clip"])
    stack = stack_of("clip", "text_model")
    probes = [Probe("", dict(FAMILIES["clip"].inputs(model.config)))]
    before = run(model, probes)
    with skipped(model, stack, [1]), skipped(model, stack, [1, 2]):
        assert not torch.equal(run(model, probes)["text_embeds"], before["text_embeds"])
    assert compare_outputs(before, run(model, probes)) == 0.0


def test_block_that_changes_the_width_is_not_skipped() -> None:
    """Only a block that returns hidden states in the shape in which it takes them can be done without."""
    model = build(FAMILIES["clip"])
    stack = stack_of("clip", "text_model")
    blocks_of(model, stack)[1].forward = lambda hidden, *_, **__: hidden[..., :1]
    skip_blocks(model, stack, [1])
    with pytest.raises(PruningError, match=r"text_model.encoder.layers.1 does not return hidden states in the shape"):
        run(model, [Probe("", dict(FAMILIES["clip"].inputs(model.config)))])


def idle(model: PreTrainedModel, stack: Stack, block: int) -> None:
    """Make a block of a CLIP hand on what it is given."""
    layer = blocks_of(model, stack)[block]
    with torch.no_grad():
        for name in ("self_attn.out_proj", "mlp.fc2"):
            for parameter in layer.get_submodule(name).parameters():
                parameter.zero_()


@pytest.mark.parametrize("calibrated", [False, True], ids=["influence", "outputs"])
def test_the_idle_block_goes_first(*, calibrated: bool) -> None:
    """A block that does nothing goes before all others, unless it must stay."""
    model = build(FAMILIES["clip"])
    stack = stack_of("clip", "text_model")
    idle(model, stack, 2)
    batches = [FAMILIES["clip"].inputs(model.config)] if calibrated else []
    assert choose_blocks(model, stack, 1, batches) == (0, 1, 3)
    assert 2 in choose_blocks(model, stack, 2, batches, protected={2})
    with pytest.raises(PruningError, match=r"4 of the 4 blocks .* cannot be removed"):
        choose_blocks(model, stack, 4, batches)


def test_influence() -> None:
    """Influence is how far a block turns the hidden states: none at all where it is idle or never run."""
    model = build(FAMILIES["clip"])
    stack = stack_of("clip", "text_model")
    idle(model, stack, 1)
    influence = block_influence(model, stack)
    assert influence.shape == (4,)
    assert influence[1] == pytest.approx(0.0, abs=1e-6)
    assert bool((influence[[0, 2, 3]] > 1e-4).all())


def test_choice_keeps_the_pattern() -> None:
    """Blocks that attend to the image and those that do not keep taking turns."""
    model = build(FAMILIES["blip2"])
    stack = stack_of("blip2", "qformer")
    pattern = block_pattern(model.config, stack, 2)
    kept = choose_blocks(model, stack, 1, [FAMILIES["blip2"].inputs(model.config)], pattern=pattern)
    assert kept == (0, 1)
