"""Promises of what calibration is fed with: every graph sees what it sees when the float32 model runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from hfcompress.anatomy import load_model
from hfcompress.contracts import Checkpoint, Progress, Rows
from hfcompress.errors import DataError, QuantizationError
from hfcompress.inputs import load_processor
from tests.checkpoints import image_rows, save_checkpoint, sound_rows, without_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    Fed = dict[str, list[dict[str, np.ndarray[Any, Any]]]]

pytestmark = [pytest.mark.onnxruntime, pytest.mark.filterwarnings("ignore")]

ROWS = 7
ENCODER, DECODER, CONTINUING = "encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx"


def fed(exported: Checkpoint, rows: Rows, batch_size: int) -> Fed:
    """Return all that each graph is given."""
    from hfcompress.quantization.feeds import feeds

    found: Fed = {}
    for name, inputs in feeds(exported, rows, batch_size, Progress()):
        found.setdefault(name, []).append(dict(inputs))
    return found


def export(name: str, folder: Path, layout: Any = "combined") -> Checkpoint:  # noqa: ANN401 - a literal
    """Export the tiny model of a family, from `source` to `out`."""
    from hfcompress.runtimes.onnxruntime import OnnxRuntime

    return OnnxRuntime().export(save_checkpoint(name, folder / "source"), folder / "out", layout)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Return the export of a tiny Whisper."""
    return export("whisper", tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Return the export of a tiny captioning model."""
    return export("blip_captioning", tmp_path_factory.mktemp("blip"))


def test_decoder_sees_what_the_encoder_gives_and_the_text(whisper: Checkpoint) -> None:
    """The decoder is given the states of torch's encoder for the row and the row's text behind the start token."""
    rows = sound_rows(ROWS)
    found = fed(whisper, rows, 3)
    model: Any = load_model(whisper.path.parent / "source")
    features = np.concatenate([inputs["input_features"] for inputs in found[ENCODER]])
    with torch.no_grad():
        states = model.get_encoder()(torch.from_numpy(features)).last_hidden_state.numpy()
    given = {
        tuple(ids): state
        for inputs in found[DECODER]
        for ids, state in zip(inputs["input_ids"].tolist(), inputs["encoder_hidden_states"], strict=True)
    }
    tokenizer: Any = load_processor(whisper.path)
    start = model.generation_config.decoder_start_token_id

    assert len(features) == ROWS == sum(len(inputs["input_ids"]) for inputs in found[DECODER])
    for row in range(3):  # three texts, which then come again
        text = tokenizer.tokenizer(rows.dataset["text"][row]).input_ids
        state = given[(start, *text[:-1])]
        same = [row + 3 * turn for turn in range(3) if row + 3 * turn < ROWS]
        assert min(np.abs(state - states[number]).max() for number in same) < 1e-4


def test_decoder_with_past_sees_the_cache_that_grows(whisper: Checkpoint) -> None:
    """Step by step the decoder with past is given the next token and the keys that torch's own cache holds then."""
    rows = sound_rows(1)
    found = fed(whisper, rows, 1)
    model: Any = load_model(whisper.path.parent / "source")
    tokens = torch.from_numpy(found[DECODER][0]["input_ids"])
    steps = found[CONTINUING]
    with torch.no_grad():
        features = torch.from_numpy(found[ENCODER][0]["input_features"])
        begun = model(features, decoder_input_ids=tokens[:, :-1], use_cache=True).past_key_values.to_legacy_cache()

    assert [inputs["input_ids"].item() for inputs in steps] == tokens[0, 1:].tolist()
    last = steps[-1]
    for layer, (keys, _, cross, _) in enumerate(begun):
        assert np.abs(last[f"past_key_values.{layer}.decoder.key"] - keys.numpy()).max() < 1e-4
        assert np.abs(last[f"past_key_values.{layer}.encoder.key"] - cross.numpy()).max() < 1e-4


@pytest.mark.parametrize("name", ["whisper", "blip"])
def test_rows_without_texts_are_written_by_the_model(name: str, request: pytest.FixtureRequest) -> None:
    """Without a column `text` the decoder is given what the float32 model itself writes, greedily."""
    exported: Checkpoint = request.getfixturevalue(name)
    rows = without_text(sound_rows(2) if name == "whisper" else image_rows(2))
    found = fed(exported, rows, 2)
    model: Any = load_model(exported.path.parent / "source")
    (read,) = (torch.from_numpy(array) for array in found[ENCODER][0].values())
    written = model.generate(read, do_sample=False, num_beams=1, max_new_tokens=8)
    longest = found[DECODER][-1]["input_ids"]
    shared = min(longest.shape[1] - 1, 8)
    expected = written[:, -8:][:, :shared].tolist()
    assert longest[:, 1 : 1 + shared].tolist() == expected[: len(longest)]


def test_batches_hold_the_same_rows(blip: Checkpoint) -> None:
    """Whatever goes through the model at once, the same tokens and states are seen."""
    one, other = (fed(blip, image_rows(ROWS), size) for size in (2, 7))
    for graph in (ENCODER, DECODER, CONTINUING):
        key = "pixel_values" if graph == ENCODER else "input_ids"
        assert sum(len(inputs[key]) for inputs in one[graph]) == sum(len(inputs[key]) for inputs in other[graph])
        assert max(len(inputs[key]) for inputs in one[graph]) <= 2


def test_batches_are_made_one_at_a_time(blip: Checkpoint) -> None:
    """Nothing is read before it is asked for: the first feed looks at the first batch alone."""
    from hfcompress.quantization.feeds import feeds

    read: list[int] = []

    class Watched(Rows):
        def batches(self, size: int, numbers: Iterable[int] | None = None) -> Any:  # noqa: ANN401 - as its base
            for number, batch in enumerate(super().batches(size, numbers)):
                read.append(number)
                yield batch

    rows = image_rows(6)
    stream = feeds(blip, Watched(rows.dataset, rows.name, rows.revision, rows.split), 2, Progress())
    next(stream)
    assert read == [0]


def test_each_tower_is_given_its_own_inputs(tmp_path: Path) -> None:
    """Of a dual encoder in both layouts, every graph sees all rows, each tower what it reads."""
    found = fed(export("siglip", tmp_path, "both"), image_rows(ROWS), 3)
    wanted = {
        "model.onnx": {"pixel_values", "input_ids"},
        "vision_model.onnx": {"pixel_values"},
        "text_model.onnx": {"input_ids"},
    }
    assert {name: set(batches[0]) for name, batches in found.items()} == wanted
    assert {name: sum(len(next(iter(inputs.values()))) for inputs in batches) for name, batches in found.items()} == (
        dict.fromkeys(wanted, ROWS)
    )


def test_rows_without_what_the_encoder_reads(whisper: Checkpoint) -> None:
    """Rows without sounds are an error that names what is missing."""
    rows = Rows(Dataset.from_dict({"text": ["a cat"]}), "texts", "0", "all")
    with pytest.raises(DataError, match=r"^the model reads input_features, which the columns\s+do not give"):
        fed(whisper, rows, 1)


def test_checkpoint_that_does_not_say_how_a_text_begins(tmp_path: Path) -> None:
    """Without a start token a decoder cannot be calibrated, and the error says what to add."""
    import json

    exported = export("trocr", tmp_path)
    for name in ("config.json", "generation_config.json"):
        file = exported.path / name
        values = json.loads(file.read_text())
        for part in (values, values.get("decoder", {}), values.get("encoder", {})):
            part.pop("decoder_start_token_id", None)
            part.pop("bos_token_id", None)
        if name == "generation_config.json":
            values["bos_token_id"] = None
        else:
            values["decoder"]["bos_token_id"] = None
        file.write_text(json.dumps(values))
    with pytest.raises(QuantizationError, match="says with which token a text begins"):
        fed(exported, image_rows(1), 1)
