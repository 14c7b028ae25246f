"""Whose token is it, and may it write? Asked before anything is pushed; nothing is stored."""

from dataclasses import dataclass
from typing import Any

from lessonlib.export._loopback import reachable
from lessonlib.runtime._detect import Secret, secret
from lessonlib.runtime._language import LessonError

TOKENS_PAGE = "https://huggingface.co/settings/tokens"


@dataclass(frozen=True)
class Login:
    """Who is logged in to the Hub.

    Args:
        user: the account's name, the first part of the repositories it owns.
        token: hidden where a notebook would show it.
        endpoint: the Hub's address, None for https://huggingface.co.
    """

    user: str
    token: Secret
    endpoint: str | None = None


def hub_login(*, endpoint: str | None = None, token: str | None = None, ask: bool = False) -> Login:
    """Find the Hub's token, ask the Hub whose it is, and see that it may write.

    Unlike `huggingface_hub.login` nothing is stored: pass `token=` and `endpoint=` on.

    Args:
        endpoint: another Hub than https://huggingface.co, such as a `_loopback.HubServer`'s url.
        token: the token itself; default the secret HF_TOKEN.
        ask: prompt for it, hidden, where somebody can type and no secret is set.

    Returns:
        A `Login`.

    Raises:
        LessonError: no token; one the Hub does not know, or that may only read; a Hub that cannot be reached.
    """
    from httpx import TransportError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    token = Secret(token) if token is not None else secret("HF_TOKEN", ask=ask)
    try:
        with reachable(endpoint):
            account = HfApi(endpoint=endpoint, token=token).whoami()
    except HfHubHTTPError as problem:
        status = problem.response.status_code
        if status == 401:
            raise LessonError(
                "The Hub does not know the token in HF_TOKEN: cut short, revoked or expired. Visit "
                "{tokens_page}, create a new token with the permission Write, and put it into the secret "
                "HF_TOKEN.",
                tokens_page=TOKENS_PAGE,
            ) from None  # the client's own message tells where on this machine it found a token
        raise LessonError(
            "The Hub answered with error {status} when asked about the token. That is mostly temporary: "
            "wait some minutes and run this cell again (see https://status.huggingface.co).",
            status=status,
        ) from problem
    except (OfflineModeIsEnabled, TransportError) as problem:
        raise LessonError(
            "The Hub cannot be reached to check the token. Check the network and the variable "
            "HF_HUB_OFFLINE. Without a network, take the secret HF_TOKEN away: export.hub then gives a Hub "
            "on this machine.",
        ) from problem
    if not _may_write(account):
        raise LessonError(
            "The token in HF_TOKEN may only read. Visit {tokens_page}, create a token of the type Write (or "
            "a fine-grained one with write access to your repositories), and put it into the secret "
            "HF_TOKEN.",
            tokens_page=TOKENS_PAGE,
        )
    return Login(account["name"], token, endpoint)


def _may_write(account: dict[str, Any]) -> bool:
    """By what /api/whoami-v2 says; where it says nothing of it, the push will tell."""
    said = account.get("auth", {}).get("accessToken", {})
    if said.get("role") == "fineGrained":
        scopes = said.get("fineGrained", {}).get("scoped", [])
        return any("repo.write" in scope.get("permissions", ()) for scope in scopes)
    return said.get("role") != "read"
