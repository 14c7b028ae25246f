"""What a failed push or comparison means, with the cure; downloads of models have `hub_errors`."""

from collections.abc import Iterator
from contextlib import contextmanager

from lessonlib.export._hub_login import TOKENS_PAGE
from lessonlib.runtime._language import LessonError


@contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Turns what the Hub's client raises inside the block into a LessonError, where the cure is known.

    Args:
        repo_id: the repository that it is about.
    """
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    unreachable = (OfflineModeIsEnabled, httpx.ConnectError, httpx.ConnectTimeout)
    try:
        yield
    except LessonError:
        raise
    except Exception as problem:
        causes = list(_chain(problem))
        status = next((it.response.status_code for it in causes if isinstance(it, HfHubHTTPError)), None)
        if status is not None:
            raise _refused(status, repo_id, causes) from problem
        if any(isinstance(it, unreachable) for it in causes):
            raise LessonError(
                vi=f"Không kết nối được với Hub cho {repo_id}. Kiểm tra mạng và biến HF_HUB_OFFLINE rồi "
                "chạy lại ô này; không có mạng thì dùng publish.rehearsal_hub().",
                en=f"The Hub cannot be reached for {repo_id}. Check the network and the variable "
                "HF_HUB_OFFLINE, and run this cell again; without a network use publish.rehearsal_hub().",
            ) from problem
        if any(isinstance(it, httpx.TransportError) for it in causes):
            raise LessonError(
                vi=f"Kết nối với Hub bị đứt khi đang làm việc với {repo_id}, thử lại vẫn không được. Không "
                "có gì nằm dở dang: commit hoặc có đủ, hoặc chưa có. Chạy lại ô này: tệp lớn nào đã tới nơi "
                "thì không phải gửi lại.",
                en=f"The connection broke off while at {repo_id}, and so did the retries. Nothing is half "
                "there: a commit is whole or not made. Run this cell again: large files that have arrived "
                "are not sent twice.",
            ) from problem
        raise


def _refused(status: int, repo_id: str, causes: list[BaseException]) -> LessonError:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if any(isinstance(it, RevisionNotFoundError) for it in causes):
        return LessonError(
            vi=f"{repo_id} không có commit này. Hãy truyền revision=push(...).oid.",
            en=f"{repo_id} has no such commit. Pass revision=push(...).oid.",
        )
    if any(isinstance(it, RepositoryNotFoundError) for it in causes):
        return LessonError(
            vi=f"Không thấy {repo_id} trên Hub, hoặc đó là repo riêng tư và token không được xem. Kiểm tra "
            "lại tên và token.",
            en=f"There is no {repo_id} on the Hub, or it is private and the token may not see it. Check "
            "name and token.",
        )
    if status in (401, 403):
        owner = repo_id.partition("/")[0]
        return LessonError(
            vi=f"Hub không cho token này làm việc với {repo_id} (lỗi {status}). Mở {TOKENS_PAGE}, tạo token "
            f"loại Write của tài khoản {owner}, hoặc đổi phần đầu của tên thành tên tài khoản của bạn.",
            en=f"The Hub does not let this token at {repo_id} (error {status}). Visit {TOKENS_PAGE} and "
            f"create a token of the type Write for the account {owner}, or put your own account's name "
            "first.",
        )
    if status == 412:
        return LessonError(
            vi=f"Có người vừa commit vào {repo_id} trong lúc này. Xem lại repo rồi chạy lại ô này.",
            en=f"Somebody made a commit to {repo_id} meanwhile. Look at the repository, then run this cell "
            "again.",
        )
    return LessonError(
        vi=f"Hub trả lời lỗi {status} cho {repo_id}: {causes[0]}. Repo vẫn như trước. Nếu là lỗi tạm thời "
        "(5xx, 429), đợi vài phút rồi chạy lại ô này (xem https://status.huggingface.co).",
        en=f"The Hub answered with error {status} for {repo_id}: {causes[0]}. The repository is as it was. "
        "If it is temporary (5xx, 429), wait some minutes and run this cell again (see "
        "https://status.huggingface.co).",
    )


def _chain(problem: BaseException | None) -> Iterator[BaseException]:
    while problem is not None:
        yield problem
        problem = problem.__cause__ or problem.__context__
