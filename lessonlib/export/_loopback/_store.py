"""What a hub knows while it runs: accounts, repositories with their commits, and the files of each commit."""

import hashlib
import json
import secrets
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

from lessonlib.export._saving import sha256

# What the .gitattributes of a new model repository sends to large-file storage, shortened to what the course
# has; and the size from which the Hub refuses a file in the commit itself.
_LARGE_NAMES = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".parquet", ".arrow", ".zip", ".model")
_LARGE_BYTES = 10 * 2**20
ATTRIBUTES = "".join(f"*{name} filter=lfs diff=lfs merge=lfs -text\n" for name in _LARGE_NAMES)
CHUNK = 2**20
BAD_TOKEN = {"X-Error-Message": "Invalid credentials in Authorization header"}


@dataclass(frozen=True)
class File:
    """One file of a commit.

    Args:
        path: where its bytes lie on this disk.
        size: in bytes.
        sha256: of its bytes.
        git: the SHA-1 that git gives it.
        large: whether it is in large-file storage; the Hub then names it by its sha256.
    """

    path: Path
    size: int
    sha256: str
    git: str
    large: bool

    @classmethod
    def read(cls, path: Path, name: str) -> "File":
        """The file at `path`, called `name` in its repository."""
        size = path.stat().st_size
        blob = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        with path.open("rb") as file:
            large = is_large(name, size, file.read(512))
            file.seek(0)
            git = hashlib.file_digest(file, lambda: blob).hexdigest()
        return cls(path, size, sha256(path), git, large)

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.git


def is_large(name: str, size: int, sample: bytes) -> bool:
    """Whether a file goes to large-file storage: by its name, its size, or a zero byte at its start."""
    return size > 0 and (name.endswith(_LARGE_NAMES) or size > _LARGE_BYTES or b"\0" in sample)


@dataclass
class Repository:
    """Commits, oldest first, each with all its files by name; "main" is the last.

    Args:
        commits: commit id -> file name -> file.
        private: only known tokens may read it.
    """

    commits: dict[str, dict[str, File]]
    private: bool = False

    @property
    def head(self) -> str:
        return next(reversed(self.commits))

    def resolve(self, revision: str) -> str | None:
        """The commit that a revision means, or None."""
        revision = self.head if revision == "main" else revision
        return revision if revision in self.commits else None

    def commit(self, changes: dict[str, File], summary: str) -> str:
        """A new commit with these files added or replaced; returns its id."""
        before = self.commits[self.head] if self.commits else {}
        files = dict(sorted((before | changes).items()))
        content = [len(self.commits), list(self.commits)[-1:], summary]
        content.append([(name, file.sha256) for name, file in files.items()])
        oid = hashlib.sha1(json.dumps(content).encode(), usedforsecurity=False).hexdigest()
        self.commits[oid] = files
        return oid


@dataclass(frozen=True)
class Token:
    """Whose a token is and what it may do.

    Args:
        user: the account's name; write access is to repositories under it.
        role: "write", "read" or "fineGrained", as on https://huggingface.co/settings/tokens.
        permissions: of a fine-grained token, such as ("repo.content.read", "repo.write").
    """

    user: str
    role: str = "write"
    permissions: tuple[str, ...] = ()

    @property
    def writes(self) -> bool:
        return self.role == "write" or "repo.write" in self.permissions


@dataclass
class HubState:
    """A hub without its server; see `HubServer`, which has the arguments explained."""

    user: str = "learner"
    token: str = field(default_factory=lambda: f"hf_{secrets.token_hex(17)}", repr=False)
    tokens: dict[str, Token] = field(default_factory=dict, repr=False)
    repositories: dict[str, Repository] = field(default_factory=dict)
    url: str = field(default="", init=False)

    def open(self) -> None:
        """Make the folder of the uploads, and let the first token in."""
        self.tokens.setdefault(self.token, Token(self.user))
        self.uploaded = tempfile.TemporaryDirectory(prefix="loopback_hub_")
        self.promised: set[str] = set()  # sha256 of large files that may be uploaded now
        self.lock = threading.RLock()
