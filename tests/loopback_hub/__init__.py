"""A Hugging Face Hub on disk, for tests: the real client talks to it over real HTTP.

The API answers on one host name (`127.0.0.1`), large files are stored on another (`localhost`), as on
the real Hub. Every commit is a snapshot on disk. Faults are ordered through plain methods.

    with LoopbackHub(tmp_path / "hub") as hub:
        hub.add_repo("acme/tiny", folder)
        hub.fail("GET", "/api/models/*", status=503, times=1)
        subprocess.run([sys.executable, "program.py"], env={**os.environ, **hub.environment(tmp_path / "home")})
        assert hub.commits("acme/tiny")[0].title == "Upload folder using huggingface_hub"
"""

from .access import MEMBER, OWNER, READER, STRANGER, Token
from .faults import LoggedRequest
from .hub import LoopbackHub
from .store import Commit, Repository, StoredFile

__all__ = [
    "MEMBER",
    "OWNER",
    "READER",
    "STRANGER",
    "Commit",
    "LoggedRequest",
    "LoopbackHub",
    "Repository",
    "StoredFile",
    "Token",
]
