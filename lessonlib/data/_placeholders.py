"""Finds {{placeholders}} in templated data and fills them in: a model learns to print what it is shown.

`find` says which there are, `fill` puts values in their place: the same value everywhere in a row, so that
the answer speaks of the order that the question names. Rows with a placeholder for which there is no value
are taken out and reported. It knows braces, not what a name means.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lessonlib.data._cleaning import CleaningReport, Removed, Row, Step, clean
from lessonlib.data._reading import LINE
from lessonlib.runtime._language import LessonError, Translated

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

Value = str | Sequence[str] | Callable[[random.Random], str]

# One to three braces on each side, blanks between them allowed; {{a}}{{b}} are two. What stands in single
# braces only ({a}) counts if its name is known from elsewhere, or else every set, format string and formula
# would be a placeholder.
_PATTERN = re.compile(r"(?<!\{)(\{(?: ?\{){0,2})([^{}\n]{1,80})(\}(?: ?\}){0,2})(?!\})")
_LEFT_OVER = re.compile(r"\{\{|\}\}")
_UNPAIRED = "{{ }}"  # the name under which `find` lists double braces that enclose no name


class Found(NamedTuple):
    """One placeholder in a text: its name as written, where it stands, whether it is {{properly written}}."""

    name: str
    start: int
    end: int
    proper: bool


def key(name: str) -> str:
    """What spellings of a name have in common: "Order Number", "order_number" and " Order  Number "."""
    return " ".join(re.sub(r"[\W_]+", " ", name.casefold()).split())


def find(dataset: "Dataset", columns: Sequence[str] = ("instruction", "response")) -> "pd.DataFrame":
    """Which placeholders there are, in which column and how often.

    Found are {{Order Number}}, and what was meant to be one: a brace too few or too many, blanks inside the
    braces, {Order Number} where that name also occurs in double braces; and double braces that are not closed
    or enclose nothing (listed as "{{ }}"). Spellings that differ in case, blanks and underscores are one
    name. Nested JSON ends in two braces and is listed, too.

    Args:
        dataset: rows of text; None counts as empty.
        columns: the columns to look into.

    Returns:
        A DataFrame, the most frequent first: name (in its most frequent spelling), column, count, rows (how
        many have it), malformed (how many of the count are not exactly {{name}}).

    Raises:
        LessonError: no such column, or one that holds something else than strings.
    """
    import pandas as pd

    texts = _texts(dataset, columns)
    known = _known(said for its in texts.values() for said in its)
    spellings: dict[str, dict[str, int]] = {}
    counts: dict[tuple[str, str], list[int]] = {}
    for column, its in texts.items():
        for said in its:
            seen = set()
            for found in _placeholders(said, known):
                name = _UNPAIRED if found.name == _UNPAIRED else key(found.name)
                of_name = spellings.setdefault(name, {})
                of_name[found.name.strip()] = of_name.get(found.name.strip(), 0) + 1
                count = counts.setdefault((name, column), [0, 0, 0])
                count[0] += 1
                count[1] += name not in seen
                count[2] += not found.proper
                seen.add(name)
    shown = {name: max(of_name, key=lambda it: of_name[it]) for name, of_name in spellings.items()}
    ordered = sorted(counts.items(), key=lambda it: (-it[1][0], it[0]))
    return pd.DataFrame(
        [(shown[name], column, *count) for (name, column), count in ordered],
        columns=["name", "column", "count", "rows", "malformed"],
    )


def fill(
    dataset: "Dataset",
    values: Mapping[str, Value],
    *,
    columns: Sequence[str] = ("instruction", "response"),
    seed: int = 0,
) -> "tuple[Dataset, CleaningReport]":
    """Puts values in the place of placeholders; rows in which one is left without a value are taken out.

    A name gets one value in a row, in all columns: the order number of the question is that of the answer. So
    give no value to a name that stands for different things in one row, as Bitext's "Online Order
    Interaction" does ("the '...' or '...' section"); its rows then go.

    What is drawn depends on the seed, the row's number and the name alone, not on the other rows.

    Args:
        dataset: rows of text; None counts as empty.
        values: name -> what to put there; case, blanks and underscores in names do not matter. A string is
            always the same (the shop's own phone number); from a list of strings one is drawn for each row; a
            function gets a `random.Random` and gives back a string.
        columns: the text columns, the question first and the answer last.
        seed: of what is drawn.

    Returns:
        (rows, report). The rows have two more columns next to `source_line`: template, the question before it
        was filled in (rows of one template are one question: split by it, or the same question stands on both
        sides); and slots, name -> what was drawn for this row and stands in its question, "" for the other
        names (constant values are no slots). The report is `data.clean`'s: `report.changed` shows the
        rows filled in, `report.removed` with line (from 1) and reason those taken out.

    Raises:
        LessonError: no such column, or one that holds something else than strings; a value that is no text,
            an empty list, or a text with braces; a dataset that already has one of the two columns; no row
            remains.
    """
    from datasets import Dataset, Features
    from datasets import Value as Kind

    columns = tuple(columns)
    known = {key(name): _chooser(name, value) for name, value in values.items()}
    texts = _texts(dataset, columns)
    for name in ("template", "slots"):
        if name in dataset.column_names:
            raise LessonError(
                "The data already has a column {name!r}, which fill adds. It may have run before; if not, "
                "rename that column.",
                name=name,
            )
    rows = dataset
    for column, its in texts.items():
        rows = rows.remove_columns(column).add_column(column, its)
    lines = rows[LINE] if LINE in rows.column_names else range(1, len(rows) + 1)
    questions = dict(zip(lines, texts[columns[0]], strict=True))

    drawn_names = [name for name, value in values.items() if not isinstance(value, str)]
    names = _known((said for its in texts.values() for said in its), known)
    filled, report = clean(rows, steps=(_step(known, names, seed),), columns=columns)
    made = []
    for row in filled:
        question = questions[row[LINE]]
        asked = {key(found.name) for found in _placeholders(question, names)}
        slots = {
            name: known[key(name)](_generator(seed, row[LINE], key(name))) if key(name) in asked else ""
            for name in drawn_names
        }
        made.append({**row, "template": question, "slots": slots})
    kinds = {"template": Kind("string"), "slots": {name: Kind("string") for name in drawn_names}}
    if not drawn_names:
        del kinds["slots"]
        made = [{name: value for name, value in row.items() if name != "slots"} for row in made]
    return Dataset.from_list(made, features=Features({**filled.features, **kinds})), report


def left_over(said: str) -> str | None:
    """The first placeholder of a text, as it is written there, or None. Single braces do not count."""
    found = next(_placeholders(said, set()), None)
    return None if found is None else said[found.start : found.end]


def _step(known: Mapping[str, Callable[[random.Random], str]], names: set[str], seed: int) -> Step:
    def rule(rows: list[Row], columns: tuple[str, ...]) -> list[Row | Removed]:
        return [_filled(row, columns, known, names, seed) for row in rows]

    what = Translated("fill placeholders, drop rows that keep one")
    return Step("placeholders", what, rule)


def _filled(
    row: Row,
    columns: tuple[str, ...],
    known: Mapping[str, Callable[[random.Random], str]],
    names: set[str],
    seed: int,
) -> Row | Removed:
    changed = dict(row)
    for column in columns:
        said, done, at = row[column], "", 0
        for found in _placeholders(said, names):
            choose = known.get(key(found.name)) if found.name != _UNPAIRED else None
            if choose is None:
                shown = said[found.start : found.end]
                return Removed(Translated("{column}: no value for {shown}", column=column, shown=shown))
            done += said[at : found.start] + choose(_generator(seed, row[LINE], key(found.name)))
            at = found.end
        changed[column] = done + said[at:]
    return changed


def _generator(seed: int, line: int, name: str) -> random.Random:
    return random.Random(f"{seed}/{line}/{name}")


def _placeholders(said: str, known: set[str]) -> Iterator[Found]:
    """In their order; `known` holds the keys of names that count in single braces, too."""
    at = 0
    for match in _PATTERN.finditer(said):
        opened, name, closed = match.groups()
        single = opened == "{" and closed == "}"
        if not key(name) or (single and key(name) not in known):
            continue
        yield from _unpaired(said, at, match.start())
        yield Found(name, match.start(), match.end(), match[0] == f"{{{{{name.strip()}}}}}")
        at = match.end()
    yield from _unpaired(said, at, len(said))


def _unpaired(said: str, start: int, end: int) -> Iterator[Found]:
    for match in _LEFT_OVER.finditer(said, start, end):
        yield Found(_UNPAIRED, match.start(), match.end(), False)


def _known(texts: Any, values: Mapping[str, Any] | None = None) -> set[str]:
    """The keys of the names that are given, or stand somewhere in double braces on at least one side."""
    names = set(values or ())
    for said in texts:
        names.update(key(found.name) for found in _placeholders(said, set()) if found.name != _UNPAIRED)
    return names


def _texts(dataset: "Dataset", columns: Sequence[str]) -> dict[str, list[str]]:
    texts = {}
    for column in columns:
        if column not in dataset.column_names:
            there = ", ".join(dataset.column_names)
            raise LessonError(
                "There is no column {column!r}; the data has: {there}. Pass columns=(...).",
                column=column, there=there,
            )
        texts[column] = ["" if said is None else said for said in dataset[column]]
        for number, said in enumerate(texts[column], start=1):
            if not isinstance(said, str):
                kind = type(said).__name__
                raise LessonError(
                    "Row {number}: the column {column!r} must hold strings, but holds {kind}.",
                    number=number, column=column, kind=kind,
                )
    return texts


def _chooser(name: str, value: Value) -> Callable[[random.Random], str]:
    """The value as a function of a generator; texts are checked now, drawn ones when they are drawn."""
    if callable(value):
        return lambda generator: _checked(name, value(generator))
    if isinstance(value, str):
        constant = _checked(name, value)
        return lambda generator: constant
    choices = [_checked(name, each) for each in value] if isinstance(value, Sequence) else []
    if not choices:
        raise LessonError(
            "The value of {name!r} must be a string, a list of strings that is not empty, or a function, "
            "but it is {value!r}.",
            name=name, value=value,
        )
    return lambda generator: generator.choice(choices)


def _checked(name: str, text: Any) -> str:
    if not isinstance(text, str) or not text.strip() or "{" in text or "}" in text:
        raise LessonError(
            "The value {text!r} of {name!r} cannot be used: give a text that is not blank and has no braces.",
            text=text, name=name,
        )
    return text
