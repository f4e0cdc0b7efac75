"""Sounds as datasets store them, and a speech model that is calibrated on them."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset
from transformers import WhisperFeatureExtractor, WhisperProcessor, WhisperTokenizer

from hfcompress.anatomy import load_model
from hfcompress.audio import waveform
from hfcompress.contracts import Checkpoint, Rows, StepContext
from hfcompress.errors import DataError
from hfcompress.pruning.step import Prune, PruneOptions, TowerRatios
from tests.families import FAMILIES, build

RATE = 16_000


def tone(hertz: float, rate: int, seconds: float = 0.5) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return a sine."""
    return np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate).astype(np.float32)


def wav(samples: np.ndarray, rate: int) -> bytes:
    """Return samples as a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def pitch(samples: np.ndarray, rate: int) -> float:
    """Return the strongest frequency."""
    return float(np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples))


def test_array_as_it_is() -> None:
    """Samples at the wanted rate stay what they are."""
    samples = tone(440, RATE)
    assert np.array_equal(waveform({"array": samples, "sampling_rate": RATE}, RATE), samples)


def test_bytes_of_two_channels() -> None:
    """A file of two channels becomes the mean of both."""
    left, right = tone(440, RATE), tone(880, RATE)
    found = waveform({"bytes": wav(np.stack([left, right], axis=1), RATE), "path": None}, RATE)
    assert found == pytest.approx((left + right) / 2, abs=1e-6)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_resampled(rate: int, tmp_path: Path) -> None:
    """A file at another rate keeps its pitch and its length in seconds."""
    path = tmp_path / "tone.wav"
    path.write_bytes(wav(tone(440, rate), rate))
    found = waveform({"path": str(path), "bytes": None}, RATE)
    assert len(found) == RATE // 2
    assert pitch(found, RATE) == pytest.approx(440, abs=2)


def test_broken_file() -> None:
    """Bytes that are no sound are refused."""
    with pytest.raises(DataError, match="a sound that cannot be read"):
        waveform({"bytes": b"no sound", "path": None}, RATE)


def test_no_sound() -> None:
    """A value of another kind is refused."""
    with pytest.raises(DataError, match="holds str where a sound was expected"):
        waveform("sound.wav", RATE)  # type: ignore[arg-type]


def test_whisper_is_calibrated_on_sounds(tmp_path: Path) -> None:
    """A Whisper is pruned by what its layers see on spoken rows and their transcripts."""
    model = build(FAMILIES["whisper"])
    model.save_pretrained(tmp_path / "source")
    config = model.config
    words = [f"w{index}" for index in range(20)]
    tokenizer = WhisperTokenizer(
        str(small_vocabulary(tmp_path / "words") / "vocab.json"),
        str(tmp_path / "words" / "merges.txt"),
        model_max_length=8,
    )
    extractor = WhisperFeatureExtractor(
        feature_size=config.num_mel_bins, chunk_length=1, hop_length=RATE // (2 * config.max_source_positions)
    )
    WhisperProcessor(extractor, tokenizer).save_pretrained(tmp_path / "source")
    rows = Dataset.from_dict(
        {
            "audio": [{"bytes": wav(tone(200 + 40 * index, RATE), RATE), "path": None} for index in range(8)],
            "text": [words[index] for index in range(8)],
        }
    ).cast_column("audio", Audio(decode=False))
    (tmp_path / "pruned").mkdir()
    step = Prune(PruneOptions(towers={"all": TowerRatios(ffn=0.25)}, calibration="rows"))
    detail = step.apply(
        Checkpoint(tmp_path / "source", "transformers"),
        tmp_path / "pruned",
        StepContext(Rows(rows, "sounds", "0", "all")),
    )
    assert (detail["importance"], detail["calibration_rows"]) == ("obs", 8)
    assert load_model(tmp_path / "pruned").num_parameters() < model.num_parameters()


def small_vocabulary(folder: Path) -> Path:
    """Write the files of a byte-level tokenizer of a few tokens."""
    folder.mkdir()
    tokens = ["<|endoftext|>", *(chr(code) for code in range(33, 127)), "Ġ"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder
