"""How a request is taken in and answered, and what is written: repositories, large files, commits."""

import base64
import hashlib
import json
import re
import tempfile
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from lessonlib.export._loopback._store import (
    ATTRIBUTES,
    BAD_TOKEN,
    CHUNK,
    File,
    HubState,
    Repository,
    Token,
    is_large,
)
from lessonlib.export._saving import sha256

_SHA256 = re.compile("[0-9a-f]{64}")


class Answers(BaseHTTPRequestHandler):
    """Bodies go to files in the hub's folder, never through memory; every answer ends its connection."""

    hub: HubState
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def receive(self) -> Path:
        """A file with the request's body, which httpx sends either with its length or in chunks."""
        with tempfile.NamedTemporaryFile(dir=self.hub.uploaded.name, delete=False) as body:
            chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
            left = 0 if chunked else int(self.headers.get("Content-Length") or 0)
            while True:
                if chunked:
                    left = int(self.rfile.readline(), 16)
                more = left > 0
                while left > 0 and (read := self.rfile.read(min(left, CHUNK))):
                    body.write(read)
                    left -= len(read)
                if not chunked:
                    return Path(body.name)
                self.rfile.readline()
                if not more:
                    return Path(body.name)

    def send_json(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        headers = {"Content-Type": "application/json"} | (headers or {})
        self.send(status, json.dumps(content).encode(), headers)

    def send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_head(status, len(body), headers or {})
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_head(self, status: int, size: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(size))
        self.send_header("Connection", "close")  # a connection kept alive would outlive the server
        self.end_headers()

    def refuse(self, status: int, code: str) -> None:
        """Say no the way the Hub's client understands it."""
        self.send(status, headers={"X-Error-Code": code})

    @staticmethod
    def repository_name(parts: list[str]) -> str:
        """What a repository is called here, from ["models" or "datasets", owner, name, ...]."""
        return "/".join(parts[1:3]) if parts[0] == "models" else "/".join(parts[:3])


class Uploads(Answers):
    """The half of the request handler that changes something; `write` is its way in, under the hub's lock."""

    def write(self, parts: list[str], token: Token | None, body: Path) -> None:
        """Answer a POST or PUT."""
        if parts[0] == "lfs":  # the address itself is the permission, as with the Hub's signed addresses
            return self._large(parts[-1], body)
        if parts == ["api", "validate-yaml"]:  # `push` has looked at the card already
            return self.send_json({"errors": [], "warnings": []})
        if token is None:
            return self.send(401, headers=BAD_TOKEN)
        if parts == ["api", "repos", "create"]:
            return self._create(token, _json(body))
        if parts[-4:] == ["info", "lfs", "objects", "batch"]:
            name, kind, revision = "/".join(parts[:-4]).removesuffix(".git"), "batch", "main"
        elif parts[0] == "api" and len(parts) == 6:
            name, (kind, revision) = self.repository_name(parts[1:]), parts[4:]
        else:
            return self.refuse(404, "EntryNotFound")
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self.refuse(401, "RepoNotFound")
        if not self._may_write(token, name):
            return None
        if revision != "main":
            return self.refuse(404, "RevisionNotFound")
        if kind == "commit":
            return self._commit(name, repository, body)
        if kind == "preupload":
            return self._preupload(repository, _json(body)["files"])
        return self._batch(_json(body)["objects"]) if kind == "batch" else self.refuse(404, "EntryNotFound")

    def _may_write(self, token: Token, name: str) -> bool:
        owner = name.removeprefix("datasets/").split("/")[0]
        if token.writes and owner == token.user:
            return True
        said = f'You don\'t have the rights to create or change a model under the namespace "{owner}"'
        self.send_json({"error": said}, 403, {"X-Error-Message": said})
        return False

    def _create(self, token: Token, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or token.user}/{asked['name']}"
        name = f"datasets/{name}" if asked.get("type") == "dataset" else name
        if not self._may_write(token, name):
            return
        answer = {"url": f"{self.hub.url}/{name}", "name": name}
        if name in self.hub.repositories:
            return self.send_json(answer | {"error": "You already created this model repo"}, 409)
        made = self.hub.repositories[name] = Repository({}, private=asked.get("visibility") == "private")
        first = self._regular(ATTRIBUTES.encode(), ".gitattributes")
        made.commit({".gitattributes": first}, "initial commit")
        self.send_json(answer)

    def _preupload(self, repository: Repository, asked: list[dict[str, Any]]) -> None:
        """For each file, how it is to be uploaded, and what is there by that name already."""
        files, head = [], repository.commits[repository.head]
        for file in asked:
            large = is_large(file["path"], file["size"], base64.b64decode(file["sample"]))
            there = {"oid": head[file["path"]].etag} if file["path"] in head else {}
            mode = "lfs" if large else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False} | there)
        self.send_json({"files": files})

    def _batch(self, asked: list[dict[str, Any]]) -> None:
        """Where to put each large file, once, for those that are not there yet."""
        objects: list[dict[str, Any]] = []
        for file in asked:
            oid, asked_before = file["oid"], {entry["oid"] for entry in objects}
            answer: dict[str, Any] = {"oid": oid, "size": file["size"]}
            if not _SHA256.fullmatch(oid):
                answer["error"] = {"code": 422, "message": "no sha256"}
            elif not (self._folder("large") / oid).is_file() and oid not in asked_before:
                self.hub.promised.add(oid)
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{oid}"}}
            objects.append(answer)
        self.send_json({"transfer": "basic", "objects": objects})

    def _large(self, oid: str, body: Path) -> None:
        """Keep a large file, if its content is what it was said to be."""
        if oid not in self.hub.promised:
            return self.send(403)
        kept = self._folder("large") / oid
        if not kept.is_file():  # else the answer got lost, and the client tries again
            if sha256(body) != oid:
                return self.send(400, b"the content has another sha256 than was said")
            body.rename(kept)
        self.send(200, b"{}")

    def _commit(self, name: str, repository: Repository, body: Path) -> None:
        """All operations or none, onto the commit that the client believes to be the last."""
        header: dict[str, Any] = {}
        changes: dict[str, File] = {}
        for line in body.read_bytes().splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header":
                header = value
            elif key == "file":
                changes[value["path"]] = self._regular(base64.b64decode(value["content"]), value["path"])
            else:  # lfsFile
                kept = self._folder("large") / value["oid"]
                if not _SHA256.fullmatch(value["oid"]) or not kept.is_file():
                    return self.send_json({"error": f"{value['path']}: its content was never uploaded"}, 400)
                changes[value["path"]] = File.read(kept, value["path"])
        if header.get("parentCommit") not in (None, repository.head):
            return self.send_json({"error": "A commit has happened since."}, 412)
        oid = repository.commit(changes, header["summary"])
        url = f"{self.hub.url}/{name}/commit/{oid}"
        self.send_json({"success": True, "commitOid": oid, "commitUrl": url})

    def _regular(self, data: bytes, name: str) -> File:
        path = self._folder("regular") / hashlib.sha256(data).hexdigest()
        path.write_bytes(data)
        return File.read(path, name)

    def _folder(self, name: str) -> Path:
        folder = Path(self.hub.uploaded.name) / name
        folder.mkdir(exist_ok=True)
        return folder


def _json(body: Path) -> Any:
    return json.loads(body.read_bytes())
