"""From files to splits: reads, cleans and splits questions and answers; takes rows of datasets on the Hub.

Nothing is dropped silently: rows that cannot be read are in the second result of `read` (`_reading`), rows
that a step of `clean` (`_cleaning`) took out are in the `CleaningReport`.
"""

import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonlib.data._reading import LINE, read
from lessonlib.models._hub_errors import explained
from lessonlib.runtime._detect import headless
from lessonlib.runtime._language import LessonError, tr
from lessonlib.runtime._paths import dataset_dir

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


# What the splits of a shipped dataset are for: to learn from, to choose settings by, and to measure learnt
# facts in new words and facts never learnt.
_SPLITS = ("train", "validation", "new_wordings", "unseen_facts")


def load_splits(name: str) -> "DatasetDict":
    """A shipped dataset's splits, checked.

    Args:
        name: the dataset, such as "ai_qa_vi".

    Returns:
        DatasetDict with the splits of _SPLITS; columns id (of the fact), question, answer.

    Raises:
        LessonError: no such dataset; a split's file is missing or has an unusable row; a question stands in
            two splits; new_wordings or validation asks about a fact that is not in train, or unseen_facts
            about one that is. The shipped files pass, so this means that they were changed: fetch them again.
    """
    from datasets import DatasetDict

    folder = dataset_dir(name)
    splits = DatasetDict()
    for split in _SPLITS:
        rows = read(folder / f"{split}.jsonl", columns=("id", "question", "answer"), on_error="raise").rows
        splits[split] = rows.remove_columns(LINE)

    learnt = set(splits["train"]["id"])
    asked: dict[str, str] = {}
    for split in _SPLITS:
        for row in splits[split]:
            fact, question = row["id"], row["question"]
            if (earlier := asked.setdefault(question, split)) != split:
                raise _leak(name, f"{question!r}: {earlier} + {split}")
            if (fact in learnt) == (split == "unseen_facts"):
                raise _leak(name, f"{fact}: {split}")
    return splits


def load_chats(name: str) -> "DatasetDict":
    """The splits of a shipped dataset of conversations, as its card lists them, checked.

    Args:
        name: the dataset, such as "chat_vi".

    Returns:
        DatasetDict with the card's splits in its order; columns id, messages (a list, or JSON text where
        messages hold calls) and what else the rows have.

    Raises:
        LessonError: no such dataset; a split's file is missing, empty, or has a line that is no JSON object
            with `id` and `messages` (named); a conversation stands in two splits. The shipped files pass, so
            this means that they were changed: fetch them again.
    """
    from datasets import Dataset, DatasetDict
    from huggingface_hub import DatasetCard

    folder = dataset_dir(name)
    (config,) = DatasetCard.load(folder / "README.md").data.configs
    splits = DatasetDict()
    said: dict[str, str] = {}
    for entry in config["data_files"]:
        split, path = entry["split"], folder / entry["path"]
        rows = _chat_rows(path)
        for row in rows:
            if (earlier := said.setdefault(json.dumps(row["messages"]), split)) != split:
                raise _leak(name, f"{row['id']}: {earlier} + {split}")
        splits[split] = Dataset.from_list(rows)
    return splits


def _chat_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            kinds = isinstance(row["id"], str), isinstance(row["messages"], (list, str))
            if not (all(kinds) and row["messages"]):
                raise TypeError("id, messages")
        except (ValueError, KeyError, TypeError) as problem:
            raise LessonError(
                "{path}, line {number}: needs a JSON object with 'id' and 'messages' ({problem!r}). Fetch "
                "data/ again.",
                path=path, number=number, problem=problem,
            ) from problem
        rows.append(row)
    if not rows:
        raise LessonError("{path} holds no conversation. Fetch data/ again.", path=path)
    return rows


def _leak(name: str, where: str) -> LessonError:
    return LessonError(
        "The splits of {name} are no longer kept apart ({where}), so scores on them would be wrong. The "
        "files were changed: fetch data/ again.",
        name=name, where=where,
    )


def from_hub(
    hub_id: str, *, revision: str, split: str, rows: int, columns: Sequence[str] | None = None
) -> "Dataset":
    """The first rows of a dataset on the Hugging Face Hub, without downloading the rest.

    Files are read as a stream (parquet in groups of rows, text in blocks), as data and nothing else: no code
    of a repository is run and no pickle is read. Where HF_TOKEN is set, it is sent along.

    Args:
        hub_id: "owner/name".
        revision: the commit, all 40 hexadecimal digits; what a branch such as "main" holds can change any
            day.
        split: such as "train".
        rows: how many, from the beginning of the split.
        columns: which columns to keep; None: all.

    Returns:
        A Dataset in memory, rows in their order. Where the split has fewer rows, a warning says how many.

    Raises:
        LessonError: a hub_id or revision of another form; rows below 1; no such repository, commit, split or
            column; a gated repository; no network; no data files that can be read as data; an empty split.
    """
    from datasets import Dataset, Features, load_dataset
    from tqdm.auto import tqdm

    _check_hub_arguments(hub_id, revision, rows)
    where = f"datasets/{hub_id}"
    try:
        # With hf:// in front a folder of the same name in the working directory is not taken for it.
        stream = load_dataset(f"hf://{where}", revision=revision, split=split, streaming=True)
        bar = tqdm(stream.take(rows), total=rows, disable=headless(), leave=False)
        taken: list[dict[str, Any]] = list(bar)
    except StopIteration:  # the library looks at a text file's first row without asking whether there is one
        taken = []
    except (FileNotFoundError, RuntimeError, ValueError) as problem:
        # no data files; rows that a script makes; no such split, or several configurations
        raise explained(problem, where) or LessonError(
            "{where} cannot be opened (split {split!r}): {problem}. See https://huggingface.co/{where}.",
            where=where, split=split, problem=problem,
        ) from problem
    except Exception as problem:
        if known := explained(problem, where):
            raise known from problem
        raise
    if not taken:
        raise LessonError("The split {split!r} of {where} has no rows.", split=split, where=where)
    for name in columns or ():
        if name not in taken[0]:
            raise LessonError(
                "{where} has no column {name!r}. Columns: {taken}.",
                where=where, name=name, taken=", ".join(taken[0]),
            )
    if len(taken) < rows:
        warnings.warn(
            tr(
                "The split {split!r} of {where} has {count} rows only, not the {rows} asked for.",
                split=split, where=where, count=len(taken), rows=rows,
            ),
            stacklevel=2,
        )
    kept = list(columns or taken[0])
    kinds = Features({name: stream.features[name] for name in kept}) if stream.features else None
    return Dataset.from_list([{name: row[name] for name in kept} for row in taken], features=kinds)


def whole_commit(hub_id: str, begins: str) -> str:
    """The whole hash of a dataset's commit of which only the first digits are known.

    The Hub's pages and most people quote seven digits, while the Hub's client wants all forty. Seven pin a
    commit almost as well: another one begins with the same digits once in 268 million.

    Args:
        hub_id: "owner/name".
        begins: at least seven hexadecimal digits, such as "ee5bf6e". All forty are given back unasked.

    Returns:
        The commit, for `from_hub`. It is looked for among the commits of the branch main.

    Raises:
        LessonError: a hub_id or begins of another form; no commit begins so, or several do; no such
            repository; a gated repository; no network.
    """
    from huggingface_hub import HfApi

    _check_hub_id(hub_id)
    if not re.fullmatch(r"[0-9a-f]{7,40}", begins):
        raise LessonError(
            "begins={begins!r}: give the first 7 to 40 hexadecimal digits of a commit, such as 'ee5bf6e'.",
            begins=begins,
        )
    if len(begins) == 40:
        return begins
    where = f"datasets/{hub_id}"
    try:
        listed = HfApi().list_repo_commits(hub_id, repo_type="dataset")
    except Exception as problem:
        if known := explained(problem, where):
            raise known from problem
        raise
    found = [commit.commit_id for commit in listed if commit.commit_id.startswith(begins)]
    if len(found) != 1:
        page = f"https://huggingface.co/{where}/commits/main"
        raise LessonError(
            "{where}: {count} of {count2} commits begin with {begins}, and it should be one. The history "
            "may have been rewritten: look at {page}, then pin a whole commit.",
            where=where, count=len(found), count2=len(listed), begins=begins, page=page,
        )
    return found[0]


def _check_hub_id(hub_id: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", hub_id):
        raise LessonError(
            "{hub_id!r} is no dataset on the Hub. Write 'owner/name', such as "
            "'HuggingFaceH4/ultrachat_200k'.",
            hub_id=hub_id,
        )


def _check_hub_arguments(hub_id: str, revision: str, rows: int) -> None:
    _check_hub_id(hub_id)
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise LessonError(
            "revision={revision!r} is no commit (40 hexadecimal digits). What a branch such as 'main' holds "
            "can change any day. Copy the full commit from "
            "https://huggingface.co/datasets/{hub_id}/commits/main.",
            revision=revision, hub_id=hub_id,
        )
    if rows < 1:
        raise LessonError("rows={rows}: take at least one row.", rows=rows)
