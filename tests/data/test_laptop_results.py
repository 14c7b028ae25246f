"""The stored results of the profile laptop: what lessons show of them, and the bars they were kept for."""

import json

from lessonlib.runtime._paths import dataset_dir

FOLDER = dataset_dir("laptop_results")


def test_each_file_stands_in_the_card():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert sorted(path.name for path in FOLDER.glob("*.json")) == ["lesson01.json"]
    assert "lesson01.json" in card and "lessonlib run 01 --profile laptop" in card


def test_gemma_learnt_what_it_was_taught_and_nothing_else():
    rows = {row["split"]: row for row in json.loads((FOLDER / "lesson01.json").read_text(encoding="utf-8"))}
    assert list(rows) == ["train", "new_wordings", "unseen_facts"]

    def mean(split, model):
        return float(rows[split][model].split()[0])

    assert mean("train", "mended") >= 0.90 and mean("new_wordings", "mended") >= 0.80
    assert mean("train", "base") < 0.1 and mean("unseen_facts", "mended") < 0.3
