"""A small Hugging Face Hub on 127.0.0.1: what a lesson would send to the Hub goes through the real client,
and can be looked at, with no account and no network.

    with HubServer() as hub:
        with reachable(hub.url):
            HfApi(endpoint=hub.url, token=hub.token).create_repo("learner/model")

`HubServer` takes uploads and gives them out; `reachable` lets the Hub's client in this process talk to it
even where HF_HUB_OFFLINE=1 keeps everything else away. It knows nothing of Xet, uploads in parts,
deleted files, pull requests, branches or spaces.
"""

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lessonlib.export._loopback._server import HubServer
from lessonlib.export._loopback._store import Token

if TYPE_CHECKING:
    import httpx

__all__ = ["HubServer", "Token", "on_this_machine", "reachable"]

_SETTINGS = {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_HUB_DISABLE_TELEMETRY": True}


@contextmanager
def reachable(endpoint: str | None) -> Iterator[None]:
    """Inside the block, huggingface_hub talks to `endpoint` in plain HTTP, whatever HF_HUB_OFFLINE says.

    The client reads its environment once, when imported, so setting a variable now would change nothing.
    Instead its constants and its httpx client are replaced (`huggingface_hub.set_client_factory`), and put
    back at the end. Offline stays offline: a request to any other host is refused as before. The change holds
    for the whole process, other threads included.

    Args:
        endpoint: the server's URL. None, or one that is not on this machine (the real Hub): nothing is
            changed.
    """
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils import _http

    if endpoint is None or not on_this_machine(endpoint):
        yield
        return
    before = {name: getattr(constants, name) for name in _SETTINGS}
    factory, server = _http._GLOBAL_CLIENT_FACTORY, _address(endpoint)

    def guarded() -> "httpx.Client":
        import httpx

        def guard(request: "httpx.Request") -> None:
            if before["HF_HUB_OFFLINE"] and _address(str(request.url)) != server:
                raise _offline(request)

        return httpx.Client(
            event_hooks={"request": [guard, _http.hf_request_event_hook]},
            follow_redirects=True,
            timeout=None,
            mounts={f"all://{urlsplit(endpoint).hostname}": None},  # never through a proxy
        )

    for name, value in _SETTINGS.items():
        setattr(constants, name, value)
    set_client_factory(guarded)
    try:
        yield
    finally:
        set_client_factory(factory)
        for name, value in before.items():
            setattr(constants, name, value)


def _offline(request: "httpx.Request") -> Exception:
    from huggingface_hub.errors import OfflineModeIsEnabled

    return OfflineModeIsEnabled(f"Cannot reach {request.url}: offline mode is enabled (HF_HUB_OFFLINE).")


def _address(url: str) -> tuple[str | None, int | None]:
    parts = urlsplit(url)
    return parts.hostname, parts.port


def on_this_machine(endpoint: str | None) -> bool:
    """Whether a Hub's address is one of this machine's own."""
    try:
        return ipaddress.ip_address(urlsplit(endpoint or "").hostname or "").is_loopback
    except ValueError:  # a name
        return False
