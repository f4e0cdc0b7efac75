"""Promises of what goes to the Hub: looked through first, whoever asks for the push, and named after its repository."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import hfcompress
from hfcompress.errors import CheckpointError, UsageError
from hfcompress.report import Report
from tests.test_redaction import TOKEN

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Cli, Ran
    from tests.loopback_hub import LoopbackHub

LINK = "{name} is a symbolic link, and what it leads to would be changed or published; .*`cp -rL`"
CHANGED = r"is not as it was written: model\.safetensors has changed"


@pytest.fixture
def artifact(pruned: Ran, tmp_path: Path) -> Path:
    """Return a copy of an artifact that nobody pushed yet."""
    return shutil.copytree(pruned.folder, tmp_path / "artifact")


@pytest.fixture(scope="module")
def step_result(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what a step function wrote: weights and checksums, and neither report nor card of ours."""
    folder = tmp_path_factory.mktemp("step") / "half"
    hfcompress.cast(clip, dtype="bfloat16", output=folder)
    return folder


def link(folder: Path, name: str) -> None:
    """Put a link in the place of a file or folder."""
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")


def damage(folder: Path) -> None:
    """Change a file that a manifest vouches for."""
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"\0")


@pytest.mark.parametrize("name", ["README.md", "assets", "tokenizer.json"])
def test_links_are_refused(name: str, hub: LoopbackHub, artifact: Path) -> None:
    """What a link in an artifact leads to is neither written to nor published."""
    link(artifact, name)
    with pytest.raises(CheckpointError, match=LINK.format(name=name)):
        hfcompress.push(artifact, "alice/linked")
    assert (hub.requests, Report.load(artifact).artifact.repo) == ([], None)


def test_changed_file_is_refused(hub: LoopbackHub, artifact: Path) -> None:
    """A file that has changed since the run is named before anything is written or sent."""
    damage(artifact)
    with pytest.raises(CheckpointError, match=CHANGED):
        hfcompress.push(artifact, "alice/damaged")
    assert (hub.requests, Report.load(artifact).artifact.repo) == ([], None)


@pytest.mark.parametrize("dry_run", [True, False])
def test_command_looks_at_the_same(dry_run: bool, hub: LoopbackHub, artifact: Path, cli: Cli) -> None:  # noqa: FBT001 - a case
    """The command refuses what Python refuses, as a mistake of the command line, for a dry run too."""
    damage(artifact)
    done = cli("push", artifact, "alice/damaged", *(["--dry-run"] if dry_run else []))
    assert (done.returncode, done.stdout, hub.requests) == (2, "", [])
    assert "is not as it was written: model.safetensors has changed" in done.stderr


def test_result_of_a_step(hub: LoopbackHub, step_result: Path) -> None:
    """What a step function wrote goes up as it is."""
    pushed = hfcompress.push(step_result, "alice/half")
    assert hub.commits("alice/half")[0].title == "Upload half with hfcompress"
    assert set(pushed.files) == {file.name for file in step_result.iterdir()}
    assert hub.read("alice/half", "model.safetensors") == (step_result / "model.safetensors").read_bytes()


@pytest.mark.parametrize("how", ["link", "damage"])
def test_result_of_a_step_is_looked_through(how: str, hub: LoopbackHub, step_result: Path, tmp_path: Path) -> None:
    """It goes up neither with a link nor with a file that has changed."""
    folder = shutil.copytree(step_result, tmp_path / "half")
    if how == "link":
        link(folder, "config.json")
    else:
        damage(folder)
    with pytest.raises(CheckpointError, match=LINK.format(name="config.json") if how == "link" else CHANGED):
        hfcompress.push(folder, "alice/half-done")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"message": f"for {TOKEN}"}, "^the message of the commit holds what looks like an access token, and every"),
        ({"repo": TOKEN}, "^the repository holds what looks like an access token"),
        ({"revision": TOKEN}, "^the branch holds what looks like an access token"),
        ({"repo": "a/b/c"}, "^got 'a/b/c', expected the name of a Hub repository, as in owner/name$"),
        ({"revision": "v1", "create_pr": True}, "^a pull request goes to the main branch of alice/x; drop --revision"),
    ],
)
def test_what_cannot_be_asked_for(arguments: dict[str, Any], expected: str, hub: LoopbackHub, artifact: Path) -> None:
    """A token that everybody could read, a name that is none and a request against a branch are refused at once."""
    with pytest.raises(UsageError, match=expected) as raised:
        hfcompress.push(artifact, **{"repo": "alice/x", **arguments})
    assert TOKEN not in str(raised.value)
    assert (hub.requests, Report.load(artifact).artifact.repo) == ([], None)


def test_name_without_an_owner(hub: LoopbackHub, artifact: Path) -> None:
    """A name without an owner is the user's, for the card and for the rule that no source is replaced."""
    pushed = hfcompress.push(artifact, "bare")
    assert pushed.url == f"{hub.endpoint}/alice/bare"
    assert b'model_id = "alice/bare"' in hub.read("alice/bare", "README.md")

    report = Report.load(artifact)
    replace(report, source=replace(report.source, id="alice/bare", on_hub=True)).save(artifact)
    with pytest.raises(UsageError, match=r"^alice/bare is the repository that the artifact was made from"):
        hfcompress.push(artifact, "bare")
    assert len(hub.commits("alice/bare")) == 2


def test_card_that_cannot_be_written(hub: LoopbackHub, artifact: Path) -> None:
    """An artifact whose card cannot name the repository is not pushed with another name."""
    (artifact / "README.md").unlink()
    (artifact / "README.md").mkdir()
    with pytest.raises(
        UsageError, match=r"artifact cannot be written: Is a directory; its report and card are to name"
    ):
        hfcompress.push(artifact, "alice/unnamed")
    with pytest.raises(UsageError, match=r"artifact cannot be written: Is a directory"):
        hfcompress.push(artifact, "alice/unnamed")
    assert hub.requests == []


def test_folder_that_is_not_there(hub: LoopbackHub, tmp_path: Path) -> None:
    """A folder that does not exist makes no empty commit."""
    with pytest.raises(CheckpointError, match=r"^there is no folder .+/nowhere to push$"):
        hfcompress.push(tmp_path / "nowhere", "alice/nowhere")
    assert hub.requests == []
