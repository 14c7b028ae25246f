"""Pushes a model to the Hugging Face Hub in one commit, and proves that what arrived is what was sent.

Everything goes through huggingface_hub's own client; without a token the Hub is one on this machine
(`_hub`). What is refused beforehand is in `_publish_checks`, what a card says in `_model_card`.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lessonlib.export._hub import TOKENS_PAGE
from lessonlib.export._loopback import on_this_machine, reachable
from lessonlib.export._publish_checks import Contents, check, listed
from lessonlib.export._saving import check_disk, sha256
from lessonlib.models._hub_errors import chain, explained
from lessonlib.runtime._detect import headless
from lessonlib.runtime._language import LessonError, tr

if TYPE_CHECKING:
    import pandas as pd
    from huggingface_hub import CommitInfo, HfApi


_MADE_BY_THE_HUB = (".gitattributes",)


def push(
    contents: Contents,
    repo_id: str,
    *,
    token: str,
    private: bool = True,
    endpoint: str | None = None,
    message: str = "Upload with lessonlib",
) -> "CommitInfo":
    """Push files to a model repository in one commit, after looking for what must never be published.

    It makes the repository if it is missing. Large files go first; only when all have arrived the commit is
    made, so a push that breaks off changes nothing that was there (a repository that is new stays empty), and
    the next one does not send again what arrived. Files that are the same already are not sent at all; where
    all are, there is no commit. Files in the repository that are not among `contents` stay.

    Args:
        contents: a folder, or {path in the repository: folder or file}, "." for its root. Hidden files are
            left out; the root needs a model card, README.md.
        repo_id: "owner/name".
        token: one that may write; never printed or stored.
        private: make the repository private. One that is public already is not pushed to as private; one that
            is private stays so.
        endpoint: another Hub than https://huggingface.co.
        message: of the commit.

    Returns:
        huggingface_hub's `CommitInfo`: `oid` is the commit (the last one where nothing changed), `commit_url`
        its page.

    Raises:
        LessonError: what `_publish_checks.check` finds; no such right; a public repository; a Hub that is out
            of reach, breaks off or refuses; one on this machine, and no room for its copy.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    files = listed(contents)
    check(files, repo_id, private=private, secrets=(token,))
    size = sum(path.stat().st_size for path in files.values())
    if on_this_machine(endpoint):  # it keeps a copy among the temporary files
        check_disk(Path(tempfile.gettempdir()), size)
    api = HfApi(endpoint=endpoint, token=token)
    with reachable(endpoint), _explained(repo_id), _bars():
        _check_visibility(api, repo_id, private)
        api.create_repo(repo_id, private=private, exist_ok=True)
        parent = api.model_info(repo_id).sha
        operations = [CommitOperationAdd(name, path) for name, path in files.items()]
        done = api.create_commit(repo_id, operations, commit_message=message, parent_commit=parent)
    if done.oid == parent:
        print(tr("{repo_id} has these very files already.", repo_id=repo_id))
    else:
        print(
            tr(
                "Pushed {count} files ({size:.1f} MB) to {repo_id} in one commit.",
                count=len(files), size=size / 1000000.0, repo_id=repo_id,
            )
        )
    return done


def compare(
    contents: Contents, repo_id: str, *, revision: str, token: str | None = None, endpoint: str | None = None
) -> "pd.DataFrame":
    """Download what is in a repository, file by file, and hold it against what is here.

    Args:
        contents: as for `push`.
        repo_id: "owner/name".
        revision: the commit, `push(...).oid`.
        token: for a private repository.
        endpoint: another Hub than https://huggingface.co.

    Returns:
        A DataFrame with a row for each file here or there and the columns file, bytes (here), arrived (bytes
        there), sha256 (of what arrived) and same (equal size and sha256); missing values where it is in one
        place only. The Hub's own .gitattributes is left out.

    Raises:
        LessonError: no such repository or commit; a Hub that is out of reach or breaks off; too little room
            for a file among the temporary ones.
    """
    import pandas as pd
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    files = listed(contents)
    api = HfApi(endpoint=endpoint, token=token)
    rows = []
    with reachable(endpoint), _explained(repo_id), _bars():
        entries = list(api.list_repo_tree(repo_id, recursive=True, revision=revision))
        there = {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}
        names = sorted((files.keys() | there.keys()) - {*_MADE_BY_THE_HUB} | files.keys())
        for name in names:
            here = files.get(name)
            arrived: tuple[int | None, str | None] = (None, None)
            if name in there:
                arrived = _fetched(api, repo_id, name, revision, there[name])
            sent = (here.stat().st_size, sha256(here)) if here else (None, None)
            rows.append((name, sent[0], *arrived, sent == arrived))
    frame = pd.DataFrame(rows, columns=["file", "bytes", "arrived", "sha256", "same"])
    return frame.astype({"bytes": "Int64", "arrived": "Int64"})


def _check_visibility(api: "HfApi", repo_id: str, private: bool) -> None:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = api.model_info(repo_id)
    except RepositoryNotFoundError:
        return
    if private and not found.private:
        raise LessonError(
            "{repo_id} exists and is public: everybody would see what you push. If you mean it: "
            "private=False. If not: choose another name, or make it private in the repository's settings.",
            repo_id=repo_id,
        )


def _fetched(api: "HfApi", repo_id: str, name: str, revision: str, size: int) -> tuple[int, str]:
    """Size and digest of one file, downloaded into a folder of its own that goes at once."""
    with tempfile.TemporaryDirectory(prefix="arrived_") as folder:
        check_disk(Path(folder), size)
        path = Path(api.hf_hub_download(repo_id, name, revision=revision, local_dir=folder))
        return path.stat().st_size, sha256(path)


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Turns what the Hub's client raises inside the block into a LessonError, where the cure is known."""
    try:
        yield
    except LessonError:
        raise
    except Exception as problem:
        known = _refused(problem, repo_id) or explained(problem, repo_id)
        if known is None:
            raise
        raise known from problem


def _refused(problem: Exception, repo_id: str) -> LessonError | None:
    """What means another thing than in a download of a model, which `models` explains."""
    import httpx
    from huggingface_hub.errors import (
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    causes = chain(problem)
    if any(isinstance(it, RevisionNotFoundError) for it in causes):
        return LessonError("{repo_id} has no such commit. Pass revision=push(...).oid.", repo_id=repo_id)
    alike = (RepositoryNotFoundError, OfflineModeIsEnabled, httpx.ConnectError, httpx.ConnectTimeout)
    if any(isinstance(it, alike) for it in causes):
        return None
    status = next((it.response.status_code for it in causes if isinstance(it, HfHubHTTPError)), None)
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
    if status is not None:
        return LessonError(
            "The Hub answered with error {status} for {repo_id}: {causes}. The repository is as it was. If "
            "it is temporary (5xx, 429), wait some minutes and run this cell again (see "
            "https://status.huggingface.co).",
            status=status, repo_id=repo_id, causes=causes[0],
        )
    if any(isinstance(it, httpx.TransportError) for it in causes):
        return LessonError(
            "The connection broke off while at {repo_id}, and so did the retries. Nothing is half there: a "
            "commit is whole or not made. Run this cell again: large files that have arrived are not sent "
            "twice.",
            repo_id=repo_id,
        )
    return None


@contextmanager
def _bars() -> Iterator[None]:
    """No progress bars where nobody watches."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if not headless() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
