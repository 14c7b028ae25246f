"""What is written to the server: repositories, large files whole or in parts, and commits."""

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from lessonlib.export._loopback._answers import Answers
from lessonlib.export._loopback._state import BAD_TOKEN, Token
from lessonlib.export._loopback._store import ATTRIBUTES, CHUNK, File, Repository, is_large

_SHA256 = re.compile("[0-9a-f]{64}")


class Uploads(Answers):
    """The half of the request handler that changes something; `write` is its way in, under the hub's lock."""

    def write(self, parts: list[str], token: Token | None, body: Path) -> None:
        """Answer a POST or PUT."""
        if parts[0] == "lfs":  # the address itself is the permission, as with the Hub's signed addresses
            return self._large(parts[1:], body)
        if parts == ["api", "validate-yaml"]:
            return self._validate(_json(body)["content"])
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
        made.begin({".gitattributes": first}, "initial commit")
        self.send_json(answer)

    def _validate(self, card: str) -> None:
        """A card's front matter has to be YAML; the Hub warns where there is none."""
        import yaml

        parts = card.split("---\n", 2)
        if len(parts) < 3 or parts[0]:
            return self.send_json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata"}]})
        try:
            yaml.safe_load(parts[1])
        except yaml.YAMLError as problem:
            return self.send_json({"errors": [{"message": str(problem)}], "warnings": []}, 400)
        self.send_json({"errors": [], "warnings": []})

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
        """Where to put each large file, for those that are not there yet."""
        objects: list[dict[str, Any]] = []
        for file in asked:
            asked_before = {entry["oid"] for entry in objects}
            oid, size = file["oid"], file["size"]
            answer: dict[str, Any] = {"oid": oid, "size": size}
            if not _SHA256.fullmatch(oid):
                answer["error"] = {"code": 422, "message": "no sha256"}
            elif not (self._folder("large") / oid).is_file() and oid not in asked_before:
                self.hub.promised[oid] = size
                href = f"{self.hub.url}/lfs/{oid}"
                upload: dict[str, Any] = {"href": href}
                if size > self.hub.part_size:
                    count = -(-size // self.hub.part_size)
                    links = {str(number): f"{href}/{number}" for number in range(1, count + 1)}
                    header = {"chunk_size": str(self.hub.part_size)} | links
                    upload = {"href": f"{href}/complete", "header": header}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{href}/verify"}}
            objects.append(answer)
        self.send_json({"transfer": "basic", "objects": objects})

    def _large(self, parts: list[str], body: Path) -> None:
        """A large file, a part of one, the word that all parts are there, or the question whether it is."""
        oid, step = parts[0], (parts[1:] or ["whole"])[0]
        size = self.hub.promised.get(oid)
        if size is None:
            return self.send(403)
        kept = self._folder("large") / oid
        if step == "verify":
            there = kept.is_file() and kept.stat().st_size == _json(body)["size"] == size
            return self.send(200 if there else 404)
        if kept.is_file():  # the answer got lost, and the client tries again
            return self.send(200, b"{}", {"ETag": f'"{step}"'})
        if step == "whole":
            return self._keep([body], kept, oid)
        pieces = self._folder(f"parts_{oid}")
        if step == "complete":
            return self._keep(sorted(pieces.iterdir(), key=lambda piece: int(piece.name)), kept, oid)
        body.rename(pieces / str(int(step)))
        self.send(200, headers={"ETag": f'"{step}"'})

    def _keep(self, pieces: list[Path], kept: Path, oid: str) -> None:
        """Put the pieces together, and keep the whole if it is what it was said to be."""
        first, digest = pieces[0], hashlib.sha256()
        with first.open("ab") as whole:
            for piece in pieces[1:]:
                with piece.open("rb") as source:
                    shutil.copyfileobj(source, whole, CHUNK)
                piece.unlink()
        with first.open("rb") as whole:
            while chunk := whole.read(CHUNK):
                digest.update(chunk)
        if digest.hexdigest() != oid:
            first.unlink()
            return self.send(400, b"the content has another sha256 than was said")
        first.rename(kept)
        self.send(200, b"{}")

    def _commit(self, name: str, repository: Repository, body: Path) -> None:
        """All operations or none, onto the commit that the client believes to be the last."""
        header: dict[str, Any] = {}
        changes: dict[str, File | None] = {}
        for line in body.read_bytes().splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header":
                header = value
            elif key == "file":
                changes[value["path"]] = self._regular(base64.b64decode(value["content"]), value["path"])
            elif key == "lfsFile":
                kept = self._folder("large") / value["oid"]
                if not _SHA256.fullmatch(value["oid"]) or not kept.is_file():
                    return self.send_json({"error": f"{value['path']}: its content was never uploaded"}, 400)
                changes[value["path"]] = File.read(kept, value["path"])
            else:  # deletedFile, deletedFolder
                gone, below = value["path"], value["path"].rstrip("/") + "/"
                head = repository.commits[repository.head]
                changes |= {file: None for file in head if file == gone or file.startswith(below)}
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
