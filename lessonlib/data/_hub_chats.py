"""Rows of two datasets of the Hub as conversations: Bitext's customer support, Amod's counselling questions.

They are what `data.from_hub` gives; out come the columns of the shipped datasets of conversations
(`data.load_chats`), and a report of the rows that are not to be trained on, with the reason. Nothing here
rewrites a text, and nothing judges an answer.
"""

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from lessonlib.data._cleaning import (
    EMAIL,
    CleaningReport,
    Removed,
    Row,
    Step,
    clean,
    compose,
    drop_exact_duplicates,
    question_key,
    without,
)
from lessonlib.data._placeholders import Value, left_over
from lessonlib.data._reading import LINE, Words
from lessonlib.runtime._language import LessonError, Translated
from lessonlib.runtime._paths import dataset_dir

if TYPE_CHECKING:
    from datasets import Dataset

# (name, commit). Bitext: as pinned in github.com/AkhilMittapalli/Ticketward,
# docs/research/bitext-ood-dataset.md (26,872 rows, licence CDLA-Sharing-1.0).
BITEXT = (
    "bitext/Bitext-customer-support-llm-chatbot-training-dataset",
    "430d1a89bd93bd1fa23c16f29dd53e73f0087443",
)
# Amod: as pinned in github.com/IrutingaboRaissa/UMUBYEYI, data/intent/README.md (3,512 rows, 995 different
# questions). Its licence, RAIL-D, allows leaving rows out but not rewriting them, and has terms for
# commercial use: read it on the dataset's page.
COUNSELING = (
    "Amod/mental_health_counseling_conversations",
    "d7e86f0813c5690181b41f97403c3674aa55dcef",
)

# For `data.fill_placeholders`: those names of Bitext's placeholders (its card lists them) that mean one thing
# in a row. Nothing here can reach anybody: .example is no real domain (RFC 2606), 555-01xx no real number.
BITEXT_VALUES: dict[str, Value] = {
    "Order Number": lambda draw: str(draw.randrange(10_000, 100_000)),
    "Invoice Number": lambda draw: f"INV-{draw.randrange(1_000, 10_000)}",
    "Refund Amount": lambda draw: f"{draw.randrange(10, 500)}.{draw.choice(('00', '50', '99'))}",
    "Money Amount": lambda draw: f"{draw.randrange(10, 500)}.{draw.choice(('00', '50', '99'))}",
    "Person Name": ("Lan Nguyen", "Minh Tran", "Hoa Le", "Anna Weber", "Omar Haddad", "Grace Okafor"),
    "Client First Name": ("Lan", "Minh", "Hoa", "Anna", "Omar", "Grace"),
    "Client Last Name": ("Nguyen", "Tran", "Le", "Weber", "Haddad", "Okafor"),
    "Delivery City": ("Hanoi", "Da Nang", "Hue", "Can Tho", "Lyon", "Osaka", "Lima", "Toronto"),
    "Delivery Country": ("Vietnam", "France", "Japan", "Peru", "Canada", "Kenya"),
    "Account Type": ("basic", "premium", "business", "family"),
    "Account Category": ("basic", "premium", "business", "family"),
    "Currency Symbol": "$",
    "Company Name": "Lotus Shop",
    "Customer Support Phone Number": "555-0142",
    "Customer Support Email": "support@lotus-shop.example",
    "Customer Support Hours": "8 am to 9 pm",
    "Website URL": "www.lotus-shop.example",
    "Online Company Portal Info": "customer portal",
    "Live Chat Support": "Live Chat",
}

# What counseling_vi's list of crisis words leaves out, because its messages do not say it.
_MORE_CRISIS_WORDS = (
    "better off dead", "cut myself", "cuts herself", "cuts himself", "cutting myself",
    "don't want to be alive", "don't want to live", "end my life", "ending it all", "ending my life",
    "killed herself", "killed himself", "killed myself", "killing myself", "overdose", "overdosed", "rape",
    "raped", "selfharm", "suicidal", "take my life", "taking my life", "wish i was dead", "wish i were dead",
)  # fmt: skip
_PHONE = re.compile(
    r"(?<!\d)\(?\d{3}\)?[ .-]{1,2}\d{3}[ .-]\d{4}(?!\d)|(?<![\d-])\d{3}-\d{4}(?![\d-])"
    r"|(?<!\d)(?:911|988)(?!\d)"
)
_LINK = re.compile(r"https?://|\bwww\.|\w\.(?:com|net|org)\b", re.IGNORECASE)


def from_bitext(rows: "Dataset", *, system: str) -> "tuple[Dataset, CleaningReport]":
    """Rows of Bitext's customer support as conversations.

    Fill the placeholders first (`data.fill_placeholders`): rows that still hold one are taken out here.

    Args:
        rows: columns instruction, response, category and intent, as `data.from_hub` gives them, or as
            `data.fill_placeholders` leaves them (its columns `template` and `slots` are then made use of).
        system: the system message that opens each conversation.

    Returns:
        (conversations, report). Columns: id, group, intent, category (in small letters), language ("en"),
        messages, and slots if the rows have it. Rows that ask the same question, whatever the case, the
        punctuation and what was filled in, share a `group`: keep its rows in one split. The report lists the
        rows that were taken out, with line and reason.

    Raises:
        LessonError: a column is missing; a blank system message; no row remains.
    """
    texts = ("instruction", "response")
    steps = (_EMPTY, _PLACEHOLDER, _SAME)
    kept, report = _cleaned(rows, texts, ("category", "intent"), system, steps)
    groups = _groups(kept, "template" if "template" in rows.column_names else "instruction")
    made = [
        {
            "id": f"{row['intent']}-{row[LINE]:05d}",
            "group": group,
            "intent": row["intent"],
            "category": row["category"].lower(),
            "language": "en",
            "messages": _messages(system, *(row[name] for name in texts)),
            **({"slots": row["slots"]} if "slots" in row else {}),
        }
        for row, group in zip(kept, groups, strict=True)
    ]
    return _dataset(made), report


def from_counseling(
    rows: "Dataset", *, system: str, max_words: int = 600
) -> "tuple[Dataset, CleaningReport]":
    """Rows of Amod's counselling conversations, without those that a small model had better not learn from.

    Taken out, in this order, and listed in the report: empty rows; rows in which question or answer speaks of
    a crisis (`crisis_in`), because the right answer to those is help now, from people; answers with a phone
    number, an address or a link, because a model would make up others of the kind; very long rows; a row that
    is the same as an earlier one but for case and punctuation.

    This is a filter by words. What is left has not been read by anybody: it is no safe counselling data, and
    no model trained on it is a counsellor.

    Args:
        rows: columns Context and Response, as `data.from_hub` gives them.
        system: the system message that opens each conversation.
        max_words: the most words that question and answer may have together; 600 English words are about 800
            tokens of Llama 3.

    Returns:
        (conversations, report). Columns: id, group, language ("en"), messages. Most questions have several
        answers: those share a `group`: keep its rows in one split. The texts are unchanged.
        `report.removed` lists the others with step, line (from 1) and reason.

    Raises:
        LessonError: a column is missing; a blank system message; max_words below 1; no row remains.
    """
    if max_words < 1:
        raise LessonError("max_words={max_words}: give at least 1.", max_words=max_words)
    texts = ("Context", "Response")
    steps = (_EMPTY, _CRISIS, _CONTACT, _too_long(max_words), _SAME)
    kept, report = _cleaned(rows, texts, (), system, steps)
    made = [
        {
            "id": f"counseling-{row[LINE]:05d}",
            "group": group,
            "language": "en",
            "messages": _messages(system, *(row[name] for name in texts)),
        }
        for row, group in zip(kept, _groups(kept, "Context"), strict=True)
    ]
    return _dataset(made), report


def crisis_in(said: str) -> list[str]:
    """The crisis words of an English text, as whole words in any case: counseling_vi's list, and some more.

    An example of a rule that comes before a model, made to be strict: it also takes "never thought of
    suicide" and a past abuse. It misses what is said in other words: do not rely on it.
    """
    plain = compose(said).casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    plain = " ".join(re.sub(r"[-‐‑]", " ", plain).split())
    return [word for word in _crisis_words() if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", plain)]


@cache
def _crisis_words() -> tuple[str, ...]:
    lines = (dataset_dir("counseling_vi") / "crisis_words.jsonl").read_text(encoding="utf-8").splitlines()
    (listed,) = (row["words"] for row in map(json.loads, lines) if row["language"] == "en")
    return tuple(dict.fromkeys((*listed, *_MORE_CRISIS_WORDS)))


def _left_out(fault: Callable[[str], str | None], why: Words) -> Callable[..., list[Row | Removed]]:
    """A rule that takes a row out where `fault` finds something in a column, and says what."""

    def rule(rows: list[Row], columns: tuple[str, ...]) -> list[Row | Removed]:
        outcomes: list[Row | Removed] = []
        for row in rows:
            told = next(((name, it) for name in columns if (it := fault(row[name]))), None)
            outcomes.append(row if told is None else Removed(
                Translated("{name}: {why} {found!r}", name=told[0], why=why, found=told[1])
            ))
        return outcomes

    return rule


def _drop_same(rows: list[Row], columns: tuple[str, ...]) -> list[Row | Removed]:
    alike = [{**row, **{name: question_key(row[name]) for name in columns}} for row in rows]
    outcomes = drop_exact_duplicates(alike, columns)
    return [it if isinstance(it, Removed) else row for row, it in zip(rows, outcomes, strict=True)]


def _too_long(most: int) -> Step:
    def rule(rows: list[Row], columns: tuple[str, ...]) -> list[Row | Removed]:
        counts = [sum(len(row[name].split()) for name in columns) for row in rows]
        return [
            row if count <= most else Removed(Translated("{count} words long", count=count))
            for row, count in zip(rows, counts, strict=True)
        ]

    return Step("long", Translated("drop rows of over {most} words", most=most), rule)


_EMPTY = Step(
    "empty",
    Translated("drop empty rows"),
    without(lambda said: not said.strip(), Translated("empty")),
)
_PLACEHOLDER = Step(
    "placeholder",
    Translated("drop rows that hold a placeholder"),
    _left_out(left_over, Translated("holds the placeholder")),
)
_CRISIS = Step(
    "crisis",
    Translated("keep rows aside that speak of a crisis"),
    _left_out(lambda said: next(iter(crisis_in(said)), None), Translated("has the word")),
)
_CONTACT = Step(
    "contact",
    Translated("drop answers with a phone number or address"),
    without(
        lambda said: bool(EMAIL.search(said) or _LINK.search(said) or _PHONE.search(said)),
        Translated("a phone number, an e-mail or a link"),
        only=-1,
    ),
)
_SAME = Step("same", Translated("drop duplicates"), _drop_same)


def _cleaned(
    rows: "Dataset", texts: tuple[str, ...], more: tuple[str, ...], system: str, steps: Sequence[Step]
) -> "tuple[Dataset, CleaningReport]":
    for name in (*texts, *more):
        if name not in rows.column_names:
            there = ", ".join(rows.column_names)
            raise LessonError(
                "The column {name!r} is missing; the data has: {there}. Take them with data.from_hub.",
                name=name, there=there,
            )
    if not system.strip():
        raise LessonError(
            "The system message is blank. Write the assistant's part, such as 'You work at the support "
            "desk.'.",
        )
    for name in (*texts, *more):
        whole = ["" if value is None else value for value in rows[name]]
        rows = rows.remove_columns(name).add_column(name, whole)
    return clean(rows, steps=steps, columns=texts)


def _messages(system: str, question: str, answer: str) -> list[dict[str, str]]:
    said = (("system", system), ("user", question), ("assistant", answer))
    return [{"role": role, "content": content} for role, content in said]


def _groups(rows: "Dataset", column: str) -> list[str]:
    """For each row the line of the first row that asks the same."""
    first: dict[str, int] = {}
    keys = [question_key(said) or said for said in rows[column]]
    return [f"q{first.setdefault(key, line):05d}" for key, line in zip(keys, rows[LINE], strict=True)]


def _dataset(made: list[dict[str, Any]]) -> "Dataset":
    from datasets import Dataset

    return Dataset.from_list(made)
