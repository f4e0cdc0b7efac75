"""What `test_load_fuzz` runs in a process of its own, so that a crash of a library is seen and named.

`python -m tests.load_fuzz FOLDER KEPT GONE` loads KEPT corrupted copies of an artifact as it is, and GONE of it without
its checksums, so that nothing but the loading itself can see what is wrong. It prints a line of JSON before and after
each of them.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hfcompress
from hfcompress.checksums import MANIFEST
from hfcompress.errors import HfcompressError
from tests.corruption import corrupt

__all__: list[str] = []


def outputs(model: Any) -> list[np.ndarray[Any, Any]]:  # noqa: ANN401 - whatever stock class it is
    """Return the embeddings of an image and a text, which every artifact of the fuzz computes."""
    random = np.random.default_rng(0)
    side = model.config.vision_config.image_size
    inputs = {
        "pixel_values": random.standard_normal((1, 3, side, side)).astype(np.float32),
        "input_ids": np.array([[1, 5, 6, 2]]),
        "attention_mask": np.ones((1, 4), np.int64),
    }
    with torch.inference_mode():
        found = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return [np.asarray(found[name]) for name in ("image_embeds", "text_embeds")]


def outcome(folder: Path, expected: list[np.ndarray[Any, Any]], *, strict: bool) -> str:
    """Load a folder and tell how that went: "error: ...", "right", "wrong" or "raised ..."."""
    try:
        model = hfcompress.load(folder)
    except HfcompressError as error:
        return f"error: {error}"
    except Exception as error:  # noqa: BLE001 - which is what this looks for
        return f"raised {type(error).__module__}.{type(error).__name__}: {error}"
    if not strict:
        return "right"
    return "right" if all(map(np.array_equal, outputs(model), expected)) else "wrong"


def main(artifact: Path, kept: int, gone: int) -> None:
    """Go through the copies."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    expected = outputs(hfcompress.load(artifact))
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(kept + gone):
            copy = shutil.copytree(artifact, Path(scratch, "copy"))
            if number >= kept:
                (copy / MANIFEST).unlink()
            what = corrupt(copy, number)
            print(json.dumps(what), flush=True)  # noqa: T201 - what it is for
            print(json.dumps(outcome(copy, expected, strict=number < kept)), flush=True)  # noqa: T201
            shutil.rmtree(copy)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
