"""What a Hub keeps: repositories, their commits, and the files of each commit."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# What the .gitattributes of a new model repository sends to large-file storage, shortened to what the course
# has; and the size from which the Hub refuses a file in the commit itself.
_LARGE_NAMES = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".parquet", ".arrow", ".zip", ".model")
_LARGE_BYTES = 10 * 2**20
ATTRIBUTES = "".join(f"*{name} filter=lfs diff=lfs merge=lfs -text\n" for name in _LARGE_NAMES)
CHUNK = 2**20


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
        size, sha256 = path.stat().st_size, hashlib.sha256()
        git = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        with path.open("rb") as file:
            sample = file.read(512)
            file.seek(0)
            while chunk := file.read(CHUNK):
                sha256.update(chunk)
                git.update(chunk)
        return cls(path, size, sha256.hexdigest(), git.hexdigest(), is_large(name, size, sample))

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
        gated: nobody may read its files, for nobody accepted its licence.
    """

    commits: dict[str, dict[str, File]]
    private: bool = False
    gated: bool = False

    @property
    def head(self) -> str:
        return next(reversed(self.commits))

    def resolve(self, revision: str) -> str | None:
        """The commit that a revision means, or None."""
        revision = self.head if revision == "main" else revision
        return revision if revision in self.commits else None

    def commit(self, changes: Mapping[str, File | None], summary: str) -> str:
        """A new commit with these files added or replaced (None: deleted); returns its id."""
        files = self.commits[self.head] | {name: file for name, file in changes.items() if file is not None}
        files = {name: files[name] for name in sorted(files) if changes.get(name, ...) is not None}
        return self.begin(files, summary)

    def begin(self, files: dict[str, File], summary: str) -> str:
        content = [len(self.commits), list(self.commits)[-1:], summary]
        content.append([(name, file.sha256) for name, file in files.items()])
        oid = hashlib.sha1(json.dumps(content).encode(), usedforsecurity=False).hexdigest()
        self.commits[oid] = files
        return oid
