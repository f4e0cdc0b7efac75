"""The command line: the one place where exceptions become messages and exit codes.

Data goes to standard output, everything else to standard error. Exit codes: 0 done; 1 the run failed; 2 the recipe or
the command line is wrong; 3 a gate of the recipe was not met.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import logging
import os
import shlex
import sys
import traceback
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from hfcompress.cache_commands import cache_app
from hfcompress.errors import CheckpointError, GateError, HfcompressError, NotOnHubError, PushError, UsageError
from hfcompress.imports import start_uncollected
from hfcompress.processes import launched, led, lone_launch
from hfcompress.redaction import readable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hfcompress.contracts import Progress
    from hfcompress.errors import Problem
    from hfcompress.recipe import Push
    from hfcompress.report import Report

__all__ = ["app", "main"]

app = typer.Typer(
    name="hfcompress",
    help="Make multimodal Hugging Face checkpoints smaller and faster, and prove what was kept.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cache_app, name="cache")
_stderr = Console(stderr=True)
_INTERRUPTED = 130
_IMPORTS_S = 6.0
"""The first seconds of a command, in which torch, transformers and datasets are imported."""
_LONE_LAUNCH = (
    "accelerate launch --cpu starts one process, whatever --num_processes says, unless it is given mpirun. "
    "For several, on this machine's processors too, type --multi_gpu in place of --cpu."
)

_RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
_Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe: steps.0.towers.vision.ffn=0.4"),
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")]
_Revision = Annotated[str, typer.Option(help="Branch, tag or commit on the Hub.")]


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it with the option's value
    if wanted:
        typer.echo(version("hfcompress"))
        raise typer.Exit


_Version = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
]


@app.callback()
def _options(_: _Version = False) -> None:  # noqa: FBT002 - typer's form
    """Hold the options that come before a command; the application's help is set above."""


@app.command()
def run(
    recipe: _RecipePath,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the artifact; out/NAME by default.")
    ] = None,
    overrides: _Overrides = None,
    push: Annotated[bool, typer.Option(help="Follow the recipe's push block.")] = True,  # noqa: FBT002 - typer's form
    cache: Annotated[bool, typer.Option(help="Use results of earlier runs, and keep this one's.")] = True,  # noqa: FBT002
    as_json: _AsJson = False,  # noqa: FBT002
) -> None:
    """Compress a model as a recipe says, measure what was kept, and push it if the recipe says so."""
    from hfcompress.recipe import load_recipe
    from hfcompress.staging import check_output, default_output

    loaded = load_recipe(recipe, overrides or ())
    folder = output or default_output(loaded)
    check_output(folder)  # the run does so too; here it takes no seconds, because nothing large is imported yet
    _quiet()
    from hfcompress import pipeline
    from hfcompress.report import Report

    failure: PushError | None = None
    try:
        with _progress() as progress:
            report = pipeline.run(loaded, output=folder, push=push, cache=cache, progress=progress)
    except PushError as error:
        failure = error
        report = Report.load(folder)
    _print_report(report, as_json=as_json)
    _tell(f"The artifact and its card are in {folder}")
    if failure is not None and loaded.push is not None:
        msg = f"{failure}\nTo push it again:\n  {_push_command(folder, loaded.push)}"
        raise PushError(msg) from failure
    if report.failed_gates:
        details = "\n".join(gate.detail for gate in report.failed_gates)
        msg = f"A gate of the recipe does not hold, so nothing was pushed:\n{details}"
        raise GateError(msg)


@app.command()
def validate(
    recipes: Annotated[list[Path], typer.Argument(help="Recipes, YAML files.", show_default=False)],
    overrides: _Overrides = None,
) -> None:
    """Check recipes for mistakes, all of them at once; reads no model and no data."""
    from hfcompress.errors import RecipeError
    from hfcompress.recipe import load_recipe

    problems: list[Problem] = []
    for recipe in recipes:
        try:
            load_recipe(recipe, overrides or ())
        except RecipeError as error:
            problems += error.problems
        else:
            typer.echo(readable(f"{recipe}: ok"))
    if problems:
        raise RecipeError(problems)


@app.command()
def plan(recipe: _RecipePath, overrides: _Overrides = None, as_json: _AsJson = False) -> None:  # noqa: FBT002
    """Say what each step of a recipe will change; reads configurations, no weights."""
    from hfcompress.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    _quiet()
    from hfcompress import pipeline
    from hfcompress.display import plan_table
    from hfcompress.needs import memory_warning

    the_plan = pipeline.plan(loaded)
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
        source = {"source": the_plan.source.id, "revision": the_plan.source.revision}
        typer.echo(json.dumps({**source, "memory_bytes": the_plan.memory_bytes, "steps": rows}, indent=2))
    else:
        Console().print(plan_table(the_plan))
    if (warning := memory_warning(the_plan.memory_bytes)) is not None:
        _tell(warning)


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

    with _arguments():
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the files and the card; send nothing.")] = False,  # noqa: FBT002
) -> None:
    """Push an artifact to the Hub in one commit."""
    _quiet()
    from hfcompress.display import push_lines
    from hfcompress.licenses import license_warning
    from hfcompress.publication import plan_publication, publish
    from hfcompress.report import Report

    with _arguments():
        source = Report.load(folder).source
        if (warning := license_warning(source.license, source.license_name)) is not None:
            _tell(warning)
        if dry_run:
            planned = plan_publication(folder, repo, create_pr=create_pr, revision=revision, message=message)
            typer.echo("\n".join(push_lines(planned)))
            typer.echo(planned.card, nl=False)
            return
        pushed = publish(folder, repo, private=private, create_pr=create_pr, revision=revision, message=message)
    if not pushed.files:
        _tell("Nothing changed: the Hub holds all of it already, so there is no new commit")
    typer.echo(pushed.url)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="An artifact of `hfcompress run`.", show_default=False)],
    html: Annotated[Path | None, typer.Option("--html", help="Write the card as one self-contained page.")] = None,
    as_json: _AsJson = False,  # noqa: FBT002
) -> None:
    """Print what a run found out again; `--html` writes it as a page, with pictures and recipe."""
    _quiet()
    from hfcompress.report import Report

    with _arguments():
        found = Report.load(folder)
    if html is not None:
        from hfcompress.page import render_page

        page = render_page(found)
        try:
            html.write_text(page, encoding="utf-8")
        except OSError as error:
            msg = f"{html} cannot be written: {error.strerror}"
            raise UsageError(msg) from error
        _tell(f"The page is {html}")
    _print_report(found, as_json=as_json)


@app.command()
def benchmark(
    a: Annotated[str, typer.Argument(help="Hub id or folder; ID@REVISION for a revision.", show_default=False)],
    b: Annotated[str, typer.Argument(help="What is compared with it.", show_default=False)],
    batch_size: Annotated[int | None, typer.Option(help="Rows in a call whose latency is measured.")] = None,
    throughput_batch_sizes: Annotated[
        list[int] | None,
        typer.Option("--throughput-batch-size", help="Rows in a call whose throughput is measured; can be repeated."),
    ] = None,
    repeats: Annotated[int | None, typer.Option(help="Timed calls of each model.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of a call.")] = None,
    memory: Annotated[bool | None, typer.Option("--memory/--no-memory", help="Measure peak memory.")] = None,
    as_json: _AsJson = False,  # noqa: FBT002
) -> None:
    """Compare what two models cost here: size, FLOPs, latency, throughput and memory, whatever their runtimes."""
    given = {
        "batch_size": batch_size,
        "throughput_batch_sizes": throughput_batch_sizes or None,
        "repeats": repeats,
        "threads": threads,
        "memory": memory,
    }
    _quiet()
    from hfcompress import comparison
    from hfcompress.display import comparison_table

    with _arguments(), _progress() as progress:
        found = comparison.benchmark(
            a, b, progress=progress, **{name: value for name, value in given.items() if value is not None}
        )
    if as_json:
        typer.echo(found.to_json(), nl=False)
    else:
        Console().print(comparison_table(found))


@app.command()
def reproduce(
    artifact: Annotated[str, typer.Argument(help="Hub id of an artifact, or its folder.", show_default=False)],
    revision: _Revision = "main",
    base: Annotated[Path | None, typer.Option(help="Where relative paths of its recipe start.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the new artifact; out/NAME-reproduced by default.")
    ] = None,
    trust_remote_code: Annotated[  # noqa: FBT002
        bool, typer.Option("--trust-remote-code", help="Allow code or pickles of the checkpoint, if its recipe does.")
    ] = False,
    as_json: _AsJson = False,  # noqa: FBT002
) -> None:
    """Run a published artifact's recipe again on the same commits, and compare each number with what was published."""
    _quiet()
    from hfcompress import reproduction
    from hfcompress.display import reproduction_table

    with _arguments(), _progress() as progress:
        found = reproduction.reproduce(
            artifact,
            revision=revision,
            base=base,
            output=output,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(row) for row in found.rows], indent=2))
    else:
        Console().print(reproduction_table(found))
    if found.differing:
        names = ", ".join(dict.fromkeys(row.name for row in found.differing))
        msg = f"{len(found.differing)} of {len(found.rows)} values were not reproduced: {names}"
        raise GateError(msg)


@app.command(name="list")
def list_names(as_json: _AsJson = False) -> None:  # noqa: FBT002
    """Name every registered step, quantizer, importance, task and runtime, and who provides it."""
    from hfcompress.registry import REGISTRIES

    if as_json:
        rows = {registry.noun: {name: registry.provider(name) for name in registry} for registry in REGISTRIES}
        typer.echo(json.dumps(rows, indent=2))
        return
    from hfcompress.display import registry_table

    Console().print(registry_table(REGISTRIES))


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for completion in an editor."""
    from hfcompress.schema import recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=2))


def main() -> NoReturn:
    """Run the command line, in the main process where there are several, and leave with its exit code."""
    start_uncollected(_IMPORTS_S)
    if lone_launch():
        _tell(_LONE_LAUNCH)
    if launched():
        _quiet()
    code = led(_invoke)
    gc.freeze()  # the interpreter would look for garbage in all that was imported before it ends, for most of a second
    sys.exit(code)


def _invoke() -> int:
    """Turn what goes wrong into a message, and return the exit code."""
    try:
        app()
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the border of the program
        return _explain(error)
    return 0


def _explain(error: Exception) -> int:
    """Print an error for a person and return the exit code."""
    if os.environ.get("HFCOMPRESS_DEBUG") == "1":
        _tell("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, HfcompressError):
        _tell(str(error))
        return error.exit_code
    _tell(f"hfcompress failed: {type(error).__name__}: {error}\nSet HFCOMPRESS_DEBUG=1 to see where.")
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


@contextlib.contextmanager
def _arguments() -> Iterator[None]:
    """Turn what is wrong with a model that the command line names into a mistake of the command line."""
    try:
        yield
    except (CheckpointError, NotOnHubError) as error:
        raise UsageError(str(error)) from error


def _print_report(report: Report, *, as_json: bool) -> None:
    from hfcompress.display import report_table

    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        Console().print(report_table(report))


def _push_command(folder: Path, wanted: Push) -> str:
    words = ["hfcompress", "push", str(folder), wanted.repo]
    words += ["--private"] * wanted.private + ["--pr"] * wanted.create_pr
    words += ["--revision", wanted.revision] if wanted.revision else []
    words += ["--message", wanted.message] if wanted.message else []
    return shlex.join(words)


def _tell(text: str) -> None:
    _stderr.print(readable(text), markup=False, highlight=False, soft_wrap=True)


def _quiet() -> None:
    """Keep other libraries' progress bars and advice out of our output; HFCOMPRESS_DEBUG=1 lets them speak."""
    if os.environ.get("HFCOMPRESS_DEBUG") == "1":
        return
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    from hfcompress.hub.quiet import hide_progress_bars

    hide_progress_bars()
