"""A published run, done again: the same recipe on the same commits, each number beside the one that was published."""

from __future__ import annotations

import math
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from hfcompress.errors import CheckpointError, UsageError
from hfcompress.hub import content_revision, resolve_model
from hfcompress.pipeline import run
from hfcompress.recipe import load_recipe
from hfcompress.report import Report

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hfcompress.contracts import Measurement, Progress, Value
    from hfcompress.recipe import Recipe

__all__ = ["Repeated", "Reproduction", "compare_reports", "default_output", "pinned_recipe", "reproduce"]

Verdict: TypeAlias = Literal["reproduced", "differs", "not measured", "not judged"]
_Key: TypeAlias = "tuple[str, str, str | None, str | None, str | None]"

_TOLERANCE = 0.01
"""By what fraction a number without an interval may differ: exporters of other versions write files of another size."""

_MACHINE = re.compile(r"latency_(p90_)?ms|throughput_per_s(_at_\d+)?|(peak|model)_memory_bytes")
"""Measurements that say as much of the machine as of the model."""


@dataclass(frozen=True)
class Repeated:
    """One published value and the same one measured again.

    Attributes:
        name: The measurement.
        label: What a table shows.
        model: Whether it is the source's value or the result's.
        unit: The measurement's unit.
        published: The value in the published report.
        again: The value of this run, `None` where it was not measured.
        verdict: "reproduced" where it lies in the published interval, or within 1 % of a value that has none; "differs"
            where it does not; "not measured"; "not judged" where it depends on the machine.
    """

    name: str
    label: str
    model: Literal["source", "compressed"]
    unit: str
    published: Value
    again: Value | None
    verdict: Verdict


@dataclass(frozen=True)
class Reproduction:
    """What a published run and its repetition gave.

    Attributes:
        published: The report that was published.
        report: The report of this run.
        rows: Their values side by side.
    """

    published: Report
    report: Report
    rows: tuple[Repeated, ...]

    @property
    def differing(self) -> tuple[Repeated, ...]:
        """The rows that were not reproduced."""
        return tuple(row for row in self.rows if row.verdict in {"differs", "not measured"})


def reproduce(
    name: str | Path,
    *,
    revision: str = "main",
    base: str | Path | None = None,
    output: str | Path | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Reproduction:
    """Run the recipe of a published artifact again, on the commits that its report names, and compare the numbers.

    Nothing is pushed.

    Args:
        name: Hub id of the artifact, or its folder.
        revision: Branch, tag or commit of the artifact.
        base: Where relative paths of the recipe start, for one that names local folders; by default in the current
            folder.
        output: Folder of the new artifact; by default `out/` and the artifact's name with `-reproduced`.
        trust_remote_code: Whether code that comes with the checkpoint may run, and weights may come from a pickle,
            where the recipe asks for that: it is somebody else's recipe.
        progress: Hears how far the run is.

    Raises:
        UsageError: A local folder that the recipe names is not there, or does not hold what was used then.
        CheckpointError: It is no artifact of hfcompress, or its report was edited.
        HubError: The Hub refused or could not be reached.
        RunError: The run failed.
    """
    published = Report.load(resolve_model(str(name), revision).path)
    recipe = pinned_recipe(published, Path(base) if base is not None else Path.cwd())
    if (recipe.model.trust_remote_code or recipe.model.allow_pickle) and not trust_remote_code:
        msg = (
            "the artifact's recipe runs the checkpoint's own code or reads a pickle; look at the repository of "
            f"{recipe.model.id} at {recipe.model.revision}, then allow it with --trust-remote-code"
        )
        raise UsageError(msg)
    _require_same_folders(published, recipe)
    folder = output if output is not None else default_output(name)
    # what an earlier run has kept would prove nothing
    report = run(recipe, output=folder, push=False, cache=False, progress=progress)
    return Reproduction(published, report, compare_reports(published, report))


def default_output(name: str | Path) -> Path:
    """Return where the new artifact goes if nobody says."""
    return Path("out", f"{Path(name).absolute().name}-reproduced")


def pinned_recipe(published: Report, base: Path) -> Recipe:
    """Return the recipe of a report with every Hub revision replaced by the commit that was used.

    Raises:
        CheckpointError: The report's recipe is none that ran: it includes files.
        RecipeError: This version of hfcompress does not accept it, or a folder that it names does not exist.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "recipe.yaml")
        file.write_text(published.recipe.text, encoding="utf-8")
        recipe = load_recipe(file, base=base)
    if recipe.text != published.recipe.text:
        msg = "the report's recipe is not one as hfcompress writes it after a run, so it was edited; it is not run"
        raise CheckpointError(msg)
    commits = {row.name: row.revision for row in published.data if row.on_hub}
    data = {
        name: reference.model_copy(update={"revision": commits[name]}) if name in commits else reference
        for name, reference in recipe.data.items()
    }
    model = recipe.model
    if published.source.on_hub:
        model = model.model_copy(update={"revision": published.source.revision})
    return recipe.model_copy(update={"model": model, "data": data})


def _require_same_folders(published: Report, recipe: Recipe) -> None:
    """Make sure that local folders, which have no commits, hold what they held then."""
    folders = {
        f"data.{row.name}": (recipe.data[row.name].dataset, row.revision) for row in published.data if not row.on_hub
    }
    if not published.source.on_hub:
        folders["model.id"] = recipe.model.id, published.source.revision
    changed = [f"{key}: {folder}" for key, (folder, then) in folders.items() if content_revision(Path(folder)) != then]
    if changed:
        msg = (
            f"these folders do not hold what they held when the artifact was made: {', '.join(changed)}; restore them, "
            "or name with --base the folder in which the recipe's paths start"
        )
        raise UsageError(msg)


def compare_reports(published: Report, report: Report) -> tuple[Repeated, ...]:
    """Return every published value beside the one of another run of the same recipe."""
    again = {_key(row): row for row in report.measurements}
    return tuple(row for measurement in published.measurements for row in _compared(measurement, again))


def _key(row: Measurement) -> _Key:
    return row.name, row.label, row.task, row.dataset, row.split


def _compared(measurement: Measurement, measured: Mapping[_Key, Measurement]) -> Iterator[Repeated]:
    found = measured.get(_key(measurement))
    pairs: list[tuple[Literal["source", "compressed"], Value | None, Value | None]] = [
        ("source", measurement.source, None if found is None else found.source),
        ("compressed", measurement.compressed, None if found is None else found.compressed),
    ]
    for model, value, again in pairs:
        if value is not None:
            verdict = _verdict(measurement.name, value, again)
            yield Repeated(measurement.name, measurement.label, model, measurement.unit, value, again, verdict)


def _verdict(name: str, published: Value, again: Value | None) -> Verdict:
    if again is None:
        return "not measured"
    if _MACHINE.fullmatch(name):
        return "not judged"
    if published.low is None or published.high is None:
        close = math.isclose(published.value, again.value, rel_tol=_TOLERANCE)
    else:
        slack = 1e-9 * max(abs(published.low), abs(published.high))
        close = published.low - slack <= again.value <= published.high + slack
    return "reproduced" if close else "differs"
