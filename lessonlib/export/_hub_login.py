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
        endpoint: another Hub than https://huggingface.co, such as a `loopback.HubServer`'s url.
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
                vi="Hub không nhận token trong HF_TOKEN: chép thiếu, đã bị thu hồi hoặc hết hạn. Mở "
                f"{TOKENS_PAGE}, tạo token mới với quyền Write rồi đặt vào secret HF_TOKEN.",
                en=f"The Hub does not know the token in HF_TOKEN: cut short, revoked or expired. Visit "
                f"{TOKENS_PAGE}, create a new token with the permission Write, and put it into the secret "
                "HF_TOKEN.",
            ) from None  # the client's own message tells where on this machine it found a token
        raise LessonError(
            vi=f"Hub trả lời lỗi {status} khi kiểm tra token. Thường là tạm thời: đợi vài phút rồi chạy lại "
            "ô này (xem https://status.huggingface.co).",
            en=f"The Hub answered with error {status} when asked about the token. That is mostly temporary: "
            "wait some minutes and run this cell again (see https://status.huggingface.co).",
        ) from problem
    except (OfflineModeIsEnabled, TransportError) as problem:
        raise LessonError(
            vi="Không kết nối được với Hub để kiểm tra token. Kiểm tra mạng và biến HF_HUB_OFFLINE; không có "
            "mạng thì dùng publish.rehearsal_hub().",
            en="The Hub cannot be reached to check the token. Check the network and the variable "
            "HF_HUB_OFFLINE; without a network use publish.rehearsal_hub().",
        ) from problem
    if not _may_write(account):
        raise LessonError(
            vi=f"Token trong HF_TOKEN chỉ có quyền đọc. Mở {TOKENS_PAGE}, tạo token loại Write (hoặc token "
            "fine-grained có quyền ghi vào repo của bạn), rồi đặt lại vào secret HF_TOKEN.",
            en=f"The token in HF_TOKEN may only read. Visit {TOKENS_PAGE}, create a token of the type Write "
            "(or a fine-grained one with write access to your repositories), and put it into the secret "
            "HF_TOKEN.",
        )
    return Login(account["name"], token, endpoint)


def _may_write(account: dict[str, Any]) -> bool:
    """By what /api/whoami-v2 says; where it says nothing of it, the push will tell."""
    said = account.get("auth", {}).get("accessToken", {})
    if said.get("role") == "fineGrained":
        scopes = said.get("fineGrained", {}).get("scoped", [])
        return any("repo.write" in scope.get("permissions", ()) for scope in scopes)
    return said.get("role") != "read"
