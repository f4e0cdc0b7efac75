"""Make multimodal Hugging Face checkpoints smaller and faster, and prove what was kept.

>>> import hfcompress
>>> report = hfcompress.run("recipe.yaml")
>>> report["zero_shot_accuracy"].compressed.value
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from hfcompress.api import apply_step, cast, evaluate, load, prune, push, quantize
    from hfcompress.comparison import benchmark
    from hfcompress.errors import GateError, HfcompressError, RunError, UsageError
    from hfcompress.inspection import inspect
    from hfcompress.licenses import LicenseWarning
    from hfcompress.pipeline import plan, run
    from hfcompress.recipe import Recipe, load_recipe
    from hfcompress.report import Report
    from hfcompress.reproduction import reproduce

__version__ = version("hfcompress")

_PUBLIC = {
    "GateError": "hfcompress.errors:GateError",
    "HfcompressError": "hfcompress.errors:HfcompressError",
    "LicenseWarning": "hfcompress.licenses:LicenseWarning",
    "Recipe": "hfcompress.recipe:Recipe",
    "Report": "hfcompress.report:Report",
    "RunError": "hfcompress.errors:RunError",
    "UsageError": "hfcompress.errors:UsageError",
    "apply_step": "hfcompress.api:apply_step",
    "benchmark": "hfcompress.comparison:benchmark",
    "cast": "hfcompress.api:cast",
    "evaluate": "hfcompress.api:evaluate",
    "inspect": "hfcompress.inspection:inspect",
    "load": "hfcompress.api:load",
    "load_recipe": "hfcompress.recipe:load_recipe",
    "plan": "hfcompress.pipeline:plan",
    "prune": "hfcompress.api:prune",
    "push": "hfcompress.api:push",
    "quantize": "hfcompress.api:quantize",
    "reproduce": "hfcompress.reproduction:reproduce",
    "run": "hfcompress.pipeline:run",
}

__all__ = [
    "GateError",
    "HfcompressError",
    "LicenseWarning",
    "Recipe",
    "Report",
    "RunError",
    "UsageError",
    "apply_step",
    "benchmark",
    "cast",
    "evaluate",
    "inspect",
    "load",
    "load_recipe",
    "plan",
    "prune",
    "push",
    "quantize",
    "reproduce",
    "run",
]


@wrapt.when_imported("transformers.quantizers.auto")
def _register_loader(_: object) -> None:
    """Let transformers load our artifacts, now or as soon as it is imported: `import hfcompress` does not import it."""
    importlib.import_module("hfcompress.loader")


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    """Import a public name on first use, so that `import hfcompress` does not import torch."""
    if name not in _PUBLIC:
        msg = f"module 'hfcompress' has no attribute {name!r}"
        raise AttributeError(msg)
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
