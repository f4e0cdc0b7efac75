"""Promises of `hfcompress.snippet`: what a card tells people to install and to run. `test_card` runs it."""

import pytest

from hfcompress.errors import RunError
from hfcompress.report import ArtifactRecord
from hfcompress.snippet import identifier, install_command, is_repo_id, loading_requirements, loading_snippet


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
