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

from lessonlib.runtime._language import LessonError, text

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset, DatasetDict

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
LINE = "source_line"  # the column that remembers where in its file a row stood
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")

Words = dict[str, str]  # one message in both languages: {"vi": ..., "en": ...}
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
        return text(**self.why)


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
        said = text(
            vi=f"{self.file}: {total} dòng, dùng được {self.usable}, có vấn đề {len(self.found)}.",
            en=f"{self.file}: {total} rows, {self.usable} usable, {len(self.found)} with a problem.",
        )
        if self.ignored:
            names = ", ".join(self.ignored)
            said += text(vi=f" Cột không dùng đến: {names}.", en=f" Columns not used: {names}.")
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
            vi=f"on_error={on_error!r}: hãy dùng 'collect' (gom dòng lỗi lại) hoặc 'raise' (dừng ở lỗi đầu "
            "tiên).",
            en=f"on_error={on_error!r}: use 'collect' (gather bad rows) or 'raise' (stop at the first).",
        )
    file, found = _open(source, split, revision)
    if not found:
        raise LessonError(
            vi=f"{file} không có dòng nào. Hãy kiểm tra xem tệp đã được lưu hoặc tải về trọn vẹn chưa.",
            en=f"{file} has no rows. Check that the file was saved or downloaded completely.",
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
                vi=f"{file}, dòng {line}: {why['vi']}. Hãy sửa dòng này, hoặc đọc với on_error='collect' để "
                f"gom các dòng lỗi lại. Nội dung: {_short(raw)}",
                en=f"{file}, line {line}: {why['en']}. Mend this line, or read with on_error='collect' to "
                f"gather bad rows. Its text: {_short(raw)}",
            )
    if not rows:
        first = problems[0]
        raise LessonError(
            vi=f"{file}: không dùng được dòng nào trong {len(problems)} dòng. Dòng {first.line}: "
            f"{first.why['vi']}. "
            f"Hãy kiểm tra xem đây có đúng là tệp dữ liệu bạn cần, và xem lại columns={columns}.",
            en=f"{file}: none of the {len(problems)} rows is usable. Line {first.line}: {first.why['en']}. "
            f"Check that this is the file you meant, and look again at columns={columns}.",
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
        return {"vi": f"cần một object {{...}}, nhưng đây là {kind}", "en": f"expected an object, got {kind}"}
    for name in columns:
        if name not in value:
            near = _near(name, [str(key) for key in value if key not in columns])
            return {
                "vi": f"thiếu khóa {name!r}" + (f" (viết nhầm thành {near!r}?)" if near else ""),
                "en": f"the key {name!r} is missing" + (f" (misspelt as {near!r}?)" if near else ""),
            }
        cell = value[name]
        if not isinstance(cell, str):
            kind = type(cell).__name__
            return {
                "vi": f"{name!r} phải là chuỗi (str), nhưng lại là {kind}",
                "en": f"{name!r} must be a string, but is {kind}",
            }
        if not cell.strip():
            return {"vi": f"{name!r} để trống", "en": f"{name!r} is empty"}
        if any("\ud800" <= letter <= "\udfff" for letter in cell):  # JSON allows it, UTF-8 and Arrow do not
            return {
                "vi": f"{name!r} chứa nửa ký tự Unicode (surrogate lẻ)",
                "en": f"{name!r} holds half a Unicode character (a lone surrogate)",
            }
    return None


def _check_columns(file: str, found: list[Found], columns: Sequence[str]) -> tuple[str, ...]:
    """The columns of the file that were not asked for. Raises where an asked one is in no row at all."""
    present = list(dict.fromkeys(key for _, value, _ in found if isinstance(value, dict) for key in value))
    for name in columns:
        if name in present or not present:
            continue
        near = _near(name, [str(key) for key in present])
        renamed = tuple(near if column == name else column for column in columns)
        cure_vi = "Hãy truyền columns=(...) với tên cột có thật."
        cure_en = "Pass columns=(...) with names that exist."
        if near:
            cure_vi = f"Có phải bạn muốn cột {near!r}? Hãy truyền columns={renamed}."
            cure_en = f"Did you mean {near!r}? Pass columns={renamed}."
        names = ", ".join(map(str, present))
        raise LessonError(
            vi=f"{file}: không dòng nào có cột {name!r}. Các cột đang có: {names}. {cure_vi}",
            en=f"{file}: no row has the column {name!r}. Columns there: {names}. {cure_en}",
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
                vi=f"{path.name}: không biết đọc loại tệp {suffix!r}. Đọc được: {', '.join(SUFFIXES)}.",
                en=f"{path.name}: cannot tell how to read {suffix!r}. Readable: {', '.join(SUFFIXES)}.",
            )
        return path.name, list(parse(path.name, _decode(path)))
    if HUB_NAME.fullmatch(str(source)) and suffix not in SUFFIXES:
        return str(source), _of_dataset(_load_hub(str(source), revision), split, str(source))
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = _near(path.name, beside)
    raise LessonError(
        vi=f"Không thấy tệp {source}. "
        + (f"Có phải bạn muốn {near!r}?" if near else "Hãy kiểm tra đường dẫn và thư mục đang đứng (%pwd)."),
        en=f"There is no file {source}. "
        + (f"Did you mean {near!r}?" if near else "Check the path and the working folder (%pwd)."),
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
            vi=f"{path.name}, dòng {line}: byte 0x{content[error.start]:02X} không phải UTF-8; có vẻ tệp "
            f"được lưu bằng {looks}. Hãy mở tệp bằng trình soạn thảo (hoặc Excel) và lưu lại với bảng mã "
            "UTF-8.",
            en=f"{path.name}, line {line}: byte 0x{content[error.start]:02X} is not UTF-8; the file looks "
            f"like {looks}. Open it in an editor (or Excel) and save it again as UTF-8.",
        ) from error


def _jsonl(file: str, content: str) -> Iterator[Found]:
    # Only "\n" ends a line: str.splitlines would also cut at U+2028 and others, which JSON allows in strings.
    lines = content.rstrip().split("\n") if content.strip() else []
    for number, raw in enumerate(lines, start=1):
        raw = raw.removesuffix("\r")
        stripped = raw.lstrip("\ufeff").strip()  # files with a BOM, joined by `cat`, leave one inside
        if not stripped:
            yield number, _Broken({"vi": "dòng trống", "en": "the line is blank"}), raw
            continue
        try:
            yield number, json.loads(stripped), raw
        except json.JSONDecodeError as error:
            place = f"{error.colno}: {error.msg}"
            why = {"vi": f"JSON hỏng ở cột {place}", "en": f"broken JSON at column {place}"}
            yield number, _Broken(why), raw
        except (ValueError, RecursionError) as error:  # an integer of thousands of digits, or nested too deep
            why = {"vi": f"JSON không đọc được: {error}", "en": f"unreadable JSON: {error}"}
            yield number, _Broken(why), raw


def _json(file: str, content: str) -> Iterator[Found]:
    if not content.strip():
        return
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError) as error:
        extra = isinstance(error, json.JSONDecodeError) and error.msg == "Extra data"
        cure_vi, cure_en = "Hãy sửa chỗ đó rồi đọc lại.", "Mend that place and read again."
        if extra:
            cure_vi = "Tệp này có vẻ là JSON Lines: hãy đổi đuôi thành .jsonl."
            cure_en = "It looks like JSON Lines: rename it to .jsonl."
        raise LessonError(
            vi=f"{file}: JSON hỏng: {error}. {cure_vi}", en=f"{file}: broken JSON: {error}. {cure_en}"
        ) from error
    if not isinstance(whole, list):
        raise LessonError(
            vi=f"{file}: cần một mảng [{{...}}, {{...}}], nhưng ngoài cùng lại là {type(whole).__name__}. "
            "Nếu mảng nằm trong một khóa, hãy lưu riêng mảng đó ra tệp.",
            en=f"{file}: expected an array [{{...}}, {{...}}], but the outermost value is "
            f"{type(whole).__name__}. If the array lies under a key, save that array to a file.",
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
                why = {
                    "vi": f"nhiều ô hơn {cells - 1} cột của dòng tiêu đề (dấu phân cách ngoài ngoặc kép?)",
                    "en": f"more cells than the header's {cells - 1} (a separator outside quotes?)",
                }
                yield line, _Broken(why), raw
            else:
                yield line, {name: cell for name, cell in row.items() if cell is not None}, raw
    except csv.Error as error:
        raise LessonError(
            vi=f"{file}, gần dòng {line + 1}: CSV hỏng: {error}. Hãy kiểm tra dấu ngoặc kép ở quanh dòng đó.",
            en=f"{file}, near line {line + 1}: broken CSV: {error}. Check the quotes around that line.",
        ) from error


def _parquet(path: Path) -> list[Found]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise LessonError(
            vi=f"{path.name} không phải tệp Parquet hợp lệ, hoặc đã hỏng: {error}. Hãy tải hoặc xuất lại "
            "tệp.",
            en=f"{path.name} is not a sound Parquet file: {error}. Download or export it again.",
        ) from error
    return [(number, row, str(row)) for number, row in enumerate(rows, start=1)]


def _load_folder(path: Path) -> Any:
    from datasets import load_from_disk

    try:
        return load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        inside = ", ".join(sorted(p.name for p in path.iterdir() if p.suffix in SUFFIXES)) or "-"
        raise LessonError(
            vi=f"Thư mục {path.name} không phải do save_to_disk tạo ra. Tệp đọc được bên trong: {inside}. "
            "Hãy đưa "
            "đường dẫn của một tệp.",
            en=f"The folder {path.name} was not written by save_to_disk. Readable files inside: {inside}. "
            "Give the path of one file.",
        ) from error


def _load_hub(name: str, revision: str | None) -> Any:
    from datasets import load_dataset

    try:
        return load_dataset(name, revision=revision)
    except Exception as error:  # many kinds: not found, gated, offline, a broken repository
        raise LessonError(
            vi=f"Không có tệp {name}, và Hugging Face Hub cũng không cho tải dataset {name!r} "
            f"(revision {revision or 'main'}): {type(error).__name__}: {error}. Hãy kiểm tra tên, mạng, và "
            "quyền truy cập nếu dataset yêu cầu chấp thuận.",
            en=f"There is no file {name}, and the Hugging Face Hub did not give the dataset {name!r} "
            f"(revision {revision or 'main'}): {type(error).__name__}: {error}. Check the name, the network, "
            "and your access if the dataset is gated.",
        ) from error


def _of_dataset(dataset: Any, split: str | None, name: str) -> list[Found]:
    from datasets import Dataset, DatasetDict

    if isinstance(dataset, DatasetDict):
        if split is None and len(dataset) == 1:
            split = next(iter(dataset))
        if split not in dataset:
            known = ", ".join(dataset)
            raise LessonError(
                vi=f"{name}: cần chọn một trong các split: {known}; đang nhận split={split!r}.",
                en=f"{name}: choose one of its splits: {known}; got split={split!r}.",
            )
        dataset = dataset[split]
    else:
        _no_split(name, split)
    if not isinstance(dataset, Dataset):
        raise LessonError(
            vi=f"Không đọc được {type(dataset).__name__}. Hãy đưa đường dẫn, Dataset, DatasetDict hoặc tên "
            "trên Hub.",
            en=f"Cannot read {type(dataset).__name__}. Give a path, a Dataset, a DatasetDict or a hub name.",
        )
    return [(number, dict(row), str(row)) for number, row in enumerate(dataset, start=1)]


def _no_split(name: str, split: str | None) -> None:
    if split is not None:
        raise LessonError(
            vi=f"{name} không chia split, nên không có split={split!r}. Hãy bỏ tham số split.",
            en=f"{name} has no splits, so there is no split={split!r}. Leave the argument out.",
        )


def _near(name: str, known: Sequence[str]) -> str | None:
    """The most similar of the known names, whatever its case, or None."""
    lower = {other.lower(): other for other in known}
    match = difflib.get_close_matches(name.lower(), lower, n=1)
    return lower[match[0]] if match else None


def _short(raw: str, limit: int = 120) -> str:
    return raw if len(raw) <= limit else raw[:limit] + "…"
