"""The loopback Hub behaves to the real client as the real Hub does."""

import hashlib
import http.client
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, file_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session

from tests.loopback_hub import MEMBER, OWNER, READER, STRANGER, LoopbackHub, Token

REPO = "acme/tiny"
CARD = b"---\nlicense: mit\ntags:\n- tiny\npipeline_tag: image-classification\n---\n# Tiny\n"
WEIGHTS = bytes(range(256)) * 40
FILES = {"README.md": CARD, "config.json": b'{"model_type": "clip"}', "onnx/model.onnx": WEIGHTS[:999]}
FILES |= {"model.safetensors": WEIGHTS}

_library = importlib.import_module(type(get_session()).__module__.split(".")[0])
TransportError = _library.RequestException if _library.__name__ == "requests" else _library.TransportError


# The client itself uploads large files in a way that its HTTP library calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")

Start = Callable[..., LoopbackHub]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a Hub and points this process's client to it: it reads its variables once, on import."""
    with ExitStack() as stack:

        def start_with(**options: int) -> LoopbackHub:
            server = stack.enter_context(LoopbackHub(tmp_path / "hub", **options))
            template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.endpoint)
            for module in (constants, file_download):
                monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
            monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
            monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
            return server

        yield start_with


@pytest.fixture
def hub(start: Start) -> LoopbackHub:
    """A Hub with nothing on it."""
    return start()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model, with regular and large files."""
    for path, content in FILES.items():
        (tmp_path / "model" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / path).write_bytes(content)
    return tmp_path / "model"


def client(hub: LoopbackHub, token: Token | None = OWNER) -> HfApi:
    """The real client, with this token and no other."""
    return HfApi(endpoint=hub.endpoint, token=False if token is None else token.value)


def contents(folder: str | Path) -> dict[str, bytes]:
    """All files under a folder but those that the Hub or the client adds."""
    paths = [
        path for path in Path(folder).rglob("*") if path.is_file() and not path.is_relative_to(Path(folder, ".cache"))
    ]
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    found.pop(".gitattributes", None)
    return found


def titles(hub: LoopbackHub, revision: str = "main") -> list[str]:
    """Titles of the commits, newest first."""
    return [commit.title for commit in hub.commits(REPO, revision=revision)]


def send(method: str, url: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
    """Status and message of one bare request, for what the real client would never send."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    connection.request(method, f"{parts.path}?{parts.query}", body, headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, answer.headers.get("X-Error-Message", "")


def upload_link(hub: LoopbackHub, content: bytes) -> str:
    """The signed link for a large file that is not there yet."""
    oid = hashlib.sha256(content).hexdigest()
    connection = http.client.HTTPConnection(urlsplit(hub.endpoint).netloc, timeout=30)
    body = json.dumps({"operation": "upload", "objects": [{"oid": oid, "size": len(content)}]})
    headers = {"Authorization": f"Bearer {OWNER.value}"}
    connection.request("POST", f"/{REPO}.git/info/lfs/objects/batch", body, headers)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return str(answer["objects"][0]["actions"]["upload"]["href"])


# Create, upload, download


def test_upload_lands(hub: LoopbackHub, folder: Path) -> None:
    """An uploaded folder is one commit that holds the same bytes, large files apart from regular ones."""
    api = client(hub)
    api.create_repo(REPO)
    info = api.upload_folder(repo_id=REPO, folder_path=folder, commit_message="All", commit_description="of it")
    commit = hub.commits(REPO)[0]
    assert (info.oid, "All", "of it", "alice") == (commit.oid, commit.title, commit.description, commit.author)
    assert {path: hub.read(REPO, path) for path in commit.files if path != ".gitattributes"} == FILES
    assert {"model.safetensors", "onnx/model.onnx"} == {path for path, file in commit.files.items() if file.large}


def test_upload_again_is_no_commit(hub: LoopbackHub, folder: Path) -> None:
    """Uploading what is there already makes no commit and sends no large file."""
    api = client(hub)
    api.create_repo(REPO)
    first = api.upload_folder(repo_id=REPO, folder_path=folder)
    hub.forget_requests()
    assert first.oid == api.upload_folder(repo_id=REPO, folder_path=folder).oid
    assert titles(hub) == ["Upload folder using huggingface_hub", "initial commit"]
    assert [request for request in hub.requests if request.method == "PUT"] == []


def test_upload_in_parts(start: Start, folder: Path) -> None:
    """A large file above the part size arrives whole, in as many parts as it takes."""
    hub = start(part_size_bytes=3000)
    hub.add_repo(REPO)
    client(hub).upload_folder(repo_id=REPO, folder_path=folder)
    assert hub.read(REPO, "model.safetensors") == WEIGHTS
    assert len([request for request in hub.requests if "/parts/" in request.path]) == 4


def test_download_is_what_was_uploaded(hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    """A snapshot has the bytes that were uploaded, under the oid of the commit."""
    api = client(hub)
    api.create_repo(REPO)
    oid = api.upload_folder(repo_id=REPO, folder_path=folder).oid
    snapshot = api.snapshot_download(REPO, cache_dir=tmp_path / "cache")
    assert contents(snapshot) == FILES
    assert oid == Path(snapshot).name


def test_storage_never_sees_the_token(hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    """Large files go to and from another host name, without the token."""
    api = client(hub)
    api.create_repo(REPO)
    api.upload_folder(repo_id=REPO, folder_path=folder)
    api.snapshot_download(REPO, cache_dir=tmp_path / "cache")
    storage = [request for request in hub.requests if request.path.startswith("/storage/")]
    assert {("localhost", None, 200)} == {(request.host, request.authorization, request.status) for request in storage}
    assert {method: [r.method for r in storage].count(method) for method in ("PUT", "GET")} == {"PUT": 2, "GET": 2}


def test_storage_refuses_a_token(hub: LoopbackHub) -> None:
    """A signed link with a token beside it is refused."""
    hub.add_repo(REPO)
    link = upload_link(hub, b"weights")
    expected = (400, "Only one auth mechanism allowed: the link is signed, and a token was sent")
    assert expected == send("PUT", link, b"weights", Authorization="Bearer x")


def test_storage_refuses_a_wrong_digest(hub: LoopbackHub) -> None:
    """Content that is not what the link is for is refused."""
    hub.add_repo(REPO)
    status, message = send("PUT", upload_link(hub, b"weights"), b"weighty")
    assert (status, message[:29]) == (400, "The sha-256 of the content is")


def test_storage_refuses_an_unsigned_link(hub: LoopbackHub) -> None:
    """A link without its signature opens nothing."""
    hub.add_repo(REPO)
    link = upload_link(hub, b"weights").split("?")[0]
    assert send("PUT", link, b"weights") == (403, "The request signature does not match")


def test_range_of_a_large_file(hub: LoopbackHub, folder: Path) -> None:
    """A part of a large file can be read by itself."""
    hub.add_repo(REPO, folder)
    url = f"{hub.endpoint}/{REPO}/resolve/main/model.safetensors"
    session = get_session()
    follow = {} if _library.__name__ == "requests" else {"follow_redirects": True}
    answer = session.get(url, headers={"Range": "bytes=10-19"}, **follow)
    assert (206, WEIGHTS[10:20]) == (answer.status_code, answer.content)


def test_delete_files(hub: LoopbackHub, folder: Path) -> None:
    """A commit can remove a file and a folder."""
    hub.add_repo(REPO, folder)
    operations = [CommitOperationDelete("config.json"), CommitOperationDelete("onnx/")]
    client(hub).create_commit(REPO, operations, commit_message="Less")
    assert {".gitattributes", "README.md", "model.safetensors"} == set(hub.commits(REPO)[0].files)


def test_delete_of_a_missing_file(hub: LoopbackHub) -> None:
    """Removing what is not there is refused, and changes nothing."""
    hub.add_repo(REPO)
    with pytest.raises(EntryNotFoundError, match="A file with this name doesn't exist"):
        client(hub).create_commit(REPO, [CommitOperationDelete("config.json")], commit_message="Less")
    assert titles(hub) == ["initial commit"]


def test_stale_parent(hub: LoopbackHub, folder: Path) -> None:
    """A commit that names a parent which is no longer the newest is refused with 412."""
    old = hub.add_repo(REPO, folder).parent
    operation = CommitOperationAdd("new.json", b"{}")
    with pytest.raises(HfHubHTTPError, match="A commit has happened since"):
        client(hub).create_commit(REPO, [operation], commit_message="New", parent_commit=old)
    assert (hub.requests[-1].status, titles(hub)) == (412, ["Add files", "initial commit"])


# Pull requests, branches, tags


def test_pull_request(hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    """A pull request has its own reference, and leaves main alone."""
    hub.add_repo(REPO)
    api = client(hub)
    info = api.upload_folder(repo_id=REPO, folder_path=folder, create_pr=True, commit_message="Proposal")
    assert (info.pr_num, info.pr_revision, titles(hub, "refs/pr/1")[0]) == (1, "refs/pr/1", "Proposal")
    assert titles(hub) == ["initial commit"]
    assert contents(api.snapshot_download(REPO, revision="refs/pr/1", cache_dir=tmp_path / "cache")) == FILES
    assert [(d.num, d.title, d.author) for d in api.get_repo_discussions(REPO)] == [(1, "Proposal", "alice")]


def test_pull_request_again(hub: LoopbackHub, folder: Path) -> None:
    """A second request with the same files is a second request, as on the real Hub."""
    hub.add_repo(REPO)
    for _ in range(2):
        client(hub).upload_folder(repo_id=REPO, folder_path=folder, create_pr=True)
    assert {"refs/heads/main", "refs/pr/1", "refs/pr/2"} == set(hub.references(REPO))


def test_branches_and_tags(hub: LoopbackHub, folder: Path) -> None:
    """Branches and tags are made, listed, resolved and removed."""
    oid = hub.add_repo(REPO, folder).oid
    api = client(hub)
    api.create_branch(REPO, branch="try/it")
    api.create_tag(REPO, tag="v1", revision="try/it")
    references = api.list_repo_refs(REPO)
    assert ({"main": oid, "try/it": oid}, {"v1": oid}) == (
        {branch.name: branch.target_commit for branch in references.branches},
        {tag.name: tag.target_commit for tag in references.tags},
    )
    assert [oid] * 4 == [api.model_info(REPO, revision=name).sha for name in ("try/it", "v1", oid, oid[:7])]
    api.delete_branch(REPO, branch="try/it")
    api.delete_tag(REPO, tag="v1")
    assert list(hub.references(REPO)) == ["refs/heads/main"]


def test_branch_that_exists(hub: LoopbackHub) -> None:
    """A branch is made once; again is an error unless it may exist."""
    hub.add_repo(REPO)
    api = client(hub)
    api.create_branch(REPO, branch="main", exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch(REPO, branch="main")


def test_commit_on_a_branch(hub: LoopbackHub, folder: Path) -> None:
    """A commit on a branch leaves main alone."""
    hub.add_repo(REPO)
    api = client(hub)
    api.create_branch(REPO, branch="next")
    api.upload_folder(repo_id=REPO, folder_path=folder, revision="next", commit_message="Next")
    assert (titles(hub, "next"), titles(hub)) == (["Next", "initial commit"], ["initial commit"])


# What a repository says of itself


def test_model_info(hub: LoopbackHub, folder: Path) -> None:
    """The information holds the card, the tags and the digest of each large file."""
    commit = hub.add_repo(REPO, folder)
    info = client(hub).model_info(REPO, files_metadata=True)
    assert (REPO, commit.oid, False, False) == (info.id, info.sha, info.private, info.gated)
    assert (info.card_data.license, info.pipeline_tag) == ("mit", "image-classification")
    assert {"tiny", "license:mit", "onnx", "safetensors"} <= set(info.tags)
    digests = {file.rfilename: file.lfs.sha256 for file in info.siblings if file.lfs}
    assert {path: file.sha256 for path, file in commit.files.items() if file.large} == digests


def test_tree_by_pages(start: Start, folder: Path) -> None:
    """A tree longer than a page is listed whole."""
    hub = start(page_size=2)
    hub.add_repo(REPO, folder)
    paths = [entry.path for entry in client(hub).list_repo_tree(REPO, recursive=True)]
    assert sorted([*FILES, ".gitattributes", "onnx"]) == paths
    assert len([request for request in hub.requests if "/tree/" in request.path]) == 3


def test_tree_of_a_folder(hub: LoopbackHub, folder: Path) -> None:
    """A folder is listed alone, with the commit that last changed each file."""
    oid = hub.add_repo(REPO, folder).oid
    entries = list(client(hub).list_repo_tree(REPO, "onnx", expand=True))
    assert [("onnx/model.onnx", 999, oid)] == [(item.path, item.size, item.last_commit.oid) for item in entries]


def test_tree_of_a_missing_folder(hub: LoopbackHub) -> None:
    """A folder that is not there is an error of its own."""
    hub.add_repo(REPO)
    with pytest.raises(EntryNotFoundError, match="does not exist on"):
        list(client(hub).list_repo_tree(REPO, "onnx"))


def test_paths_info(hub: LoopbackHub, folder: Path) -> None:
    """Named paths are described, and those that do not exist are left out."""
    hub.add_repo(REPO, folder)
    found = client(hub).get_paths_info(REPO, ["onnx", "config.json", "absent.txt"])
    assert [item.path for item in found] == ["onnx", "config.json"]


def test_history(hub: LoopbackHub, folder: Path) -> None:
    """The history is that of the disk, newest first."""
    hub.add_repo(REPO, folder)
    history = client(hub).list_repo_commits(REPO)
    expected = [(commit.oid, commit.title, [commit.author]) for commit in hub.commits(REPO)]
    assert expected == [(item.commit_id, item.title, item.authors) for item in history]


def test_survives_a_restart(start: Start, folder: Path, tmp_path: Path) -> None:
    """A second server on the same folder serves what the first one took."""
    hub = start()
    hub.add_repo(REPO)
    client(hub).upload_folder(repo_id=REPO, folder_path=folder)
    path = client(start(), None).hf_hub_download(REPO, "model.safetensors", cache_dir=tmp_path)
    assert Path(path).read_bytes() == WEIGHTS


# Cards


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("- a\n- b", "YAML metadata must be a mapping, got list"),
        ("license: [mit", "YAML metadata is not valid"),
        ("license: mit\ntags: tiny", '"tags" must be list, got str'),
    ],
)
def test_card_refused(hub: LoopbackHub, head: str, message: str) -> None:
    """A card whose head is not right is refused before anything is committed."""
    hub.add_repo(REPO)
    card = f"---\n{head}\n---\n# Tiny\n".encode()
    with pytest.raises(ValueError, match=message):
        client(hub).upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=REPO)
    assert titles(hub) == ["initial commit"]


def test_card_without_license(hub: LoopbackHub) -> None:
    """A card need not name a license."""
    hub.add_repo(REPO)
    card = b"---\ntags:\n- tiny\n---\n"
    client(hub).upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=REPO)
    assert hub.read(REPO, "README.md") == card


def test_card_without_head(hub: LoopbackHub) -> None:
    """A card without a head is taken with a warning."""
    hub.add_repo(REPO)
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        client(hub).upload_file(path_or_fileobj=b"# Tiny\n", path_in_repo="README.md", repo_id=REPO)


# Who may do what


def test_whoami(hub: LoopbackHub) -> None:
    """A token says whose it is, and what it may do."""
    answer = client(hub, READER).whoami()
    found = (answer["name"], [org["name"] for org in answer["orgs"]], answer["auth"]["accessToken"]["role"])
    assert found == ("alice", ["acme"], "read")


def test_whoami_of_an_unknown_token(hub: LoopbackHub) -> None:
    """A token that the Hub does not know is refused."""
    with pytest.raises(OSError, match="Invalid user token"):
        HfApi(endpoint=hub.endpoint, token="hf_unknown").whoami()  # noqa: S106 - it opens nothing


@pytest.mark.parametrize(("token", "status"), [(READER, "403"), (STRANGER, "403"), (None, "401")])
def test_create_without_the_right(hub: LoopbackHub, token: Token | None, status: str) -> None:
    """Only a writer who belongs to the namespace creates a repository."""
    with pytest.raises(HfHubHTTPError, match=status):
        client(hub, token).create_repo(REPO)
    with pytest.raises(KeyError, match="no model acme/tiny on this Hub"):
        hub.repository(REPO)


def test_create_again(hub: LoopbackHub) -> None:
    """A repository is created once; again is an error unless it may exist, and then gives the same URL."""
    api = client(hub)
    url = api.create_repo(REPO, private=True)
    assert (url, True) == (api.create_repo(REPO, exist_ok=True), hub.repository(REPO).private)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO)


def test_delete_repo(hub: LoopbackHub) -> None:
    """A deleted repository is gone, and deleting it again is an error unless it may be missing."""
    hub.add_repo(REPO)
    api = client(hub)
    api.delete_repo(REPO)
    api.delete_repo(REPO, missing_ok=True)
    with pytest.raises(RepositoryNotFoundError, match="404"):
        api.delete_repo(REPO)


def test_settings(hub: LoopbackHub) -> None:
    """The owner changes who may see a repository."""
    hub.add_repo(REPO)
    client(hub).update_repo_settings(REPO, private=True, gated="manual")
    assert (hub.repository(REPO).private, hub.repository(REPO).gated) == (True, "manual")


@pytest.mark.parametrize(("token", "status"), [(STRANGER, "404"), (None, "401")])
def test_private_repository_is_hidden(hub: LoopbackHub, token: Token | None, status: str) -> None:
    """A private repository looks like one that does not exist."""
    hub.add_repo(REPO, private=True)
    for repo_id in (REPO, "acme/absent", "absent"):
        with pytest.raises(RepositoryNotFoundError, match=status):
            client(hub, token).model_info(repo_id)


def test_private_repository_is_shown_to_members(hub: LoopbackHub) -> None:
    """Members of the namespace see its private repositories."""
    hub.add_repo(REPO, private=True)
    assert [client(hub, token).model_info(REPO).private for token in (READER, MEMBER)] == [True, True]


@pytest.mark.parametrize(("token", "status"), [(STRANGER, "403"), (None, "401")])
def test_gate(hub: LoopbackHub, folder: Path, tmp_path: Path, token: Token | None, status: str) -> None:
    """A gated repository shows what it is, and not its files."""
    hub.add_repo(REPO, folder, gated="manual")
    assert client(hub, token).model_info(REPO).gated == "manual"
    with pytest.raises(GatedRepoError, match=status):
        client(hub, token).hf_hub_download(REPO, "config.json", cache_dir=tmp_path)


def test_gate_opens(hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    """Who was let through a gate reads the files."""
    hub.add_repo(REPO, folder, gated="auto")
    hub.admit(REPO, STRANGER.user)
    path = client(hub, STRANGER).hf_hub_download(REPO, "config.json", cache_dir=tmp_path)
    assert FILES["config.json"] == Path(path).read_bytes()


def test_upload_with_a_read_token(hub: LoopbackHub, folder: Path) -> None:
    """A token that may only read changes nothing."""
    hub.add_repo(REPO)
    with pytest.raises(HfHubHTTPError, match="403"):
        client(hub, READER).upload_folder(repo_id=REPO, folder_path=folder)
    assert titles(hub) == ["initial commit"]


def test_missing_file(hub: LoopbackHub, tmp_path: Path) -> None:
    """A file that is not there is an error of its own."""
    hub.add_repo(REPO)
    with pytest.raises(EntryNotFoundError, match="404"):
        client(hub).hf_hub_download(REPO, "absent.json", cache_dir=tmp_path)


def test_missing_revision(hub: LoopbackHub, tmp_path: Path) -> None:
    """A revision that is not there is an error of its own."""
    hub.add_repo(REPO)
    with pytest.raises(RevisionNotFoundError, match="404"):
        client(hub).snapshot_download(REPO, revision="absent", cache_dir=tmp_path)


# Faults


def test_fail(hub: LoopbackHub) -> None:
    """A status is answered as often as ordered, then the Hub works again."""
    hub.add_repo(REPO)
    hub.fail("GET", f"/api/models/{REPO}", status=503, times=2)
    for _ in range(2):
        with pytest.raises(HfHubHTTPError, match="503"):
            client(hub).model_info(REPO)
    assert client(hub).model_info(REPO).id == REPO
    assert [request.status for request in hub.requests] == [503, 503, 200]


def test_fail_with_headers(hub: LoopbackHub) -> None:
    """A refusal carries the headers that were ordered."""
    hub.fail("*", "/api/*", status=429, retry_after_s=7, error_code="RateLimited", message="Slow down")
    connection = http.client.HTTPConnection(urlsplit(hub.endpoint).netloc, timeout=30)
    connection.request("GET", "/api/whoami-v2")
    answer = connection.getresponse()
    connection.close()
    names = ("Retry-After", "X-Error-Code", "X-Error-Message")
    assert (answer.status, [answer.headers[name] for name in names]) == (429, ["7", "RateLimited", "Slow down"])


def test_heal(hub: LoopbackHub) -> None:
    """A fault without end ends when it is taken back."""
    hub.add_repo(REPO)
    hub.fail("*", "*", status=500, times=None)
    with pytest.raises(HfHubHTTPError, match="500"):
        client(hub).model_info(REPO)
    hub.heal()
    assert client(hub).model_info(REPO).id == REPO


def test_drop_of_an_upload(hub: LoopbackHub, folder: Path) -> None:
    """An upload that is cut is not kept, and one that the client sends again lands."""
    hub.add_repo(REPO)
    hub.drop("PUT", "/storage/*", after_bytes=100)
    client(hub).upload_folder(repo_id=REPO, folder_path=folder, allow_patterns="model.safetensors")
    assert [request.status for request in hub.requests if request.method == "PUT"] == [None, 200]
    assert hub.read(REPO, "model.safetensors") == WEIGHTS


def test_drop_of_a_download(hub: LoopbackHub, folder: Path) -> None:
    """A download is cut after so many bytes, though a longer one was announced."""
    hub.add_repo(REPO, folder)
    hub.drop("GET", "/api/resolve-cache/*", after_bytes=10)
    connection = http.client.HTTPConnection(urlsplit(hub.endpoint).netloc, timeout=30)
    connection.request("GET", f"/api/resolve-cache/models/{REPO}/main/config.json")
    with pytest.raises(http.client.IncompleteRead, match="10 bytes read, 12 more expected"):
        connection.getresponse().read()
    connection.close()


def test_lost_answer_of_a_commit(hub: LoopbackHub, folder: Path) -> None:
    """A commit whose answer is lost has landed, once, and repeating the upload adds nothing."""
    hub.add_repo(REPO)
    hub.lose_answer("POST", "*/commit/*")
    with pytest.raises(TransportError, match=r"(?i)connection|disconnected"):
        client(hub).upload_folder(repo_id=REPO, folder_path=folder, commit_message="All")
    assert titles(hub) == ["All", "initial commit"]
    client(hub).upload_folder(repo_id=REPO, folder_path=folder, commit_message="Again")
    assert titles(hub) == ["All", "initial commit"]


def test_flipped_bit(hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    """A flipped bit reaches the client, which does not notice."""
    hub.add_repo(REPO, folder)
    hub.corrupt("/storage/*", how="flip")
    path = client(hub).hf_hub_download(REPO, "model.safetensors", cache_dir=tmp_path)
    received = Path(path).read_bytes()
    assert [len(WEIGHTS) // 2] == [n for n, (a, b) in enumerate(zip(WEIGHTS, received, strict=True)) if a != b]


def test_truncated_blob(hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    """A blob that is shorter than announced is an error to the client."""
    hub.add_repo(REPO, folder)
    hub.corrupt("/storage/*", how="truncate")
    with pytest.raises(OSError, match=r"(?i)consistency"):
        client(hub).hf_hub_download(REPO, "model.safetensors", cache_dir=tmp_path)


def test_delay_outlives_the_client(hub: LoopbackHub) -> None:
    """A request whose client gives up before the delay is over is not carried out."""
    hub.delay("POST", "/api/repos/create", seconds=3600)
    connection = http.client.HTTPConnection(urlsplit(hub.endpoint).netloc, timeout=0.1)
    body = json.dumps({"name": "tiny", "organization": "acme"})
    connection.request("POST", "/api/repos/create", body, {"Authorization": f"Bearer {OWNER.value}"})
    with pytest.raises(TimeoutError, match="timed out"):
        connection.getresponse()
    connection.close()
    with pytest.raises(KeyError, match="no model acme/tiny on this Hub"):
        hub.repository(REPO)


def test_delay_that_ends(hub: LoopbackHub) -> None:
    """A request that waits long enough is carried out as it was sent."""
    hub.delay("POST", "/api/repos/create", seconds=0.01)
    client(hub).create_repo(REPO, private=True)
    assert hub.repository(REPO).private


# Other processes


def run(program: str, environment: dict[str, str]) -> str:
    """What a Python program prints in a process that never saw this one's variables."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    command = [sys.executable, "-c", program]
    done = subprocess.run(  # noqa: S603 - programs of this file
        command, env={**clean, **environment}, check=True, capture_output=True, text=True
    )
    return done.stdout


def dataset_folder(folder: Path) -> Path:
    """A dataset of two splits in parquet files."""
    (folder / "data").mkdir(parents=True)
    for split, count in (("train", 5), ("test", 3)):
        table = pa.table({"text": [f"{split} {n}" for n in range(count)], "label": list(range(count))})
        pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_bytes(b"---\nlicense: mit\n---\n")
    return folder


def test_load_dataset(hub: LoopbackHub, tmp_path: Path) -> None:
    """`load_dataset` reads a private repository of parquet files, at a commit, by slices."""
    oid = hub.add_repo("acme/words", dataset_folder(tmp_path / "words"), repo_type="dataset", private=True).oid
    program = f"""
import json
from datasets import load_dataset
print(json.dumps([
    load_dataset("acme/words", split="test")["text"][:],
    load_dataset("acme/words", split="train[:2]", revision="{oid}")["text"][:],
    [row["label"] for row in load_dataset("acme/words", split="test", streaming=True)],
]))
"""
    printed = run(program, hub.environment(tmp_path / "home")).splitlines()[-1]
    assert json.loads(printed) == [["test 0", "test 1", "test 2"], ["train 0", "train 1"], [0, 1, 2]]


def test_environment_is_enough(hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    """With the variables set, the plain functions of the client talk to this Hub and no other."""
    program = f"""
from huggingface_hub import create_repo, snapshot_download, upload_folder, whoami
create_repo("acme/tiny")
upload_folder(repo_id="acme/tiny", folder_path={str(folder)!r})
print(whoami()["name"], snapshot_download("acme/tiny"))
"""
    name, snapshot = run(program, hub.environment(tmp_path / "home", MEMBER)).split()
    assert (MEMBER.user, FILES) == (name, contents(snapshot))
    assert Path(snapshot).is_relative_to(tmp_path / "home")


def test_environment_without_a_token(hub: LoopbackHub, tmp_path: Path) -> None:
    """Without a token a process is anonymous, whatever is stored or set around it."""
    environment = hub.environment(tmp_path / "home", None)
    assert run("from huggingface_hub import get_token; print(get_token())", environment) == "None\n"


def test_command_line(tmp_path: Path) -> None:
    """The server runs as a program too, and says where it is."""
    command = [sys.executable, "-m", "tests.loopback_hub", str(tmp_path / "hub")]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - this server
        endpoint = str(process.stdout.readline()).strip() if process.stdout else ""
        answer = HfApi(endpoint=endpoint, token=OWNER.value).whoami()
        process.kill()
    assert answer["name"] == OWNER.user
