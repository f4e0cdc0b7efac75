"""Names that a recipe may use, and what they stand for.

A registry holds `"module:attribute"` strings until a name is asked for, so that listing what exists imports nothing
heavy. Another distribution adds a name through an entry point in the registry's group::

    [project.entry-points."hfcompress.steps"]
    my-step = "my_package.step:MyStep"
"""

from __future__ import annotations

import difflib
import importlib
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Generic, TypeVar

from hfcompress.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hfcompress.contracts import Runtime, Step, Task
    from hfcompress.pruning.importance import Importance
    from hfcompress.runtimes.onnx_export import Exporter

__all__ = [
    "EXPORTS",
    "IMPORTANCES",
    "QUANTIZERS",
    "REGISTRIES",
    "RUNTIMES",
    "STEPS",
    "TASKS",
    "Registry",
    "did_you_mean",
    "near_names",
]

T = TypeVar("T")


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three known names, nearest first, or the first three where none is near."""
    names = sorted(known)
    return difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names[:3]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the nearest known name, or an empty string when none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


class Registry(Generic[T]):
    """Name → object, resolved on first use.

    Args:
        noun: What the names stand for, as error messages say it ("step").
        builtin: The names of this package, each as `"module:attribute"`.
    """

    def __init__(self, noun: str, builtin: dict[str, str]) -> None:
        self.noun = noun
        self.group = f"hfcompress.{noun}s"
        self._builtin = builtin
        self._resolved: dict[str, T] = {}

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        """Builtin names and those of installed distributions.

        Raises:
            UsageError: Two providers claim one name.
        """
        entries = {name: EntryPoint(name, target, self.group) for name, target in self._builtin.items()}
        for point in entry_points(group=self.group):
            held = entries.get(point.name)
            if held is not None and held.value != point.value:
                both = f"{held.value} and by {point.value}"
                msg = f"the {self.noun} {point.name!r} is provided twice: by {both}; uninstall one"
                raise UsageError(msg)
            entries[point.name] = point
        return entries

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in alphabetical order."""
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        """Whether the name is registered."""
        return name in self._entries

    def provider(self, name: str) -> str:
        """Return the `"module:attribute"` behind a name without importing it."""
        return self._entry(name).value

    def get(self, name: str) -> T:
        """Return the object behind a name, importing its module on first use.

        Raises:
            UnknownNameError: Nobody registered the name; the text lists the nearest and all known names.
            UsageError: The module behind the name cannot be imported.
        """
        if name not in self._resolved:
            entry = self._entry(name)
            try:
                self._resolved[name] = getattr(importlib.import_module(entry.module), entry.attr)
            except (ImportError, AttributeError) as error:
                msg = f"the {self.noun} {name!r} is registered as {entry.value!r}, which cannot be imported: {error}"
                raise UsageError(msg) from error
        return self._resolved[name]

    def _entry(self, name: str) -> EntryPoint:
        if name not in self._entries:
            msg = f"there is no {self.noun} {name!r}{did_you_mean(name, self)}; known: {', '.join(self)}"
            raise UnknownNameError(msg)
        return self._entries[name]


STEPS: Registry[type[Step]] = Registry(
    "step",
    {
        "cast": "hfcompress.casting:Cast",
        "prune": "hfcompress.pruning.step:Prune",
        "quantize": "hfcompress.quantization.step:Quantize",
    },
)
TASKS: Registry[type[Task]] = Registry(
    "task",
    {
        "zero-shot-image-classification": (
            "hfcompress.evaluation.zero_shot_image_classification:ZeroShotImageClassification"
        )
    },
)
RUNTIMES: Registry[type[Runtime]] = Registry(
    "runtime",
    {
        "torch": "hfcompress.runtimes.pytorch:PyTorch",
        "onnxruntime": "hfcompress.runtimes.onnxruntime:OnnxRuntime",
        "openvino": "hfcompress.runtimes.openvino:OpenVino",
    },
)
QUANTIZERS: Registry[type[Step]] = Registry(
    "quantizer",
    {
        "onnxruntime": "hfcompress.quantization.onnxruntime:OnnxRuntimeQuantizer",
        "openvino": "hfcompress.quantization.openvino:OpenVinoQuantizer",
        "torchao": "hfcompress.quantization.torchao:TorchAoQuantizer",
    },
)
IMPORTANCES: Registry[Importance] = Registry(
    "importance",
    {
        "activation": "hfcompress.pruning.importance:activation",
        "gradient": "hfcompress.pruning.importance:gradient",
        "magnitude": "hfcompress.pruning.importance:magnitude",
        "obs": "hfcompress.pruning.importance:obs",
        "random": "hfcompress.pruning.importance:random",
        "taylor": "hfcompress.pruning.importance:taylor",
    },
)
EXPORTS: Registry[Exporter] = Registry(
    "export",
    {
        "align": "hfcompress.runtimes.onnx_single_file:single_file",
        "altclip": "hfcompress.runtimes.onnx_single_file:single_file",
        "blip": "hfcompress.runtimes.onnx_blip:blip",
        "blip-2": "hfcompress.runtimes.onnx_single_file:with_image_tokens",
        "clap": "hfcompress.runtimes.onnx_single_file:single_file",
        "metaclip_2": "hfcompress.runtimes.onnx_single_file:single_file",
        "vision-text-dual-encoder": "hfcompress.runtimes.onnx_single_file:single_file",
    },
)
"""Model type → how a model of it goes to ONNX, for the types that optimum's exporter does not know."""
REGISTRIES: tuple[Registry[object], ...] = (  # type: ignore[assignment]
    STEPS,
    QUANTIZERS,
    IMPORTANCES,
    TASKS,
    RUNTIMES,
    EXPORTS,
)
