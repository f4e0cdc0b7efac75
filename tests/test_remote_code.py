"""Promises of code that comes with a checkpoint: it runs where a recipe trusts it, on every way, and nowhere else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import pytest

import hfcompress
from hfcompress.anatomy import has_own_classes, load_config, meta_model, model_class
from hfcompress.contracts import Rows
from hfcompress.errors import CheckpointError, HfcompressError, RecipeError
from hfcompress.evaluation.preparation import Preparation
from hfcompress.inputs import load_processor, load_tokenizer
from hfcompress.remote_code import REFUSAL, is_trusted, trust, wants_code

if TYPE_CHECKING:
    from tests.conftest import Write

pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = Path(__file__).parents[1]
TASK = "zero-shot-image-classification"

MODEL = """
from transformers import CLIPConfig, CLIPModel

open({mark!r}, "a").write("model ")


class OwnConfig(CLIPConfig):
    model_type = "own-clip"


class OwnModel(CLIPModel):
    config_class = OwnConfig
"""
PROCESSOR = """
from transformers import CLIPImageProcessor, CLIPProcessor, CLIPTokenizerFast

open({mark!r}, "a").write("processor ")


class OwnImages(CLIPImageProcessor):
    pass


class OwnTokenizer(CLIPTokenizerFast):
    pass


class OwnProcessor(CLIPProcessor):
    image_processor_class = "AutoImageProcessor"
    tokenizer_class = "AutoTokenizer"
"""
"""Each tells where the test looks that it ran, so that no two tests have the same code."""


def change(file: Path, **values: Any) -> None:  # noqa: ANN401 - JSON
    """Replace keys of a file of JSON."""
    held = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps({**held, **values}), encoding="utf-8")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Return the file in which code of a checkpoint tells that it ran."""
    return tmp_path / "ran"


@pytest.fixture
def own_model(clip: Path, mark: Path, tmp_path: Path) -> Path:
    """Return the quickstart's model with a configuration and a model of its own code."""
    folder = shutil.copytree(clip, tmp_path / "own-model")
    names = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    change(folder / "config.json", model_type="own-clip", architectures=["OwnModel"], auto_map=names)
    (folder / "own.py").write_text(MODEL.format(mark=str(mark)), encoding="utf-8")
    return folder


@pytest.fixture
def own_processor(clip: Path, mark: Path, tmp_path: Path) -> Path:
    """Return the quickstart's model with a processor, an image processor and a tokenizer of its own code."""
    folder = shutil.copytree(clip, tmp_path / "own-processor")
    names = {
        "AutoProcessor": "mine.OwnProcessor",
        "AutoImageProcessor": "mine.OwnImages",
        "AutoTokenizer": ["mine.OwnTokenizer", "mine.OwnTokenizer"],
    }
    change(folder / "preprocessor_config.json", image_processor_type="OwnImages", auto_map=names)
    change(folder / "processor_config.json", processor_class="OwnProcessor", auto_map=names)
    change(
        folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer", processor_class="OwnProcessor", auto_map=names
    )
    (folder / "mine.py").write_text(PROCESSOR.format(mark=str(mark)), encoding="utf-8")
    return folder


@pytest.fixture
def rows(quickstart_folder: Path) -> datasets.Dataset:
    """Return a few digits."""
    return datasets.load_dataset(str(quickstart_folder / "data"), split="test[:8]")


def names_of(processor: Any) -> tuple[str, ...]:  # noqa: ANN401 - whichever class
    """Return the classes of a processor and of its parts."""
    return tuple(type(part).__name__ for part in (processor, processor.image_processor, processor.tokenizer))


@pytest.mark.parametrize("kind", ["own_model", "own_processor"])
def test_nothing_runs_without_leave(
    kind: str, mark: Path, rows: datasets.Dataset, write: Write, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """No function and no command runs code of a checkpoint that no recipe trusts; each says how to allow it."""
    folder = request.getfixturevalue(kind)
    tries = [
        lambda: hfcompress.evaluate(folder, TASK, rows, templates=["{label}"]),
        lambda: hfcompress.run(write(model={"id": str(folder)}), output=tmp_path / "out"),
    ]
    if kind == "own_model":
        tries.append(lambda: hfcompress.load(folder))
    for attempt in tries:
        with pytest.raises(HfcompressError, match=r"`auto_map`\), and such code is not run") as raised:
            attempt()
        assert isinstance(raised.value, CheckpointError | RecipeError)
    assert not mark.exists()
    assert wants_code(folder)
    assert not is_trusted(folder)


def saying_yes(program: str, *arguments: Path) -> str:
    """Return what a program says that fails in a process of its own, where every question gets a yes."""
    done = subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-c", program, *map(str, arguments)],
        input="y\n" * 99,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 1
    assert "Do you wish to run the custom code" not in done.stdout + done.stderr
    return done.stderr


def test_nobody_is_asked(own_processor: Path, own_model: Path, mark: Path) -> None:
    """Whoever would say yes to a question of transformers is not asked one."""
    program = """
import pathlib, sys
from hfcompress.anatomy import load_config
from hfcompress.inputs import load_processor, load_tokenizer

failed = []
for load, path in zip((load_config, load_processor, load_tokenizer), map(pathlib.Path, sys.argv[1:])):
    try:
        load(path)
    except Exception as error:
        failed.append(f"{load.__name__}: {error}")
sys.exit("\\n".join(failed))
"""
    told = saying_yes(program, own_model, own_processor, own_processor)
    # version 5 has a tokenizer of its own for these files and takes that
    assert {"load_config", "load_processor"} <= set(re.findall(r"^(load_\w+): .* code", told, re.MULTILINE))
    assert not mark.exists()


def test_parts_of_a_configuration(clip: Path, mark: Path, tmp_path: Path) -> None:
    """Code that a part of a configuration names is neither run nor asked about, whoever builds a model of that part."""
    folder = shutil.copytree(clip, tmp_path / "nested")
    (folder / "own.py").write_text(MODEL.format(mark=str(mark)), encoding="utf-8")
    text = json.loads((folder / "config.json").read_text(encoding="utf-8"))["text_config"]
    change(folder / "config.json", text_config={**text, "auto_map": {"AutoModel": "own.OwnModel"}})
    assert wants_code(folder)
    assert not hasattr(load_config(folder).text_config, "auto_map")
    trust(folder)
    assert load_config(folder).text_config.auto_map == {"AutoModel": "own.OwnModel"}
    change(folder / "config.json", text_config={**text, "auto_map": {"AutoModel": "evil/code--own.OwnModel"}})
    assert not is_trusted(folder)
    assert not mark.exists()


@pytest.fixture
def own_clip(clip: Path, mark: Path, tmp_path: Path) -> Path:
    """Return a checkpoint with code of its own whose class and model type have the names of stock ones."""
    folder = shutil.copytree(clip, tmp_path / "named")
    code = MODEL.replace("OwnConfig(CLIPConfig)", "CLIPConfig(CLIPConfig)").replace("OwnModel(", "CLIPModel(")
    code = code.replace("config_class = OwnConfig", "config_class = CLIPConfig").replace("own-clip", "clip")
    (folder / "own.py").write_text(code.format(mark=str(mark)), encoding="utf-8")
    change(folder / "config.json", auto_map={"AutoConfig": "own.CLIPConfig", "AutoModel": "own.CLIPModel"})
    return folder


def test_own_class_of_a_stock_name(own_clip: Path, mark: Path) -> None:
    """A trusted class that has the name of a stock one is taken, as transformers does; untrusted, the stock one is."""
    folder = own_clip
    assert model_class(load_config(folder)).__module__.startswith("transformers.models")
    assert not has_own_classes(load_config(folder))
    assert not mark.exists()
    trust(folder)
    config = load_config(folder)
    assert model_class(config).__module__.startswith("transformers_modules")
    assert has_own_classes(config)
    assert type(meta_model(config)) is model_class(config)


def run(write: Write, folder: Path, output: Path, *steps: dict[str, Any], memory: bool = False) -> hfcompress.Report:
    """Run a recipe that trusts a model's code."""
    recipe = write(
        model={"id": str(folder), "trust_remote_code": True},
        steps=list(steps),
        benchmark={"repeats": 2, "threads": 1, "memory": memory},
    )
    return hfcompress.run(recipe, output=output, cache=False)


PRUNE = {"use": "prune", "towers": {"all": {"ffn": 0.5}}, "importance": "magnitude"}


def test_own_model_is_pruned_and_evaluated(own_model: Path, mark: Path, write: Write, tmp_path: Path) -> None:
    """With leave a model of own code is pruned, evaluated and measured; in a process without leave it is refused."""
    report = run(write, own_model, tmp_path / "out", PRUNE, memory=True)
    assert report["zero_shot_accuracy"].n == 60
    assert report["peak_memory_bytes"].compressed.value > 0
    assert type(hfcompress.load(tmp_path / "out")).__name__ == "OwnModel"
    assert mark.read_text(encoding="utf-8").startswith("model")
    mark.unlink()
    assert REFUSAL in saying_yes("import hfcompress, sys; hfcompress.load(sys.argv[1])", tmp_path / "out")
    assert not mark.exists()


def test_own_processor_is_used_and_goes_along(own_processor: Path, mark: Path, write: Write, tmp_path: Path) -> None:
    """With leave a processor of own code prepares the rows, and its code is part of the artifact."""
    run(write, own_processor, tmp_path / "out", PRUNE)
    own = ("OwnProcessor", "OwnImages", "OwnTokenizer")
    assert names_of(load_processor(tmp_path / "out")) == own
    assert type(load_tokenizer(tmp_path / "out")).__name__ == "OwnTokenizer"
    assert "processor" in mark.read_text(encoding="utf-8")
    assert (tmp_path / "out" / "mine.py").read_bytes() == (own_processor / "mine.py").read_bytes()


def test_own_processor_in_workers(own_processor: Path, rows: datasets.Dataset) -> None:
    """Worker processes find the code of a processor that is trusted where they began."""
    trust(own_processor)
    preparation = Preparation.of(load_processor(own_processor), Rows(rows, "digits", "1", "test"), "image", 4)
    found = [batch["pixel_values"].shape[0] for batch in preparation.batches([0, 1], 2)]
    assert found == [4, 4]


@pytest.mark.parametrize(
    ("runtime", "mode"),
    [
        pytest.param("onnxruntime", "dynamic", marks=pytest.mark.onnxruntime),
        pytest.param("openvino", "weight_only", marks=pytest.mark.openvino),
        pytest.param("torchao", "weight_only", marks=pytest.mark.torchao),
    ],
)
def test_own_processor_is_exported(
    runtime: str, mode: str, own_processor: Path, mark: Path, write: Write, tmp_path: Path
) -> None:
    """A stock model with a processor of own code is quantized in every runtime, and the processor stays its own."""
    report = run(write, own_processor, tmp_path / "out", {"use": "quantize", "runtime": runtime, "mode": mode})
    assert report["zero_shot_accuracy"].n == 60
    assert names_of(load_processor(tmp_path / "out")) == ("OwnProcessor", "OwnImages", "OwnTokenizer")
    assert hfcompress.load(tmp_path / "out") is not None
    assert "processor" in mark.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("runtime", "mode", "expected"),
    [
        pytest.param(
            "onnxruntime",
            "dynamic",
            "optimum's ONNX exporter has no export for 'own-clip'",
            marks=pytest.mark.onnxruntime,
        ),
        pytest.param(
            "openvino",
            "weight_only",
            r"the classes of this 'own-clip' model are code of its own .* quantize it with `runtime: torchao`",
            marks=pytest.mark.openvino,
        ),
    ],
)
def test_own_model_is_not_exported(
    runtime: str, mode: str, expected: str, own_model: Path, write: Write, tmp_path: Path
) -> None:
    """Exporters that know no model of own code refuse it in the plan, before any weights are read."""
    with pytest.raises(RecipeError, match=expected):
        run(write, own_model, tmp_path / "out", {"use": "quantize", "runtime": runtime, "mode": mode})
    assert not (tmp_path / "out").exists()


@pytest.mark.onnxruntime
def test_own_class_of_a_stock_name_is_not_exported(own_clip: Path, write: Write, tmp_path: Path) -> None:
    """A model of own code is not taken for the stock one whose type it names."""
    with pytest.raises(
        RecipeError, match=r"the classes of this 'clip' model are code of its own .* describes the stock"
    ):
        run(write, own_clip, tmp_path / "out", {"use": "quantize", "runtime": "onnxruntime", "mode": "dynamic"})
    assert not (tmp_path / "out").exists()


@pytest.mark.torchao
def test_own_model_is_quantized_in_torch(own_model: Path, write: Write, tmp_path: Path) -> None:
    """A model of own code is quantized where it stays in torch."""
    run(write, own_model, tmp_path / "out", {"use": "quantize", "runtime": "torchao", "mode": "weight_only"})
    assert type(hfcompress.load(tmp_path / "out")).__name__ == "OwnModel"
