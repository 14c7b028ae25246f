"""How a request is taken in and answered, whatever it is about."""

import json
import tempfile
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from lessonlib.export._loopback._state import HubState
from lessonlib.export._loopback._store import CHUNK


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
