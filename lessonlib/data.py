"""From files to splits: reads, cleans and splits question and answer rows.

`read` (lessonlib.reading) and `clean` (lessonlib.cleaning) are reached from here too, so that a lesson
imports one module. Nothing is dropped silently: rows that cannot be read are in `read`'s second result, rows
that a step took out are in the `CleaningReport`.
"""

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lessonlib.cleaning import REDACT, STEPS, CleaningReport, Step, clean
from lessonlib.language import LessonError
from lessonlib.paths import dataset_dir
from lessonlib.reading import LINE, Problem, Records, read

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = [
    "LINE", "REDACT", "SPLITS", "STEPS", "CleaningReport", "Problem", "Records", "Step",
    "clean", "load_splits", "read", "split_by_group",
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
        two
            splits; new_wordings or validation asks about a fact that is not in train, or unseen_facts about
            one that is. The shipped files pass, so this means that they were changed: fetch them again.
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
