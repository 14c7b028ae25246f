"""The server: who may do what, and everything that is read. What is uploaded is in `uploads`."""

import secrets
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lessonlib.loopback.answers import BAD_TOKEN
from lessonlib.loopback.store import CHUNK, File, Repository
from lessonlib.loopback.uploads import Uploads


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
class Request:
    """One request that came in, as far as tests look at it; the token is not shown."""

    method: str
    path: str
    range: str | None
    token: str | None = field(repr=False)


@dataclass
class HubServer:
    """A Hub on a free port of 127.0.0.1 while its `with` block runs, or from `start()` to `close()`.

    It serves folders as repositories at one commit each (`add`), takes pushes from tokens it knows, and can
    be told to fail as the Hub fails: a gated repository, an outage, a connection that closes in the middle of
    a file, any answer to a chosen request (`fail`). Uploads lie in a temporary folder that goes with it.

    Args:
        user: the account of the one token that is known from the start, `token` (made up, may write).
        part_size: large files above it are uploaded in parts of this many bytes, as on the Hub.

    Attributes:
        url: the endpoint.
        tokens: token -> `Token`.
        repositories: by name, data sets as "datasets/owner/name".
        requests: what was asked for, in order.
        outage: answer everything with this status.
        cuts: file name -> how many more downloads of it to cut in half.
        fail: gives the status to answer a request with, 0 to hang up without an answer, None to go on.
    """

    user: str = "learner"
    part_size: int = 4 * 2**20
    token: str = field(default_factory=lambda: f"hf_{secrets.token_hex(17)}", repr=False)
    tokens: dict[str, Token] = field(default_factory=dict, repr=False)
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    outage: int | None = None
    cuts: dict[str, int] = field(default_factory=dict)
    fail: Callable[[Request], int | None] | None = None

    def __enter__(self) -> "HubServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> "HubServer":
        self.tokens.setdefault(self.token, Token(self.user))
        self.uploaded = tempfile.TemporaryDirectory(prefix="loopback_hub_")
        self.promised: dict[str, int] = {}  # sha256 -> size, of large files that may be uploaded now
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.uploaded.cleanup()

    def add(
        self, name: str, folder: Path, *, revision: str, gated: bool = False, private: bool = False
    ) -> None:
        """Serve the files of `folder` as the repository `name` at the commit `revision` (also "main")."""
        paths = {path.relative_to(folder).as_posix(): path for path in sorted(Path(folder).rglob("*"))}
        files = {name: File.read(path, name) for name, path in paths.items() if path.is_file()}
        self.repositories[name] = Repository({revision: files}, private=private, gated=gated)

    def environment(self, cache: Path) -> dict[str, str]:
        """What a process needs so that its Hub client comes here, with a cache of its own."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }


class _Handler(Uploads):
    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        request = Request(self.command, path, self.headers.get("Range"), token)
        self.hub.requests.append(request)
        body, parts = self.receive(), path.strip("/").split("/")
        try:
            status = self.hub.outage or (self.hub.fail(request) if self.hub.fail else None)
            if status:
                self.send(status)
            elif status is None and self.command in ("POST", "PUT"):
                with self.hub.lock:
                    self.write(parts, self.hub.tokens.get(token or ""), body)
            elif status is None:
                self._read(parts, self.hub.tokens.get(token or ""), "recursive=true" in url.query.lower())
        finally:
            self.close_connection = True
            body.unlink(missing_ok=True)

    def _read(self, parts: list[str], token: Token | None, recursive: bool) -> None:
        if parts == ["api", "whoami-v2"]:
            return self.send_json(_account(token)) if token else self.send(401, headers=BAD_TOKEN)
        if parts[0] == "api" and len(parts) > 3:
            name, place = self.repository_name(parts[1:]), parts[4:] or ["revision", "main"]
        else:
            width = 3 if parts[0] == "datasets" else 2
            name, place = "/".join(parts[:width]), parts[width:]
        if len(place) < 2:
            return self.refuse(404, "EntryNotFound")
        kind, revision, *rest = place
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and token is None):
            # the Hub doesn't tell a stranger whether it is missing or private
            return self.refuse(401, "RepoNotFound")
        commit = repository.resolve(revision)
        if commit is None:
            return self.refuse(404, "RevisionNotFound")
        files = repository.commits[commit]
        if kind == "resolve":
            if repository.gated:
                return self.refuse(403, "GatedRepo")
            return self._send_file(commit, files, "/".join(rest))
        if kind == "tree":
            return self._send_tree(files, "/".join(rest), recursive)
        self.send_json(
            {
                "id": name.removeprefix("datasets/"),
                "modelId": name,
                "sha": commit,
                "private": repository.private,
                "gated": "manual" if repository.gated else False,
                "tags": [],
                "siblings": [{"rfilename": file} for file in files],
            }
        )

    def _send_tree(self, files: dict[str, File], folder: str, recursive: bool) -> None:
        below = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, object]] = {}
        for name, file in files.items():
            if not name.startswith(below):
                continue
            *parents, _ = name.removeprefix(below).split("/")
            for depth in range(1, len(parents) + 1):
                path = below + "/".join(parents[:depth])
                entries[path] = {"type": "directory", "path": path, "size": 0, "oid": "0" * 40}
            large = {"oid": file.sha256, "size": file.size, "pointerSize": 134}
            entries[name] = {"type": "file", "path": name, "size": file.size, "oid": file.git}
            entries[name] |= {"lfs": large} if file.large else {}
        if folder and not entries:
            return self.refuse(404, "EntryNotFound")
        wanted = (path for path in sorted(entries) if recursive or "/" not in path.removeprefix(below))
        self.send_json([entries[path] for path in wanted])

    def _send_file(self, commit: str, files: dict[str, File], name: str) -> None:
        file = files.get(name)
        if file is None:
            return self.send(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if file.large:
            headers |= {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        status, first, last = 200, 0, file.size - 1
        if asked := self.headers.get("Range"):
            start, _, end = asked.removeprefix("bytes=").partition("-")
            status, first, last = 206, int(start), min(int(end or last), last)
            headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
        cut = self.command == "GET" and self.hub.cuts.get(name, 0) > 0
        if cut:
            self.hub.cuts[name] -= 1
        self.send_head(status, last + 1 - first, headers)
        if self.command == "GET":
            # Cut: promise everything, send half. The client sees a connection that broke.
            left = (last + 1 - first) // (2 if cut else 1)
            with file.path.open("rb") as source:
                source.seek(first)
                while left > 0 and (chunk := source.read(min(left, CHUNK))):
                    self.wfile.write(chunk)
                    left -= len(chunk)


def _account(token: Token) -> dict[str, object]:
    """What /api/whoami-v2 says, as far as the course looks at it."""
    said: dict[str, object] = {"displayName": "made up", "role": token.role}
    if token.role == "fineGrained":
        entity = {"type": "user", "name": token.user}
        said["fineGrained"] = {
            "global": [],
            "scoped": [{"entity": entity, "permissions": list(token.permissions)}],
        }
    auth = {"type": "access_token", "accessToken": said}
    return {"type": "user", "name": token.user, "fullname": token.user, "orgs": [], "auth": auth}
