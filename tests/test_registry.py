"""Promises of `hfcompress.registry`."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from hfcompress.contracts import Step, Task
from hfcompress.errors import UnknownNameError, UsageError
from hfcompress.registry import QUANTIZERS, REGISTRIES, STEPS, TASKS, Registry, did_you_mean

if TYPE_CHECKING:
    from pathlib import Path


def _distribution(folder: Path, name: str, entry: str) -> None:
    """Write the metadata of an installed distribution with one entry point into `folder`."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[hfcompress.animals]\n{entry}\n", encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder on the module search path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_steps_of_other_distributions_are_listed() -> None:
    """`round-weights` of tests/third_party_step, installed with pip, stands beside the builtin steps."""
    assert {"prune", "quantize", "round-weights"} <= set(STEPS)
    assert STEPS.provider("round-weights") == "hfcompress_example_step:RoundWeights"
    assert issubclass(STEPS.get("round-weights"), Step)


@pytest.mark.parametrize(("registry", "base"), [(STEPS, Step), (QUANTIZERS, Step), (TASKS, Task)])
def test_every_registered_name_resolves(registry: Registry[type], base: type) -> None:
    """Whatever is listed can be imported and is what its registry promises."""
    for name in registry:
        assert issubclass(registry.get(name), base)


def test_unknown_name_lists_the_nearest_and_all() -> None:
    """The message ends the search for the right name."""
    registry: Registry[object] = Registry("animal", {"cat": "a:b", "cow": "a:c"})

    with pytest.raises(
        UnknownNameError, match=r"^there is no animal 'catt' \(did you mean 'cat'\?\); known: cat, cow$"
    ):
        registry.get("catt")


def test_names_are_sorted_and_nothing_is_imported() -> None:
    """Listing, asking for membership and for the provider work without the module being there."""
    registry: Registry[object] = Registry("animal", {"cow": "no_such_module:Cow", "cat": "no_such_module:Cat"})

    assert list(registry) == ["cat", "cow"]
    assert "cat" in registry
    assert "dog" not in registry
    assert registry.provider("cow") == "no_such_module:Cow"


@pytest.mark.parametrize("target", ["no_such_module:Cat", "json:NoSuchName"])
def test_provider_that_cannot_be_imported_is_named(target: str) -> None:
    """A broken plug-in is an error that names it, not a traceback."""
    registry: Registry[object] = Registry("animal", {"cat": target})

    with pytest.raises(UsageError, match=f"^the animal 'cat' is registered as '{target}', which cannot be imported: "):
        registry.get("cat")


def test_entry_point_adds_a_name(site: Path) -> None:
    """An installed distribution adds to a registry through its group."""
    _distribution(site, "zoo", "lion = json:JSONDecoder")
    registry: Registry[object] = Registry("animal", {"cat": "json:JSONEncoder"})

    assert list(registry) == ["cat", "lion"]
    assert registry.get("lion").__name__ == "JSONDecoder"  # type: ignore[attr-defined]


def test_two_providers_of_one_name_are_both_named(site: Path) -> None:
    """A collision is an error and never a silent choice."""
    _distribution(site, "zoo", "cat = json:JSONDecoder")
    registry: Registry[object] = Registry("animal", {"cat": "json:JSONEncoder"})

    with pytest.raises(
        UsageError, match="'cat' is provided twice: by json:JSONEncoder and by json:JSONDecoder; uninstall"
    ):
        list(registry)


def test_did_you_mean_is_silent_when_nothing_is_near() -> None:
    """A far-fetched suggestion would only mislead."""
    assert did_you_mean("importence", ["importance", "towers"]) == " (did you mean 'importance'?)"
    assert did_you_mean("zzz", ["importance", "towers"]) == ""


def test_listing_imports_nothing_heavy() -> None:
    """`hfcompress list` stays fast: names come without torch or transformers."""
    code = (
        "import sys; from hfcompress.registry import REGISTRIES; [list(r) for r in REGISTRIES]; "
        "print(sorted({'torch', 'transformers', 'datasets', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603

    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert len(REGISTRIES) == len({registry.noun for registry in REGISTRIES})
