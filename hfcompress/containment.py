"""That nothing in a checkpoint's folder leads to a file outside of it: no symbolic link, and no path in its files.

What a link leads to would be read as part of the checkpoint, copied beside the next one, and published with it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from hfcompress.errors import CheckpointError

__all__ = ["check_contained", "is_contained"]

_TOKENIZER = "tokenizer_config.json"
_FILES = frozenset({"vocab", "source_spm", "target_spm"})
"""Files of tokenizers that do not say so in their names, as those of all others do with `_file`."""
_UNREAD = frozenset({"special_tokens_map_file"})
"""A path of the machine that a tokenizer was saved on; transformers writes it and does not open it."""


def check_contained(folder: Path) -> None:
    """Make sure that no symbolic link in a folder, and no path in its tokenizer's configuration, leads out of it.

    Links of the Hugging Face cache, from a snapshot to the blobs beside it, stay within the cached repository and pass.

    Raises:
        CheckpointError: One leads out; the text names it and where it leads.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not is_contained(folder, path):
            msg = (
                f"{path} is a symbolic link to {str(path.readlink())!r}, which is outside of {folder}; {_ADVICE}, or "
                "put the file itself in its place"
            )
            raise CheckpointError(msg)
    for key, name in _named_files(folder).items():
        # a relative one too is opened from the current folder, not from the checkpoint's
        if not is_contained(folder, Path(name)) and Path(name).exists():
            msg = (
                f"{folder / _TOKENIZER}: {key}: got {name!r}, expected the name of a file in the folder; {_ADVICE}, or "
                "remove the key"
            )
            raise CheckpointError(msg)


def is_contained(folder: Path, path: Path) -> bool:
    """Return whether a path, once its links are followed, lies in a folder or in the blobs that the folder links to.

    Args:
        folder: A checkpoint, or a snapshot of the Hugging Face cache.
        path: A path that need not be there.
    """
    home = Path(os.path.realpath(folder))
    places = [home]
    if home.parent.name == "snapshots":
        places.append(home.parent.parent / "blobs")
    return any(Path(os.path.realpath(path)).is_relative_to(place) for place in places)


_ADVICE = "fetch the checkpoint again from somebody you trust"


def _named_files(folder: Path) -> dict[str, str]:
    """Return the files that a tokenizer's configuration names: transformers 4 opens these in place of the folder's."""
    try:
        values = json.loads((folder / _TOKENIZER).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}  # whoever needs this file says what is wrong with it
    if not isinstance(values, dict):
        return {}
    return {
        key: value
        for key, value in values.items()
        if (key.endswith("_file") or key in _FILES)
        and key not in _UNREAD
        and isinstance(value, str)
        and "\0" not in value
    }
