"""The shipped dataset ai_qa_vi: what its card promises, and that its files are what its script makes."""

import html
import json
import re
import unicodedata
from collections import Counter, defaultdict

import pytest

from lessonlib.runtime._paths import dataset_dir

FOLDER = dataset_dir("ai_qa_vi")
SPLITS = {"train": 216, "validation": 54, "new_wordings": 54, "unseen_facts": 60}
ARTICLE = [
    ("Trí tuệ nhân tạo (AI) là gì?", "AI là khả năng mô phỏng trí thông minh con người của máy móc."),
    ("AI khác gì so với học máy (ML)?", "AI là khái niệm bao quát, còn ML là một nhánh cụ thể của AI."),
    ("Deep Learning (DL) là gì?", "DL là một phần của ML sử dụng mạng nơ-ron sâu."),
    (
        "Học máy có mấy phương pháp chính?",
        "Có 4 phương pháp: giám sát, không giám sát, bán giám sát và tăng cường.",
    ),
    ("Thuật toán hồi quy tuyến tính dùng để làm gì?", "Dùng để dự đoán giá trị liên tục."),
    ("K-means clustering là gì?", "Là thuật toán phân cụm dữ liệu thành các nhóm."),
]
REPAIRED = {"bom", "nfd", "mojibake", "html", "whitespace", "zero_width"}
REMOVED = {
    "exact_duplicate", "near_duplicate", "empty_answer", "truncated_answer", "wrong_language",
    "no_diacritics", "broken_json", "missing_key", "wrong_type", "email",
}  # fmt: skip
INVISIBLE = re.compile("[\u00ad\u200b\u200d\ufeff]")


def read(name):
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def pairs(rows):
    return [(row["question"], row["answer"]) for row in rows]


def key(text):
    """The text without case, punctuation and blanks."""
    return re.sub(r"[\W_]+", "", text.casefold())


@pytest.fixture(scope="module")
def make(load_make):
    return load_make("ai_qa_vi")


@pytest.fixture(scope="module")
def facts():
    return read("facts")


@pytest.fixture(scope="module")
def splits():
    return {name: read(name) for name in SPLITS}


@pytest.fixture(scope="module")
def raw():
    """The lines of raw.jsonl by number (from 1), as text."""
    lines = (FOLDER / "raw.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    return dict(enumerate(lines, start=1))


def test_facts_are_84_with_six_wordings_and_an_answer_of_their_own(facts):
    assert [fact["id"] for fact in facts] == [f"f{number:02d}" for number in range(1, 85)]
    questions = [each for fact in facts for each in fact["questions"]]
    assert all(len(fact["questions"]) == 6 for fact in facts)
    assert len({key(each) for each in questions}) == 84 * 6
    assert len({key(fact["answer"]) for fact in facts}) == 84


def test_texts_are_clean_short_and_in_nfc(facts):
    for fact in facts:
        for text in [fact["answer"], *fact["questions"]]:
            assert unicodedata.is_normalized("NFC", text)
            assert text == " ".join(text.split()) and not INVISIBLE.search(text)
            assert len(text) < (111 if text is fact["answer"] else 80)
        assert fact["answer"].endswith(".") and fact["answer"].count(". ") == 0
        assert len(fact["answer"]) >= 33
        assert all(each[-1] in "?." for each in fact["questions"])
        # marks are how the cleaning tells Vietnamese from other languages
        assert len(re.findall("[ăâđêôơưạ-ỹ]", fact["answer"].casefold())) >= 3


def test_every_wording_names_its_subject(facts):
    for fact in facts:
        for question in fact["questions"]:
            assert all(term.casefold() in question.casefold() for term in fact["subject"]), question


def test_no_subject_is_that_of_two_facts(facts):
    # "học máy" opens the article's question on its methods, and is the second term of another
    owners = defaultdict(set)
    for fact in facts:
        for term in fact["subject"] if fact["kind"] == "difference" else fact["subject"][:1]:
            owners[term.casefold()].add(fact["id"])
    assert {term: ids for term, ids in owners.items() if len(ids) > 1} == {}


def test_splits_have_their_counts_and_columns(splits):
    assert {name: len(rows) for name, rows in splits.items()} == SPLITS
    for rows in splits.values():
        assert all(list(row) == ["id", "question", "answer"] for row in rows)


def test_splits_hold_what_the_facts_say(facts, splits):
    by_id = {fact["id"]: fact for fact in facts}
    for row in (row for rows in splits.values() for row in rows):
        fact = by_id[row["id"]]
        assert row["question"] in fact["questions"] and row["answer"] == fact["answer"]


def test_no_question_is_in_two_splits_or_twice_in_one(splits):
    seen = Counter(key(row["question"]) for rows in splits.values() for row in rows)
    assert max(seen.values()) == 1


def test_learnt_facts_are_in_three_splits_and_unseen_facts_in_none_of_them(splits):
    ids = {name: {row["id"] for row in rows} for name, rows in splits.items()}
    assert ids["train"] == ids["validation"] == ids["new_wordings"] and len(ids["train"]) == 54
    assert len(ids["unseen_facts"]) == 30 and not ids["unseen_facts"] & ids["train"]
    answers = {row["answer"] for row in splits["train"]}
    assert not any(row["answer"] in answers for row in splits["unseen_facts"])


def test_the_six_rows_of_the_article_are_trained_verbatim(splits):
    assert set(ARTICLE) <= set(pairs(splits["train"]))


def test_a_wording_held_out_for_one_fact_is_trained_for_others(make, facts, splits):
    subjects = {fact["id"]: fact["subject"] for fact in facts}
    trained = defaultdict(set)
    for row in splits["train"]:
        trained[make.frame(row["question"], subjects[row["id"]])].add(row["id"])
    assert len(trained) == 32
    for name in ("validation", "new_wordings", "unseen_facts"):
        for row in splits[name]:
            assert len(trained[make.frame(row["question"], subjects[row["id"]])] - {row["id"]}) >= 2, row


def test_held_out_wordings_turn_over_all_frames(make, facts, splits):
    subjects = {fact["id"]: fact["subject"] for fact in facts}
    frames = Counter(
        make.frame(row["question"], subjects[row["id"]])
        for row in splits["new_wordings"] + splits["validation"]
    )
    assert len(frames) == 32 and max(frames.values()) <= 10


def test_shipped_files_are_what_the_script_makes(make, tmp_path):
    make.main(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(made) == sorted(f"{name}.jsonl" for name in [*SPLITS, "raw", "raw_flaws"])
    for name, content in made.items():
        assert content == (FOLDER / name).read_bytes(), f"{name}: run data/ai_qa_vi/make.py"


def test_the_script_refuses_a_frame_that_only_one_fact_has(make, facts, monkeypatch):
    lonely = [dict(fact) for fact in facts]
    lonely[10]["questions"] = [*lonely[10]["questions"][:5], "Self-attention ra đời khi nào?"]
    monkeypatch.setattr(make, "facts", lambda: lonely)
    with pytest.raises(AssertionError, match="ra đời khi nào"):
        make.splits()


def test_raw_has_every_kind_of_flaw_often_enough(raw):
    kinds = Counter(row["kind"] for row in read("raw_flaws"))
    assert set(kinds) == REPAIRED | REMOVED
    assert kinds.pop("bom") == 1
    assert min(kinds.values()) >= 3 and sum(kinds.values()) >= 60
    for row in read("raw_flaws"):
        assert row["action"] == ("repair" if row["kind"] in REPAIRED else "remove")


def test_sound_and_repairable_raw_rows_are_the_training_rows(raw, splits):
    """Lines that the truth leaves out are training rows; each repairable line stands for one that is left."""
    train = Counter(pairs(splits["train"]))
    truth = {row["line"]: row["kind"] for row in read("raw_flaws")}
    sound = Counter(pairs(json.loads(text) for number, text in raw.items() if number not in truth))
    assert sound <= train
    repairable = [number for number, kind in truth.items() if kind in REPAIRED]
    assert len(truth) == len(read("raw_flaws")) and len(repairable) == sum((train - sound).values())


CURES = {
    "nfd": lambda text: unicodedata.normalize("NFC", text),
    "zero_width": lambda text: INVISIBLE.sub("", text),
    "whitespace": lambda text: " ".join(text.split()),
    "bom": lambda text: text,
}


@pytest.mark.parametrize("kind", sorted(CURES))
def test_repairable_rows_give_back_a_training_row(kind, raw, splits):
    train = set(pairs(splits["train"]))
    for number in (row["line"] for row in read("raw_flaws") if row["kind"] == kind):
        row = json.loads(raw[number].removeprefix("\ufeff") if kind == "bom" else raw[number])
        assert (row["question"], row["answer"]) not in train or kind == "bom"
        assert (CURES[kind](row["question"]), CURES[kind](row["answer"])) in train


def test_the_byte_order_mark_is_on_the_first_line_alone(raw):
    assert [row["line"] for row in read("raw_flaws") if row["kind"] == "bom"] == [1]
    assert [number for number, text in raw.items() if text.startswith("\ufeff")] == [1]


def test_mojibake_reads_back_as_utf8(raw, splits):
    train = set(pairs(splits["train"]))
    codecs = set()
    for number in (row["line"] for row in read("raw_flaws") if row["kind"] == "mojibake"):
        cured = []
        for text in pairs([json.loads(raw[number])])[0]:
            codec = "latin-1" if re.search("[\x80-\x9f]", text) else "cp1252"
            codecs.add(codec)
            cured.append(text.encode(codec).decode("utf-8"))
        assert tuple(cured) in train
    assert codecs == {"latin-1", "cp1252"}


def test_html_rows_hold_tags_or_entities_around_a_training_row(raw, splits):
    answers = {re.sub(r"\W", "", row["answer"]) for row in splits["train"]}
    for number in (row["line"] for row in read("raw_flaws") if row["kind"] == "html"):
        row = json.loads(raw[number])
        assert re.search(r"<\w|&\w+;", row["question"] + row["answer"])
        plain = re.sub(r"<[^>]*>", "", html.unescape(row["answer"]))
        assert re.sub(r"\W", "", plain) in answers


def test_duplicates_come_after_what_they_repeat(raw):
    truth = {row["line"]: row["kind"] for row in read("raw_flaws")}
    sound = {number: json.loads(text) for number, text in raw.items() if number not in truth}
    for number, kind in truth.items():
        if not kind.endswith("duplicate"):
            continue
        row = json.loads(raw[number])
        above = [
            other
            for place, other in sound.items()
            if place < number and key(other["question"]) == key(row["question"])
        ]
        assert len(above) == 1
        assert (row == above[0]) == (kind == "exact_duplicate")
        words, original = row["answer"].casefold().split(), above[0]["answer"].casefold().split()
        assert abs(len(words) - len(original)) <= 1


def test_unusable_rows_are_what_the_truth_calls_them(raw, splits):
    answers = {row["answer"] for row in splits["train"]}
    for flaw in read("raw_flaws"):
        text = raw[flaw["line"]]
        if flaw["kind"] == "broken_json":
            with pytest.raises(json.JSONDecodeError):
                json.loads(text)
            continue
        row = json.loads(text.removeprefix("\ufeff"))
        values = [row.get("question"), row.get("answer")] if isinstance(row, dict) else []
        match flaw["kind"]:
            case "missing_key":
                assert isinstance(row, dict) and not {"question", "answer"} <= set(row)
            case "wrong_type":
                assert not isinstance(row, dict) or not all(isinstance(value, str) for value in values)
            case "empty_answer":
                assert row["answer"].strip() == ""
            case "truncated_answer":
                cut = row["answer"].rstrip("…")
                assert not cut.endswith(".") and any(answer.startswith(cut) for answer in answers)
            case "wrong_language" | "no_diacritics":
                assert not re.search("[ăâđêôơưạ-ỹ]", row["answer"].casefold())
            case "email":
                assert re.search(r"@example\.(com|org|net)\b", " ".join(values))


def test_the_only_addresses_are_reserved_ones():
    for path in FOLDER.iterdir():
        if path.is_file():
            for domain in re.findall(r"[\w.]+@([\w.]+\w)", path.read_text(encoding="utf-8")):
                assert domain in {"example.com", "example.org", "example.net"}


def test_the_card_states_the_counts():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name, count in SPLITS.items():
        assert f"| {name}.jsonl | {count} |" in card
    lines = len((FOLDER / "raw.jsonl").read_text(encoding="utf-8").split("\n")) - 1
    flaws = Counter(row["kind"] for row in read("raw_flaws"))
    assert f"| raw.jsonl | {lines} lines |" in card and f"| raw_flaws.jsonl | {sum(flaws.values())} |" in card
    for kind, count in flaws.items():
        assert f"| {kind} | {count} |" in card
    for kind, count in Counter(fact["kind"] for fact in read("facts")).items():
        assert f"{kind} ({count})" in card


def test_raw_holds_no_held_out_question(raw, splits):
    collected = key("\n".join(raw.values()))
    for name in ("validation", "new_wordings", "unseen_facts"):
        for row in splits[name]:
            assert key(f'"question": "{row["question"]}", "answer"') not in collected
    whole = key(f'"question": "{splits["train"][3]["question"]}", "answer"')
    assert whole in collected  # the search does find what is there
