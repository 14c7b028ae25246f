"""Which Hub is published to, the real one or one on this machine, and whose the token is; nothing is kept."""

from typing import Any

from lessonlib.export._loopback import HubServer, reachable
from lessonlib.models._hub_errors import explained
from lessonlib.runtime._detect import ON_CPU, MissingSecret, Runtime, Secret, secret
from lessonlib.runtime._language import LessonError, tr

TOKENS_PAGE = "https://huggingface.co/settings/tokens"


class ReadOnly(LessonError):
    """A token without the right to write."""


class Hub:
    """A Hub and an account on it: pass `endpoint` and `token` to `push`, `compare` and `HfApi`.

    Unlike `huggingface_hub.login` it stores nothing.

    Attributes:
        endpoint: its address; None for https://huggingface.co.
        token: may write; hidden where a notebook would show it.
        user: the account's name, the first part of a repository's.
        rehearsal: whether it is on this machine and goes when it is closed.
    """

    def __init__(self, server: HubServer | None, token: str) -> None:
        self._server = server
        self.endpoint, self.token = server.url if server else None, Secret(token)
        self.rehearsal = server is not None
        try:
            self.user = account(self.token, self.endpoint)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End a Hub on this machine, and delete what was pushed to it."""
        if self._server:
            self._server.close()
            self._server = None


def hub(runtime: Runtime, *, publish: bool = False, ask: bool = False) -> Hub:
    """The Hub to push to: one on this machine, or the real one where that is asked for and can be had.

    A lesson on the CPU (profiles rehearsal and laptop) always takes the former, so that no twin is ever
    published; so does one whose HF_TOKEN is missing or may only read, with a sentence that says so.

    Args:
        runtime: from `runtime.detect`.
        publish: push to huggingface.co, with the secret HF_TOKEN.
        ask: prompt for the token, hidden, where somebody can type and no secret is set.

    Returns:
        A `Hub`; `close` it at the end.

    Raises:
        LessonError: a token that the Hub does not know, or a Hub that cannot be reached; see `account`.
    """
    on_cpu = runtime.profile in ON_CPU
    why = tr("rehearsal") if on_cpu else tr("nobody asked to publish")
    if publish and not on_cpu:
        try:
            found = Hub(None, secret("HF_TOKEN", ask=ask))
        except ReadOnly as refused:
            print(refused)
            why = tr("HF_TOKEN may only read")
        except MissingSecret:
            why = tr("no HF_TOKEN")
        else:
            print(f"Hub: huggingface.co/{found.user}")
            return found
    print(tr("Hub: on this machine ({why}), nothing is sent anywhere.", why=why))
    server = HubServer().start()
    return Hub(server, server.token)


def account(token: str, endpoint: str | None = None) -> str:
    """Ask the Hub whose a token is, and see that it may write, before anything is pushed.

    Args:
        token: the token itself.
        endpoint: another Hub than https://huggingface.co, such as a `_loopback.HubServer`'s url.

    Returns:
        The account's name.

    Raises:
        LessonError: a token that the Hub does not know, or that may only read; a Hub that cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with reachable(endpoint):
            said = HfApi(endpoint=endpoint, token=token).whoami()
    except Exception as problem:
        if isinstance(problem, HfHubHTTPError) and problem.response.status_code == 401:
            raise LessonError(
                "The Hub does not know the token in HF_TOKEN: cut short, revoked or expired. Visit "
                "{tokens_page}, create a new token with the permission Write, and put it into the secret "
                "HF_TOKEN.",
                tokens_page=TOKENS_PAGE,
            ) from None  # the client's own message tells where on this machine it found a token
        raise explained(problem, endpoint or "huggingface.co") or problem from problem
    if not _may_write(said):
        raise ReadOnly(
            "The token in HF_TOKEN may only read. Visit {tokens_page}, create a token of the type Write (or "
            "a fine-grained one with write access to your repositories), and put it into the secret "
            "HF_TOKEN.",
            tokens_page=TOKENS_PAGE,
        )
    return str(said["name"])


def _may_write(account: dict[str, Any]) -> bool:
    """By what /api/whoami-v2 says; where it says nothing of it, the push will tell."""
    said = account.get("auth", {}).get("accessToken", {})
    if said.get("role") == "fineGrained":
        scopes = said.get("fineGrained", {}).get("scoped", [])
        return any("repo.write" in scope.get("permissions", ()) for scope in scopes)
    return said.get("role") != "read"
