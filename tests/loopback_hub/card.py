"""The YAML head of a README.md, as the Hub reads it."""

import re
from typing import Any

import yaml

_HEAD = re.compile(r"\A---[ \t]*\r?\n(?P<yaml>.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)
_KINDS: dict[str, tuple[type, ...]] = {
    "base_model": (str, list),
    "datasets": (str, list),
    "language": (str, list),
    "library_name": (str,),
    "license": (str, list),
    "model-index": (list,),
    "pipeline_tag": (str,),
    "tags": (list,),
}
_TAG_PREFIXES = {"license": "license:", "base_model": "base_model:", "datasets": "dataset:", "language": ""}


def metadata(card: str) -> Any:  # noqa: ANN401 - it is whatever the author wrote
    """The parsed head of a card, None when there is none. Raises `yaml.YAMLError`."""
    match = _HEAD.match(card)
    return None if match is None else yaml.safe_load(match["yaml"])


def problems(card: str) -> tuple[list[str], list[str]]:
    """Errors (the Hub refuses the card) and warnings for the head of `card`."""
    try:
        head = metadata(card)
    except yaml.YAMLError as error:
        return [f"YAML metadata is not valid: {error}"], []
    if head is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(head, dict):
        return [f"YAML metadata must be a mapping, got {type(head).__name__}"], []
    errors = [
        f'"{key}" must be {" or ".join(kind.__name__ for kind in kinds)}, got {type(head[key]).__name__}'
        for key, kinds in _KINDS.items()
        if key in head and not isinstance(head[key], kinds)
    ]
    return errors, []


def tags(head: dict[str, Any], paths: list[str]) -> list[str]:
    """The tags that the Hub shows, from the card and the names of the files."""
    found = [head[key] for key in ("library_name", "pipeline_tag") if key in head]
    found += [name for name in ("safetensors", "onnx") if any(path.endswith(f".{name}") for path in paths)]
    found += head.get("tags", [])
    for key, prefix in _TAG_PREFIXES.items():
        value = head.get(key, [])
        found += [f"{prefix}{item}" for item in ([value] if isinstance(value, str) else value)]
    return [*dict.fromkeys([*found, "region:us"])]
