"""From files to splits: reads, cleans and splits questions and answers; takes rows of datasets on the Hub.

`read` (`_reading`) and `clean` (`_cleaning`) are reached from here too, so that a lesson
imports one module. Nothing is dropped silently: rows that cannot be read are in `read`'s second result, rows
that a step took out are in the `CleaningReport`.
"""

import json
import random
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonlib.data._cleaning import REDACT, STEPS, CleaningReport, Step, clean
from lessonlib.data._reading import LINE, Problem, Records, read
from lessonlib.models._hub_errors import explained
from lessonlib.runtime._detect import headless
from lessonlib.runtime._language import LessonError, text
from lessonlib.runtime._paths import dataset_dir

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = [
    "LINE", "REDACT", "SPLITS", "STEPS", "CleaningReport", "Problem", "Records", "Step",
    "clean", "from_hub", "load_chats", "load_splits", "read", "split_by_group", "whole_commit",
]  # fmt: skip

# What the splits of a shipped dataset are for: to learn from, to choose settings by, and to measure learnt
# facts in new words and facts never learnt.
SPLITS = ("train", "validation", "new_wordings", "unseen_facts")


def load_splits(name: str) -> "DatasetDict":
    """A shipped dataset's splits, checked.

    Args:
        name: the dataset, such as "ai_qa_vi".

    Returns:
        DatasetDict with the splits of SPLITS; columns id (of the fact), question, answer.

    Raises:
        LessonError: no such dataset; a split's file is missing or has an unusable row; a question stands in
            two splits; new_wordings or validation asks about a fact that is not in train, or unseen_facts
            about one that is. The shipped files pass, so this means that they were changed: fetch them again.
    """
    from datasets import DatasetDict

    folder = dataset_dir(name)
    splits = DatasetDict()
    for split in SPLITS:
        rows = read(folder / f"{split}.jsonl", columns=("id", "question", "answer"), on_error="raise").rows
        splits[split] = rows.remove_columns(LINE)

    learnt = set(splits["train"]["id"])
    asked: dict[str, str] = {}
    for split in SPLITS:
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
                vi=f"{path}, dòng {number}: cần một đối tượng JSON có 'id' và 'messages' ({problem!r}). Hãy "
                "lấy lại bản gốc của data/.",
                en=f"{path}, line {number}: needs a JSON object with 'id' and 'messages' ({problem!r}). "
                "Fetch data/ again.",
            ) from problem
        rows.append(row)
    if not rows:
        raise LessonError(
            vi=f"{path} không có hội thoại nào. Hãy lấy lại bản gốc của data/.",
            en=f"{path} holds no conversation. Fetch data/ again.",
        )
    return rows


def _leak(name: str, where: str) -> LessonError:
    return LessonError(
        vi=f"Các split của {name} không còn tách bạch ({where}), nên điểm đo trên đó sẽ sai. Tệp đã bị sửa: "
        "hãy lấy lại bản gốc của data/.",
        en=f"The splits of {name} are no longer kept apart ({where}), so scores on them would be wrong. The "
        "files were changed: fetch data/ again.",
    )


def split_by_group(
    dataset: "Dataset", group_column: str, fractions: Mapping[str, float], *, seed: int = 0
) -> "DatasetDict":
    """Split so that the rows of a group (say, the wordings of one fact) stay together: nothing leaks.

    Args:
        dataset: the rows.
        group_column: the column that says which rows belong together.
        fractions: each split's name and its share of the groups; they add up to 1.
        seed: of the shuffle; the same seed gives the same split, whatever the order of the rows.

    Returns:
        DatasetDict with one split for each name; rows keep their order.

    Raises:
        LessonError: no such column; the fractions do not add up to 1; a split would be empty.
    """
    from datasets import DatasetDict

    if group_column not in dataset.column_names:
        names = ", ".join(dataset.column_names)
        raise LessonError(
            vi=f"Không có cột {group_column!r} để gom nhóm. Các cột: {names}.",
            en=f"There is no column {group_column!r} to group by. Columns: {names}.",
        )
    if abs(sum(fractions.values()) - 1) > 1e-6 or min(fractions.values(), default=0) <= 0:
        raise LessonError(
            vi=f"Các tỉ lệ {dict(fractions)} phải dương và có tổng bằng 1.",
            en=f"The fractions {dict(fractions)} must be positive and add up to 1.",
        )
    groups = sorted(set(dataset[group_column]), key=str)
    random.Random(seed).shuffle(groups)

    split_of: dict[object, str] = {}
    reached, start = 0.0, 0
    for split, share in fractions.items():
        reached += share
        end = round(reached * len(groups))
        if end == start:
            raise LessonError(
                vi=f"Split {split!r} sẽ rỗng: chỉ có {len(groups)} nhóm. Hãy tăng tỉ lệ hoặc thêm dữ liệu.",
                en=f"The split {split!r} would be empty: there are only {len(groups)} groups. Raise its "
                "fraction or add data.",
            )
        split_of.update(dict.fromkeys(groups[start:end], split))
        start = end
    rows: dict[str, list[int]] = {split: [] for split in fractions}
    for place, group in enumerate(dataset[group_column]):
        rows[split_of[group]].append(place)
    return DatasetDict({split: dataset.select(places) for split, places in rows.items()})


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
            vi=f"Không mở được {where} (split {split!r}): {problem}. Xem https://huggingface.co/{where}.",
            en=f"{where} cannot be opened (split {split!r}): {problem}. See https://huggingface.co/{where}.",
        ) from problem
    except Exception as problem:
        if known := explained(problem, where):
            raise known from problem
        raise
    if not taken:
        raise LessonError(
            vi=f"Split {split!r} của {where} không có dòng nào.",
            en=f"The split {split!r} of {where} has no rows.",
        )
    for name in columns or ():
        if name not in taken[0]:
            raise LessonError(
                vi=f"{where} không có cột {name!r}. Các cột: {', '.join(taken[0])}.",
                en=f"{where} has no column {name!r}. Columns: {', '.join(taken[0])}.",
            )
    if len(taken) < rows:
        warnings.warn(
            text(
                vi=f"Split {split!r} của {where} chỉ có {len(taken)} dòng, ít hơn {rows} dòng được yêu cầu.",
                en=f"The split {split!r} of {where} has {len(taken)} rows only, not the {rows} asked for.",
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
            vi=f"begins={begins!r}: cần 7 đến 40 chữ số hex đầu của một commit, ví dụ 'ee5bf6e'.",
            en=f"begins={begins!r}: give the first 7 to 40 hexadecimal digits of a commit, such as "
            "'ee5bf6e'.",
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
            vi=f"{where}: {len(found)} trong {len(listed)} commit bắt đầu bằng {begins}, cần đúng một. Lịch "
            f"sử có thể đã bị viết lại: xem {page}, rồi ghim một commit đầy đủ.",
            en=f"{where}: {len(found)} of {len(listed)} commits begin with {begins}, and it should be one. "
            f"The history may have been rewritten: look at {page}, then pin a whole commit.",
        )
    return found[0]


def _check_hub_id(hub_id: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", hub_id):
        raise LessonError(
            vi=f"{hub_id!r} không phải là tên dataset trên Hub. Hãy viết 'chủ/tên', ví dụ "
            "'HuggingFaceH4/ultrachat_200k'.",
            en=f"{hub_id!r} is no dataset on the Hub. Write 'owner/name', such as "
            "'HuggingFaceH4/ultrachat_200k'.",
        )


def _check_hub_arguments(hub_id: str, revision: str, rows: int) -> None:
    _check_hub_id(hub_id)
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise LessonError(
            vi=f"revision={revision!r} không phải là một commit (40 chữ số hex). Nội dung của một nhánh như "
            "'main' có thể đổi bất cứ lúc nào. Hãy chép mã commit đầy đủ từ "
            f"https://huggingface.co/datasets/{hub_id}/commits/main.",
            en=f"revision={revision!r} is no commit (40 hexadecimal digits). What a branch such as 'main' "
            "holds can change any day. Copy the full commit from "
            f"https://huggingface.co/datasets/{hub_id}/commits/main.",
        )
    if rows < 1:
        raise LessonError(
            vi=f"rows={rows}: phải lấy ít nhất một dòng.",
            en=f"rows={rows}: take at least one row.",
        )
