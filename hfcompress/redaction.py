"""What leaves the program for people to read: without access tokens, and without letters that a terminal obeys."""

from __future__ import annotations

import os
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["holds_token", "readable", "redacted"]

_TOKEN = re.compile(r"hf_(?:oauth_[\w.-]{20,}|[A-Za-z0-9]{20,})", re.ASCII)
"""The form of the Hub's access tokens: those of a user's settings, and those that a log-in in a browser gives."""
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_SHORTEST = 8
"""Letters of a known token that is looked for whatever its form; fewer occur by chance."""
_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of Unicode that are not shown but obeyed: control codes, directions, half pairs, other ends of lines."""


def redacted(text: str, known: Iterable[str] = ()) -> str:
    """Return text with `hf_***` in place of every access token.

    Args:
        text: Any text.
        known: Tokens of whatever form, beside those of the environment.
    """
    for token in (*_in_environment(), *known):
        if len(token) >= _SHORTEST:
            text = text.replace(token, "hf_***")
    return _TOKEN.sub("hf_***", text)


def holds_token(text: str) -> bool:
    """Whether an access token is part of a text."""
    return redacted(text) != text


def readable(text: str) -> str:
    """Return text without tokens, of which a terminal obeys no letter but line ends and tabs; others are written out.

    Escape sequences of a terminal begin with such a letter, so what follows it is shown as text.
    """
    return "".join(_written(letter) for letter in redacted(text))


def _written(letter: str) -> str:
    if letter in "\n\t" or unicodedata.category(letter) not in _OBEYED:
        return letter
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")


def _in_environment() -> list[str]:
    return [os.environ.get(name, "").strip() for name in _VARIABLES]
