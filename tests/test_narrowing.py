"""Promises of the checkpoints whose shapes no stock configuration can say, and of the record of those shapes."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from datasets import load_dataset
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel, pipeline
from transformers.pytorch_utils import Conv1D

import hfcompress
from hfcompress.anatomy import copy_processor, load_config, load_model, meta_model, shapes_of
from hfcompress.contracts import Checkpoint
from hfcompress.errors import CheckpointError
from hfcompress.narrow_layers import read_channels, spread_channels
from hfcompress.narrowing import NarrowRecord, narrow, record_in, with_record
from hfcompress.runtimes import runtime_of
from tests.families import FAMILIES, build

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.conftest import Cli, Python

CLIP = FAMILIES["clip"]
LAYER = "vision_model.encoder.layers.0"


def channels(ranges: list[list[int]]) -> Tensor:
    """Return the channels of ranges one by one."""
    return torch.cat([torch.arange(start, stop) for start, stop in ranges])


class Cut:
    """A model, the same with units masked, and the weights and record of it without them."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.masked = model
        self.state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.modules: dict[str, dict[str, Any]] = {}

    def take(self, module: str, dimension: int, ranges: list[list[int]], *, side: str | None = None) -> None:
        """Keep channels of a weight, and of its bias where they are outputs; `side` keeps the width outside."""
        kept, entry = channels(ranges), self.modules.setdefault(module, {"shapes": {}})
        layer = self.masked.get_submodule(module)
        has_bias = dimension == int(isinstance(layer, Conv1D)) and f"{module}.bias" in self.state
        for name, axis in [("weight", dimension)] + [("bias", 0)] * has_bias:
            key = f"{module}.{name}"
            self.state[key] = self.state[key].index_select(axis, kept).contiguous()
            entry["shapes"][name] = list(self.state[key].shape)
        if side is not None:
            entry[side] = ranges

    def mask(self, module: str, dimension: int, ranges: list[list[int]]) -> None:
        """Zero the channels of a weight that are not kept."""
        weight = self.masked.get_submodule(module).get_parameter("weight")
        keep = torch.zeros(weight.shape[dimension], dtype=torch.bool)
        keep[channels(ranges)] = True
        with torch.no_grad():
            weight.mul_(keep[:, None] if dimension == 0 else keep)

    @property
    def record(self) -> NarrowRecord:
        """The record of all that was taken."""
        return NarrowRecord.from_dict({"quant_method": "hfcompress", "version": 1, "modules": self.modules})

    def save(self, folder: Path, **options: Any) -> Path:  # noqa: ANN401 - as save_pretrained
        """Write the checkpoint, as the pruning step does."""
        config = with_record(self.masked.config, self.record)
        type(self.masked).from_pretrained(None, config=config, state_dict=dict(self.state)).save_pretrained(
            folder, **options
        )
        return folder


def cut_clip(model: PreTrainedModel) -> Cut:
    """Take heads and feed-forward units from the first two vision layers, other ones in each."""
    cut = Cut(model)
    vision = model.config.vision_config
    size = vision.hidden_size // vision.num_attention_heads
    for layer, heads, units in ((0, (0, 2), 20), (1, (1,), 33)):
        block = f"vision_model.encoder.layers.{layer}"
        kept = [[head * size, (head + 1) * size] for head in heads]
        for name in ("q_proj", "k_proj", "v_proj"):
            cut.take(f"{block}.self_attn.{name}", 0, kept, side="outputs")
        cut.take(f"{block}.self_attn.out_proj", 1, kept, side="inputs")
        cut.mask(f"{block}.self_attn.out_proj", 1, kept)
        cut.take(f"{block}.mlp.fc1", 0, [[0, units]])
        cut.take(f"{block}.mlp.fc2", 1, [[0, units]])
        cut.mask(f"{block}.mlp.fc2", 1, [[0, units]])
    return cut


@pytest.fixture(scope="module")
def cut() -> Cut:
    """Return a tiny CLIP whose layers differ in width."""
    return cut_clip(build(CLIP))


@pytest.fixture(scope="module")
def folder(cut: Cut, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return its checkpoint."""
    return cut.save(tmp_path_factory.mktemp("narrow") / "clip")


@pytest.fixture(scope="module")
def digits(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return checkpoints of a small trained CLIP with its processor: the narrow one, and the stock one, masked."""
    trained = cut_clip(load_model(clip))
    base = tmp_path_factory.mktemp("digits")
    narrow_folder, masked_folder = trained.save(base / "narrow"), base / "masked"
    trained.masked.save_pretrained(masked_folder)
    for made in (narrow_folder, masked_folder):
        copy_processor(clip, made)
    return narrow_folder, masked_folder


@torch.no_grad()
def outputs(model: PreTrainedModel) -> Tensor:
    """Return what a CLIP says of its inputs."""
    logits: Tensor = model.eval()(**CLIP.inputs(model.config)).logits_per_image
    return logits


def test_channels_find_their_place() -> None:
    """What is read from some channels is written to the same ones, with zeros at all others."""
    values = torch.arange(1.0, 9.0).expand(2, 3, 8)
    for ranges in ([(0, 8)], [(2, 5)], [(0, 1), (3, 4), (6, 8)], [(1, 2), (2, 4)]):
        kept = read_channels(values, ranges)
        there = torch.isin(torch.arange(8), channels([list(pair) for pair in ranges]))
        assert torch.equal(spread_channels(kept, ranges, 8), values * there)


def test_narrow_model_is_the_masked_model(cut: Cut, folder: Path) -> None:
    """`AutoModel` and the class that the config names load it, and both give what the masked model gives."""
    expected = outputs(cut.masked)
    for loader in (AutoModel, transformers.CLIPModel):
        model, loading = loader.from_pretrained(folder, output_loading_info=True)
        assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        torch.testing.assert_close(outputs(model), expected)


def test_layers_differ_in_width(folder: Path) -> None:
    """Parameters have the recorded shapes; a layer with ranges keeps the width that the code around it reads."""
    model = AutoModel.from_pretrained(folder)
    query = model.get_submodule(f"{LAYER}.self_attn.q_proj")
    expand = model.get_submodule(f"{LAYER}.mlp.fc1")

    assert (tuple(query.weight.shape), query.out_features) == ((16, 32), 32)
    assert (tuple(expand.weight.shape), expand.out_features) == ((20, 32), 20)
    assert "kept_outputs=((0, 8), (16, 24))" in repr(query)


def test_saved_again(folder: Path, cut: Cut, tmp_path: Path) -> None:
    """Loading and saving keeps the record, in one file or many, however often."""
    model = AutoModel.from_pretrained(folder)
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    AutoModel.from_pretrained(tmp_path / "shards", config=model.config).save_pretrained(tmp_path / "again")

    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert record_in(load_config(tmp_path / "again")) == cut.record
    torch.testing.assert_close(outputs(AutoModel.from_pretrained(tmp_path / "again")), outputs(cut.masked))


def test_config_serves_more_than_once(cut: Cut) -> None:
    """A configuration that a model was loaded from can be loaded from again, and so can that model's own."""
    config = with_record(cut.masked.config, cut.record)
    for _ in range(2):
        config = type(cut.masked).from_pretrained(None, config=config, state_dict=dict(cut.state)).config
    assert record_in(config) == cut.record


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtype_is_as_asked(folder: Path, dtype: torch.dtype) -> None:
    """`dtype` decides what the weights are loaded in."""
    model = AutoModel.from_pretrained(folder, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_loaded_model_is_an_ordinary_one(folder: Path) -> None:
    """Nothing forbids casts, copies or training, as transformers does for quantized models."""
    model = AutoModel.from_pretrained(folder)
    model = copy.deepcopy(model.half().float().to(torch.float32)).train()
    model(**CLIP.inputs(model.config), return_loss=True).loss.backward()

    gradient = model.get_submodule(f"{LAYER}.self_attn.v_proj").weight.grad
    assert gradient.shape == (16, 32)
    assert gradient.abs().sum() > 0
    assert not getattr(model, "is_quantized", False)


def test_meta_model_has_the_shapes_of_the_file(folder: Path) -> None:
    """Plans and inspections see the shapes that the weights have."""
    weights = load_file(folder / "model.safetensors")
    assert shapes_of(meta_model(load_config(folder))) == {name: tuple(w.shape) for name, w in weights.items()}
    assert load_model(folder).num_parameters() == sum(weight.numel() for weight in weights.values())


def test_inspect(folder: Path, cli: Cli) -> None:
    """`hfcompress inspect` shows each layer's own width."""
    shown = json.loads(cli("inspect", str(folder), "--json").stdout)
    (vision,) = [tower for tower in shown["towers"] if tower["name"] == "vision"]
    assert vision["axes"][0]["sizes"] == [20, 33, 72]


def test_record_is_taken_away(cut: Cut) -> None:
    """A configuration without the record is the stock one, and the one it was made from is untouched."""
    config = with_record(cut.masked.config, cut.record)
    assert record_in(with_record(config, None)) is None
    assert with_record(config, None).to_dict() == cut.masked.config.to_dict()
    assert record_in(config) == cut.record


def test_record_gives_way_to_nobody(cut: Cut) -> None:
    """A model that another method quantized has no place for a record."""
    config = copy.deepcopy(cut.masked.config)
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    assert record_in(config) is None
    with pytest.raises(CheckpointError, match="quantized with 'gptq'"):
        with_record(config, cut.record)


def fields(**module: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON, wrong on purpose
    """Return a record of one module."""
    return {"version": 1, "modules": {f"{LAYER}.mlp.fc1": module}}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"version": 2, "modules": {}}, "of version 2, and this hfcompress reads version 1; upgrade hfcompress"),
        ({"modules": {}}, "of version None"),
        ({"version": 1}, r"quantization_config\.modules: Field required"),
        (fields(shapes={"weight": [0, 32]}), r"fc1\.shapes\.weight\.0: Input should be greater than 0; got 0"),
        (fields(shapes={"weight": ["20", 32]}), "valid integer; got '20'"),
        (fields(shapes={}, rows=[[0, 1]]), r"rows: Extra inputs are not permitted"),
        (fields(shapes={}, outputs=[]), "at least 1 item"),
        (
            fields(shapes={}, outputs=[[4, 8], [0, 2]]),
            r"ascending order that do not overlap; got \[\[4, 8\], \[0, 2\]\]",
        ),
        (fields(shapes={}, outputs=[[4, 4]]), "ascending order"),
    ],
)
def test_record_that_cannot_be_read(record: Mapping[str, Any], message: str) -> None:
    """A record that is not one says where and why."""
    with pytest.raises(CheckpointError, match=message):
        NarrowRecord.from_dict(record)


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        (f"{LAYER}.mlp.fc3", {"shapes": {}}, f"a CLIPModel has no module '{LAYER}.mlp.fc3'"),
        (f"{LAYER}.mlp.fc1", {"shapes": {"gain": [3]}}, r"fc1: a Linear has no parameter 'gain'; it has weight, bias"),
        (f"{LAYER}.mlp.fc1", {"shapes": {"weight": [73, 32]}}, r"shape \[73, 32\], which is no part of \[72, 32\]"),
        (f"{LAYER}.mlp.fc1", {"shapes": {"weight": [20]}}, r"shape \[20\], which is no part"),
        (f"{LAYER}.mlp.fc1", {"shapes": {"weight": [20, 32]}}, "has 20 outputs, and its bias has another number"),
        (f"{LAYER}.mlp.fc2", {"shapes": {"weight": [32, 8]}, "inputs": [[70, 78]]}, r"go beyond the 72 channels"),
        (
            f"{LAYER}.mlp.fc2",
            {"shapes": {"weight": [32, 8]}, "inputs": [[0, 9]]},
            "are 9 channels, and the weight has 8",
        ),
        (f"{LAYER}.layer_norm1", {"shapes": {}, "outputs": [[0, 9]]}, "a LayerNorm cannot keep a part of its channels"),
    ],
)
def test_record_that_does_not_fit(cut: Cut, name: str, module: dict[str, Any], message: str) -> None:
    """A record that is not of this model says which module and why."""
    record = NarrowRecord.from_dict({"version": 1, "modules": {name: module}})
    with pytest.raises(CheckpointError, match=message):
        meta_model(with_record(cut.masked.config, record))


def test_part_that_is_not_there(cut: Cut) -> None:
    """A class without one of the towers loads the others, but a record of nothing that it has is not its own."""
    shapes = {"shapes": {"weight": [20, 32], "bias": [20]}}
    modules = {f"{tower}_model.encoder.layers.0.mlp.fc1": shapes for tower in ("text", "vision")}
    model = transformers.CLIPForImageClassification(cut.masked.config)
    narrow(model, NarrowRecord.from_dict({"version": 1, "modules": modules}))
    assert model.get_submodule(f"{LAYER}.mlp.fc1").weight.shape == (20, 32)

    del modules[f"{LAYER}.mlp.fc1"]
    with pytest.raises(CheckpointError, match="has no module 'text_model"):
        narrow(model, NarrowRecord.from_dict({"version": 1, "modules": modules}))


@pytest.mark.parametrize(
    ("layer", "weight", "sizes"),
    [
        (torch.nn.Embedding(6, 4), (5, 3), {"num_embeddings": 5, "embedding_dim": 3}),
        (torch.nn.LayerNorm(6), (4,), {"normalized_shape": (4,)}),
        (torch.nn.RMSNorm(6), (4,), {"normalized_shape": (4,)}),
        (torch.nn.BatchNorm2d(6), (4,), {"num_features": 4}),
        (torch.nn.GroupNorm(2, 6), (4,), {"num_channels": 4}),
        (torch.nn.Conv1d(6, 8, 3), (5, 4, 3), {"in_channels": 4, "out_channels": 5, "groups": 1}),
        (torch.nn.Conv2d(6, 6, 3, groups=6), (4, 1, 3, 3), {"in_channels": 4, "out_channels": 4, "groups": 4}),
        (torch.nn.Conv2d(6, 12, 1, groups=3), (8, 2, 1, 1), {"in_channels": 4, "out_channels": 8, "groups": 2}),
        (torch.nn.ConvTranspose1d(6, 8, 3), (5, 4, 3), {"in_channels": 5, "out_channels": 4}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else "",
)
def test_attributes_keep_step(layer: torch.nn.Module, weight: tuple[int, ...], sizes: dict[str, object]) -> None:
    """What torch's own layers say of themselves is what their weights are."""
    model = torch.nn.Sequential(layer).half()
    narrow(model, NarrowRecord.from_dict({"version": 1, "modules": {"0": {"shapes": {"weight": weight}}}}))

    narrowed = model[0].get_parameter("weight")
    assert {name: getattr(layer, name) for name in sizes} == sizes
    assert (tuple(narrowed.shape), narrowed.dtype, narrowed.device.type) == (weight, torch.float16, "cpu")


def test_groups_stay_whole() -> None:
    """A grouped convolution loses whole groups or none."""
    model = torch.nn.Sequential(torch.nn.Conv2d(6, 12, 1, groups=3))
    record = NarrowRecord.from_dict({"version": 1, "modules": {"0": {"shapes": {"weight": [6, 2, 1, 1]}}}})
    with pytest.raises(CheckpointError, match="has no whole groups of 4 channels"):
        narrow(model, record)


def cut_gpt2() -> Cut:
    """Take a head, feed-forward units and tied tokens from a GPT-2, whose linear layers are transposed."""
    torch.manual_seed(0)
    config = GPT2Config(n_embd=24, n_head=3, n_layer=2, n_positions=16, vocab_size=20, bos_token_id=0, eos_token_id=0)
    config.architectures = ["GPT2LMHeadModel"]
    cut = Cut(GPT2LMHeadModel(config).eval())
    block = "transformer.h.0"
    cut.take(f"{block}.attn.c_attn", 1, [[0, 8], [16, 32], [40, 56], [64, 72]], side="outputs")
    cut.take(f"{block}.attn.c_proj", 0, [[0, 8], [16, 24]], side="inputs")
    cut.mask(f"{block}.attn.c_proj", 0, [[0, 8], [16, 24]])
    cut.take(f"{block}.mlp.c_fc", 1, [[0, 40]])
    cut.take(f"{block}.mlp.c_proj", 0, [[0, 40]])
    cut.mask(f"{block}.mlp.c_proj", 0, [[0, 40]])
    for name in ("transformer.wte", "lm_head"):
        cut.take(name, 0, [[0, 18]])
    return cut


def test_transposed_layers(tmp_path: Path) -> None:
    """GPT-2's layers are narrowed as linear ones are, what is tied stays tied, and the base model loads alone."""
    cut = cut_gpt2()
    folder = cut.save(tmp_path / "gpt2")
    ids = torch.arange(6)[None]
    model, base = AutoModelForCausalLM.from_pretrained(folder), AutoModel.from_pretrained(folder)
    planned = meta_model(load_config(folder))

    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, cut.masked(ids).logits[..., :18])
        torch.testing.assert_close(base(ids).last_hidden_state, cut.masked.transformer(ids).last_hidden_state)
    assert planned.get_submodule("lm_head").weight is planned.get_submodule("transformer.wte").weight
    assert model.num_parameters() == planned.num_parameters()
    assert model.generate(ids, max_new_tokens=2, do_sample=False).shape == (1, 8)


def test_names_of_the_other_version() -> None:
    """A record with the names of transformers 4 also fits the models whose modules version 5 renamed."""
    config = FAMILIES["llava"].config()
    shapes = {"weight": [20, config.vision_config.hidden_size], "bias": [20]}
    name = "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1"
    record = NarrowRecord.from_dict({"version": 1, "modules": {name: {"shapes": shapes}}})

    built = shapes_of(meta_model(with_record(config, record)))
    assert [shape for key, shape in built.items() if key.endswith("layers.0.mlp.fc1.bias") and "vision" in key] == [
        (20,)
    ]


def test_load(digits: tuple[Path, Path]) -> None:
    """`hfcompress.load` loads it as it loads any other artifact."""
    narrowed, masked = (hfcompress.load(made) for made in digits)
    ids = torch.tensor([[5, 4, 3]])
    pixels = torch.ones(1, 3, *[masked.config.vision_config.image_size] * 2)
    with torch.no_grad():
        expected = masked(input_ids=ids, pixel_values=pixels).image_embeds
        torch.testing.assert_close(narrowed(input_ids=ids, pixel_values=pixels).image_embeds, expected)


def test_pipeline(digits: tuple[Path, Path], quickstart_folder: Path) -> None:
    """A pipeline of transformers runs the checkpoint as any other."""
    rows = load_dataset(str(quickstart_folder / "data"), split="test[:4]")
    labels = ["zero", "one", "two", "three"]
    narrow_scores, masked_scores = (
        [
            {answer["label"]: answer["score"] for answer in answers}
            for answers in pipeline("zero-shot-image-classification", model=str(made))(
                list(rows["image"]), candidate_labels=labels
            )
        ]
        for made in digits
    )
    assert narrow_scores == [pytest.approx(scores, abs=1e-4) for scores in masked_scores]


@pytest.mark.onnxruntime
@pytest.mark.filterwarnings("ignore")
def test_export_needs_nobody(digits: tuple[Path, Path], quickstart_folder: Path, tmp_path: Path) -> None:
    """An ONNX export gives what torch gives, and its config is the stock one: it loads without hfcompress."""
    output = tmp_path / "onnx"
    output.mkdir()
    runtime = runtime_of("onnx")
    exported = runtime.load(runtime.export(Checkpoint(digits[0], "transformers"), output).path)
    torch_model = runtime_of("transformers").load(digits[0])
    images = load_dataset(str(quickstart_folder / "data"), split="test[:4]")["image"]
    inputs = dict(
        torch_model.processor(text=["zero", "one"], images=list(images), padding="max_length", return_tensors="np")
    )
    assert "quantization_config" not in json.loads((output / "config.json").read_text(encoding="utf-8"))
    assert exported(inputs)["logits_per_image"] == pytest.approx(torch_model(inputs)["logits_per_image"], abs=1e-4)


LOAD = """
import sys
{before}
from transformers import AutoModel
{after}
model = AutoModel.from_pretrained(sys.argv[1])
print(tuple(model.get_submodule(sys.argv[2]).weight.shape))
"""


@pytest.mark.parametrize(("before", "after"), [("import hfcompress", ""), ("", "import hfcompress")])
def test_import_is_enough(folder: Path, python: Python, before: str, after: str) -> None:
    """Plain `AutoModel` loads the checkpoint once hfcompress is imported, before transformers or after."""
    done = python("-c", LOAD.format(before=before, after=after), folder, f"{LAYER}.mlp.fc1")
    assert (done.stdout, done.returncode) == ("(20, 32)\n", 0)


def test_without_import(folder: Path, python: Python) -> None:
    """Without it, transformers names what is missing and loads nothing."""
    done = python("-c", LOAD.format(before="", after=""), folder, f"{LAYER}.mlp.fc1")
    assert done.returncode == 1
    assert "Unknown quantization type, got hfcompress" in done.stderr


def test_import_is_light(python: Python) -> None:
    """`import hfcompress` waits for transformers and does not import it."""
    done = python("-c", "import sys, hfcompress; print({'torch', 'transformers', 'pydantic'} & set(sys.modules))")
    assert done.stdout == "set()\n"
