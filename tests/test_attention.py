"""Attention heads are found by what depends on what, however a model lays them out."""

import pytest

from hfcompress.anatomy import meta_model
from hfcompress.pruning.attention import attention_couplings
from hfcompress.pruning.coupling import Coupling
from hfcompress.twin import zero_twin
from tests.families import FAMILIES

Layout = dict[str, list[tuple[int, int, int]]]

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]


def heads(family: str) -> dict[str, Coupling]:
    """Return the attentions of a family's tiny model by the module that holds each."""
    model = meta_model(FAMILIES[family].config())
    return {coupling.container: coupling for coupling in attention_couplings(model, zero_twin(model))}


def layout(coupling: Coupling) -> Layout:
    """Return start, width and stride of the runs of channels that the heads have in each layer."""
    found: Layout = {}
    for member in coupling.members:
        name = member.module.removeprefix(f"{coupling.container}.")
        found.setdefault(name, []).append((member.start, member.width, member.stride))
    return found


def test_separate_projections() -> None:
    """Every attention of a CLIP has its heads in four layers: three make them, one reads them."""
    found = heads("clip")
    assert len(found) == 7
    coupling = found["text_model.encoder.layers.2.self_attn"]
    assert (coupling.axis, coupling.size, coupling.heads) == ("heads", 6, 1)
    assert layout(coupling) == {name: [(0, 8, 8)] for name in ("k_proj", "q_proj", "v_proj", "out_proj")}
    assert {member.module.rpartition(".")[2] for member in coupling.producers} == {"k_proj", "q_proj", "v_proj"}


def test_fused_projection() -> None:
    """A layer that makes queries, keys and values holds each head three times."""
    coupling = heads("blip_captioning")["vision_model.encoder.layers.0.self_attn"]
    assert layout(coupling) == {"qkv": [(0, 8, 8), (32, 8, 8), (64, 8, 8)], "projection": [(0, 8, 8)]}


def test_transposed_weights() -> None:
    """GPT-2 keeps its weights as (inputs, outputs), so the heads lie along the other dimension."""
    coupling = heads("vit_gpt2")["decoder.transformer.h.0.attn"]
    assert layout(coupling) == {"c_attn": [(0, 8, 8), (48, 8, 8), (96, 8, 8)], "c_proj": [(0, 8, 8)]}
    assert all(member.transposed for member in coupling.members)
    assert dict(coupling.consumers[0].parameters) == {"weight": 0}


def test_cross_attention() -> None:
    """An attention from one tower to another is one of the tower that asks."""
    found = heads("vit_gpt2")
    assert layout(found["decoder.transformer.h.3.crossattention"]) == {
        "c_attn": [(0, 8, 8), (48, 8, 8)],
        "q_attn": [(0, 8, 8)],
        "c_proj": [(0, 8, 8)],
    }


def test_grouped_queries() -> None:
    """Where heads share a key and a value, a unit is all that share one."""
    coupling = heads("llava")["model.language_model.layers.0.self_attn"]
    assert (coupling.size, coupling.heads) == (2, 3)
    assert layout(coupling) == {
        "k_proj": [(0, 8, 8)],
        "q_proj": [(0, 24, 24)],
        "v_proj": [(0, 8, 8)],
        "o_proj": [(0, 24, 24)],
    }


def test_one_key_for_all() -> None:
    """Where all heads share one key and one value, each head is a unit, and key and value stay."""
    coupling = heads("paligemma")["model.language_model.layers.0.self_attn"]
    assert (coupling.size, coupling.heads) == (6, 1)
    assert layout(coupling) == {"q_proj": [(0, 16, 16)], "o_proj": [(0, 16, 16)]}


@pytest.mark.parametrize(
    ("family", "table", "first", "last"),
    [
        (
            "pix2struct",
            "decoder.layer.0.self_attention.attention.relative_attention_bias",
            "decoder.layer.0.self_attention.attention",
            "decoder.layer.3.self_attention.attention",
        ),
        (
            "blip2_t5",
            "language_model.encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
            "language_model.encoder.block.0.layer.0.SelfAttention",
            "language_model.encoder.block.3.layer.0.SelfAttention",
        ),
    ],
)
def test_one_table_for_all_layers(family: str, table: str, first: str, last: str) -> None:
    """The heads of every layer that adds the first one's position biases go with the columns of its table."""
    model = meta_model(FAMILIES[family].config())
    following = {
        coupling.producers[0].module.rpartition(".")[0]
        for coupling in attention_couplings(model, zero_twin(model))
        if table in {member.module for member in coupling.members if member.role == "follows"}
    }
    assert {first, last} <= following
    assert len(following) == 4


def test_norm_before_the_output() -> None:
    """A normalisation over all heads, between them and the layer that reads them, loses their channels too."""
    coupling = heads("kosmos2")["text_model.model.layers.0.self_attn"]
    (carrier,) = coupling.carriers
    assert carrier.module.endswith("inner_attn_ln")
    assert (carrier.parameters, carrier.width) == ((("weight", 0), ("bias", 0)), 8)


def test_relative_tables_of_windows() -> None:
    """Each stage of a Swin has its own number of heads, and each block a table with a column for each."""
    found = {name: one for name, one in heads("donut").items() if name.startswith("encoder.")}
    assert sorted({coupling.size for coupling in found.values()}) == [2, 4, 8]
    for coupling in found.values():
        (table,) = (member for member in coupling.members if member.role == "follows")
        assert table.parameters == (("relative_position_bias_table", 1),)
        assert (table.start, table.width, table.stride) == (0, 1, 1)


def test_blocks_that_no_forward_pass_reaches() -> None:
    """The last block of a vision tower of which an earlier layer is read has heads like its siblings."""
    assert [name for name in heads("llava") if name.endswith("encoder.layers.2.self_attn")]
