"""The course's Hub, made to fail as the real one fails, and remembering what it was asked."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from lessonlib.export._loopback import HubServer
from lessonlib.export._loopback._server import Handler
from lessonlib.export._loopback._store import File, Repository


@dataclass
class Request:
    """One request that came in, as far as tests look at it; the token is not shown."""

    method: str
    path: str
    range: str | None
    token: str | None = field(repr=False)


@dataclass
class FaultyHub(HubServer):
    """A `HubServer` with an outage, connections that close in the middle of a file, any answer to a request.

    Attributes:
        requests: what was asked for, in order.
        outage: answer everything with this status.
        cuts: file name -> how many more downloads of it to cut in half.
        gated: names of repositories whose files nobody may read.
        fail: gives the status to answer a request with, 0 to hang up without an answer, None to go on.
    """

    requests: list[Request] = field(default_factory=list)
    outage: int | None = None
    cuts: dict[str, int] = field(default_factory=dict)
    fail: Callable[[Request], int | None] | None = None
    gated: set[str] = field(default_factory=set)

    def add(
        self, name: str, folder: Path, *, revision: str, gated: bool = False, private: bool = False
    ) -> None:
        """Serve the files of `folder` as the repository `name` at the commit `revision` (also "main").

        Gated: nobody may read its files, for nobody accepted its licence.
        """
        paths = {path.relative_to(folder).as_posix(): path for path in sorted(Path(folder).rglob("*"))}
        files = {name: File.read(path, name) for name, path in paths.items() if path.is_file()}
        self.repositories[name] = Repository({revision: files}, private=private)
        (self.gated.add if gated else self.gated.discard)(name)

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


class FaultyHandler(Handler):
    hub: FaultyHub

    def answer(self, url, token, body):
        request = Request(self.command, unquote(url.path), self.headers.get("Range"), token)
        self.hub.requests.append(request)
        status = self.hub.outage or (self.hub.fail(request) if self.hub.fail else None)
        if status:
            self.send(status)
        elif status is None and any(f"/{name}/resolve/" in request.path for name in self.hub.gated):
            self.refuse(403, "GatedRepo")
        elif status is None:
            super().answer(url, token, body)

    def send_part(self, name, path, first, size):
        """Cut: everything was promised, half is sent. The client sees a connection that broke."""
        if self.hub.cuts.get(name, 0) > 0:
            self.hub.cuts[name] -= 1
            size //= 2
        super().send_part(name, path, first, size)


FaultyHub.handler = FaultyHandler
