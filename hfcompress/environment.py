"""The machine and the library versions that a run's numbers belong to."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["environment_record", "instruction_sets", "parse_cpuinfo", "versions"]

DISTRIBUTIONS = (
    "hfcompress",
    "torch",
    "transformers",
    "optimum",
    "optimum-onnx",
    "onnxruntime",
    "onnx",
    "optimum-intel",
    "openvino",
    "nncf",
    "torch-pruning",
    "torchao",
    "datasets",
    "huggingface_hub",
    "numpy",
)
INSTRUCTION_SETS = (
    "avx2",
    "avx_vnni",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)
"""What decides how fast and how exactly products are computed, on x86 and on ARM, as Linux names it.

That of 8 bits, and with one for bfloat16 also that of float32 in OpenVINO, which then rounds to bfloat16 by default.
"""


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """Return the model name and the feature flags of the first processor in the text of `/proc/cpuinfo`.

    Either is empty where the text does not tell it; ARM kernels, for one, give no model name.
    """
    first = text.split("\n\n", 1)[0]
    fields: dict[str, str] = {}
    for line in first.splitlines():
        key, _, value = line.partition(":")
        fields[key.strip().lower()] = value.strip()
    flags = fields.get("flags", "") or fields.get("features", "")
    return fields.get("model name", ""), frozenset(flags.split())


def environment_record(threads: int) -> dict[str, str | int]:
    """Return what a reader needs to judge the numbers of a run.

    Args:
        threads: Threads that the measured calls used.

    Returns:
        The version of every library that took part, by distribution name; `python`, `platform`, `cpu` (model name),
        `instruction_sets` (those for 8-bit and bfloat16 arithmetic, separated by spaces; empty where the system does
        not tell) and `threads`. Host and user names are not part of it.
    """
    record: dict[str, str | int] = {**versions(DISTRIBUTIONS)}
    model, _ = _processor()
    record["python"] = platform.python_version()
    record["platform"] = f"{platform.system()} {platform.machine()}"
    record["cpu"] = model or platform.processor() or platform.machine()
    record["instruction_sets"] = instruction_sets()
    record["threads"] = threads
    return record


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Return the version of each distribution that is installed."""
    return {name: found for name in distributions if (found := _version(name)) is not None}


def instruction_sets() -> str:
    """Return the processor's `INSTRUCTION_SETS`, separated by spaces; empty where the system does not tell."""
    _, flags = _processor()
    return " ".join(name for name in INSTRUCTION_SETS if name in flags)


def _processor() -> tuple[str, frozenset[str]]:
    cpuinfo = Path("/proc/cpuinfo")
    return parse_cpuinfo(cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else "")


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
