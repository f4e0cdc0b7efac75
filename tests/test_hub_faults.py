"""The table of faults: which call meets which one, and what must come of it. The client and the HTTP are real."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from safetensors.numpy import save_file

from hfcompress.data import load_rows
from hfcompress.errors import HubError, PushError
from hfcompress.hub import download_weights, push_folder, resolve_model
from hfcompress.hub.retries import ATTEMPTS
from hfcompress.recipe import DataReference

if TYPE_CHECKING:
    from pathlib import Path

    from tests.loopback_hub import LoopbackHub

pytestmark = pytest.mark.filterwarnings("ignore")


@dataclass(frozen=True)
class Fault:
    """What a request meets, up to `times` times: a status, a cut connection, a lost answer, other bytes."""

    method: str
    path: str
    kind: int | Literal["drop", "drop late", "lose", "flip", "truncate"]
    times: int | None = 1
    retry_after_s: int | None = None
    says: str = "Ordered by the test"

    def order(self, hub: LoopbackHub, repo: str) -> None:
        """Order the fault for one repository."""
        path = self.path.format(repo=repo)
        match self.kind:
            case int(status):
                hub.fail(
                    self.method,
                    path,
                    status=status,
                    times=self.times,
                    retry_after_s=self.retry_after_s,
                    message=self.says,
                )
            case "drop" | "drop late":
                hub.drop(self.method, path, after_bytes=0 if self.kind == "drop" else 5000, times=self.times)
            case "lose":
                hub.lose_answer(self.method, path, times=self.times)
            case "flip" | "truncate":
                hub.corrupt(path, how=self.kind, times=self.times)

    def __str__(self) -> str:
        """Return the name of the row."""
        return f"{self.method} {self.path} {self.kind} x{self.times or 'all'}".replace("{repo}", "REPO")


INFO = "/api/models/{repo}"
HEAD = "/api/models/{repo}/revision/main"
CREATE = "/api/repos/create"
BRANCH = "/api/models/{repo}/branch/*"
PATHS = "/api/models/{repo}/paths-info/*"
PREUPLOAD = "/api/models/{repo}/preupload/*"
BATCH = "/{repo}.git/info/lfs/objects/batch"
VERIFY = "/{repo}.git/info/lfs/objects/verify"
STORAGE = "/storage/models/{repo}/*"
CARD = "/api/validate-yaml"
COMMIT = "/api/models/{repo}/commit/*"
REQUESTS = "/api/models/{repo}/discussions"
CONFIG = "/{repo}/resolve/*/config.json"
CONTENT = "/api/resolve-cache/models/{repo}/*/config.json"

PUSHES = [
    (Fault("GET", INFO, 503),),
    (Fault("GET", INFO, "drop"),),
    (Fault("POST", CREATE, 500),),
    (Fault("POST", CREATE, 429, retry_after_s=0),),
    (Fault("POST", CREATE, "lose"),),
    (Fault("GET", HEAD, 429, times=3, retry_after_s=0),),
    (Fault("POST", PATHS, 502),),
    (Fault("POST", PREUPLOAD, 503),),
    (Fault("POST", PREUPLOAD, "drop"),),
    (Fault("POST", BATCH, 500),),
    (Fault("PUT", STORAGE, 503),),
    (Fault("PUT", STORAGE, "drop late"),),
    (Fault("PUT", STORAGE, "lose"),),
    (Fault("POST", VERIFY, 504),),
    (Fault("POST", CARD, 503),),
    (Fault("POST", CARD, "drop"),),
    (Fault("POST", COMMIT, 500),),
    (Fault("POST", COMMIT, 503, times=ATTEMPTS - 1),),
    (Fault("POST", COMMIT, 429, retry_after_s=0),),
    (Fault("POST", COMMIT, 412),),
    (Fault("POST", COMMIT, "drop"),),
    (Fault("POST", COMMIT, "lose"),),
    (Fault("POST", COMMIT, "lose", times=None),),
    (Fault("POST", COMMIT, 503), Fault("POST", COMMIT, "lose")),
    (Fault("POST", COMMIT, 500, times=ATTEMPTS - 1), Fault("POST", COMMIT, "lose")),
]
"""Faults that a push survives."""

REFUSED_PUSHES = [
    (Fault("GET", INFO, 500, times=None), r"\(500\): Ordered by the test; try again$"),
    (Fault("GET", INFO, 401, says="Invalid credentials"), r"\(401\): Invalid credentials; log in with `hf auth login`"),
    (
        Fault("POST", CREATE, 403, says="This token cannot write"),
        r"\(403\): This .+ write; log in with `hf auth login`",
    ),
    (Fault("POST", COMMIT, 500, times=None), r"\(500\): Ordered by the test; try again$"),
    (Fault("POST", COMMIT, "drop", times=None), "could not be reached for the model alice/.+; check the network"),
    (
        Fault("POST", COMMIT, 429, times=None, retry_after_s=0),
        r"\(429\): Ordered .+; wait some minutes, then try again$",
    ),
    (
        Fault("POST", COMMIT, 402, says="Payment required"),
        r"\(402\): Payment required; free storage or raise the limit",
    ),
    (Fault("POST", COMMIT, 403, says="Private storage limit reached"), r"\(403\): Private .+; free storage or raise"),
    (Fault("POST", COMMIT, 413, says="Too large"), r"\(413\): Too large; free storage or raise the limit"),
    (Fault("POST", COMMIT, 403, says="Read-only token"), r"\(403\): Read-only token; .+ with a token that may write$"),
]
"""Faults that a push gives up on, and what it says."""

PULLS = [
    Fault("GET", HEAD, 503),
    Fault("GET", HEAD, 429, times=ATTEMPTS - 1, retry_after_s=0),
    Fault("GET", HEAD, "drop"),
    Fault("HEAD", CONFIG, 503),
    Fault("HEAD", CONFIG, "drop"),
    Fault("GET", CONTENT, 503),
    Fault("GET", CONTENT, "drop"),
    Fault("GET", CONTENT, "flip"),
    Fault("GET", CONTENT, "truncate"),
    Fault("GET", STORAGE, 503),
    Fault("GET", STORAGE, 500),
    Fault("GET", STORAGE, "drop late"),
    Fault("GET", STORAGE, "flip"),
    Fault("GET", STORAGE, "truncate"),
]
"""Faults that a pull survives."""

REFUSED_PULLS = [
    (
        Fault("GET", HEAD, 500, times=None),
        r"^the Hub refused the model acme/[-\w]+ \(500\): Ordered by the test; try again$",
    ),
    (
        Fault("GET", HEAD, "drop", times=None),
        r"^the Hub could not be reached for the model acme/[-\w]+: .+; check the net",
    ),
    (
        Fault("GET", HEAD, 403, says="No"),
        r"^the Hub refused the model acme/[-\w]+ \(403\): No; log in with `hf auth login`",
    ),
    (
        Fault("GET", STORAGE, "flip", times=None),
        r"^model\.safetensors of the model acme/[-\w]+ came twice with other bytes",
    ),
    (
        Fault("GET", CONTENT, "flip", times=None),
        r"^config\.json of the model acme/[-\w]+ came twice with other bytes .+blob",
    ),
    (Fault("GET", STORAGE, 403, says="Expired"), r"^the Hub .+ the model acme/[-\w]+.* \(?403"),
]
"""Faults that a pull gives up on, and what it says."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that looks like an artifact of two variants, small enough for a table."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "onnx").mkdir()
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": "clip"}), encoding="utf-8")
    save_file({"weight": np.arange(4000, dtype=np.float32)}, folder / "model.safetensors")
    (folder / "onnx/model.onnx").write_bytes(bytes(range(256)) * 40)
    return folder


@pytest.fixture
def repo(hub: LoopbackHub, request: pytest.FixtureRequest) -> str:
    """Return a name that no other row has, so that no row finds another one's repository or cache."""
    assert hub.waiting_faults == 0
    return f"alice/row-{sha256(request.node.name.encode()).hexdigest()[:12]}"


def assert_pushed(hub: LoopbackHub, repo: str, folder: Path, revision: str = "main") -> None:
    """Assert that one commit was made and that the repository holds the folder."""
    assert [commit.title for commit in hub.commits(repo, revision=revision)][1:] == ["initial commit"]
    for file in folder.rglob("*"):
        if file.is_file():
            assert hub.read(repo, file.relative_to(folder).as_posix(), revision=revision) == file.read_bytes()


@pytest.mark.parametrize("faults", PUSHES, ids=lambda faults: ", ".join(map(str, faults)))
def test_push_survives(faults: tuple[Fault, ...], hub: LoopbackHub, repo: str, folder: Path) -> None:
    """The push ends with exactly one commit, and with the right bytes."""
    for fault in faults:
        fault.order(hub, repo)
    pushed = push_folder(folder, repo)
    assert_pushed(hub, repo, folder)
    assert hub.commits(repo)[0].oid == pushed.commit
    assert len(pushed.files) == 4
    assert hub.waiting_faults == 0


@pytest.mark.parametrize(("fault", "expected"), REFUSED_PUSHES, ids=str)
def test_push_is_refused(fault: Fault, expected: str, hub: LoopbackHub, repo: str, folder: Path) -> None:
    """The push ends with one sentence and no commit, and is repeated with exactly one once the Hub is well again."""
    fault.order(hub, repo)
    with pytest.raises(PushError, match=expected):
        push_folder(folder, repo)
    tries = sum(log.method == fault.method and log.path == fault.path.format(repo=repo) for log in hub.requests)
    assert tries <= ATTEMPTS
    hub.heal()
    push_folder(folder, repo)
    assert_pushed(hub, repo, folder)


@pytest.mark.parametrize(
    "faults",
    [
        (Fault("POST", COMMIT, "lose"),),
        (Fault("POST", COMMIT, "lose", times=None),),
        (Fault("POST", COMMIT, 500), Fault("POST", COMMIT, "lose")),
        (Fault("GET", REQUESTS, 503),),
        (Fault("POST", COMMIT, "lose"), Fault("GET", REQUESTS, "drop", times=2)),
    ],
    ids=lambda faults: ", ".join(map(str, faults)),
)
def test_pull_request_survives(faults: tuple[Fault, ...], hub: LoopbackHub, repo: str, folder: Path) -> None:
    """There is exactly one pull request in the end, also when the push is made once more."""
    hub.add_repo(repo)
    for fault in faults:
        fault.order(hub, repo)
    pushed = push_folder(folder, repo, create_pr=True)
    assert pushed.url == f"{hub.endpoint}/{repo}/discussions/1"
    assert_pushed(hub, repo, folder, revision="refs/pr/1")
    assert len(hub.commits(repo)) == 1
    hub.heal()
    again = push_folder(folder, repo, create_pr=True)
    assert (again.url, again.commit, again.files) == (pushed.url, pushed.commit, ())
    assert set(hub.references(repo)) == {"refs/heads/main", "refs/pr/1"}


@pytest.mark.parametrize("kind", [503, "lose"])
def test_branch_survives(kind: Literal[503, "lose"], hub: LoopbackHub, repo: str, folder: Path) -> None:
    """A branch is made once."""
    Fault("POST", BRANCH, kind).order(hub, repo)
    push_folder(folder, repo, revision="v1")
    assert_pushed(hub, repo, folder, revision="v1")
    assert len(hub.commits(repo)) == 1


def test_push_beside_another_one(hub: LoopbackHub, repo: str, folder: Path, tmp_path: Path) -> None:
    """A commit that was made in between is kept, and only what differs from it goes up."""
    (tmp_path / "notes.txt").write_text("theirs", encoding="utf-8")
    hub.add_repo(repo, tmp_path)
    hub.fail("POST", f"/api/models/{repo}/commit/*", status=412)
    push_folder(folder, repo)
    assert len(hub.commits(repo)) == 3
    assert hub.read(repo, "notes.txt") == b"theirs"


def test_other_bytes_after_the_push(hub: LoopbackHub, repo: str, folder: Path) -> None:
    """A file that the Hub holds with other bytes than were sent is named."""
    hub.spoil("onnx/model.onnx")
    with pytest.raises(PushError, match=rf"^after the push, onnx/model\.onnx has other bytes in {repo} at [0-9a-f]+"):
        push_folder(folder, repo)
    push_folder(folder, repo)
    assert hub.read(repo, "onnx/model.onnx") == (folder / "onnx/model.onnx").read_bytes()


def test_card_that_the_hub_does_not_take(hub: LoopbackHub, repo: str, folder: Path, tmp_path: Path) -> None:
    """A card with wrong metadata is refused before anything is sent."""
    (tmp_path / "README.md").write_text("---\nlicense: {a: 1}\n---\n", encoding="utf-8")
    with pytest.raises(PushError, match=r"(?s)^the model alice/[-\w]+: .*Invalid metadata in README\.md.*license"):
        push_folder(tmp_path, repo)
    assert len(hub.commits(repo)) == 1
    push_folder(folder, repo)


@pytest.mark.parametrize("fault", PULLS, ids=str)
def test_pull_survives(fault: Fault, hub: LoopbackHub, repo: str, folder: Path) -> None:
    """The pull ends with the right bytes."""
    repo = repo.replace("alice", "acme")
    hub.add_repo(repo, folder)
    fault.order(hub, repo)
    weights = download_weights(resolve_model(repo, "main"))
    for name in ("config.json", "README.md", "model.safetensors"):
        assert (weights / name).read_bytes() == (folder / name).read_bytes()
    assert hub.waiting_faults == 0


@pytest.mark.parametrize(("fault", "expected"), REFUSED_PULLS, ids=str)
def test_pull_is_refused(fault: Fault, expected: str, hub: LoopbackHub, repo: str, folder: Path) -> None:
    """The pull ends with one sentence, without secrets, and works once the Hub is well again."""
    repo = repo.replace("alice", "acme")
    hub.add_repo(repo, folder)
    fault.order(hub, repo)
    with pytest.raises(HubError, match=expected) as raised:
        download_weights(resolve_model(repo, "main"))
    assert "signature" not in str(raised.value)
    assert "hf_loopback" not in str(raised.value)
    hub.heal()
    weights = download_weights(resolve_model(repo, "main"))
    assert (weights / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("fault", "refused"),
    [
        (Fault("GET", "/api/datasets/{repo}/revision/*", 503), False),
        (Fault("GET", "/storage/datasets/{repo}/*", "flip"), False),
        (Fault("GET", "/storage/datasets/{repo}/*", "flip", times=None), True),
    ],
    ids=str,
)
def test_dataset(fault: Fault, refused: bool, hub: LoopbackHub, repo: str, quickstart_folder: Path) -> None:  # noqa: FBT001
    """Rows are those of the Hub, or there are none."""
    hub.add_repo(repo, quickstart_folder / "data", repo_type="dataset")
    fault.order(hub, repo)
    reference = DataReference(dataset=repo, split="test[:20]")
    if refused:
        with pytest.raises(HubError, match=rf"of the dataset {repo} came twice with other bytes than the Hub has"):
            load_rows(reference, ())
        hub.heal()
    rows = load_rows(reference, ())
    expected = load_rows(DataReference(dataset=str(quickstart_folder / "data"), split="test[:20]"), ())
    assert rows.dataset["label"] == expected.dataset["label"]
    assert rows.revision == hub.commits(repo, "dataset")[0].oid
