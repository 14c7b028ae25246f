"""Cleans question and answer rows in named steps, and keeps every row that a step changed or took out.

Each step is a small pure function of text or of rows. The rules are heuristics for short Vietnamese texts;
each docstring says where its rule ends. Nothing here reads files (that is `_reading`), and nothing
judges whether an answer is true.
"""

import html
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonlib.data._reading import LINE, Records, Words
from lessonlib.runtime._language import LessonError, Translated, tr

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

Row = dict[str, Any]
Rule = Callable[[list[Row], tuple[str, ...]], "list[Row | Removed]"]

# Two questions are one when, without case and punctuation, they are at least this alike (rapidfuzz ratio,
# 0-100), and so are their answers. In ai_qa_vi real duplicates are at 100, while two ways of asking about one
# fact reach 93 ("... là gì?", "... nghĩa là gì?") and answers to different questions 64; a test keeps these
# margins.
_SAME_QUESTION = 96
_SAME_ANSWER = 75

# Soft hyphen, zero-width and direction marks, byte order mark.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
# Known tags only, because <pad>, <think> or List<int> are text here; <s> is left out, it opens a sequence.
_INLINE = re.compile(
    r"</?(?:a|b|code|em|font|i|mark|small|span|strong|sub|sup|u)(?:\s[^<>]*)?/?>", re.IGNORECASE
)
_BLOCK = re.compile(
    r"<!--.*?-->|</?(?:blockquote|body|br|div|h[1-6]|head|hr|html|img|li|ol|p|pre|table|td|th|tr|ul)(?:\s[^<>]*)?/?>",
    re.IGNORECASE | re.DOTALL,
)
EMAIL = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+")
_PHONE = re.compile(r"(?<![\w.,])(?!0\.\d{4})(\+84|0)(?:[ .-]?\d){9}(?!\d)")  # Vietnamese: 0 or +84, 9 digits

# Letters that Vietnamese marks, and among them those that no other widely used language has.
_MARKED = re.compile("[àáâãèéêìíòóôõùúýăđĩũơưạ-ỹ]", re.IGNORECASE)
_ONLY_VIETNAMESE = re.compile("[ăđơưạ-ỹ]", re.IGNORECASE)
_COMMON = re.compile("là|gì|và|có|của|các|cho|không|được|một|những|để|trong|với|khi|thì")
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Removed:
    """Stands in the place of a row that a step took out."""

    why: Words


@dataclass(frozen=True)
class Step:
    """One step of cleaning: a name, what it does in both languages, and its rule.

    `rule(rows, columns)` gives, for each row and in the same order, the row, a changed copy, or `Removed`.
    """

    name: str
    what: Words
    rule: Rule


# --- text in, text out ---


def repair_mojibake(said: str) -> str:
    """Undo UTF-8 that was read as Latin-1 or Windows-1252 ("Há»\x8dc mÃ¡y" -> "Học máy"), with ftfy.

    A text that shows no such damage is given back untouched. Damage by Windows-1258, and bytes that are
    already lost ("�"), cannot be undone; the step then takes the row out. (ftfy: https://ftfy.readthedocs.io)
    """
    import ftfy

    return ftfy.fix_encoding(said) if ftfy.is_bad(said) else said


def compose(said: str) -> str:
    """Unicode NFC: one code point for a letter with its marks, as in nearly all pre-training text."""
    return unicodedata.normalize("NFC", said)


def strip_html(said: str) -> str:
    """Take common HTML tags out and turn entities into characters.

    A block tag (`<p>`, `<br>`) leaves a blank, an inline one (`<b>`) nothing. Other words between angle
    brackets, such as `<pad>`, stay; so do tags that were written as entities, which then show as text.
    """
    return html.unescape(_BLOCK.sub(" ", _INLINE.sub("", said)))


def tidy_blanks(said: str) -> str:
    """Drop invisible characters, turn every run of white space into one space, trim the ends."""
    return " ".join(_INVISIBLE.sub("", said).split())


# --- text in, yes or no out ---


def looks_truncated(answer: str) -> bool:
    """Whether an answer breaks off: it ends in "..." or in none of . ! ? (a quote or bracket may follow).

    So an answer that is a bare number, a list or code counts as truncated: leave this step out for such data.
    """
    end = answer.rstrip(" \"'”’)]")
    return not end.endswith((".", "!", "?")) or end.endswith("..")


def looks_vietnamese(said: str) -> bool:
    """Whether a text is in Vietnamese, written with its marks. A heuristic, made for sentences.

    It says yes where at least a fifth of the words carry a Vietnamese mark, and there is a letter that only
    Vietnamese has (ơ, ư, đ, ạ…) or one of its commonest words. Limits: Vietnamese typed without marks does
    not count; a text of fewer than about four words can go wrong either way; a Vietnamese sentence mostly of
    English terms counts as foreign; a foreign sentence that quotes enough Vietnamese counts as Vietnamese.
    """
    words = _WORD.findall(compose(said).lower())
    marked = sum(bool(_MARKED.search(word)) for word in words)
    own = any(_ONLY_VIETNAMESE.search(word) or _COMMON.fullmatch(word) for word in words)
    return own and marked >= 0.2 * len(words)


def has_contact(said: str) -> bool:
    """Whether there is an e-mail address or a Vietnamese phone number in the text."""
    return bool(EMAIL.search(said) or _PHONE.search(said))


def question_key(question: str) -> str:
    """The question without case, punctuation and extra blanks: what near duplicates have in common."""
    return " ".join(re.sub(r"[\W_]+", " ", question.casefold()).split())


# --- rules: rows in, rows or Removed out ---


def on_text(function: Callable[[str], str]) -> Rule:
    """A rule that applies a text function to every column of every row."""

    def rule(rows: list[Row], columns: tuple[str, ...]) -> list[Row | Removed]:
        return [{**row, **{name: function(row[name]) for name in columns}} for row in rows]

    return rule


def without(fault: Callable[[str], bool], why: Words, *, only: int | None = None) -> Rule:
    """A rule that takes a row out where `fault` is true of a column; `only` names its place."""

    def rule(rows: list[Row], columns: tuple[str, ...]) -> list[Row | Removed]:
        looked_at = columns if only is None else (columns[only],)
        outcomes: list[Row | Removed] = []
        for row in rows:
            name = next((name for name in looked_at if fault(row[name])), None)
            outcomes.append(row if name is None else Removed(Translated("{name}: {why}", name=name, why=why)))
        return outcomes

    return rule


def mend_mojibake(rows: list[Row], columns: tuple[str, ...]) -> list[Row | Removed]:
    """Repair each text, then take out the rows that are still damaged."""
    import ftfy

    why = Translated("mojibake that cannot be undone")
    beyond_repair = without(lambda said: "�" in said or ftfy.is_bad(said), why)
    return beyond_repair([{**row, **{n: repair_mojibake(row[n]) for n in columns}} for row in rows], columns)


def drop_exact_duplicates(rows: list[Row], columns: tuple[str, ...]) -> list[Row | Removed]:
    """Keep the first of the rows that are equal in every column."""
    first: dict[tuple, Row] = {}
    return [
        row
        if (earlier := first.setdefault(tuple(row[name] for name in columns), row)) is row
        else _twin_of(earlier)
        for row in rows
    ]


def drop_near_duplicates(rows: list[Row], columns: tuple[str, ...]) -> list[Row | Removed]:
    """Keep the first of the rows whose question (first column) and answer (last column) are all but equal.

    Both must be alike, so two ways of asking about one fact stay. Compares every row with every kept one:
    seconds for thousands of rows, minutes for a hundred thousand.
    """
    from rapidfuzz import fuzz, process

    questions: list[str] = []  # keys of the kept rows
    kept: list[Row] = []
    outcomes: list[Row | Removed] = []
    for row in rows:
        question, answer = question_key(row[columns[0]]), question_key(row[columns[-1]])
        alike = process.extract(
            question, questions, scorer=fuzz.ratio, score_cutoff=_SAME_QUESTION, limit=None
        )
        places = sorted(place for _, _, place in alike)
        same = [p for p in places if fuzz.ratio(answer, question_key(kept[p][columns[-1]])) >= _SAME_ANSWER]
        if same:
            outcomes.append(_twin_of(kept[same[0]]))
            continue
        questions.append(question)
        kept.append(row)
        outcomes.append(row)
    return outcomes


def _twin_of(row: Row) -> Removed:
    where = row.get(LINE, "?")
    return Removed(Translated("the same as line {where}", where=where))


# Decode before all else, because damaged letters hide what later steps look for; take out what is unusable
# before looking for duplicates, so that the row that stays is a good one.
STEPS: tuple[Step, ...] = (
    Step("mojibake", Translated("undo wrong decoding"), mend_mojibake),
    Step("html", Translated("take out HTML"), on_text(strip_html)),
    Step("nfc", Translated("normalise to Unicode NFC"), on_text(compose)),
    Step("blanks", Translated("tidy blanks"), on_text(tidy_blanks)),
    Step(
        "empty",
        Translated("drop empty rows"),
        without(lambda said: not said, Translated("empty")),
    ),
    Step(
        "truncated",
        Translated("drop answers that break off"),
        without(looks_truncated, Translated("breaks off"), only=-1),
    ),
    Step(
        "language",
        Translated("drop all but Vietnamese with its marks"),
        without(
            lambda said: not looks_vietnamese(said),
            Translated("not Vietnamese with its marks"),
        ),
    ),
    Step(
        "contacts",
        Translated("drop leaked e-mail and phone numbers"),
        without(has_contact, Translated("leaks an e-mail or phone number")),
    ),
    Step("same", Translated("drop exact duplicates"), drop_exact_duplicates),
    Step("nearly same", Translated("drop near duplicates"), drop_near_duplicates),
)


@dataclass(frozen=True)
class Change:
    """What became of one row in one step: `after` is None where it was taken out, and `why` then says why."""

    step: str
    line: int
    before: Row
    after: Row | None
    why: Words | None


@dataclass(frozen=True, repr=False)
class CleaningReport:
    """What `clean` did: `counts` holds (step, rows before, changed, removed), `changes` every row concerned.

    Shows as a table; `save` writes the rows to files.
    """

    counts: tuple[tuple[str, int, int, int], ...]
    changes: tuple[Change, ...]
    what: dict[str, Words]

    @property
    def table(self) -> "pd.DataFrame":
        """A row for each step: its name, what it does, and the rows before it, changed, removed, after it."""
        import pandas as pd

        rows = [(s, str(self.what[s]), n, changed, gone, n - gone) for s, n, changed, gone in self.counts]
        return pd.DataFrame(rows, columns=["step", "what", "before", "changed", "removed", "after"])

    @property
    def removed(self) -> "pd.DataFrame":
        """The rows that were taken out: step, line, reason, and the columns as the step met them."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"step": c.step, "line": c.line, "reason": str(c.why), **c.before}
                for c in self.changes
                if c.why
            ]
        )

    @property
    def changed(self) -> "pd.DataFrame":
        """The cells that were changed: step, line, column, before, after."""
        import pandas as pd

        cells = [
            (change.step, change.line, name, change.before[name], change.after[name])
            for change in self.changes
            if change.after is not None
            for name in change.before
            if change.before[name] != change.after[name]
        ]
        return pd.DataFrame(cells, columns=["step", "line", "column", "before", "after"])

    def save(self, folder: str | Path) -> Path:
        """Write removed.jsonl, changed.jsonl and summary.csv into a folder (made if needed); give the folder.

        removed.jsonl holds what was taken out as it was, leaked addresses too: do not publish it.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        gone = [
            {"step": c.step, "line": c.line, "reason": c.why.texts, **c.before} for c in self.changes if c.why
        ]
        mended = self.changed.to_dict("records")
        lines = {"removed.jsonl": gone, "changed.jsonl": mended}
        contents = {
            n: "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows) for n, rows in lines.items()
        }
        contents["summary.csv"] = self.table.to_csv(index=False, lineterminator="\n")
        for name, content in contents.items():
            path = folder / name
            half = path.with_name(name + ".part")
            half.write_bytes(content.encode())
            half.replace(path)
        return folder

    def __str__(self) -> str:
        return self.table.to_string(index=False)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table.to_html(index=False)


def clean(
    rows: "Records | Dataset",
    *,
    steps: Sequence[Step] = STEPS,
    columns: Sequence[str] = ("question", "answer"),
) -> "tuple[Dataset, CleaningReport]":
    """Pass rows through cleaning steps, one after another.

    Args:
        rows: what `read` gave (its problem rows then open the report, as step "read"), or a Dataset.
        steps: which steps, in which order; see STEPS.
        columns: the text columns, the question first and the answer last.

    Returns:
        The Dataset of the rows that remain, in their order, and the CleaningReport.

    Raises:
        LessonError: a column is not there or holds something else than strings; two steps share a name; a
            rule gives back another number of rows than it got; no row remains.
    """
    from datasets import Dataset, Features, Value

    columns = tuple(columns)
    dataset, problems = rows if isinstance(rows, Records) else (rows, ())
    left = _checked(dataset, columns, steps)
    total = len(left)

    what = {"read": Translated("read the file")} | {step.name: step.what for step in steps}
    counts, changes = [], []
    if isinstance(rows, Records):
        counts.append(("read", total + len(problems), 0, len(problems)))
        changes += [Change("read", p.line, {"raw": p.raw}, None, p.why) for p in problems]
    for step in steps:
        outcomes = step.rule(left, columns)
        if len(outcomes) != len(left):
            raise LessonError(
                "The step {name!r} got {count} rows and gave back {count2}. Give back as many, in the same "
                "order; put Removed(reason) in the place of a row that goes.",
                name=step.name, count=len(left), count2=len(outcomes),
            )
        made = [
            Change(step.name, row[LINE], _texts(row, columns), None, outcome.why)
            if isinstance(outcome, Removed)
            else Change(step.name, row[LINE], _texts(row, columns), _texts(outcome, columns), None)
            for row, outcome in zip(left, outcomes, strict=True)
            if outcome != row
        ]
        removed = sum(change.after is None for change in made)
        counts.append((step.name, len(left), len(made) - removed, removed))
        changes += made
        left = [outcome for outcome in outcomes if not isinstance(outcome, Removed)]
    report = CleaningReport(tuple(counts), tuple(changes), what)
    if not left:
        raise LessonError(
            "Nothing is left of {total} rows after cleaning. See which step removed too much:\n{report}",
            total=total, report=report,
        )
    features = Features({**dataset.features, LINE: Value("int64")})
    return Dataset.from_list(left, features=features), report


def _texts(row: Row, columns: tuple[str, ...]) -> Row:
    return {name: row[name] for name in columns}


def _checked(dataset: "Dataset", columns: tuple[str, ...], steps: Sequence[Step]) -> list[Row]:
    """The rows with a line number each, or a LessonError."""
    names = [step.name for step in steps]
    if len(set(names)) < len(names):
        raise LessonError(
            "Two steps share a name: {names}. Give each its own, so that the report can be read.",
            names=names,
        )
    listed = [{LINE: number, **row} for number, row in enumerate(dataset, start=1)]
    for row in listed:
        for name in columns:
            if not isinstance(row.get(name), str):
                kind = type(row[name]).__name__ if name in row else tr("missing")
                raise LessonError(
                    "Row {row}: the column {name!r} must be a string, but is: {kind}. Read the data with "
                    "data.read first, or pass columns=(...).",
                    row=row[LINE], name=name, kind=kind,
                )
    return listed
