"""Promises of a push: one commit, what was asked for, and a folder that stays when it fails."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import snapshot_download

import hfcompress
from hfcompress.errors import PushError, RecipeError, UsageError
from hfcompress.report import Report
from tests.loopback_hub import OWNER, STRANGER, LoopbackHub

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Cli, Ran, Write


@pytest.fixture
def artifact(pruned: Ran, tmp_path: Path) -> Path:
    """Return a copy of an artifact that nobody pushed yet."""
    return shutil.copytree(pruned.folder, tmp_path / "artifact")


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()
    }


@pytest.mark.onnxruntime
@pytest.mark.filterwarnings("ignore")
def test_quickstart_is_pushed(hub: LoopbackHub, quickstart: Ran, tmp_path: Path) -> None:
    """The quickstart with a push block makes one commit; what the Hub then gives is the artifact, and loads."""
    from optimum.onnxruntime import ORTModelForZeroShotImageClassification

    assert f"pushed to {hub.endpoint}/alice/digits" in quickstart.stderr
    (commit, created) = hub.commits("alice/digits")
    report = Report.load(quickstart.folder)
    assert commit.title == f"Compress clip-digits at {report.source.revision[:12]}, recipe {report.recipe.sha256[:12]}"
    assert report.source.revision in commit.description
    assert report.recipe.sha256 in commit.description
    assert created.title == "initial commit"
    assert hub.repository("alice/digits").private
    folder = snapshot_download("alice/digits", cache_dir=tmp_path / "cache")
    served = {name: hub.read("alice/digits", name) for name in commit.files if name != ".gitattributes"}
    assert served == files(quickstart.folder)
    assert ORTModelForZeroShotImageClassification.from_pretrained(folder).config.model_type == "clip"


def test_push_from_python(hub: LoopbackHub, artifact: Path) -> None:
    """`hfcompress.push` names the repository in the card, and says where it went; again, it is no further commit."""
    pushed = hfcompress.push(artifact, "alice/python", message="From Python")
    assert pushed.url == f"{hub.endpoint}/alice/python"
    assert hub.commits("alice/python")[0].oid == pushed.commit
    assert [commit.title for commit in hub.commits("alice/python")] == ["From Python", "initial commit"]
    assert Report.load(artifact).artifact.repo == "alice/python"
    assert b'model_id = "alice/python"' in hub.read("alice/python", "README.md")
    assert hfcompress.push(artifact, "alice/python").commit == pushed.commit
    assert not hub.repository("alice/python").private


def test_pull_request(hub: LoopbackHub, artifact: Path) -> None:
    """A pull request leaves the branch as it is and its address is what is told."""
    hub.add_repo("acme/theirs")
    pushed = hfcompress.push(artifact, "acme/theirs", create_pr=True)
    assert pushed.url == f"{hub.endpoint}/acme/theirs/discussions/1"
    assert [commit.title for commit in hub.commits("acme/theirs")] == ["initial commit"]
    assert "model.safetensors" in hub.commits("acme/theirs", revision="refs/pr/1")[0].files


def test_branch(hub: LoopbackHub, artifact: Path) -> None:
    """A branch that does not exist is made, and the main one stays."""
    hfcompress.push(artifact, "alice/branch", revision="int8")
    assert "model.safetensors" in hub.commits("alice/branch", revision="int8")[0].files
    assert "model.safetensors" not in hub.commits("alice/branch")[0].files


def test_command_names_the_repository_in_the_card(hub: LoopbackHub, artifact: Path, cli: Cli) -> None:
    """`hfcompress push` prints the address alone; the card and the report that go up name the repository."""
    done = cli("push", artifact, "alice/named", "--private", "--message", "Two words")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{hub.endpoint}/alice/named\n", "")
    assert hub.repository("alice/named").private
    assert hub.commits("alice/named")[0].title == "Two words"
    assert Report.load(artifact).artifact.repo == "alice/named"
    assert b'model_id = "alice/named"' in hub.read("alice/named", "README.md")


def test_license_that_forbids_is_told_first(
    hub: LoopbackHub, cli: Cli, write: Write, clip: Path, tmp_path: Path
) -> None:
    """A run that is to push a model whose license forbids it says so before any work, and the pushed card says it."""
    source = shutil.copytree(clip, tmp_path / "source")
    (source / "README.md").write_text("---\nlicense: cc-by-nd-4.0\n---\n", encoding="utf-8")
    recipe = write(
        model={"id": str(source)},
        steps=[{"use": "round-weights", "bits": 9}],
        evaluate=[],
        data={},
        push={"repo": "alice/forbidden"},
        card={"text": "Only for **me**.", "tags": ["digits"]},
        gates={"latency_ms": None, "size_bytes": None},
    )
    done = cli("run", recipe, "-o", tmp_path / "out")
    card = hub.read("alice/forbidden", "README.md").decode()

    assert done.returncode == 0, done.stderr
    told, _, rest = done.stderr.partition("] load")
    assert "push to alice/forbidden: The source's license (cc-by-nd-4.0) forbids derivatives" in told
    assert "forbids derivatives" not in rest
    assert "(cc-by-nd-4.0) forbids derivatives to be shared" in card
    assert "## About this model\n\nOnly for **me**.\n" in card
    again = cli("push", tmp_path / "out", "alice/forbidden")
    assert again.stderr.startswith("The source's license (cc-by-nd-4.0) forbids derivatives"), again.stderr
    assert "- digits" in card.partition("\n---\n")[0].splitlines()


def test_failed_push_can_be_repeated(hub: LoopbackHub, cli: Cli, write: Write, tmp_path: Path) -> None:
    """A push that fails leaves the artifact and prints the command that repeats it, and that command works.

    A name without an owner is the user's, from the report that is printed on.
    """
    hub.fail("POST", "/api/models/alice/later/commit/*", status=500, times=None)
    push = {"repo": "later", "private": True, "message": "It's late", "revision": "v1"}
    done = cli("run", write(push=push), "-o", tmp_path / "my out", "--json")
    command = done.stderr.rstrip().splitlines()[-1]

    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["artifact"]["repo"] == "alice/later"
    assert (
        "the Hub refused the model alice/later (500): Ordered by the test; try again\nTo push it again:" in done.stderr
    )
    hub.heal()
    program, *arguments = shlex.split(command)
    assert program == "hfcompress"
    again = subprocess.run([sys.executable, "-m", program, *arguments], capture_output=True, text=True, check=False)  # noqa: S603
    assert (again.returncode, again.stdout) == (0, f"{hub.endpoint}/alice/later\n"), again.stderr
    assert [commit.title for commit in hub.commits("alice/later", revision="v1")] == ["It's late", "initial commit"]


@pytest.mark.parametrize(
    ("repo", "environment", "told"),
    [
        ("later", {"HF_TOKEN": "hf_no_such_token"}, "the Hub refused the model later (401): "),
        ("alice/later", {"HF_TOKEN": ""}, "nobody can push to alice/later without an access token; set HF_TOKEN, or"),
        (
            "alice/later",
            {"HF_HUB_OFFLINE": "1"},
            "nobody can push to alice/later in offline mode; unset HF_HUB_OFFLINE",
        ),
    ],
)
def test_push_that_must_fail_is_told_first(
    repo: str, environment: dict[str, str], told: str, hub: LoopbackHub, cli: Cli, write: Write, tmp_path: Path
) -> None:
    """Where no push can follow, nothing is read, made or left, rather than a push fail after hours."""
    done = cli("run", write(push={"repo": repo}, model={"id": "nobody/nothing"}), "-o", tmp_path / "out", **environment)
    assert done.returncode == 1, done.stderr
    assert told in done.stderr
    assert done.stderr.endswith("; or run with --no-push\n")
    assert {request.path for request in hub.requests} <= {"/api/whoami-v2"}
    assert not (tmp_path / "out").exists()


def test_source_is_known_by_a_name_without_an_owner(hub: LoopbackHub, cli: Cli, write: Write, tmp_path: Path) -> None:
    """The user's own model is not replaced where the recipe leaves the user's name out, and this is told first."""
    done = cli("run", write(model={"id": "Alice/mine"}, push={"repo": "mine"}), "-o", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert "push.repo: alice/mine is the repository of the source, whose card and weights a push would" in done.stderr
    assert [request.path for request in hub.requests] == ["/api/whoami-v2"]


def test_failed_gate_pushes_nothing(hub: LoopbackHub, cli: Cli, write: Write, tmp_path: Path) -> None:
    """A gate that does not hold is exit code 3; the artifact stays, its card says so, the Hub is not even asked."""
    gates = {"latency_ms": None, "size_bytes": {"min_ratio": 100}, "zero_shot_accuracy": {"min_value": 1.01}}
    done = cli("run", write(gates=gates, push={"repo": "alice/never"}), "-o", tmp_path / "out")
    report = Report.load(tmp_path / "out")

    assert done.returncode == 3, done.stderr
    assert "size on disk" in done.stdout
    assert "A gate of the recipe does not hold, so nothing was pushed:" in done.stderr
    assert (hub.requests, report.artifact.repo) == ([], None)
    assert [gate.name for gate in report.failed_gates] == ["size_bytes", "zero_shot_accuracy"]
    assert all(gate.detail in done.stderr for gate in report.failed_gates)
    assert "**Not every gate of the recipe holds.**" in (tmp_path / "out/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("token", ["", STRANGER.value, "hf_no_such_token"])
def test_who_may_not_push(token: str, hub: LoopbackHub, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token that may write, one line says to log in; the repository is not made."""
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(PushError, match=r"^the Hub .+; .*log in with `hf auth login`, with a token that may write$"):
        hfcompress.push(artifact, "acme/forbidden")
    with pytest.raises(KeyError, match="acme/forbidden"):
        hub.repository("acme/forbidden")


@pytest.mark.parametrize(("license_id", "match"), [(None, "names no license"), ("cc-by-nd-4.0", "forbids derivatives")])
def test_license_is_a_warning(license_id: str | None, match: str, hub: LoopbackHub, artifact: Path) -> None:
    """Python says of a license what the command line says, and a caller can make that stop the push."""
    report = Report.load(artifact)
    dataclasses.replace(report, source=dataclasses.replace(report.source, license=license_id)).save(artifact)
    name = f"alice/licensed-{license_id}"
    with warnings.catch_warnings():
        warnings.simplefilter("error", hfcompress.LicenseWarning)
        with pytest.raises(hfcompress.LicenseWarning, match=match):
            hfcompress.push(artifact, name)
    with pytest.raises(KeyError):
        hub.repository(name)
    with pytest.warns(hfcompress.LicenseWarning, match=match):
        hfcompress.push(artifact, name)
    assert hub.repository(name)


def test_variants_go_up_in_one_commit(hub: LoopbackHub, artifact: Path) -> None:
    """Folders of other runtimes inside of the artifact go up with it, in the same commit."""
    for name in ("onnx/model.onnx", "openvino/openvino_model.bin"):
        (artifact / name).parent.mkdir()
        (artifact / name).write_bytes(name.encode() * 9)
    pushed = hfcompress.push(artifact, "alice/variants")
    (commit, _) = hub.commits("alice/variants")
    assert {"model.safetensors", "onnx/model.onnx", "openvino/openvino_model.bin"} <= commit.files.keys()
    assert pushed.files == tuple(sorted(files(artifact)))


def test_only_what_changed_is_sent(hub: LoopbackHub, artifact: Path, cli: Cli) -> None:
    """A second push sends what changed, and one without a change makes no commit and says so."""
    hfcompress.push(artifact, "alice/twice")
    (artifact / "notes.txt").write_text("new", encoding="utf-8")
    hub.forget_requests()
    assert hfcompress.push(artifact, "alice/twice").files == ("notes.txt",)
    assert not [request for request in hub.requests if request.path.startswith("/storage/")]
    assert hfcompress.push(artifact, "alice/twice").files == ()
    before = hub.commits("alice/twice")
    done = cli("push", artifact, "alice/twice")
    assert (done.returncode, done.stdout) == (0, f"{hub.endpoint}/alice/twice\n")
    assert done.stderr == "Nothing changed: the Hub holds all of it already, so there is no new commit\n"
    assert hub.commits("alice/twice") == before


def test_dry_run(hub: LoopbackHub, artifact: Path, cli: Cli) -> None:
    """A dry run prints each file and the card as it would go up, and writes neither here nor there."""
    before = files(artifact)
    done = cli("push", artifact, "alice/dry", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("alice/dry (would be made), in one commit: Compress clip-digits at ")
    size = (artifact / "model.safetensors").stat().st_size
    assert f"new        {size:>14,} bytes  model.safetensors\n" in done.stdout
    assert 'model_id = "alice/dry"' in done.stdout
    assert files(artifact) == before
    assert {request.method for request in hub.requests} == {"GET"}

    cli("push", artifact, "alice/dry")
    (artifact / "config.json").write_text("{}", encoding="utf-8")
    (artifact / "SHA256SUMS").unlink()  # as whoever changes a file on purpose does
    again = cli("push", artifact, "alice/dry", "--dry-run").stdout
    assert again.startswith("alice/dry (exists), in one commit: ")
    states = {line.split()[-1]: line.split()[0] for line in again.partition("\n\n")[0].splitlines()[1:]}
    assert states.pop("config.json") == "changed"
    assert set(states.values()) == {"unchanged"}
    assert len(hub.commits("alice/dry")) == 2


def test_source_is_not_replaced(hub: LoopbackHub, artifact: Path, clip: Path, cli: Cli) -> None:
    """An artifact goes to the repository that it was made from as a pull request, and in no other way."""
    hub.add_repo("acme/origin", clip)
    report = Report.load(artifact)
    replace(report, source=replace(report.source, id="acme/origin", on_hub=True)).save(artifact)
    done = cli("push", artifact, "acme/origin")
    assert (done.returncode, len(hub.commits("acme/origin"))) == (2, 2)
    assert "acme/origin is the repository that the artifact was made from" in done.stderr
    assert "open a pull request with --pr" in done.stderr
    asked = cli("push", artifact, "acme/origin", "--pr")
    assert (asked.returncode, asked.stdout) == (0, f"{hub.endpoint}/acme/origin/discussions/1\n"), asked.stderr
    assert len(hub.commits("acme/origin")) == 2


def test_source_is_not_replaced_by_a_recipe(hub: LoopbackHub, write: Write) -> None:
    """A recipe that pushes over its source is wrong before anything is loaded."""
    recipe = write(model={"id": "acme/clip"}, push={"repo": "acme/clip"})
    with pytest.raises(RecipeError, match=r"push\.repo: acme/clip is the repository of the source.+ `create_pr: true`"):
        hfcompress.plan(recipe)
    assert hub.requests == []


@pytest.mark.parametrize("arguments", [{"create_pr": True, "revision": "v1"}])
def test_pull_request_against_a_branch(arguments: dict[str, Any], artifact: Path, write: Write) -> None:
    """A pull request goes to the main branch; asked for against another one, it is refused."""
    with pytest.raises(UsageError, match=r"^a pull request goes to the main branch of alice/x; drop --revision v1, or"):
        hfcompress.push(artifact, "alice/x", **arguments)
    with pytest.raises(RecipeError, match=r"push\.revision: got 'v1' beside `create_pr: true`"):
        hfcompress.plan(write(push={"repo": "alice/x", **arguments}))


def test_private_is_not_pushed_in_public(hub: LoopbackHub, artifact: Path) -> None:
    """What is to be private does not go to a repository that is public already."""
    hub.add_repo("alice/public")
    with pytest.raises(PushError, match=r"^alice/public is there already and is public; make it private in its"):
        hfcompress.push(artifact, "alice/public", private=True)
    assert len(hub.commits("alice/public")) == 1


@pytest.mark.parametrize("token", [OWNER.value, "hf_no_such_token"])
def test_token_is_not_told(token: str, hub: LoopbackHub, artifact: Path, cli: Cli) -> None:
    """Whatever the Hub says, the token is in no output."""
    hub.fail("GET", "/api/models/alice/secret", status=403, message=f"Bearer {token} may not", times=None)
    for debug in ("0", "1"):
        done = cli("push", artifact, "alice/secret", HF_TOKEN=token, HFCOMPRESS_DEBUG=debug)
        assert done.returncode == 1
        assert "Bearer hf_*** may not; log in" in done.stderr.replace("\n", " ")
    assert token not in cli("push", artifact, "alice/secret", HF_TOKEN=token).stderr
