"""A small Hugging Face Hub on 127.0.0.1: what a lesson would send to the Hub goes through the real client,
and can be looked at, with no account and no network.

    with HubServer() as hub:
        with reachable(hub.url):
            HfApi(endpoint=hub.url, token=hub.token).create_repo("learner/model")

`HubServer` serves folders and takes uploads (`server`, `uploads`, `store`); `reachable` lets the Hub's client
in this process talk to it even where HF_HUB_OFFLINE=1 keeps everything else away (`client`). It knows nothing
of Xet, pull requests, branches or spaces.
"""

from lessonlib.export._loopback._client import on_this_machine, reachable
from lessonlib.export._loopback._server import HubServer
from lessonlib.export._loopback._state import Token

__all__ = ["HubServer", "Token", "on_this_machine", "reachable"]
