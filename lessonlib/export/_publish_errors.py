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
                "The Hub cannot be reached for {repo_id}. Check the network and the variable "
                "HF_HUB_OFFLINE, and run this cell again. Without a network, take the secret HF_TOKEN away: "
                "export.hub then gives a Hub on this machine.",
                repo_id=repo_id,
            ) from problem
        if any(isinstance(it, httpx.TransportError) for it in causes):
            raise LessonError(
                "The connection broke off while at {repo_id}, and so did the retries. Nothing is half "
                "there: a commit is whole or not made. Run this cell again: large files that have arrived "
                "are not sent twice.",
                repo_id=repo_id,
            ) from problem
        raise


def _refused(status: int, repo_id: str, causes: list[BaseException]) -> LessonError:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if any(isinstance(it, RevisionNotFoundError) for it in causes):
        return LessonError("{repo_id} has no such commit. Pass revision=push(...).oid.", repo_id=repo_id)
    if any(isinstance(it, RepositoryNotFoundError) for it in causes):
        return LessonError(
            "There is no {repo_id} on the Hub, or it is private and the token may not see it. Check name "
            "and token.",
            repo_id=repo_id,
        )
    if status in (401, 403):
        owner = repo_id.partition("/")[0]
        return LessonError(
            "The Hub does not let this token at {repo_id} (error {status}). Visit {tokens_page} and create "
            "a token of the type Write for the account {owner}, or put your own account's name first.",
            repo_id=repo_id, status=status, tokens_page=TOKENS_PAGE, owner=owner,
        )
    if status == 412:
        return LessonError(
            "Somebody made a commit to {repo_id} meanwhile. Look at the repository, then run this cell "
            "again.",
            repo_id=repo_id,
        )
    return LessonError(
        "The Hub answered with error {status} for {repo_id}: {causes}. The repository is as it was. If it "
        "is temporary (5xx, 429), wait some minutes and run this cell again (see "
        "https://status.huggingface.co).",
        status=status, repo_id=repo_id, causes=causes[0],
    )


def _chain(problem: BaseException | None) -> Iterator[BaseException]:
    while problem is not None:
        yield problem
        problem = problem.__cause__ or problem.__context__
