"""What a hub knows while it runs: accounts, repositories, uploads on their way. Its parts share it."""

import secrets
import tempfile
import threading
from dataclasses import dataclass, field

from lessonlib.export._loopback._store import Repository

BAD_TOKEN = {"X-Error-Message": "Invalid credentials in Authorization header"}


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
    part_size: int = 4 * 2**20
    token: str = field(default_factory=lambda: f"hf_{secrets.token_hex(17)}", repr=False)
    tokens: dict[str, Token] = field(default_factory=dict, repr=False)
    repositories: dict[str, Repository] = field(default_factory=dict)
    url: str = field(default="", init=False)

    def open(self) -> None:
        """Make the folder of the uploads, and let the first token in."""
        self.tokens.setdefault(self.token, Token(self.user))
        self.uploaded = tempfile.TemporaryDirectory(prefix="loopback_hub_")
        self.promised: dict[str, int] = {}  # sha256 -> size, of large files that may be uploaded now
        self.lock = threading.RLock()
