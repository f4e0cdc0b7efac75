"""The command line: the one place where exceptions become messages and exit codes.

Data goes to standard output, everything else to standard error. Exit codes: 0 done; 1 the run failed; 2 the recipe or
the command line is wrong; 3 a gate of the recipe was not met.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from hfcompress.errors import GateError, HfcompressError, HubError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hfcompress.contracts import Progress
    from hfcompress.report import Report

__all__ = ["app", "main"]

app = typer.Typer(
    name="hfcompress",
    help="Make multimodal Hugging Face checkpoints smaller and faster, and prove what was kept.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_stderr = Console(stderr=True)
_INTERRUPTED = 130

_RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
_Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe: steps.0.towers.vision.ffn=0.4"),
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")]
_Revision = Annotated[str, typer.Option(help="Branch, tag or commit on the Hub.")]


@app.command()
def run(
    recipe: _RecipePath,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the artifact; out/NAME by default.")
    ] = None,
    overrides: _Overrides = None,
    push: Annotated[bool, typer.Option(help="Follow the recipe's push block.")] = True,  # noqa: FBT002 - typer's form
    as_json: _AsJson = False,  # noqa: FBT002
) -> None:
    """Compress a model as a recipe says, measure what was kept, and push it if the recipe says so."""
    _quiet()
    from hfcompress import pipeline
    from hfcompress.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    folder = output or pipeline.default_output(loaded)
    try:
        with _progress() as progress:
            report = pipeline.run(loaded, output=folder, push=push, progress=progress)
    except HubError as error:
        if loaded.push is None or not (folder / "report.json").is_file():
            raise
        msg = f"{error}\nThe artifact is in {folder}. To push it again:\n  {_push_command(folder, loaded.push)}"
        raise HubError(msg) from error
    _print_report(report, as_json=as_json)
    _stderr.print(f"The artifact and its card are in {folder}", markup=False, highlight=False, soft_wrap=True)
    if report.failed_gates:
        details = "\n".join(gate.detail for gate in report.failed_gates)
        msg = f"a gate of the recipe was not met; the artifact is kept in {folder}, nothing was pushed\n{details}"
        raise GateError(msg)


@app.command()
def validate(
    recipes: Annotated[list[Path], typer.Argument(help="Recipes, YAML files.", show_default=False)],
    overrides: _Overrides = None,
) -> None:
    """Check recipes for mistakes, all of them at once; reads no model and no data."""
    from hfcompress.errors import RecipeError
    from hfcompress.recipe import load_recipe

    problems = []
    for recipe in recipes:
        try:
            load_recipe(recipe, overrides or ())
        except RecipeError as error:
            problems += error.problems
        else:
            typer.echo(f"{recipe}: ok")
    if problems:
        raise RecipeError(problems)


@app.command()
def plan(recipe: _RecipePath, overrides: _Overrides = None, as_json: _AsJson = False) -> None:  # noqa: FBT002
    """Say what each step of a recipe will change; reads configurations, no weights."""
    _quiet()
    from hfcompress import pipeline
    from hfcompress.display import plan_table

    the_plan = pipeline.plan(recipe, overrides or ())
    if as_json:
        rows = [
            {
                "format": forecast.format,
                "parameters": forecast.parameters,
                "size_bytes": forecast.size_bytes,
                "changes": list(forecast.changes),
            }
            for forecast in the_plan.forecasts
        ]
        typer.echo(
            json.dumps({"source": the_plan.source.id, "revision": the_plan.source.revision, "steps": rows}, indent=2)
        )
    else:
        Console().print(plan_table(the_plan))


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="Hub id or folder.", show_default=False)],
    revision: _Revision = "main",
    as_json: _AsJson = False,  # noqa: FBT002
) -> None:
    """Show a checkpoint's towers, what of them can be pruned, and the runtimes it can go to; reads no weights."""
    _quiet()
    from hfcompress.display import anatomy_tables
    from hfcompress.inspection import inspect as look

    anatomy = look(model, revision)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(anatomy), indent=2))
    else:
        Console().print(*anatomy_tables(anatomy))


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="An artifact of `hfcompress run`.", show_default=False)],
    repo: Annotated[str, typer.Argument(help="Hub repository, owner/name.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,  # noqa: FBT002
    create_pr: Annotated[bool, typer.Option("--pr", help="Open a pull request.")] = False,  # noqa: FBT002
    revision: Annotated[str | None, typer.Option(help="Branch to commit to.")] = None,
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
) -> None:
    """Push an artifact to the Hub in one commit."""
    _quiet()
    from hfcompress.artifact import name_repository
    from hfcompress.hub import push_folder

    name_repository(folder, repo)
    pushed = push_folder(folder, repo, private=private, create_pr=create_pr, revision=revision, message=message)
    typer.echo(pushed.url)


@app.command(name="list")
def list_names(as_json: _AsJson = False) -> None:  # noqa: FBT002
    """Name every registered step, quantizer, importance, task and runtime, and who provides it."""
    from rich.table import Table

    from hfcompress.registry import REGISTRIES

    if as_json:
        rows = {registry.noun: {name: registry.provider(name) for name in registry} for registry in REGISTRIES}
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table()
    for column in ("kind", "name", "provider"):
        table.add_column(column)
    for registry in REGISTRIES:
        for name in registry:
            table.add_row(registry.noun, name, registry.provider(name))
    Console().print(table)


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for completion in an editor."""
    from hfcompress.schema import recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=2))


def main() -> NoReturn:
    """Run the command line and turn what goes wrong into a message and an exit code."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - the border of the program
        sys.exit(_explain(error))
    sys.exit(0)


def _explain(error: Exception) -> int:
    """Print an error for a person and return the exit code."""
    if os.environ.get("HFCOMPRESS_DEBUG") == "1":
        _stderr.print_exception()
    if isinstance(error, HfcompressError):
        _stderr.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return error.exit_code
    text = f"hfcompress failed: {type(error).__name__}: {error}\nSet HFCOMPRESS_DEBUG=1 to see where."
    _stderr.print(text, markup=False, highlight=False, soft_wrap=True)
    return 1


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    from hfcompress.display import LineProgress, TerminalProgress

    if not _stderr.is_terminal:
        yield LineProgress(_stderr)
        return
    with TerminalProgress(_stderr) as progress:
        yield progress
        progress.finish()


def _print_report(report: Report, *, as_json: bool) -> None:
    from hfcompress.display import report_table

    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        Console().print(report_table(report))


def _push_command(folder: Path, wanted: object) -> str:
    flags = [("--private", "private"), ("--pr", "create_pr")]
    words = ["hfcompress", "push", str(folder), str(getattr(wanted, "repo", ""))]
    words += [flag for flag, name in flags if getattr(wanted, name, False)]
    for flag, name in (("--revision", "revision"), ("--message", "message")):
        if getattr(wanted, name, None):
            words += [flag, str(getattr(wanted, name))]
    return shlex.join(words)


def _quiet() -> None:
    """Keep other libraries' progress bars and advice out of our output; HFCOMPRESS_DEBUG=1 lets them speak."""
    if os.environ.get("HFCOMPRESS_DEBUG") == "1":
        return
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
