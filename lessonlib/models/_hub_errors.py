"""What a failed download or a damaged model file means, with the cure; knows nothing of the catalogue.

The Hub client and transformers wrap each other's exceptions, so the message at the top seldom names the
reason.
"""

import errno
from pathlib import Path

from lessonlib.runtime._language import LessonError, Translated


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

    causes = chain(problem)

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    def says(words: str) -> bool:
        return any(words in str(cause) for cause in causes)

    page = f"https://huggingface.co/{where}"
    cache = Path(constants.HF_HUB_CACHE)
    if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in causes):
        return LessonError(
            "The disk is full while downloading {where}. Delete something in {cache} or in the work folder, "
            "or point HF_HOME to another disk, then run this cell again.",
            where=where, cache=cache,
        )
    instead: str | Translated = ""
    if mirror:
        instead = Translated(
            " Or use the mirror without a gate, {mirror}: leave out original=True, or add "
            "mirror_if_refused=True.",
            mirror=mirror,
        )
    # datasets drops the exception that led to its own, and leaves its words alone to tell by.
    if has(errors.GatedRepoError) or says("is a gated dataset"):
        return LessonError(
            "{where} is gated. Visit {page}, log in and accept the licence, then put your token into the "
            "secret HF_TOKEN.{instead}",
            where=where, page=page, instead=instead,
        )
    if has(errors.RevisionNotFoundError):
        return LessonError(
            "On the Hub, {where} no longer has the commit that the course pins. Update lessonlib; if that "
            "does not help, tell the course's maintainers and look at {page}.",
            where=where, page=page,
        )
    if has(errors.RepositoryNotFoundError) or says("doesn't exist on the Hub"):
        return LessonError(
            "There is no {where} on the Hub: it was deleted or renamed, or it is private. Look at {page}; "
            "for a private one put your token into the secret HF_TOKEN.",
            where=where, page=page,
        )
    if has(SafetensorError):
        folder = Path(where) if Path(where).is_dir() else cache / f"models--{where.replace('/', '--')}"
        return LessonError(
            "The weights of {where} are damaged or cut short. A downloaded model: delete the folder "
            "{folder} and run this cell again. A twin of the course: install lessonlib again, or restore "
            "data/ from git.",
            where=where, folder=folder,
        )
    offline = (errors.OfflineModeIsEnabled, httpx.ConnectError, httpx.ConnectTimeout)
    if has(httpx.TransportError) and not has(*offline) or says("Consistency check failed"):
        return LessonError(
            "The download of {where} broke off, and so did the retries. Run this cell again: what was "
            "half-written has been discarded, finished files are not downloaded twice.",
            where=where,
        )
    for cause in causes:
        if isinstance(cause, errors.HfHubHTTPError):
            status = cause.response.status_code
            if status in (401, 403):
                return LessonError(
                    "The Hub refuses your token (error {status}) for {where}: it is wrong or revoked, or may "
                    "not read. Make a new one (of the kind Read) at "
                    "https://huggingface.co/settings/tokens and put it into the secret HF_TOKEN.{instead}",
                    status=status, where=where, instead=instead,
                )
            return LessonError(
                "The Hub answered with error {status} for {where}. That is mostly temporary: wait some "
                "minutes and run this cell again (see https://status.huggingface.co).",
                status=status, where=where,
            )
    if has(*offline, errors.LocalEntryNotFoundError) or says("Couldn't reach"):
        return LessonError(
            "The Hub cannot be reached for {where}. Check the network and the variable HF_HUB_OFFLINE, or "
            "go on without a network in rehearsal: runtime.detect(profile='rehearsal').",
            where=where,
        )
    return None


def hub_answers() -> bool:
    """Whether the Hub can be reached at all: one connection, instead of the client's minute of retries."""
    import socket
    from urllib.parse import urlsplit

    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    if constants.is_offline_mode():
        return False
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


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
        for cause in chain(problem)
    )


def commit_gone(problem: Exception) -> bool:
    """Whether a repository is there and the commit that the course pins is not."""
    from huggingface_hub.errors import RevisionNotFoundError

    return any(isinstance(cause, RevisionNotFoundError) for cause in chain(problem))


def chain(problem: BaseException | None) -> list[BaseException]:
    """The exception and everything that led to it, the latest first."""
    found = []
    while problem is not None:
        found.append(problem)
        problem = problem.__cause__ or problem.__context__
    return found
