"""Rows that two sets have in common, by what they hold and not by what their splits are called."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfcompress.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hfcompress.contracts import Rows

__all__ = ["content_digests", "shared_rows"]

_MEDIA = ("image", "audio")
_AT_ONCE = 256


def shared_rows(rows: Rows, others: Rows) -> list[int]:
    """Return which rows hold an image or a sound that one of the others holds too, by the SHA-256 of its file.

    What else stands in a row (label, caption, question) does not make it another one. Rows of texts alone are compared
    by their texts. The same picture in another encoding is not recognised. Files are read one by one; 32 bytes a row
    are kept.

    Args:
        rows: The rows whose numbers are wanted.
        others: The rows that they are compared with.

    Returns:
        Row numbers in ascending order; none where the two have no such column in common.

    Raises:
        DataError: A file that a row names cannot be read.
    """
    column = _column_in_common(rows, others)
    if column is None:
        return []
    known = set(content_digests(others, column))
    return [row for row, digest in enumerate(content_digests(rows, column)) if digest in known]


def _column_in_common(rows: Rows, others: Rows) -> str | None:
    mine, theirs = set(rows.dataset.column_names), set(others.dataset.column_names)
    for column in _MEDIA:
        if column in mine & theirs:
            return column
    return "text" if "text" in mine & theirs and not (mine | theirs) & set(_MEDIA) else None


def content_digests(rows: Rows, column: str) -> Iterator[bytes]:
    """Yield the SHA-256 of each row's value as it is stored, without decoding it: of the file, where it is one.

    Raises:
        DataError: A file that a row names cannot be read.
    """
    stored = rows.dataset.select_columns([column]).with_format("arrow")
    for table in stored.iter(batch_size=_AT_ONCE):
        for value in table[column]:
            yield _digest(value.as_py(), rows)


def _digest(value: Any, rows: Rows) -> bytes:  # noqa: ANN401 - whatever a dataset stores
    if isinstance(value, dict) and value.get("bytes") is not None:
        content = value["bytes"]
    elif isinstance(value, dict) and value.get("path") is not None:
        try:
            content = Path(value["path"]).read_bytes()
        except OSError as error:
            msg = f"{rows.name} names the file {value['path']}, which cannot be read: {error.strerror}"
            raise DataError(msg) from error
    else:
        content = json.dumps(value, sort_keys=True, default=str).encode()
    return hashlib.sha256(content).digest()
