"""Reading, cleaning and splitting: every row is accounted for, every refusal names its cure."""

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from rapidfuzz import fuzz

from lessonlib.data import _cleaning as cleaning
from lessonlib.data import _reading as reading
from lessonlib.data import _splits as data
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError
from lessonlib.runtime._paths import dataset_dir

QUESTION, ANSWER = "Học máy là gì?", "Học máy là một nhánh của trí tuệ nhân tạo."
ROW = {"question": QUESTION, "answer": ANSWER}


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pairs(rows):
    return [(row["question"], row["answer"]) for row in rows]


def cells(*answers, question=QUESTION):
    return Dataset.from_list([{"question": question, "answer": answer} for answer in answers])


@pytest.fixture
def file(tmp_path):
    """A function that writes a file and gives its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return write


# --- read: kinds of files ---


def test_every_kind_of_source_gives_the_same_rows(tmp_path, file):
    rows = [ROW, {"question": "Token là gì?", "answer": "Là một mẩu văn bản."}]
    dataset = Dataset.from_list(rows)
    dataset.to_parquet(str(tmp_path / "p.parquet"))
    dataset.save_to_disk(str(tmp_path / "folder"))
    DatasetDict({"train": dataset, "test": dataset.select([0])}).save_to_disk(str(tmp_path / "splits"))
    quoted = [f'"{r["question"]}";"{r["answer"]}"' for r in rows]
    sources = [
        file("a.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)),
        file("a.json", json.dumps(rows)),
        file("comma.csv", "question,answer\n" + "\n".join(quoted).replace('";"', '","')),
        file("semicolon.CSV", "\ufeffquestion;answer\r\n" + "\r\n".join(quoted) + "\r\n"),
        str(tmp_path / "p.parquet"),
        tmp_path / "folder",
        dataset,
        DatasetDict({"only": dataset}),
    ]
    for source in sources:
        found, problems = reading.read(source)
        assert pairs(found) == pairs(rows), source
        assert len(problems) == 0
    assert pairs(reading.read(tmp_path / "splits", split="test").rows) == pairs(rows[:1])


def test_rows_remember_their_line(file):
    path = file("a.csv", 'question,answer\n"Hai\ndòng?",Đúng.\nMột dòng?,Đúng.\n')
    assert reading.read(path).rows["source_line"] == [3, 4]  # where each row ends, as editors count


def test_byte_order_marks_are_taken_off_at_the_start_of_file_and_line(file):
    line = json.dumps(ROW, ensure_ascii=False)
    found, problems = reading.read(file("a.jsonl", f"\ufeff{line}\n\ufeff{line}\n"))
    assert pairs(found) == pairs([ROW, ROW]) and not problems


def test_a_line_separator_inside_a_string_does_not_cut_the_line(file):
    row = {"question": "Một\u2028hai?", "answer": "Đúng."}
    found, problems = reading.read(file("a.jsonl", json.dumps(row, ensure_ascii=False)))
    assert pairs(found) == pairs([row]) and not problems


def test_extra_columns_are_named(file):
    path = file("a.jsonl", json.dumps({**ROW, "topic": "AI"}))
    assert reading.read(path).problems.ignored == ("topic",)
    assert "Columns not used: topic" in str(reading.read(path).problems)
    assert reading.read(path, columns="topic").rows["topic"] == ["AI"]


# --- read: rows that cannot be used ---

BAD = {
    "broken": ('{"question": "a", "answer": "b"', "broken JSON at column"),
    "array": ("[1, 2]", "expected an object, got list"),
    "missing": ('{"question": "Hỏi?"}', "the key 'answer' is missing$"),
    "misspelt": ('{"question": "Hỏi?", "anwser": "Đáp."}', "'answer' is missing .misspelt as 'anwser'"),
    "number": ('{"question": "Hỏi?", "answer": 4}', "'answer' must be a string, but is int"),
    "null": ('{"question": null, "answer": "Đáp."}', "'question' must be a string, but is NoneType"),
    "blank": ('{"question": "Hỏi?", "answer": " \\t "}', "'answer' is empty"),
    "no text": ("   ", "the line is blank"),
    "surrogate": ('{"question": "Hỏi?", "answer": "\\ud83d"}', "lone surrogate"),
    "huge": ('{"question": ' + "9" * 5000 + "}", "unreadable JSON"),
    "deep": ("[" * 200_000, "unreadable JSON"),
}


@pytest.mark.parametrize(("bad", "reason"), BAD.values(), ids=BAD)
def test_a_bad_row_is_collected_or_raised_with_file_line_and_reason(file, bad, reason):
    good = json.dumps(ROW, ensure_ascii=False)
    path = file("my.jsonl", f"{good}\n{bad}\n{good}\n")

    found, problems = reading.read(path)
    assert found["source_line"] == [1, 3]
    assert [(p.file, p.line, p.raw) for p in problems] == [("my.jsonl", 2, bad)]
    table = problems.table
    assert list(table.columns) == ["line", "reason", "raw"]
    assert table["reason"].str.contains(reason).all()

    with pytest.raises(LessonError, match=f"(?s)my.jsonl, line 2: .*{reason[:20]}.*on_error='collect'"):
        reading.read(path, on_error="raise")


def test_reasons_and_refusals_are_in_vietnamese_too(file):
    path = file("my.jsonl", json.dumps(ROW) + '\n{"question": "Hỏi?"}\n')
    language.use("vi")
    problems = reading.read(path).problems
    assert problems[0].reason == "thiếu khóa 'answer'"
    assert "2 dòng, dùng được 1, có vấn đề 1" in str(problems)
    with pytest.raises(LessonError, match="my.jsonl, dòng 2: thiếu khóa 'answer'. Hãy sửa dòng này"):
        reading.read(path, on_error="raise")


def test_problems_show_as_escaped_html(file):
    problems = reading.read(file("a.jsonl", json.dumps(ROW) + "\n<script>\n")).problems
    shown = problems._repr_html_()
    assert "&lt;script&gt;" in shown and "<script>" not in shown
    assert "1 with a problem" in shown


def test_csv_rows_with_too_many_or_too_few_cells(file):
    path = file("a.csv", "question,answer\nHỏi?,Đáp.\nHỏi?,Đáp, nữa.\nHỏi?\n")
    found, problems = reading.read(path)
    assert found["source_line"] == [2]
    assert [p.line for p in problems] == [3, 4]
    assert "more cells than the header's 2" in problems[0].reason
    assert "the key 'answer' is missing" in problems[1].reason


# --- read: refusals ---


def refused(match, source, **options):
    with pytest.raises(LessonError, match=f"(?s){match}"):
        reading.read(source, **options)


def test_missing_file_suggests_a_near_name(file):
    path = file("train.jsonl", json.dumps(ROW))
    refused("no file .*trian.jsonl. Did you mean 'train.jsonl'", path.with_name("trian.jsonl"))
    refused("no file .*Check the path and the working folder", path.parent / "nowhere" / "x.jsonl")


def test_unknown_kind(file):
    refused(r"a.txt: cannot tell how to read '.txt'. Readable: .jsonl, .json", file("a.txt", "x"))


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", ""), ("a.jsonl", "\n \n"), ("a.json", "[]"), ("a.json", ""), ("a.csv", "question,answer\n")],
)
def test_empty_file(file, name, content):
    refused(f"{name} has no rows. Check that the file was saved", file(name, content))


def test_all_rows_bad(file):
    refused("a.jsonl: none of the 2 rows is usable. Line 1: broken JSON", file("a.jsonl", "{\n{\n"))


def test_wrong_columns_suggest_near_ones(file):
    path = file("a.jsonl", json.dumps({"Question": "Hỏi?", "answer": "Đáp."}))
    refused(r"no row has the column 'question'. Columns there: Question, answer. Did you mean 'Question'\? "
            r"Pass columns=\('Question', 'answer'\)", path)  # fmt: skip
    refused("no row has the column 'zzz'.*with names that exist", path, columns=("zzz",))


@pytest.mark.parametrize(("encoding", "named"), [("utf-16", "UTF-16"), ("cp1258", "Windows-1258")])
def test_other_encodings_are_named(file, encoding, named):
    path = file("a.csv", "question,answer\nHỏi\n".encode(encoding, errors="ignore") + "ê".encode(encoding))
    refused(f"a.csv, line [123]: byte 0x[0-9A-F]+ is not UTF-8; .*looks like {named}.*save it again", path)


def test_broken_json_array(file):
    refused("a.json: broken JSON: .*line 1 column.*Mend that place", file("a.json", '[{"question": 1},]'))
    refused("JSON Lines: rename it to .jsonl", file("b.json", '{"question": "a"}\n{"question": "b"}'))
    refused("expected an array .*is dict", file("c.json", json.dumps({"data": [ROW]})))


def test_broken_csv(file):
    refused(
        "a.csv, near line 3: broken CSV.*Check the quotes", file("a.csv", 'question,answer\na,b\n"c"x,d\n')
    )


def test_broken_parquet(file):
    refused("a.parquet is not a sound Parquet file.*Download or export it again", file("a.parquet", "PAR1"))


def test_folder_that_datasets_did_not_write(file):
    folder = file("inside.jsonl", json.dumps(ROW)).parent
    refused("not written by save_to_disk. Readable files inside: inside.jsonl", folder)


def test_splits_must_be_chosen_where_there_are_several(file):
    both = DatasetDict({"train": cells(ANSWER), "test": cells(ANSWER)})
    refused("choose one of its splits: train, test; got split=None", both)
    refused("got split='dev'", both, split="dev")
    refused("Dataset has no splits", cells(ANSWER), split="train")
    refused("a.jsonl has no splits", file("a.jsonl", json.dumps(ROW)), split="train")


def test_other_objects_and_options():
    refused("Cannot read list", [ROW])
    refused("on_error='ignore': use 'collect'", cells(ANSWER), on_error="ignore")


def test_hub_name_is_loaded_at_its_revision(monkeypatch):
    asked = []

    def load_dataset(name, revision):
        asked.append((name, revision))
        return DatasetDict({"train": cells(ANSWER)})

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert pairs(reading.read("owner/name", revision="abc123").rows) == pairs([ROW])
    assert asked == [("owner/name", "abc123")]


def test_hub_name_that_cannot_be_had():  # conftest switches the hub off
    match = "no file owner/name, and the Hugging Face Hub did not give.*revision abc.*Check the name"
    refused(match, "owner/name", revision="abc")


# --- clean: the shipped raw file ---


def test_cleaning_the_raw_file_gives_exactly_the_training_rows():
    folder = dataset_dir("ai_qa_vi")
    cleaned, _ = cleaning.clean(reading.read(folder / "raw.jsonl"))
    assert len(cleaned) == 216
    assert Counter(pairs(cleaned)) == Counter(pairs(lines(folder / "train.jsonl")))


FATE = {  # the step that deals with each kind of flaw; a broken-off English answer may go for either reason
    "exact_duplicate": {"same"},
    "near_duplicate": {"nearly same"},
    "nfd": {"nfc"},
    "mojibake": {"mojibake"},
    "html": {"html", "blanks"},
    "whitespace": {"blanks"},
    "zero_width": {"blanks"},
    "bom": set(),
    "empty_answer": {"read"},
    "truncated_answer": {"truncated"},
    "wrong_language": {"language", "truncated"},
    "no_diacritics": {"language"},
    "broken_json": {"read"},
    "missing_key": {"read"},
    "wrong_type": {"read"},
    "email": {"contacts"},
}


def test_each_flaw_of_the_raw_file_meets_its_step_and_nothing_else_is_touched():
    folder = dataset_dir("ai_qa_vi")
    cleaned, report = cleaning.clean(reading.read(folder / "raw.jsonl"))
    flaws = lines(folder / "raw_flaws.jsonl")
    assert len(flaws) >= 60 and {flaw["kind"] for flaw in flaws} == set(FATE)

    kept = set(cleaned["source_line"])
    for flaw in flaws:
        steps = {change.step for change in report.changes if change.line == flaw["line"]}
        assert steps <= FATE[flaw["kind"]] and bool(steps) == (flaw["kind"] != "bom"), flaw
        assert (flaw["line"] in kept) == (flaw["action"] == "repair"), flaw
    assert {change.line for change in report.changes} <= {flaw["line"] for flaw in flaws}


def test_no_step_touches_a_row_of_the_shipped_splits():
    for split in data.load_splits("ai_qa_vi").values():
        cleaned, report = cleaning.clean(split)
        assert not report.changes
        assert pairs(cleaned) == pairs(split) and cleaned["id"] == split["id"]


def test_near_duplicates_and_new_wordings_are_far_apart():
    """The margins that stand beside SAME_QUESTION and SAME_ANSWER, measured on every pair of the dataset."""
    facts = lines(dataset_dir("ai_qa_vi") / "facts.jsonl")
    key = cleaning.question_key
    wordings = max(
        fuzz.ratio(key(a), key(b)) for fact in facts for a, b in itertools.combinations(fact["questions"], 2)
    )
    answers = max(fuzz.ratio(key(a["answer"]), key(b["answer"])) for a, b in itertools.combinations(facts, 2))
    assert wordings <= cleaning._SAME_QUESTION - 3
    assert answers <= cleaning._SAME_ANSWER - 10


# --- clean: the single steps ---


def test_mojibake_is_undone_and_good_vietnamese_is_left_alone():
    for encoding in ("latin-1", "sloppy-windows-1252"):
        assert cleaning.repair_mojibake(ANSWER.encode().decode(encoding)) == ANSWER
    for good in (ANSWER, QUESTION, "“Ở đâu?” – À, Ế… chữ Ã và Â", "Êm ả, ÂU Á, ĐẠI SỐ: 5 × 3 ≠ 8 °C"):
        assert cleaning.repair_mojibake(good) == good


def test_mojibake_that_cannot_be_undone_takes_the_row_out():
    lost = ANSWER.encode().decode("ascii", errors="replace")
    cleaned, report = cleaning.clean(cells(ANSWER, lost))
    assert cleaned["answer"] == [ANSWER]
    assert report.removed[["step", "line", "reason"]].values.tolist() == [
        ["mojibake", 2, "answer: mojibake that cannot be undone"]
    ]


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("<p>Là <b>AI</b>.</p>", " Là AI. "),
        ("một<br/>hai<BR>ba", "một hai ba"),
        ('<a href="x">R&amp;D</a>&nbsp;&quot;x&quot;', 'R&D\xa0"x"'),
        ("a<!-- ẩn -->b", "a b"),
        ("a < b và b > c", "a < b và b > c"),
        ("token <pad>, <s>, <think> và List<int>", "token <pad>, <s>, <think> và List<int>"),
    ],
)
def test_html(raw, clean):
    assert cleaning.strip_html(raw) == clean


def test_nfc_and_blanks():
    assert cleaning.compose("ho\u0323c ma\u0301y") == "học máy"
    assert cleaning.tidy_blanks(" học\u200b \t\u00a0má\u00ady\ufeff\n") == "học máy"


@pytest.mark.parametrize("answer", ["Là một", "Là một...", "Là một…", "Là một,", "Là a.b"])
def test_broken_off_answers(answer):
    assert cleaning.looks_truncated(answer)


@pytest.mark.parametrize("answer", ["Là một.", "Đúng!", "Sao?", "“Đúng.”", "(Xem thêm.)"])
def test_whole_answers(answer):
    assert not cleaning.looks_truncated(answer)


@pytest.mark.parametrize(
    "said",
    [
        "Machine learning is a branch of AI.",
        "Hoc may la mot nhanh cua tri tue nhan tao.",
        "L'apprentissage automatique est une méthode très étudiée.",
        "El aprendizaje automático es una técnica.",
        "机器学习是人工智能的一个分支。",
    ],
)
def test_not_vietnamese(said):
    assert not cleaning.looks_vietnamese(said)


@pytest.mark.parametrize(
    "said", [ANSWER, "Machine learning là gì?", "Ho\u0323c ma\u0301y la\u0300 gi\u0300?"]
)
def test_vietnamese(said):
    assert cleaning.looks_vietnamese(said)


@pytest.mark.parametrize(
    "said", ["Hỏi an.nguyen@vidu.vn nhé.", "Gọi 0912 345 678.", "Gọi +84912345678.", "Gọi 091.234.5678 ngay."]
)
def test_contacts_are_found(said):
    assert cleaning.has_contact(said)


@pytest.mark.parametrize(
    "said", ["Xác suất 0.912345678.", "Có 1024 chiều, 0,5 điểm.", "Dùng @property.", "2026-01-15"]
)
def test_numbers_and_decorators_are_no_contacts(said):
    assert not cleaning.has_contact(said)


def test_duplicates_keep_the_first_and_other_wordings_stay():
    rows = [
        ("Học máy là gì?", ANSWER),
        ("Học máy là gì?", ANSWER),  # exact
        ("học máy là gì", ANSWER),  # case and punctuation
        ("Học máy nghĩa là gì?", ANSWER),  # another wording of the same fact
        ("Học máy là gì?", "Đó là một câu trả lời khác hẳn, nên không phải là dòng trùng."),
    ]
    dataset = Dataset.from_list([{"question": q, "answer": a} for q, a in rows])
    cleaned, report = cleaning.clean(dataset)
    assert cleaned["source_line"] == [1, 4, 5]
    assert report.removed[["step", "line", "reason"]].values.tolist() == [
        ["same", 2, "the same as line 1"],
        ["nearly same", 3, "the same as line 1"],
    ]


# --- clean: the report ---


def test_the_report_counts_every_row_at_every_step(file):
    path = file("a.jsonl", "\n".join([json.dumps(ROW), "{", json.dumps({**ROW, "answer": f" {ANSWER}"})]))
    cleaned, report = cleaning.clean(reading.read(path))
    table = report.table.set_index("step")
    assert table.loc["read", ["before", "changed", "removed", "after"]].tolist() == [3, 0, 1, 2]
    assert table.loc["blanks", ["before", "changed", "removed", "after"]].tolist() == [2, 1, 0, 2]
    assert table.loc["same", ["before", "changed", "removed", "after"]].tolist() == [2, 0, 1, 1]
    assert table["after"].iloc[-1] == len(cleaned)
    assert (table["before"].iloc[1:].values == table["after"].iloc[:-1].values).all()
    assert "nearly same" in repr(report) == str(report) and "<table" in report._repr_html_()


def test_the_report_speaks_both_languages():
    _, report = cleaning.clean(cells(ANSWER, "Là một"))
    assert "drop near duplicates" in report.table["what"].tolist()
    language.use("vi")
    assert "bỏ dòng gần trùng" in report.table["what"].tolist()
    assert report.removed["reason"].tolist() == ["answer: bị cắt cụt"]


def test_saved_report_holds_every_removed_and_changed_row(tmp_path):
    _, report = cleaning.clean(cells(ANSWER, "Là một", f"{ANSWER} ", "Là <b>nhánh</b> của AI."))
    folder = report.save(tmp_path / "new" / "folder")
    assert sorted(path.name for path in folder.iterdir()) == ["changed.jsonl", "removed.jsonl", "summary.csv"]
    gone = lines(folder / "removed.jsonl")
    assert [(row["step"], row["line"], row["answer"]) for row in gone] == [
        ("truncated", 2, "Là một"),
        ("same", 3, ANSWER),
    ]
    assert gone[0]["reason"] == {"vi": "answer: bị cắt cụt", "en": "answer: breaks off"}
    mended = lines(folder / "changed.jsonl")
    assert [(row["step"], row["line"]) for row in mended] == [("html", 4), ("blanks", 3)]
    table = (folder / "summary.csv").read_text(encoding="utf-8")
    assert table.startswith("step,what,before,changed,removed,after\n")


def test_other_columns_go_through_cleaning():
    cleaned, _ = cleaning.clean(Dataset.from_list([{**ROW, "id": "f01"}]))
    assert cleaned.to_list() == [{**ROW, "id": "f01", "source_line": 1}]


# --- clean: refusals ---


def test_clean_refuses_what_it_cannot_clean():
    with pytest.raises(LessonError, match="Row 1: the column 'answer' must be a string, but is: missing"):
        cleaning.clean(Dataset.from_list([{"question": "Hỏi?"}]))
    with pytest.raises(LessonError, match="Row 1: the column 'answer' must be a string, but is: int"):
        cleaning.clean(Dataset.from_list([{"question": "Hỏi?", "answer": 3}]))
    with pytest.raises(LessonError, match="(?s)Nothing is left of 1 rows.*removed too much:.*truncated"):
        cleaning.clean(cells("Là một"))


def test_clean_refuses_steps_that_lose_rows_or_share_a_name():
    loses = cleaning.Step("mine", {"vi": "", "en": ""}, lambda rows, columns: rows[1:])
    with pytest.raises(LessonError, match="The step 'mine' got 2 rows and gave back 1"):
        cleaning.clean(cells(ANSWER, ANSWER), steps=[loses])
    with pytest.raises(LessonError, match="Two steps share a name"):
        cleaning.clean(cells(ANSWER), steps=[cleaning.STEPS[0], cleaning.STEPS[0]])


# --- splits ---


def test_shipped_splits():
    splits = data.load_splits("ai_qa_vi")
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 216, "validation": 54, "new_wordings": 54, "unseen_facts": 60,
    }  # fmt: skip
    assert all(split.column_names == ["id", "question", "answer"] for split in splits.values())


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A small copy of a dataset with its four splits; a function writes one of them anew."""
    monkeypatch.setattr(data, "dataset_dir", lambda name: tmp_path)

    def write(split, *rows):
        made = [{"id": fact, "question": question, "answer": "Đúng."} for fact, question in rows]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, made)))

    write("train", ("f1", "a?"), ("f2", "b?"))
    write("validation", ("f1", "c?"))
    write("new_wordings", ("f2", "d?"))
    write("unseen_facts", ("f3", "e?"))
    return write


def test_leaks_between_splits_are_refused(shipped):
    data.load_splits("mine")
    shipped("new_wordings", ("f2", "b?"))
    with pytest.raises(LessonError, match="no longer kept apart .'b\\?': train . new_wordings"):
        data.load_splits("mine")
    shipped("new_wordings", ("f3", "d?"))
    with pytest.raises(LessonError, match="f3: new_wordings.*fetch data/ again"):
        data.load_splits("mine")
    shipped("new_wordings", ("f2", "d?"))
    shipped("unseen_facts", ("f1", "e?"))
    with pytest.raises(LessonError, match="f1: unseen_facts"):
        data.load_splits("mine")
    language.use("vi")
    with pytest.raises(LessonError, match="không còn tách bạch"):
        data.load_splits("mine")


def test_shipped_conversations():
    splits = data.load_chats("chat_vi")
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 216, "validation": 20, "test": 40, "unseen_topics": 72,
    }  # fmt: skip
    for split in splits.values():
        assert split.column_names == ["id", "kind", "language", "topic", "messages"]
        assert set(split[0]["messages"][0]) == {"role", "content"}


@pytest.fixture
def chats(tmp_path, monkeypatch):
    """A small dataset of conversations with a card; a function writes one of its two splits anew."""
    monkeypatch.setattr(data, "dataset_dir", lambda name: tmp_path)
    files = [{"split": split, "path": f"{split}.jsonl"} for split in ("train", "test")]
    configs = json.dumps([{"config_name": "default", "data_files": files}])  # JSON is YAML
    (tmp_path / "README.md").write_text(f"---\nconfigs: {configs}\n---\n# mine\n")

    def write(split, *questions):
        rows = [
            {"id": f"{split}-{number}", "messages": [{"role": "user", "content": question}]}
            for number, question in enumerate(questions)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("train", "a?", "b?")
    write("test", "c?")
    return write


def test_conversations_in_two_splits_are_refused(chats):
    assert data.load_chats("mine")["train"]["id"][:] == ["train-0", "train-1"]
    chats("test", "c?", "b?")
    with pytest.raises(LessonError, match="no longer kept apart .test-1: train . test"):
        data.load_chats("mine")


@pytest.mark.parametrize(
    "line", ["{", '{"id": "x"}', '{"id": "x", "messages": []}', '{"id": 3, "messages": [1]}', "[]"]
)
def test_a_broken_line_of_conversations_is_named(chats, tmp_path, line):
    with (tmp_path / "test.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(LessonError, match="test.jsonl, line 2: needs a JSON object with 'id' and 'messages'"):
        data.load_chats("mine")
    language.use("vi")
    with pytest.raises(LessonError, match="test.jsonl, dòng 2: cần một đối tượng JSON"):
        data.load_chats("mine")


def test_a_missing_or_empty_split_of_conversations_is_named(chats, tmp_path):
    chats("test")
    with pytest.raises(LessonError, match="test.jsonl holds no conversation. Fetch data/ again"):
        data.load_chats("mine")
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(LessonError, match="train.jsonl holds no conversation"):
        data.load_chats("mine")


def test_unknown_dataset_is_refused():
    with pytest.raises(LessonError, match="There is no 'nothing'"):
        data.load_splits("nothing")
    with pytest.raises(LessonError, match="There is no 'nothing'"):
        data.load_chats("nothing")


# --- rows of a dataset on the Hub, through the real client against a small one (tests/stream_from_hub.py) ---

CHATS = [{"prompt": f"q{n}", "messages": [{"role": "user", "content": f"q{n}"}]} for n in range(60)]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What a learner's process saw and what the server was asked, step by step."""
    folder = tmp_path_factory.mktemp("datasets")
    names = ("chats/data", "lines", "pickles", "script", "empty", "no_rows", "trap/someone/chats")
    for name in names:
        (folder / name).mkdir(parents=True)
    dataset = Dataset.from_list(CHATS)
    dataset.to_parquet(str(folder / "chats" / "data" / "train_sft-00000-of-00001.parquet"))
    files = "  data_files:\n  - {split: train_sft, path: data/train_sft-*}\n"
    (folder / "chats" / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n{files}---\n")
    lines = "".join(json.dumps(row) + "\n" for row in CHATS)
    (folder / "lines" / "train.jsonl").write_text(lines)
    (folder / "trap" / "someone" / "chats" / "train_sft.jsonl").write_text('{"prompt": "trap"}\n')
    (folder / "pickles" / "train.pkl").write_bytes(b"cbuiltins\nexit\n.")
    (folder / "script" / "script.py").write_text("raise SystemExit")
    (folder / "empty" / "train.jsonl").write_text("")
    dataset.select([]).to_parquet(str(folder / "no_rows" / "train.parquet"))
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "LESSONLIB_"))
    }
    script, cache = Path(__file__).parents[1] / "stream_from_hub.py", tmp_path_factory.mktemp("cache")
    done = subprocess.run(
        [sys.executable, script, folder, cache], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("step", ["parquet", "lines", "broken once"])
def test_the_first_rows_of_a_dataset_on_the_hub(told, step):
    assert told[step]["rows"] == CHATS[:5] and told[step]["warnings"] == []


def test_columns_can_be_chosen_and_keep_their_types(told):
    assert told["columns"]["rows"] == [{"prompt": "q0"}, {"prompt": "q1"}]
    assert told["columns"]["features"] == "{'prompt': Value('string')}"
    assert "no column 'answer'. Columns: prompt, messages" in told["no column"]["en"]
    assert "không có cột 'answer'" in told["no column"]["vi"]


def test_fewer_rows_than_asked_for_are_given_with_a_word(told):
    assert told["too few"]["rows"] == CHATS
    assert told["too few"]["warnings"] == [
        "The split 'train_sft' of datasets/someone/chats has 60 rows only, not the 9999 asked for."
    ]


def test_only_the_pinned_commit_is_asked_for_and_no_code_is_run(told):
    for step in ("parquet", "lines"):
        asked = [request["path"] for request in told[step]["requests"]]
        assert asked and [path for path in asked if f"/{COMMIT}/" not in f"{path}/"] == []
        assert {request["token"] for request in told[step]["requests"]} == {"hf_of_a_learner"}
    assert "Dataset scripts are no longer supported" in told["script"]["en"]  # else SystemExit ended it all
    assert not [path for path in (r["path"] for r in told["pickles"]["requests"]) if path.endswith(".pkl")]
    assert "No (supported) data files" in told["pickles"]["en"]


@pytest.mark.parametrize("step, said", [
    ("missing", "no datasets/someone/chats on the Hub.*https://huggingface.co/datasets/someone/chats"),
    ("gated", "Visit https://huggingface.co/datasets/someone/chats, log in.*HF_TOKEN"),
    ("commit gone", "no longer has the commit"),
    ("outage", "error 503"),
    ("broken for good", "broke off.*Run this cell again"),
    ("no network", "cannot be reached for datasets/someone/never"),
    ("no split", r"cannot be opened .split 'train'.: Bad split: train. Available splits: \['train_sft'\]"),
    ("empty", "split 'train' of datasets/someone/empty has no rows"),
    ("no rows", "split 'train' of datasets/someone/no_rows has no rows"),
])  # fmt: skip
def test_what_went_wrong_on_the_hub_is_explained(told, step, said):
    import re

    assert re.search(said, told[step]["en"]) and told[step]["vi"] != told[step]["en"]


@pytest.mark.parametrize("revision", ["main", "0123abc", COMMIT.upper(), COMMIT + "0"])
def test_a_branch_is_no_revision(revision):
    with pytest.raises(LessonError, match=f"{revision}' is no commit.*/datasets/a/b/commits/main"):
        data.from_hub("a/b", revision=revision, split="train", rows=1)


def test_from_hub_checks_its_arguments():
    for name in ("json", "a/b/c", "../b", "https://huggingface.co/datasets/a/b"):
        with pytest.raises(LessonError, match="is no dataset on the Hub. Write 'owner/name'"):
            data.from_hub(name, revision=COMMIT, split="train", rows=1)
    with pytest.raises(LessonError, match="rows=0: take at least one row"):
        data.from_hub("a/b", revision=COMMIT, split="train", rows=0)


def test_offline_mode_is_said():
    """conftest sets HF_HUB_OFFLINE=1 for this process."""
    with pytest.raises(LessonError, match="cannot be reached for datasets/a/b.*HF_HUB_OFFLINE"):
        data.from_hub("a/b", revision=COMMIT, split="train", rows=1)


def test_other_errors_are_left_as_they_are(monkeypatch):
    def broken(*_, **__):
        raise KeyError("inside")

    monkeypatch.setattr("datasets.load_dataset", broken)
    with pytest.raises(KeyError, match="inside"):
        data.from_hub("a/b", revision=COMMIT, split="train", rows=1)
