"""Promises of what is shown: no access token leaves the program, and nothing of it acts on a terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from hfcompress.display import LineProgress, TerminalProgress, report_table
from hfcompress.errors import HfcompressError, Problem, RecipeError, RunError
from hfcompress.redaction import holds_token, readable, redacted
from hfcompress.report import Report
from tests.test_card import report

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Cli, Ran, Write

TOKEN = "hf_" + "aB3dE6gH9jK2" * 3
NASTY = "\x1b]0;owned\x07\x1b[31m[bold red]red[/] \x9b2J \u202egpj.exe \x08\x08"


FROM_A_BROWSER = "hf_oauth_eyJhbGciOiJFZERTQSJ9.eyJzY29wZSI6WyJvcGVuaWQiXX0.a_b-c9"


@pytest.mark.parametrize("text", ["{}", "Bearer {}", "https://user:{}@host/x", "a\n{}\n"])
@pytest.mark.parametrize("token", [TOKEN, FROM_A_BROWSER])
def test_tokens_are_hidden(token: str, text: str) -> None:
    """Wherever a token stands, its place is kept and the token is not."""
    assert holds_token(text.format(token))
    assert redacted(text.format(token)) == text.format("hf_***")


@pytest.mark.parametrize("text", ["hf_hub_download", "hf_transfer", "HF_TOKEN", "hf_" + "a" * 19, ""])
def test_names_are_not_tokens(text: str) -> None:
    """Words that begin as a token does stay."""
    assert not holds_token(text)


def test_token_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of another form is known by the variable that holds it; a very short one is left, it occurs by chance."""
    monkeypatch.setenv("HF_TOKEN", "secret-of-mine\n")
    assert redacted("got secret-of-mine") == "got hf_***"
    monkeypatch.setenv("HF_TOKEN", "is")
    assert redacted("this is") == "this is"


@pytest.mark.parametrize(
    "error", [RunError(f"got {TOKEN}"), RecipeError([Problem("recipe.yaml", "model.id", f"got {TOKEN!r}", 3, 8)])]
)
def test_errors_tell_no_token(error: HfcompressError) -> None:
    """The text of an error has none, and so has a traceback."""
    assert "hf_***" in str(error)
    assert TOKEN not in str(error)


def test_report_tells_no_token() -> None:
    """A token that a step's detail or a library's name brings along does not get into `report.json`."""
    found = report()
    text = replace(found, environment={**found.environment, "remark": TOKEN}).to_json()
    assert TOKEN not in text
    assert Report.from_json(text).environment["remark"] == "hf_***"


@pytest.mark.parametrize("where", ["value", "key", "list", "override"])
@pytest.mark.parametrize("command", ["validate", "plan", "run"])
def test_recipe_with_a_token_is_refused(where: str, command: str, cli: Cli, write: Write, tmp_path: Path) -> None:
    """A token anywhere in a recipe is a mistake with its place, and the only one told, so that nothing quotes it."""
    changes = {
        "value": {"model": {"id": TOKEN}, "steps": 3},
        "key": {"data": {TOKEN: 1}},
        "list": {"card": {"tags": ["a", f"x {TOKEN}"]}},
        "override": {},
    }
    recipe = write(**changes[where])
    words = ["--set", f"push.message=Bearer {TOKEN}"] if where == "override" else []
    done = cli(command, recipe, *words, cwd=tmp_path, HFCOMPRESS_DEBUG="1" if command == "plan" else "0")

    assert (done.returncode, done.stdout) == (2, "")
    assert "got what looks like an access token, and a recipe is published" in done.stderr
    assert TOKEN not in done.stderr
    assert list(tmp_path.iterdir()) == [recipe]


def test_message_of_a_commit(pruned: Ran, cli: Cli) -> None:
    """A token in what a commit is to say is not sent."""
    done = cli("push", pruned.folder, "alice/x", "--message", f"for {TOKEN}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "the message of the commit holds what looks like an access token, and everybody can read it" in done.stderr
    assert TOKEN not in done.stderr


def test_nothing_acts_on_a_terminal() -> None:
    """Control codes, directions and rich's own markup are shown as they are written, in lines, bars and tables."""
    file = io.StringIO()
    console = Console(file=file, width=200)
    LineProgress(console).stage(NASTY)
    LineProgress(console).note(NASTY)
    found = report()
    rows = (replace(found.measurements[0], label=NASTY, unit=NASTY),)
    console.print(report_table(replace(found, source=replace(found.source, id=NASTY), measurements=rows)))
    with TerminalProgress(console) as progress:
        progress.stage(NASTY)
        progress.note(NASTY)
        list(progress.track([1], 1, NASTY))
        progress.finish()

    assert not set(file.getvalue()) & set("\x1b\x07\x08\x9b\u202e")
    assert file.getvalue().count(r"\x1b[31m[bold red]red[/] \x9b2J \u202egpj.exe") >= 4


def test_readable_keeps_words() -> None:
    """Letters of all languages, signs, lines and tabs stay."""
    text = "größer → 4.7\n\tΔ 10 % 日本語 \u00a0"
    assert readable(text) == text
