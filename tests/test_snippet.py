"""Promises of `hfcompress.snippet`: what a card tells people to install and to run, and that it does."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from hfcompress.anatomy import copy_processor, load_model
from hfcompress.errors import RunError
from hfcompress.registry import RUNTIMES
from hfcompress.report import ArtifactRecord
from hfcompress.runtimes import runtime_of
from hfcompress.snippet import identifier, install_command, is_repo_id, loading_requirements, loading_snippet
from tests.checkpoints import save_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from hfcompress.contracts import Format


def artifact(**fields: object) -> ArtifactRecord:
    """Return the record of a torch checkpoint, with other fields."""
    usual = {"path": ".", "format": "transformers", "files": {}, "load_with": "transformers.CLIPModel"}
    return ArtifactRecord(**{**usual, **fields})


def test_what_is_installed() -> None:
    """What loading takes is named once, in the version that it takes, hfcompress where it makes the layers."""
    plain = artifact()
    quantized = artifact(requires=("torchao>=0.18", "transformers>=5"), imports_hfcompress=True)

    assert install_command(plain) == "pip install torch transformers pillow"
    assert install_command(quantized) == 'pip install torch "transformers>=5" pillow "torchao>=0.18" hfcompress'
    assert (loading_requirements(plain), loading_requirements(quantized)) == ([], ["torchao"])


def test_type_of_the_weights() -> None:
    """A checkpoint of 16 bits is loaded in them."""
    assert 'from_pretrained(model_id, dtype="auto")' in loading_snippet(artifact(dtype="bfloat16"))
    assert "dtype" not in loading_snippet(artifact())


def test_class_that_is_no_name() -> None:
    """A report cannot put anything but a dotted name into code that people run."""
    with pytest.raises(RunError, match=r"^artifact\.load_with is 'os;evil', not a dotted Python name$"):
        loading_snippet(artifact(load_with="os;evil"))


@pytest.mark.parametrize(("name", "expected"), [("me/small", True), ("me/a b", False), ("../x", False)])
def test_repositories(name: str, expected: bool) -> None:  # noqa: FBT001 - a case of the table
    """Only what the Hub takes as an id counts as one."""
    assert is_repo_id(name) is expected


def test_identifiers() -> None:
    """A text with anything but letters, digits and a few marks is none."""
    assert (identifier("apache-2.0"), identifier("a b"), identifier(None)) == ("apache-2.0", None, None)


def test_towers_give_cosines() -> None:
    """Towers alone do not hold the scale of the logits, so code for them shows no probabilities; a whole does."""
    usual = {"format": "onnx", "load_with": "x.Model", "pipeline_tag": "zero-shot-image-classification"}
    files = {f"onnx/{tower}_model_q4.onnx": 1 for tower in ("text", "vision")}
    towers = loading_snippet(artifact(**usual, files=files))
    whole = loading_snippet(artifact(**usual, files={**files, "onnx/model_q4.onnx": 1}))

    assert 'text_model = Model.from_pretrained(model_id, file_name="text_model_q4.onnx")' in towers
    assert "cosines = images @ texts.T" in towers
    assert not [word for word in ("100", "softmax", "probability", "logits =") if word in towers]
    assert 'model = Model.from_pretrained(model_id, file_name="model_q4.onnx")' in whole
    assert "logits.softmax" in whole


EXAMPLES = {
    "siglip": "image-text-retrieval",
    "clap": "zero-shot-audio-classification",
    "whisper": "automatic-speech-recognition",
    "wav2vec2": "automatic-speech-recognition",
    "blip_captioning": "image-to-text",
    "trocr": "image-to-text",
    "blip_vqa": "visual-question-answering",
    "llava": "visual-question-answering",
}
"""Family of a tiny checkpoint → the task that its snippet runs."""


def described(folder: Path, checkpoint_format: Format, task: str, **fields: str) -> ArtifactRecord:
    """Return the record of a folder as a run describes it."""
    files = {file.relative_to(folder).as_posix(): 1 for file in folder.rglob("*") if file.is_file()}
    load_with = runtime_of(checkpoint_format).load_class(folder)
    return artifact(format=checkpoint_format, files=files, load_with=load_with, pipeline_tag=task, **fields)


@pytest.mark.filterwarnings("ignore")  # of exporters and of what loads their files
@pytest.mark.parametrize(
    ("runtime", "family"),
    [
        *(("torch", family) for family in EXAMPLES),
        *(
            pytest.param("onnxruntime", family, marks=pytest.mark.onnxruntime)
            for family in ("siglip", "clap", "whisper", "wav2vec2", "blip_captioning", "trocr")
        ),
        *(
            pytest.param("openvino", family, marks=pytest.mark.openvino)
            for family in ("siglip", "wav2vec2", "trocr", "llava")
        ),
    ],
)
def test_snippet_of_every_task_runs(runtime: str, family: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The code on a card runs as it stands for every task in every format, and prints what the model says."""
    exported = RUNTIMES.get(runtime)().export(save_checkpoint(family, here / "source"), here / "out")
    os.chdir(exported.path)
    code = loading_snippet(described(exported.path, exported.format, EXAMPLES[family]))
    capsys.readouterr()
    exec(compile(code, "snippet", "exec"), {})  # noqa: S102 - the code of ours that people are told to run
    lines = capsys.readouterr().out.splitlines()

    if "labels" in code:
        assert sum(float(line.partition(": ")[2]) for line in lines) == pytest.approx(1, abs=2e-3)
    else:
        assert len(lines) == 1


@pytest.mark.onnxruntime
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["siglip", "clap"])
def test_snippet_of_towers_runs(family: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of towers that stand alone both are run, and the cosine of each label is printed."""
    source = save_checkpoint(family, here / "source")
    exported = RUNTIMES.get("onnxruntime")().export(source, here / "out", layout="towers")  # type: ignore[call-arg]
    os.chdir(exported.path)
    code = loading_snippet(described(exported.path, exported.format, EXAMPLES[family]))
    capsys.readouterr()
    exec(compile(code, "snippet", "exec"), {})  # noqa: S102
    cosines = [float(line.partition(": ")[2]) for line in capsys.readouterr().out.splitlines()]

    assert "cosines" in code
    assert len(cosines) == 2
    assert all(0 < abs(cosine) <= 1 for cosine in cosines)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["siglip", "clap", "whisper", "blip_captioning"])
def test_snippet_of_half_precision_runs(family: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the weights have 16 bits the snippet gives the model inputs of 16 bits."""
    import torch

    checkpoint = save_checkpoint(family, here / "source")
    load_model(checkpoint.path).to(torch.bfloat16).save_pretrained(here / "out")
    copy_processor(checkpoint.path, here / "out")
    os.chdir(here / "out")
    code = loading_snippet(described(here / "out", "transformers", EXAMPLES[family], dtype="bfloat16"))
    capsys.readouterr()
    exec(compile(code, "snippet", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out.strip()


def test_unknown_task_is_loaded_alone() -> None:
    """A task of a third party has code that loads the model, and no example of it."""
    code = loading_snippet(artifact(pipeline_tag="depth-estimation"))
    assert code.splitlines()[-1] == "processor = AutoProcessor.from_pretrained(model_id)"
