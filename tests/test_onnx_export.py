"""Promises of the export to ONNX: every graph is the model, loads in a stock class, and what cannot be is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import BlipConfig, CLIPConfig, FlavaConfig, WhisperForConditionalGeneration

from hfcompress.anatomy import load_config, load_model
from hfcompress.contracts import Checkpoint, StepContext
from hfcompress.errors import QuantizationError
from hfcompress.pruning.step import Prune, PruneOptions, TowerRatios
from hfcompress.registry import EXPORTS
from tests.families import FAMILIES, build

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor
    from transformers import PretrainedConfig

    from tests.conftest import Python

pytestmark = [pytest.mark.onnxruntime, pytest.mark.filterwarnings("ignore")]

GENERATED = {"do_sample": False, "num_beams": 1, "max_new_tokens": 8}
ONE_FILE = [
    "clip",
    "siglip",
    "chinese_clip",
    "groupvit",
    "owlvit",
    "altclip",
    "metaclip2",
    "align",
    "vision_text_dual_encoder",
    "clap",
    "blip2",
]
SEVERAL_FILES = ["whisper", "speech2text", "trocr", "vit_gpt2", "donut", "blip_captioning"]


def saved(name: str, folder: Path) -> Checkpoint:
    """Save the tiny model of a family."""
    build(FAMILIES[name]).save_pretrained(folder)
    return Checkpoint(folder, "transformers")


def export(source: Checkpoint, folder: Path, layout: Any = "combined") -> Checkpoint:  # noqa: ANN401 - a literal
    """Export a checkpoint."""
    from hfcompress.runtimes.onnxruntime import OnnxRuntime

    return OnnxRuntime().export(source, folder, layout)


def graphs(folder: Path) -> list[str]:
    """Return the files of an export's graphs."""
    return sorted(file.name for file in (folder / "onnx").iterdir())


def session(file: Path) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """Load a graph in ONNX Runtime itself."""
    import onnxruntime

    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def more_rows(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the rows and the first of them again, with one token more in each text."""
    texts = {"input_ids", "attention_mask", "decoder_input_ids"}
    longer = {
        name: torch.cat([tensor[:, 1:2], tensor], dim=1) if name in texts and "input_values" not in inputs else tensor
        for name, tensor in inputs.items()
    }
    return {name: torch.cat([tensor, tensor[:1]]) for name, tensor in longer.items()}


def image_or_sound(name: str, config: PretrainedConfig) -> Tensor:
    """Return what a model that writes reads."""
    inputs = FAMILIES[name].inputs(config)
    return inputs["input_features" if "input_features" in inputs else "pixel_values"]


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Check that every array that was found is the model's to 1e-3 of its scale."""
    arrays = {name: value for name, value in found.items() if isinstance(value, (torch.Tensor, np.ndarray))}
    assert arrays
    for name, value in arrays.items():
        wanted = expected[name].numpy()
        assert np.abs(np.asarray(value) - wanted).max() <= 1e-3 * max(np.abs(wanted).max(), 1e-6), name


@pytest.mark.parametrize("name", ONE_FILE)
def test_one_graph_is_the_model(name: str, tmp_path: Path) -> None:
    """The only file of an export gives what torch gives, also for more rows than it was traced with."""
    from hfcompress.runtimes.onnxruntime import load_stock

    source = saved(name, tmp_path / "source")
    export(source, tmp_path / "out")
    stock, model = load_stock(tmp_path / "out"), load_model(source.path)
    inputs = FAMILIES[name].inputs(model.config)
    if name == "clap":  # its graph holds the number of frames, which without an extractor is the tower's own
        inputs["input_features"] = torch.randn(2, 1, 256, 16, generator=torch.Generator().manual_seed(0))
    if name != "owlvit":  # optimum fixes its batch, and says so
        inputs = {key: tensor for key, tensor in inputs.items() if key != "is_longer"}
        inputs = {key: torch.cat([tensor, tensor[:1]]) for key, tensor in inputs.items()}
    with torch.no_grad():
        expected = model(**inputs)
    assert graphs(tmp_path / "out") == ["model.onnx"]
    assert_same(stock(**{key: inputs[key] for key in stock.input_names}), expected)


@pytest.mark.parametrize("name", SEVERAL_FILES)
def test_encoder_and_decoders_are_the_model(name: str, tmp_path: Path) -> None:
    """A model that writes becomes three files; a stock class without arguments loads them, and gives torch's logits."""
    import optimum.onnxruntime

    from hfcompress.runtimes.onnxruntime import OnnxRuntime

    source = saved(name, tmp_path / "source")
    export(source, tmp_path / "out")
    stock = getattr(optimum.onnxruntime, OnnxRuntime().load_class(tmp_path / "out").rpartition(".")[2])
    exported, model = stock.from_pretrained(tmp_path / "out"), load_model(source.path)
    inputs = more_rows(FAMILIES[name].inputs(model.config))
    if name == "speech2text":
        inputs["attention_mask"] = torch.ones(3, 32, dtype=torch.long)
    with torch.no_grad():
        expected = model(**inputs)
    ids = inputs.pop("decoder_input_ids", inputs.pop("input_ids", None))
    if "blip" in name:
        inputs.pop("attention_mask")
    found = exported(**inputs, decoder_input_ids=ids)

    assert graphs(tmp_path / "out") == ["decoder_model.onnx", "decoder_with_past_model.onnx", "encoder_model.onnx"]
    assert_same({"logits": found.logits}, {"logits": expected.logits})


@pytest.mark.parametrize("name", ["whisper", "blip_captioning"])
def test_export_writes_what_torch_writes(name: str, tmp_path: Path) -> None:
    """Token by token, through the decoder with past, the export writes the same text."""
    from hfcompress.runtimes.onnxruntime import load_stock

    source = saved(name, tmp_path / "source")
    export(source, tmp_path / "out")
    writer: Any = load_model(source.path)
    read = image_or_sound(name, writer.config)
    expected = writer.generate(read, **GENERATED)
    assert torch.equal(load_stock(tmp_path / "out").generate(read, **GENERATED), expected)
    assert len(set(expected[0].tolist())) > 1


@pytest.mark.parametrize("name", ["whisper", "blip_captioning"])
def test_pruned_decoder_writes_what_torch_writes(name: str, tmp_path: Path) -> None:
    """A decoder whose layers have different numbers of heads keeps a cache of just those."""
    from hfcompress.runtimes.onnxruntime import load_stock

    (tmp_path / "pruned").mkdir()
    options = PruneOptions(towers={"all": TowerRatios(heads=0.5)}, importance="magnitude", allocation="global")
    Prune(options).apply(saved(name, tmp_path / "source"), tmp_path / "pruned", StepContext())
    export(Checkpoint(tmp_path / "pruned", "transformers"), tmp_path / "out")
    writer: Any = load_model(tmp_path / "pruned")
    read = image_or_sound(name, load_config(tmp_path / "source"))
    expected = writer.generate(read, **GENERATED)
    assert torch.equal(load_stock(tmp_path / "out").generate(read, **GENERATED), expected)


@pytest.mark.parametrize("name", sorted(EXPORTS))
def test_every_registered_export_is_tested(name: str) -> None:
    """Each export of ours stands in one of the lists above."""
    tested = {FAMILIES[family].config().model_type for family in (*ONE_FILE, *SEVERAL_FILES)}
    assert name in tested


def test_half_precision_is_exported_in_float32(tmp_path: Path) -> None:
    """Weights that a cast stored in 16 bits give a float32 graph."""
    import onnx

    model = build(FAMILIES["siglip"]).half()
    model.save_pretrained(tmp_path / "source")
    export(Checkpoint(tmp_path / "source", "transformers"), tmp_path / "out")
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "out" / "onnx" / "model.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT in kinds
    assert onnx.TensorProto.FLOAT16 not in kinds


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("clip", ["text_model.onnx", "vision_model.onnx"]),
        ("siglip", ["text_model.onnx", "vision_model.onnx"]),
        ("chinese_clip", ["text_model.onnx", "vision_model.onnx"]),
        ("clap", ["audio_model.onnx", "text_model.onnx"]),
    ],
)
def test_towers_give_the_embeddings_of_the_whole(name: str, files: list[str], tmp_path: Path) -> None:
    """`layout: both` has one graph beside each tower; the towers give the very embeddings of the whole."""
    export(saved(name, tmp_path / "source"), tmp_path / "out", "both")
    folder = tmp_path / "out" / "onnx"
    whole = session(folder / "model.onnx")
    inputs = {key: tensor.numpy() for key, tensor in FAMILIES[name].inputs(load_config(tmp_path / "source")).items()}
    if name == "clap":
        inputs["input_features"] = np.random.default_rng(0).normal(size=(2, 1, 256, 16)).astype(np.float32)
    expected = dict(
        zip(
            [put.name for put in whole.get_outputs()],
            whole.run(None, {put.name: inputs[put.name] for put in whole.get_inputs()}),
            strict=True,
        )
    )
    assert graphs(tmp_path / "out") == sorted([*files, "model.onnx"])
    read = []
    for file in files:
        tower = session(folder / file)
        read.append({put.name for put in tower.get_inputs()})
        names = [put.name for put in tower.get_outputs()]
        found = dict(zip(names, tower.run(None, {key: inputs[key] for key in read[-1]}), strict=True))
        (embeddings,) = set(names) - {"pooler_output"}
        assert np.abs(found[embeddings] - expected[embeddings]).max() <= 1e-6
        assert ("pooler_output" in names) == (name == "siglip")
    assert not set.intersection(*read)


def test_towers_alone(tmp_path: Path) -> None:
    """`layout: towers` leaves no graph of the whole, and the towers together hold no weight twice."""
    source = saved("clip", tmp_path / "source")
    export(source, tmp_path / "whole")
    export(source, tmp_path / "out", "towers")
    size = sum((tmp_path / "out" / "onnx" / file).stat().st_size for file in graphs(tmp_path / "out"))
    assert graphs(tmp_path / "out") == ["text_model.onnx", "vision_model.onnx"]
    assert size < 1.05 * (tmp_path / "whole" / "onnx" / "model.onnx").stat().st_size


def test_no_towers_to_export_apart(tmp_path: Path) -> None:
    """A model that is no dual encoder has no such layout, and its configuration is enough to say so."""
    from hfcompress.runtimes.onnxruntime import check_layout

    expected = r"^`layout: towers` is for dual encoders, and a WhisperForConditionalGeneration is none; use"
    with pytest.raises(QuantizationError, match=expected):
        export(saved("whisper", tmp_path / "source"), tmp_path / "out", "towers")
    check_layout(CLIPConfig(architectures=["CLIPModel"]), "towers")
    assert not (tmp_path / "out").exists()


def test_pruned_layers_of_different_widths(tmp_path: Path, python: Python) -> None:
    """Towers of a model that only hfcompress can load in torch run in a process that never imports it."""
    source = saved("clip", tmp_path / "source")
    (tmp_path / "pruned").mkdir()
    options = PruneOptions(towers={"all": TowerRatios(heads=0.5)}, importance="magnitude", allocation="global")
    Prune(options).apply(source, tmp_path / "pruned", StepContext())
    record = json.loads((tmp_path / "pruned" / "config.json").read_text())["quantization_config"]
    assert record["quant_method"] == "hfcompress"

    export(Checkpoint(tmp_path / "pruned", "transformers"), tmp_path / "out", "both")
    inputs = FAMILIES["clip"].inputs(load_config(tmp_path / "source"))
    np.savez(tmp_path / "inputs.npz", **{name: tensor.numpy() for name, tensor in inputs.items()})
    script = """
import sys, numpy
from optimum.onnxruntime import ORTModelForCustomTasks
inputs = dict(numpy.load(sys.argv[2]))
found = {}
for file in ("model.onnx", "text_model.onnx", "vision_model.onnx"):
    model = ORTModelForCustomTasks.from_pretrained(sys.argv[1], file_name=file)
    outputs = model(**{name: inputs[name] for name in model.input_names})
    found |= {f"{file}.{name}": value for name, value in outputs.items()}
assert not any(name.startswith("hfcompress") for name in sys.modules)
numpy.savez(sys.argv[3], **found)
"""
    done = python("-c", script, tmp_path / "out", tmp_path / "inputs.npz", tmp_path / "outputs.npz")
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "outputs.npz")
    with torch.no_grad():
        expected = load_model(tmp_path / "pruned")(**inputs)
    for output, file in (("text_embeds", "text_model.onnx"), ("image_embeds", "vision_model.onnx")):
        assert_same({output: found[f"{file}.{output}"]}, expected)
        assert_same({output: found[f"model.onnx.{output}"]}, expected)


def test_unknown_architecture_names_what_is_exported() -> None:
    """The refusal names optimum's exporter, what it and hfcompress export, and where another package can add one."""
    from hfcompress.runtimes.onnxruntime import OnnxRuntime

    expected = (
        r"^optimum's ONNX exporter has no export for 'flava' models; of those that its classes load it exports "
        r"albert, .*clip, .*whisper, .*, and "
        r"hfcompress adds align, altclip, blip, .*; another package can .* group 'hfcompress\.exports'$"
    )
    with pytest.raises(QuantizationError, match=expected):
        OnnxRuntime().describe(FlavaConfig(architectures=["FlavaModel"]))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clip", "exported by optimum as zero-shot-image-classification"),
        ("blip_captioning", "exported by optimum, with an export of hfcompress's registry, as image-to-text"),
    ],
)
def test_description_says_whose_export_it_is(name: str, expected: str) -> None:
    """`hfcompress inspect` says how a model gets into ONNX."""
    from hfcompress.runtimes.onnxruntime import OnnxRuntime

    assert OnnxRuntime().describe(FAMILIES[name].config()) == expected


def test_architecture_of_a_known_type_that_is_not_exported() -> None:
    """A registered type refuses the architectures that it does not cover by name."""
    from hfcompress.runtimes.onnxruntime import OnnxRuntime

    config = BlipConfig(architectures=["BlipForQuestionAnswering"])
    with pytest.raises(QuantizationError, match=r"and not BlipForQuestionAnswering, whose forward pass does not"):
        OnnxRuntime().describe(config)


def test_model_that_cannot_be_traced(tmp_path: Path) -> None:
    """Where optimum's exporter fails, the error names it, the model and the task."""
    expected = (
        r"^optimum's ONNX exporter cannot export this Pix2StructForConditionalGeneration as image-to-text-with-past: "
    )
    with pytest.raises(QuantizationError, match=expected):  # its folder holds no processor, which optimum asks for
        export(saved("pix2struct", tmp_path / "source"), tmp_path / "out")


def test_model_that_sees_is_not_exported_blind() -> None:
    """A vision-language model that optimum exports as a language model alone is refused, and loses nothing silently."""
    from hfcompress.runtimes.onnxruntime import OnnxRuntime

    expected = r"^optimum exports 'gemma3' models \(.*\), but has no class that loads a Gemma3ForConditionalGeneration"
    with pytest.raises(QuantizationError, match=expected):
        OnnxRuntime().describe(FAMILIES["gemma3"].config())


def test_graph_that_is_not_the_model_is_thrown_away(tmp_path: Path) -> None:
    """An export whose graph gives something else than the model is an error and not an artifact."""
    import onnx
    from onnx import numpy_helper

    from hfcompress.runtimes.onnx_export import route

    source = saved("altclip", tmp_path / "source")
    export(source, tmp_path / "out")
    file = tmp_path / "out" / "onnx" / "model.onnx"
    graph = onnx.load(file)
    scale = next(
        tensor for tensor in graph.graph.initializer if "visual_projection" in tensor.name or len(tensor.dims) == 2
    )
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * 3 + 1, scale.name))
    onnx.save(graph, file)
    chosen = route(load_config(source.path)).export
    assert chosen is not None
    assert chosen.check is not None
    with pytest.raises(
        QuantizationError, match=r"^the exported graph is not the AltCLIPModel: its output '\w+' differs by"
    ):
        chosen.check(load_model(source.path), source.path, file.parent)


def test_graph_without_an_output_of_the_model_is_thrown_away(tmp_path: Path) -> None:
    """A graph that lacks an output, and one that does not load, are errors that name what is wrong."""
    import onnx

    from hfcompress.runtimes.onnx_export import route

    source = saved("altclip", tmp_path / "source")
    export(source, tmp_path / "out")
    file = tmp_path / "out" / "onnx" / "model.onnx"
    graph = onnx.load(file)
    place = next(place for place, put in enumerate(graph.graph.output) if put.name == "text_embeds")
    del graph.graph.output[place]
    onnx.save(graph, file)
    chosen = route(load_config(source.path)).export
    assert chosen is not None
    assert chosen.check is not None
    with pytest.raises(
        QuantizationError, match=r"^the exported graph is not the AltCLIPModel: it lacks .*text_embeds; it"
    ):
        chosen.check(load_model(source.path), source.path, file.parent)
    file.write_bytes(b"no graph")
    with pytest.raises(QuantizationError, match=r"^ONNX Runtime \S+ cannot load model\.onnx: "):
        chosen.check(load_model(source.path), source.path, file.parent)


def test_whisper_of_more_than_thirty_seconds(tmp_path: Path) -> None:
    """The encoder is traced with the frames that it reads, also where they are more than optimum's own."""
    config = FAMILIES["whisper"].config()
    config.max_source_positions = 1510
    source = tmp_path / "source"
    WhisperForConditionalGeneration(config).save_pretrained(source)
    export(Checkpoint(source, "transformers"), tmp_path / "out")
    frames = np.zeros((1, config.num_mel_bins, 3020), np.float32)
    (states,) = session(tmp_path / "out" / "onnx" / "encoder_model.onnx").run(None, {"input_features": frames})
    assert states.shape == (1, 1510, config.d_model)
