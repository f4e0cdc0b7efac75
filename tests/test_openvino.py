"""Promises of the runtime and the quantizer for OpenVINO: what is quantized, what loads it, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import BertConfig

import hfcompress
from hfcompress.contracts import Checkpoint, Forecast, Progress, StepContext
from hfcompress.data import load_rows
from hfcompress.errors import QuantizationError, RecipeError
from hfcompress.evaluation.zero_shot_image_classification import ZeroShotImageClassification, ZeroShotOptions
from hfcompress.quantization.openvino import OpenVinoOptions, OpenVinoQuantizer
from hfcompress.recipe import DataReference
from hfcompress.report import Report
from hfcompress.runtimes import checkpoint_at, runtime_of
from hfcompress.sizes import size_bytes
from tests.conftest import Ran, _run, small_recipe
from tests.families import FAMILIES, build
from tests.openvino_models import made_rows, save_gemma3, save_llava, save_siglip, save_whisper

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hfcompress.contracts import Model, Rows
    from tests.conftest import Python, Write

pytestmark = [pytest.mark.openvino, pytest.mark.filterwarnings("ignore")]

BLOCKED = "import sys\nsys.modules['hfcompress'] = None\n"
STATIC = {"mode": "static", "calibration": "rows"}
INT4 = {"mode": "weight_only", "weights": "int4", "group_size": 16}
BFLOAT16 = 0.03
"""Largest error, relative to the largest output, on a processor on which OpenVINO computes in bfloat16."""


def quantized(source: Path, output: Path, rows: Rows | None = None, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Quantize a checkpoint into a folder and return what the step tells."""
    output.mkdir(parents=True)
    step = OpenVinoQuantizer(OpenVinoOptions(runtime="openvino", **options))
    return dict(step.apply(Checkpoint(source, "transformers"), output, StepContext(rows)))


def loaded(folder: Path) -> Model:
    """Load a folder in its own runtime."""
    return runtime_of("openvino").load(folder, 1)


@pytest.fixture(scope="module")
def rows(quickstart_folder: Path) -> Rows:
    """Return calibration rows of the quickstart."""
    columns = {"image": "image", "text": "caption"}
    reference = DataReference(dataset=str(quickstart_folder / "data"), split="calibration[:24]", columns=columns)
    return load_rows(reference, ("image", "text"))


@pytest.fixture(scope="module")
def test_rows(quickstart_folder: Path) -> Rows:
    """Return rows to evaluate on."""
    reference = DataReference(
        dataset=str(quickstart_folder / "data"), split="test[:60]", columns={"image": "image", "label": "label"}
    )
    return load_rows(reference, ("image", "label"))


@pytest.fixture(scope="module")
def exported(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the float32 export of the quickstart's model."""
    folder = tmp_path_factory.mktemp("openvino") / "float32"
    return runtime_of("openvino").export(Checkpoint(clip, "transformers"), folder).path


@pytest.fixture(scope="module")
def static_clip(clip: Path, rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a static quantization of the quickstart's model."""
    folder = tmp_path_factory.mktemp("openvino") / "static"
    quantized(clip, folder, rows, **STATIC)
    return folder


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Return a run of the command line: units removed unevenly, then weights in 8 bits."""
    steps = [
        {"use": "prune", "towers": {"all": {"ffn": 0.3}}, "importance": "magnitude", "allocation": "global"},
        {"use": "quantize", "runtime": "openvino", "mode": "weight_only"},
    ]
    return _run(tmp_path_factory.mktemp("openvino") / "out", small_recipe(steps=steps))


def test_export_is_float32_and_computes_the_same(clip: Path, exported: Path, rows: Rows) -> None:
    """An export has float32 weights, optimum-intel's file names, no tokenizer graphs, and the model's outputs."""
    from hfcompress.inputs import load_processor, row_inputs
    from hfcompress.quantization.openvino_graph import precisions, read_graph

    assert sorted(file.name for file in exported.glob("openvino*")) == ["openvino_model.bin", "openvino_model.xml"]
    assert precisions(read_graph(exported / "openvino_model.xml")).floating == 41
    assert size_bytes(Checkpoint(exported, "openvino")) > (clip / "model.safetensors").stat().st_size

    model, source = loaded(exported), runtime_of("transformers").load(clip, 1)
    inputs = row_inputs(load_processor(clip), model.inputs, next(rows.batches(4)))
    found, expected = model(inputs), source(inputs)
    assert found.keys() >= {"image_embeds", "text_embeds", "logits_per_image", "logits_per_text"}
    for name in ("image_embeds", "text_embeds"):
        np.testing.assert_allclose(found[name], expected[name], atol=BFLOAT16 * np.abs(expected[name]).max())


def test_only_what_openvino_reads_counts(exported: Path, tmp_path: Path) -> None:
    """Weights for another library beside the graphs are no part of an export's size."""
    shutil.copytree(exported, tmp_path / "both")
    (tmp_path / "both" / "pytorch_model.bin").write_bytes(b"0" * 1000)
    assert checkpoint_at(tmp_path / "both").format == "openvino"
    assert size_bytes(Checkpoint(tmp_path / "both", "openvino")) == size_bytes(Checkpoint(exported, "openvino"))


def test_nothing_is_sent_home(python: Python, tmp_path: Path) -> None:
    """With the runtime, the usage statistics of OpenVINO and NNCF are off, and no file of theirs is made."""
    code = (
        "import hfcompress.runtimes.openvino, nncf, sys\n"
        "print(sys.modules['openvino_telemetry'], type(nncf.telemetry.telemetry).__name__)\n"
    )
    done = python("-W", "ignore", "-c", code, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "None MagicMock\n"
    assert not (tmp_path / "intel").exists()


def test_static_rounds_what_meets_a_weight_and_no_product(static_clip: Path) -> None:
    """All weights are in 8 bits, and the similarity and the attention, of two activations, are computed in float."""
    from hfcompress.quantization.openvino_graph import precisions, products, read_graph

    graph = read_graph(static_clip / "openvino_model.xml")
    found = precisions(graph)
    assert (found.int4, found.int8, found.floating) == (0, 41, 0)
    assert found.activations == 27
    assert len(products(graph)) == 7  # the attention of six layers, and the similarity
    for node in graph.get_ops():
        if node.get_friendly_name() in products(graph):
            assert "FakeQuantize" not in {put.get_node().get_type_name() for put in node.input_values()}


def test_static_is_as_good_as_optimums_default(
    clip: Path, exported: Path, static_clip: Path, rows: Rows, test_rows: Rows, tmp_path: Path
) -> None:
    """On the same rows, predictions agree with the source's at least as often as after optimum-intel's own recipe."""
    import nncf
    from optimum.intel.openvino import OVConfig, OVQuantizationConfig, OVQuantizer

    from hfcompress.quantization.openvino_feeds import graph_inputs
    from hfcompress.runtimes.openvino import load_stock

    peer = load_stock(exported, compiled=False)
    dataset = nncf.Dataset(graph_inputs(exported, rows, 1, Progress())["model"])
    config = OVConfig(quantization_config=OVQuantizationConfig())
    OVQuantizer.from_pretrained(peer).quantize(dataset, tmp_path / "peer", config)
    shutil.copytree(
        exported,
        tmp_path / "peer",
        ignore=lambda _, names: (
            ["openvino_model.xml", "openvino_model.bin"]
            + [name for name in names if (tmp_path / "peer" / name).exists()]
        ),
        dirs_exist_ok=True,
    )

    task = ZeroShotImageClassification(ZeroShotOptions(data="test", templates=("a photo of the digit {label}.",)))
    source = task.predict(runtime_of("transformers").load(clip, 1), test_rows, Progress())
    agreement = {
        name: np.mean(task.predict(loaded(folder), test_rows, Progress()).classes == source.classes)
        for name, folder in {"ours": static_clip, "peer": tmp_path / "peer"}.items()
    }
    assert agreement["ours"] >= agreement["peer"]
    assert agreement["ours"] >= 0.98


def test_excluded_operators_stay_in_float(clip: Path, rows: Rows, tmp_path: Path) -> None:
    """What `exclude` names keeps its weight in float, and the report says how many there are."""
    detail = quantized(clip, tmp_path / "out", rows, exclude=["*_projection/*"], **STATIC)
    assert detail["graphs"]["openvino_model"]["floating"] == 2
    assert detail["exclude"] == ["*_projection/*"]


def test_exclude_that_matches_nothing(clip: Path, tmp_path: Path) -> None:
    """A pattern that names no operator is a mistake and not ignored."""
    with pytest.raises(QuantizationError, match=r"^exclude: 'no\.such\*' matches none of the \d+ operators"):
        quantized(clip, tmp_path / "out", mode="weight_only", exclude=["no.such*"])


def test_int4_needs_a_group_size_that_divides(tmp_path: Path) -> None:
    """Where no width is a multiple of the group size nothing would be in 4 bits, and that is said."""
    (tmp_path / "source").mkdir()
    save_whisper(tmp_path / "source")
    with pytest.raises(QuantizationError, match=r"^no layer can have its weights in 4 bits: `group_size: 32`"):
        quantized(tmp_path / "source", tmp_path / "out", mode="weight_only", weights="int4", group_size=32)


def test_activations_that_are_not_finite(clip: Path, rows: Rows, tmp_path: Path) -> None:
    """Where calibration meets infinity there is no range, and the run says in which activation."""
    shutil.copytree(clip, tmp_path / "broken")
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    # a place that only texts padded to the full length reach
    weights["text_model.embeddings.position_embedding.weight"][-1].fill_(float("inf"))
    save_file(weights, tmp_path / "broken" / "model.safetensors", {"format": "pt"})
    with pytest.raises(QuantizationError, match=r"^the activation \S+ of model is not finite on the calibration rows"):
        quantized(tmp_path / "broken", tmp_path / "out", rows, **STATIC)


def test_weights_that_are_not_finite(clip: Path, tmp_path: Path) -> None:
    """A model that gives nothing finite is broken, and no export of it is kept."""
    shutil.copytree(clip, tmp_path / "broken")
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    weights["vision_model.encoder.layers.1.mlp.fc1.weight"].fill_(float("inf"))
    save_file(weights, tmp_path / "broken" / "model.safetensors", {"format": "pt"})
    with pytest.raises(QuantizationError, match=r"^the output '\w+' of the CLIPModel itself is not finite"):
        quantized(tmp_path / "broken", tmp_path / "out", mode="weight_only")


def test_export_that_computes_something_else(tmp_path: Path) -> None:
    """optimum-intel's export of Gemma 3 has lost the attention among image tokens, and is refused for its outputs."""
    (tmp_path / "source").mkdir()
    save_gemma3(tmp_path / "source")
    with pytest.raises(
        QuantizationError, match=r"^the export is not the Gemma3\w+: its output 'logits' differs by 0\."
    ):
        runtime_of("openvino").export(Checkpoint(tmp_path / "source", "transformers"), tmp_path / "out")


def test_class_that_would_not_see(tmp_path: Path) -> None:
    """A stock class that takes no images is passed over for one that does, and the export equals the model."""
    build(FAMILIES["layoutlmv3"]).save_pretrained(tmp_path / "source")
    runtime = runtime_of("openvino")
    runtime.export(Checkpoint(tmp_path / "source", "transformers"), tmp_path / "out")
    assert runtime.load_class(tmp_path / "out") == "optimum.intel.openvino.OVModelForCustomTasks"


def test_static_without_rows(clip: Path, tmp_path: Path) -> None:
    """Static quantization without rows is an error and not a guess."""
    with pytest.raises(QuantizationError, match=r"^`mode: static` needs calibration rows$"):
        quantized(clip, tmp_path / "out", **STATIC)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mode": "static"}, "`mode: static` needs `calibration`"),
        ({**STATIC, "weights": "int4"}, "`mode: static` computes in 8 bits"),
        ({**STATIC, "awq": True}, "`awq` is for `mode: weight_only` with `weights: int4`; remove it"),
        ({"mode": "weight_only", "smooth": 0.5}, "`smooth` is for `mode: static`; remove it"),
        ({"mode": "weight_only", "group_size": 64}, "`group_size` is for `weights: int4`; remove it"),
        ({"mode": "weight_only", "calibration": "rows"}, "remove `calibration`, or use one of these"),
        ({**INT4, "scale_estimation": True}, "`scale_estimation` needs `calibration`"),
        ({**INT4, "batch_size": 4}, "`batch_size` is for `mode: static`; remove it"),
    ],
)
def test_options_that_make_no_sense_together(options: dict[str, Any], match: str) -> None:
    """An option that would do nothing is refused, with what to do instead."""
    with pytest.raises(ValidationError, match=re.escape(match)):
        OpenVinoOptions(runtime="openvino", **options)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (FAMILIES["moonshine"].config(), r"^optimum-intel exports 'moonshine' models \(.+\), but has no class"),
        (FAMILIES["clap"].config(), r"^optimum-intel's OpenVINO exporter has no export for 'clap' models; .* llava"),
        (
            BertConfig(architectures=["BertForNextSentencePrediction"]),
            r"^optimum-intel exports 'bert' models \(.+\), but",
        ),
    ],
    ids=["no class that hears", "no export", "no class"],
)
def test_architecture_that_cannot_be_exported(config: Any, match: str) -> None:  # noqa: ANN401
    """What optimum-intel cannot export or load is refused in the plan, naming what it does export."""
    with pytest.raises(QuantizationError, match=match):
        OpenVinoQuantizer(OpenVinoOptions(runtime="openvino", mode="weight_only")).forecast(
            Forecast(config, "transformers", 10, 40)
        )


def test_refused_architecture_is_placed_in_the_recipe(write: Write, tmp_path: Path) -> None:
    """The plan of a recipe puts the refusal at its step."""
    BertConfig(architectures=["BertForNextSentencePrediction"], num_hidden_layers=1).save_pretrained(tmp_path / "bert")
    steps = [{"use": "quantize", "runtime": "openvino", "mode": "weight_only"}]
    with pytest.raises(RecipeError, match=r"recipe\.yaml:\d+:3: steps\[0\]: optimum-intel exports 'bert' models"):
        hfcompress.plan(write(model={"id": "bert"}, steps=steps))


def test_forecast_counts_bytes(clip: Path, recipe: Callable[..., dict[str, Any]]) -> None:
    """The predicted size of the weights is a quarter for int8 and less for int4."""
    sizes = []
    for options in ({"mode": "weight_only"}, INT4):
        steps = [{"use": "quantize", "runtime": "openvino", **options}]
        sizes.append(hfcompress.plan(recipe(steps=steps)).forecasts[-1].size_bytes)
    assert sizes[1] < sizes[0] < (clip / "model.safetensors").stat().st_size / 3


def test_uneven_model_runs_without_hfcompress(ran: Ran, python: Python) -> None:
    """A pruned and quantized artifact loads in the stock class, and its card's snippet runs, without hfcompress."""
    assert (ran.code, ran.stderr.count("Traceback")) == (0, 0), ran.stderr
    report = Report.load(ran.folder)
    assert json.loads(ran.stdout)["artifact"]["format"] == "openvino"
    assert report.artifact.load_with == "optimum.intel.openvino.OVModelForZeroShotImageClassification"
    assert report["size_bytes"].compressed.value < report["size_bytes"].source.value / 2
    assert {"openvino", "nncf", "optimum-intel"} <= report.environment.keys()
    assert "quantization_config" not in json.loads((ran.folder / "config.json").read_text(encoding="utf-8"))

    card = (ran.folder / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^library_name: optimum$", card, re.MULTILINE)
    assert re.search(r"^- openvino$", card, re.MULTILINE)
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    done = python("-W", "ignore", "-c", BLOCKED + snippet, cwd=ran.folder)
    assert done.returncode == 0, done.stderr
    assert sum(float(line.rpartition(" ")[2]) for line in done.stdout.splitlines()) == pytest.approx(1, abs=2e-3)


def test_load_gives_the_stock_class(ran: Ran) -> None:
    """`hfcompress.load` gives optimum-intel's class."""
    assert type(hfcompress.load(ran.folder)).__name__ == "OVModelForZeroShotImageClassification"


def test_rows_are_read_again_and_never_all_at_once(exported: Path, rows: Rows) -> None:
    """Calibration makes the inputs anew for every pass, a batch at a time."""
    from hfcompress.quantization.openvino_feeds import graph_inputs

    feed = graph_inputs(exported, rows, 10, Progress())["model"]
    for _ in range(2):
        assert [len(inputs["pixel_values"]) for inputs in feed] == [10, 10, 4]


MADE = {"siglip": save_siglip, "llava": save_llava, "whisper": save_whisper}
QUANTIZED = {
    "int8": {"mode": "weight_only"},
    "int4": {**INT4, "awq": True, "scale_estimation": True, "ratio": 0.8, "calibration": "rows"},
    "static": {**STATIC, "batch_size": 3},
}


LEAST = {"int8": 0.999, "int4": 0.99, "static": 0.99}
"""Least cosine to the float32 outputs; the worst measured are 0.9999, 0.9934 and 0.9943."""


@pytest.fixture(scope="module", params=MADE)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """Return the name, the checkpoint and the float32 export of a tiny model."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "source").mkdir()
    MADE[request.param](folder / "source")
    runtime_of("openvino").export(Checkpoint(folder / "source", "transformers"), folder / "float32")
    return request.param, folder / "source", folder / "float32"


def read(reference: Model) -> dict[str, np.ndarray[Any, Any]]:
    """Return what a model is given for rows that it is calibrated on."""
    from hfcompress.inputs import row_inputs

    if "llava" in type(reference.stock).__name__.lower():
        row = made_rows(1).dataset[0]
        given = reference.stock.preprocess_inputs(
            text=row["text"],
            image=row["image"],
            processor=reference.processor,
            tokenizer=reference.processor.tokenizer,
            config=reference.config,
        )
        return {name: tensor.numpy() for name, tensor in given.items()}
    (batch,) = made_rows(3).batches(3)
    if "input_features" not in reference.inputs:
        return dict(row_inputs(reference.processor, reference.inputs, batch))
    inputs = row_inputs(reference.processor, {"input_features"}, batch)
    written = reference.stock.generate(torch.from_numpy(inputs["input_features"]), max_new_tokens=8)
    return {**inputs, "decoder_input_ids": written.numpy()}


@pytest.mark.parametrize("how", QUANTIZED)
def test_families(family: tuple[str, Path, Path], how: str, tmp_path: Path) -> None:
    """SigLIP, LLaVA and Whisper come out in each form, load in stock classes, and compute nearly what they did."""
    name, source, exported = family
    options = QUANTIZED[how]
    detail = quantized(source, tmp_path / "out", made_rows() if "calibration" in options else None, **options)
    counts = detail["graphs"].values()
    assert sum(graph.get("int8", 0) for graph in counts) > 0
    assert (sum(graph.get("int4", 0) for graph in counts) > 0) == (how == "int4")
    assert (sum(graph.get("activations", 0) for graph in counts) > 0) == (how == "static")
    assert [file.name for file in (tmp_path / "out").iterdir() if file.name.startswith("tmp")] == []

    model, reference = loaded(tmp_path / "out"), loaded(exported)
    inputs = read(reference)
    output = "image_embeds" if name == "siglip" else "logits"
    found, expected = model(inputs)[output], reference(inputs)[output]
    assert found.shape == expected.shape
    cosine = (found * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected)
    assert cosine > LEAST[how]
