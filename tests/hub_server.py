"""A small Hugging Face Hub on 127.0.0.1, so that tests load through the real client without a network.

It serves folders as repositories of models or datasets at one commit each, and can be told to fail as the Hub
fails: a gated repository, an outage, a connection that closes in the middle of a file. What was asked for is
kept in `requests`. It knows nothing of uploads, Xet or large-file redirects.

    with HubServer() as hub:
        hub.add("owner/name", folder, revision="0" * 40)
        hub.add("datasets/owner/other", folder, revision="1" * 40)
        subprocess.run(..., env=os.environ | hub.environment(cache))
"""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    folder: Path
    revision: str
    gated: bool = False


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class HubServer:
    """Start with `with`; `url` is the endpoint, `requests` what was asked for, in order."""

    repositories: dict[str, Repository] = field(default_factory=dict)  # datasets as "datasets/owner/name"
    requests: list[Request] = field(default_factory=list)
    outage: int | None = None  # answer everything with this status
    cuts: dict[str, int] = field(default_factory=dict)  # file name -> how many more answers to cut in half

    def __enter__(self) -> "HubServer":
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, name: str, folder: Path, *, revision: str, gated: bool = False) -> None:
        """Serve the files of `folder` as the repository `name` at the commit `revision` (also "main")."""
        self.repositories[name] = Repository(Path(folder), revision, gated)

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


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        self.hub.requests.append(Request(self.command, path, self.headers.get("Range"), token))
        if self.hub.outage:
            return self._send(self.hub.outage, b"")
        parts = path.strip("/").split("/")
        if parts[0] == "api":
            name, kind, rest = "/".join(parts[2:4]), (parts[4:5] or ["revision"])[0], parts[5:]
            name = f"datasets/{name}" if parts[1] == "datasets" else name
            revision = rest.pop(0) if rest else "main"
        else:
            width = 3 if parts[0] == "datasets" else 2
            name, (kind, revision), rest = "/".join(parts[:width]), parts[width:][:2], parts[width + 2 :]
        repository = self.hub.repositories.get(name)
        if repository is None:  # the Hub doesn't tell a stranger whether it is missing or private
            return self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        if revision not in (repository.revision, "main"):
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if kind == "resolve":
            if repository.gated:
                return self._send(403, b"", {"X-Error-Code": "GatedRepo"})
            return self._send_file(repository, "/".join(rest))
        if kind == "tree":
            return self._send_tree(repository, "/".join(rest), "recursive=true" in url.query.lower())
        top = repository.folder
        files = sorted(path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file())
        self._send_json(
            {
                "id": name.removeprefix("datasets/"),
                "modelId": name,
                "sha": repository.revision,
                "private": False,
                "gated": "manual" if repository.gated else False,
                "tags": [],
                "siblings": [{"rfilename": name} for name in files],
            }
        )

    def _send_tree(self, repository: Repository, folder: str, recursive: bool) -> None:
        top = repository.folder / folder
        if not top.is_dir():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        self._send_json([
            {
                "type": "directory" if path.is_dir() else "file",
                "path": path.relative_to(repository.folder).as_posix(),
                "size": 0 if path.is_dir() else path.stat().st_size,
                "oid": "0" * 40,
            }
            for path in sorted(top.rglob("*") if recursive else top.iterdir())
        ])

    def _send_file(self, repository: Repository, name: str) -> None:
        path = repository.folder / name
        if not path.is_file():
            return self._send(
                404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repository.revision}
            )
        data = path.read_bytes()
        headers = {
            "X-Repo-Commit": repository.revision,
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        status, asked = 200, self.headers.get("Range")
        if asked:
            start, _, last = asked.removeprefix("bytes=").partition("-")
            whole, data = len(data), data[int(start) : int(last) + 1 if last else None]
            headers["Content-Range"] = f"bytes {start}-{int(start) + len(data) - 1}/{whole}"
            status = 206
        cut = self.command == "GET" and self.hub.cuts.get(name, 0) > 0
        if cut:
            self.hub.cuts[name] -= 1
        self._send(status, data, headers, cut=cut)

    def _send_json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, *, cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")  # a connection kept alive would outlive the server
        self.end_headers()
        if self.command == "GET":
            # Cut: promise everything, send half. The client sees a connection that broke.
            self.wfile.write(body[: len(body) // 2] if cut else body)
