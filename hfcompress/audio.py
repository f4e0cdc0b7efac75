"""Sound as a dataset stores it, turned into the samples that a model's feature extractor takes."""

from __future__ import annotations

import io
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np

from hfcompress.errors import DataError
from hfcompress.extras import require_extra

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["seconds", "waveform"]


def waveform(sound: Mapping[str, Any], sampling_rate: int) -> np.ndarray[Any, Any]:
    """Decode a sound to one channel and bring it to a sampling rate.

    Args:
        sound: A row's value: `array` with `sampling_rate`, or `bytes` or `path` of any file that libsndfile reads (WAV,
            FLAC, OGG, MP3).
        sampling_rate: Samples per second that are wanted.

    Returns:
        float32 of shape (samples,), in [-1, 1]. Other rates are resampled by a polyphase filter.

    Raises:
        DataError: The value is none of these, or no sound that can be read.
        MissingExtraError: The extra `audio` is not installed.
    """
    samples, rate = _samples(sound)
    samples = samples.mean(axis=-1) if samples.ndim > 1 else samples
    if rate != sampling_rate:
        from scipy.signal import resample_poly

        shared = gcd(rate, sampling_rate)
        samples = resample_poly(samples, sampling_rate // shared, rate // shared)
    return samples.astype(np.float32)


def seconds(sound: Mapping[str, Any]) -> float:
    """Return how long a sound lasts.

    Args:
        sound: A row's value, as `waveform` takes it.

    Raises:
        DataError: The value is no sound that can be read.
        MissingExtraError: The extra `audio` is not installed.
    """
    samples, rate = _samples(sound)
    return len(samples) / rate


def _samples(sound: Mapping[str, Any]) -> tuple[np.ndarray[Any, Any], int]:
    """Return the samples of shape (samples,) or (samples, channels), and samples per second."""
    if not hasattr(sound, "get"):
        msg = f"a row holds {type(sound).__name__} where a sound was expected: `array` with `sampling_rate`, or a file"
        raise DataError(msg)
    if sound.get("array") is not None:
        return np.asarray(sound["array"], dtype=np.float32), int(sound["sampling_rate"])
    return _decoded(sound)


def _decoded(sound: Mapping[str, Any]) -> tuple[np.ndarray[Any, Any], int]:
    """Read a file, or the bytes of one: samples of shape (samples, channels), and samples per second."""
    require_extra("audio")
    import soundfile

    content, path = sound.get("bytes"), sound.get("path")
    if content is None and path is None:
        msg = "a row holds a sound without `array`, `bytes` or `path`"
        raise DataError(msg)
    try:
        samples, rate = soundfile.read(
            path if content is None else io.BytesIO(content), dtype="float32", always_2d=True
        )
    except (soundfile.SoundFileError, OSError) as error:
        msg = f"a row holds a sound that cannot be read ({path or 'bytes'}): {error}"
        raise DataError(msg) from error
    return samples, int(rate)
