"""What a failed download or a damaged model file means, with the cure; knows nothing of the catalogue.

The Hub client and transformers wrap each other's exceptions, so the message at the top seldom names the
reason.
"""

import errno
from collections.abc import Iterator
from pathlib import Path

from lessonlib.runtime._language import LessonError


def explained(problem: Exception, where: str, mirror: str | None = None) -> LessonError | None:
    """What a failed load means and what to do about it.

    Args:
        problem: what `from_pretrained` raised; the whole chain of causes is looked at.
        where: the Hub id or folder that was being loaded.
        mirror: an ungated copy to offer, if there is one.

    Returns:
        The error to raise from `problem`, or None where it is none of the known ones.
    """
    import httpx
    from huggingface_hub import constants, errors
    from safetensors import SafetensorError

    causes = list(_chain(problem))

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    def says(words: str) -> bool:
        return any(words in str(cause) for cause in causes)

    page = f"https://huggingface.co/{where}"
    cache = Path(constants.HF_HUB_CACHE)
    if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in causes):
        return LessonError(
            vi=f"Hết chỗ trên ổ đĩa khi tải {where}. Xóa bớt tệp trong {cache} hoặc trong thư mục làm việc, "
            "hoặc đặt biến HF_HOME sang ổ khác, rồi chạy lại ô này.",
            en=f"The disk is full while downloading {where}. Delete something in {cache} or in the work "
            "folder, or point HF_HOME to another disk, then run this cell again.",
        )
    vi, en = "", ""
    if mirror:
        vi = f" Hoặc dùng bản sao không cần đăng ký, {mirror}: bỏ original=True, hay thêm "
        vi += "mirror_if_refused=True."
        en = f" Or use the mirror without a gate, {mirror}: leave out original=True, or add "
        en += "mirror_if_refused=True."
    # datasets drops the exception that led to its own, and leaves its words alone to tell by.
    if has(errors.GatedRepoError) or says("is a gated dataset"):
        return LessonError(
            vi=f"{where} yêu cầu chấp nhận giấy phép. Mở {page}, đăng nhập và bấm đồng ý, rồi đặt token vào "
            f"secret HF_TOKEN.{vi}",
            en=f"{where} is gated. Visit {page}, log in and accept the licence, then put your token into the "
            f"secret HF_TOKEN.{en}",
        )
    if has(errors.RevisionNotFoundError):
        return LessonError(
            vi=f"Trên Hub, {where} không còn phiên bản (commit) mà khóa học đã ghim. Cập nhật lessonlib; nếu "
            f"vẫn lỗi, hãy báo cho khóa học và xem {page}.",
            en=f"On the Hub, {where} no longer has the commit that the course pins. Update lessonlib; if "
            f"that does not help, tell the course's maintainers and look at {page}.",
        )
    if has(errors.RepositoryNotFoundError) or says("doesn't exist on the Hub"):
        return LessonError(
            vi=f"Không thấy {where} trên Hub: repo đã bị xóa, đổi tên hoặc là repo riêng tư "
            f"(private). Mở {page} để kiểm "
            "tra; với repo riêng tư, đặt token vào secret HF_TOKEN.",
            en=f"There is no {where} on the Hub: it was deleted or renamed, or it is private. Look at "
            f"{page}; for a private one put your token into the secret HF_TOKEN.",
        )
    if has(SafetensorError):
        folder = Path(where) if Path(where).is_dir() else cache / f"models--{where.replace('/', '--')}"
        return LessonError(
            vi=f"Tệp trọng số của {where} bị hỏng hoặc thiếu. Nếu là mô hình tải về: xóa thư mục {folder} "
            "rồi chạy lại ô này. Nếu là twin của khóa học: cài lại lessonlib hoặc lấy lại thư mục data/ từ "
            "git.",
            en=f"The weights of {where} are damaged or cut short. A downloaded model: delete the folder "
            f"{folder} and run this cell again. A twin of the course: install lessonlib again, or restore "
            "data/ from git.",
        )
    offline = (errors.OfflineModeIsEnabled, httpx.ConnectError, httpx.ConnectTimeout)
    if has(httpx.TransportError) and not has(*offline) or says("Consistency check failed"):
        return LessonError(
            vi=f"Tải {where} bị đứt giữa chừng và thử lại vẫn không được. Chạy lại ô này: phần tải dở đã "
            "được bỏ, các tệp đã xong không phải tải lại.",
            en=f"The download of {where} broke off, and so did the retries. Run this cell again: what was "
            "half-written has been discarded, finished files are not downloaded twice.",
        )
    for cause in causes:
        if isinstance(cause, errors.HfHubHTTPError):
            status = cause.response.status_code
            if status in (401, 403):
                return LessonError(
                    vi=f"Hub từ chối token của bạn (lỗi {status}) khi tải {where}: token sai, đã bị thu hồi, "
                    "hoặc không có quyền đọc. Tạo token mới (loại Read) ở "
                    f"https://huggingface.co/settings/tokens rồi đặt vào secret HF_TOKEN.{vi}",
                    en=f"The Hub refuses your token (error {status}) for {where}: it is wrong or revoked, or "
                    "may not read. Make a new one (of the kind Read) at "
                    f"https://huggingface.co/settings/tokens and put it into the secret HF_TOKEN.{en}",
                )
            return LessonError(
                vi=f"Hub trả lời lỗi {status} khi tải {where}. Thường là tạm thời: đợi vài phút rồi chạy lại "
                "ô này (xem https://status.huggingface.co).",
                en=f"The Hub answered with error {status} for {where}. That is mostly temporary: wait some "
                "minutes and run this cell again (see https://status.huggingface.co).",
            )
    if has(*offline, errors.LocalEntryNotFoundError) or says("Couldn't reach"):
        return LessonError(
            vi=f"Không kết nối được với Hub để tải {where}. Kiểm tra mạng và biến HF_HUB_OFFLINE, "
            "hoặc chạy không "
            "cần mạng với profile rehearsal: runtime.detect(profile='rehearsal').",
            en=f"The Hub cannot be reached for {where}. Check the network and the variable HF_HUB_OFFLINE, "
            "or go on without a network in rehearsal: runtime.detect(profile='rehearsal').",
        )
    return None


def refused(problem: Exception) -> bool:
    """Whether the Hub would not let this learner in: a gate, a private repository, no or a wrong token.

    To a stranger the Hub doesn't tell a private repository from one that is missing, so this doesn't either.

    Args:
        problem: what `from_pretrained` raised; the whole chain of causes is looked at.
    """
    from huggingface_hub import errors

    return any(
        isinstance(cause, errors.HfHubHTTPError)
        and not isinstance(cause, errors.RevisionNotFoundError)
        and cause.response.status_code in (401, 403)
        for cause in _chain(problem)
    )


def _chain(problem: BaseException | None) -> Iterator[BaseException]:
    """The exception and everything that led to it, the latest first."""
    while problem is not None:
        yield problem
        problem = problem.__cause__ or problem.__context__
