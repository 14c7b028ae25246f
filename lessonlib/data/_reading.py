"""Reads question and answer rows from files and from what `datasets` knows, and says what it could not use.

It judges only the form of a row: can it be parsed, are the columns there, is each a string with something in
it. Whether the text is any good is `_cleaning`'s business. It guesses no encoding and mends no JSON:
a row that cannot be used is handed back with its file, line and reason.
"""

import csv
import difflib
import html
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lessonlib.runtime._language import LessonError, Translated, tr

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset, DatasetDict

_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
LINE = "source_line"  # the column that remembers where in its file a row stood
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")

Words = Translated  # why a row is refused, in both languages
Found = tuple[int, Any, str]  # line or row number from 1, what was parsed (or a _Broken), the raw text


@dataclass(frozen=True)
class Problem:
    """A row that could not be used: where it stands, why, and its text as it was found."""

    file: str
    line: int
    why: Words
    raw: str

    @property
    def reason(self) -> str:
        """Why, in the current language."""
        return str(self.why)


@dataclass(frozen=True, repr=False)
class Problems(Sequence[Problem]):
    """The rows that `read` could not use, in their order; shows as a table. `usable` counts the others.

    `ignored` names the columns that the file has and that were not asked for.
    """

    file: str
    found: tuple[Problem, ...]
    usable: int
    ignored: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, place: Any) -> Any:
        return self.found[place]

    @property
    def table(self) -> "pd.DataFrame":
        """Line, reason (in the current language) and raw text of each."""
        import pandas as pd

        return pd.DataFrame(
            [(p.line, p.reason, p.raw) for p in self.found], columns=["line", "reason", "raw"]
        )

    def _headline(self) -> str:
        total = self.usable + len(self.found)
        said = tr(
            "{file}: {total} rows, {usable} usable, {count} with a problem.",
            file=self.file, total=total, usable=self.usable, count=len(self.found),
        )
        if self.ignored:
            names = ", ".join(self.ignored)
            said += tr(" Columns not used: {names}.", names=names)
        return said

    def __str__(self) -> str:
        return "\n".join([self._headline()] + [f"  {p.line}: {p.reason}" for p in self.found])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        table = self.table.to_html(index=False) if self.found else ""
        return f"<p>{html.escape(self._headline())}</p>{table}"


class Records(NamedTuple):
    """What `read` gives back: the usable rows (with the column `source_line`), and the problem rows."""

    rows: "Dataset"
    problems: Problems


@dataclass(frozen=True)
class _Broken:
    """Stands in the place of a row that could not even be parsed."""

    why: Words


def read(
    source: "str | Path | Dataset | DatasetDict",
    *,
    columns: Sequence[str] = ("question", "answer"),
    split: str | None = None,
    revision: str | None = None,
    on_error: str = "collect",
) -> Records:
    """Read the rows of a file, a saved `datasets` folder, a Dataset object or a dataset of the hub.

    A file's kind is told by its suffix: .jsonl (one object a line), .json (one array of objects), .csv (with
    a header; comma, semicolon or tab) or .parquet. Text files must be UTF-8; a byte order mark, at the start
    of the file or of a line, is taken off. Each named column must hold a string that is not blank.

    Args:
        source: a path; or a Dataset or DatasetDict; or a hub name "owner/name".
        columns: the columns that every row must have; others are left out and named in `problems.ignored`.
        split: which split to take where the source has several.
        revision: for a hub name, the commit to read. Give it, or the data may change under a lesson.
        on_error: "collect" puts unusable rows into the second result; "raise" stops at the first.

    Returns:
        Records(rows, problems): usable rows as a `datasets.Dataset` (`columns` and `source_line`), and what
            was wrong with the others.

    Raises:
        LessonError: the file is missing, empty, of an unknown kind, not UTF-8, or lacks a column altogether;
            no row at all is usable; the split is not there; the hub does not give the dataset; with
            on_error="raise", the first unusable row.
    """
    from datasets import Dataset, Features, Value

    columns = (columns,) if isinstance(columns, str) else tuple(columns)
    if on_error not in ("collect", "raise"):
        raise LessonError(
            "on_error={on_error!r}: use 'collect' (gather bad rows) or 'raise' (stop at the first).",
            on_error=on_error,
        )
    file, found = _open(source, split, revision)
    if not found:
        raise LessonError(
            "{file} has no rows. Check that the file was saved or downloaded completely.", file=file,
        )
    ignored = _check_columns(file, found, columns)

    rows, problems = [], []
    for line, value, raw in found:
        why = _fault(value, columns)
        if why is None:
            rows.append({**{name: value[name] for name in columns}, LINE: line})
            continue
        problems.append(Problem(file, line, why, raw))
        if on_error == "raise":
            raise LessonError(
                "{file}, line {line}: {why}. Mend this line, or read with on_error='collect' to gather bad "
                "rows. Its text: {raw}",
                file=file, line=line, why=why, raw=_short(raw),
            )
    if not rows:
        first = problems[0]
        raise LessonError(
            "{file}: none of the {count} rows is usable. Line {line}: {why}. Check that this is the file you "
            "meant, and look again at columns={columns}.",
            file=file, count=len(problems), line=first.line, why=first.why, columns=columns,
        )
    features = Features({**{name: Value("string") for name in columns}, LINE: Value("int64")})
    return Records(
        Dataset.from_list(rows, features=features), Problems(file, tuple(problems), len(rows), ignored)
    )


def _fault(value: Any, columns: Sequence[str]) -> Words | None:
    """Why this parsed row cannot be used, or None."""
    if isinstance(value, _Broken):
        return value.why
    if not isinstance(value, dict):
        kind = type(value).__name__
        return Translated("expected an object, got {kind}", kind=kind)
    for name in columns:
        if name not in value:
            near = _near(name, [str(key) for key in value if key not in columns])
            if near:
                return Translated("the key {name!r} is missing (misspelt as {near!r}?)", name=name, near=near)
            return Translated("the key {name!r} is missing", name=name)
        cell = value[name]
        if not isinstance(cell, str):
            kind = type(cell).__name__
            return Translated("{name!r} must be a string, but is {kind}", name=name, kind=kind)
        if not cell.strip():
            return Translated("{name!r} is empty", name=name)
        if any("\ud800" <= letter <= "\udfff" for letter in cell):  # JSON allows it, UTF-8 and Arrow do not
            return Translated("{name!r} holds half a Unicode character (a lone surrogate)", name=name)
    return None


def _check_columns(file: str, found: list[Found], columns: Sequence[str]) -> tuple[str, ...]:
    """The columns of the file that were not asked for. Raises where an asked one is in no row at all."""
    present = list(dict.fromkeys(key for _, value, _ in found if isinstance(value, dict) for key in value))
    for name in columns:
        if name in present or not present:
            continue
        near = _near(name, [str(key) for key in present])
        renamed = tuple(near if column == name else column for column in columns)
        cure = Translated("Pass columns=(...) with names that exist.")
        if near:
            cure = Translated("Did you mean {near!r}? Pass columns={renamed}.", near=near, renamed=renamed)
        raise LessonError(
            "{file}: no row has the column {name!r}. Columns there: {names}. {cure}",
            file=file, name=name, names=", ".join(map(str, present)), cure=cure,
        )
    return tuple(str(key) for key in present if key not in columns)


def _open(source: Any, split: str | None, revision: str | None) -> tuple[str, list[Found]]:
    """The source's name for messages, and its rows as they were found."""
    if not isinstance(source, str | Path):
        return type(source).__name__, _of_dataset(source, split, type(source).__name__)
    path = Path(source).expanduser()
    if path.is_dir():
        return path.name, _of_dataset(_load_folder(path), split, path.name)
    suffix = path.suffix.lower()
    if path.is_file():
        _no_split(path.name, split)
        if suffix == ".parquet":
            return path.name, _parquet(path)
        parse = {".jsonl": _jsonl, ".json": _json, ".csv": _csv}.get(suffix)
        if parse is None:
            raise LessonError(
                "{name}: cannot tell how to read {suffix!r}. Readable: {suffixes}.",
                name=path.name, suffix=suffix, suffixes=", ".join(_SUFFIXES),
            )
        return path.name, list(parse(path.name, _decode(path)))
    if _HUB_NAME.fullmatch(str(source)) and suffix not in _SUFFIXES:
        return str(source), _of_dataset(_load_hub(str(source), revision), split, str(source))
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = _near(path.name, beside)
    if near:
        raise LessonError("There is no file {source}. Did you mean {near!r}?", source=source, near=near)
    raise LessonError(
        "There is no file {source}. Check the path and the working folder (%pwd).", source=source
    )


def _decode(path: Path) -> str:
    """The file as text; only UTF-8 is read, because a wrong guess would turn Vietnamese into mojibake."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        looks = "UTF-16" if utf16 else "Windows-1258/1252"
        line = content[: error.start].count(b"\n") + 1
        raise LessonError(
            "{name}, line {line}: byte 0x{content:02X} is not UTF-8; the file looks like {looks}. Open it "
            "in an editor (or Excel) and save it again as UTF-8.",
            name=path.name, line=line, content=content[error.start], looks=looks,
        ) from error


def _jsonl(file: str, content: str) -> Iterator[Found]:
    # Only "\n" ends a line: str.splitlines would also cut at U+2028 and others, which JSON allows in strings.
    lines = content.rstrip().split("\n") if content.strip() else []
    for number, raw in enumerate(lines, start=1):
        raw = raw.removesuffix("\r")
        stripped = raw.lstrip("\ufeff").strip()  # files with a BOM, joined by `cat`, leave one inside
        if not stripped:
            yield number, _Broken(Translated("the line is blank")), raw
            continue
        try:
            yield number, json.loads(stripped), raw
        except json.JSONDecodeError as error:
            place = f"{error.colno}: {error.msg}"
            why = Translated("broken JSON at column {place}", place=place)
            yield number, _Broken(why), raw
        except (ValueError, RecursionError) as error:  # an integer of thousands of digits, or nested too deep
            why = Translated("unreadable JSON: {error}", error=error)
            yield number, _Broken(why), raw


def _json(file: str, content: str) -> Iterator[Found]:
    if not content.strip():
        return
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError) as error:
        extra = isinstance(error, json.JSONDecodeError) and error.msg == "Extra data"
        cure = Translated("Mend that place and read again.")
        if extra:
            cure = Translated("It looks like JSON Lines: rename it to .jsonl.")
        broken = LessonError("{file}: broken JSON: {error}. {cure}", file=file, error=error, cure=cure)
        raise broken from error
    if not isinstance(whole, list):
        raise LessonError(
            "{file}: expected an array [{{...}}, {{...}}], but the outermost value is {name}. If the array "
            "lies under a key, save that array to a file.",
            file=file, name=type(whole).__name__,
        )
    for number, value in enumerate(whole, start=1):
        yield number, value, json.dumps(value, ensure_ascii=False)


def _csv(file: str, content: str) -> Iterator[Found]:
    header = content.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)  # Excel set to Vietnamese or French saves with semicolons
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for row in reader:
            line, cells = reader.line_num, len(row)
            raw = delimiter.join(str(cell) for cell in row.values() if cell is not None)
            if None in row:  # DictReader's place for cells beyond the header
                why = Translated(
                    "more cells than the header's {cells} (a separator outside quotes?)", cells=cells - 1,
                )
                yield line, _Broken(why), raw
            else:
                yield line, {name: cell for name, cell in row.items() if cell is not None}, raw
    except csv.Error as error:
        raise LessonError(
            "{file}, near line {line}: broken CSV: {error}. Check the quotes around that line.",
            file=file, line=line + 1, error=error,
        ) from error


def _parquet(path: Path) -> list[Found]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise LessonError(
            "{name} is not a sound Parquet file: {error}. Download or export it again.",
            name=path.name, error=error,
        ) from error
    return [(number, row, str(row)) for number, row in enumerate(rows, start=1)]


def _load_folder(path: Path) -> Any:
    from datasets import load_from_disk

    try:
        return load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        inside = ", ".join(sorted(p.name for p in path.iterdir() if p.suffix in _SUFFIXES)) or "-"
        raise LessonError(
            "The folder {name} was not written by save_to_disk. Readable files inside: {inside}. Give the "
            "path of one file.",
            name=path.name, inside=inside,
        ) from error


def _load_hub(name: str, revision: str | None) -> Any:
    from datasets import load_dataset

    try:
        return load_dataset(name, revision=revision)
    except Exception as error:  # many kinds: not found, gated, offline, a broken repository
        raise LessonError(
            "There is no file {name}, and the Hugging Face Hub did not give the dataset {name!r} (revision "
            "{revision}): {name2}: {error}. Check the name, the network, and your access if the dataset is "
            "gated.",
            name=name, revision=revision or "main", name2=type(error).__name__, error=error,
        ) from error


def _of_dataset(dataset: Any, split: str | None, name: str) -> list[Found]:
    from datasets import Dataset, DatasetDict

    if isinstance(dataset, DatasetDict):
        if split is None and len(dataset) == 1:
            split = next(iter(dataset))
        if split not in dataset:
            known = ", ".join(dataset)
            raise LessonError(
                "{name}: choose one of its splits: {known}; got split={split!r}.",
                name=name, known=known, split=split,
            )
        dataset = dataset[split]
    else:
        _no_split(name, split)
    if not isinstance(dataset, Dataset):
        raise LessonError(
            "Cannot read {name}. Give a path, a Dataset, a DatasetDict or a hub name.",
            name=type(dataset).__name__,
        )
    return [(number, dict(row), str(row)) for number, row in enumerate(dataset, start=1)]


def _no_split(name: str, split: str | None) -> None:
    if split is not None:
        raise LessonError(
            "{name} has no splits, so there is no split={split!r}. Leave the argument out.",
            name=name, split=split,
        )


def _near(name: str, known: Sequence[str]) -> str | None:
    """The most similar of the known names, whatever its case, or None."""
    lower = {other.lower(): other for other in known}
    match = difflib.get_close_matches(name.lower(), lower, n=1)
    return lower[match[0]] if match else None


def _short(raw: str, limit: int = 120) -> str:
    return raw if len(raw) <= limit else raw[:limit] + "…"
