"""The server: who may do what, and everything that is read. What is uploaded is in `uploads`."""

import threading
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import SplitResult, unquote, urlsplit

from lessonlib.export._loopback._store import BAD_TOKEN, CHUNK, File, HubState, Token
from lessonlib.export._loopback._uploads import Uploads


@dataclass
class HubServer(HubState):
    """A Hub on a free port of 127.0.0.1 while its `with` block runs, or from `start()` to `close()`.

    It takes pushes from tokens it knows, and gives out what was pushed. Uploads lie in a temporary folder
    that goes with it.

    Args:
        user: the account of the one token that is known from the start, `token` (made up, may write).

    Attributes:
        url: the endpoint.
        tokens: token -> `Token`.
        repositories: by name, data sets as "datasets/owner/name".
        handler: the class that answers; each server derives its own from it.
    """

    handler: ClassVar[type["Handler"]]

    def __enter__(self) -> "HubServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> "HubServer":
        self.open()
        handler = type("Handler", (self.handler,), {"hub": self})
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


class Handler(Uploads):
    """Takes a request in, and answers what only reads."""

    def do_GET(self) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        body = self.receive()
        try:
            self.answer(urlsplit(self.path), token, body)
        finally:
            self.close_connection = True
            body.unlink(missing_ok=True)

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self, url: SplitResult, token: str | None, body: Path) -> None:
        parts = unquote(url.path).strip("/").split("/")
        account = self.hub.tokens.get(token or "")
        if self.command in ("POST", "PUT"):
            with self.hub.lock:
                self.write(parts, account, body)
        else:
            self._read(parts, account, "recursive=true" in url.query.lower())

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
            return self._send_file(commit, files, "/".join(rest))
        if kind == "tree":
            return self._send_tree(files, "/".join(rest), recursive)
        self.send_json(
            {
                "id": name.removeprefix("datasets/"),
                "modelId": name,
                "sha": commit,
                "private": repository.private,
                "gated": False,
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
        self.send_head(status, last + 1 - first, headers)
        if self.command == "GET":
            self.send_part(name, file.path, first, last + 1 - first)

    def send_part(self, name: str, path: Path, first: int, size: int) -> None:
        """`size` bytes of a file from `first` on, as the body of an answer."""
        with path.open("rb") as source:
            source.seek(first)
            while size > 0 and (chunk := source.read(min(size, CHUNK))):
                self.wfile.write(chunk)
                size -= len(chunk)


HubServer.handler = Handler


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
