"""Reads a lesson's one source, lessons/NN_slug.py: code once, each prose cell in Vietnamese and in English.

The file is jupytext's percent format. A code cell opens with `# %% id="load-base"`, a prose cell comes as a
pair, `# %% [markdown] id="why" lang="vi"` and right after it the same with lang="en". The first code cell has
the id "setup" and no code of its own. This module knows nothing of notebooks, kernels or repositories.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from lessonlib.runtime._language import LANGUAGES, LessonError, Translated

SETUP = "setup"

_FILE = re.compile(r"(\d\d)_[a-z0-9_]+")
_MARKER = re.compile(r"#\s*%%")
_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # nbformat's pattern for cell ids
_KEYS = {"code": {"id", "tags"}, "markdown": {"id", "lang", "tags"}}


@dataclass(frozen=True)
class Cell:
    """One cell of a lesson.

    Args:
        id: stable over rebuilds and the same in both languages.
        line: where it starts in the source file.
        code: its code; None for prose.
        prose: its Markdown by language; empty for code.
        tags: passed through to the notebook.
    """

    id: str
    line: int
    code: str | None = None
    prose: dict[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lesson:
    """A lesson as its source says it.

    Args:
        path: the source file, NN_slug.py.
        cells: in order; the first one is prose that opens with the title.
    """

    path: Path
    cells: tuple[Cell, ...]

    @property
    def number(self) -> str:
        """Two digits, such as "01"."""
        return self.path.stem[:2]

    @property
    def stem(self) -> str:
        """Number and slug, such as "01_bloom_560m": the name of its notebooks."""
        return self.path.stem

    def title(self, language: str) -> str:
        """The heading of the first prose cell."""
        return self.cells[0].prose[language].split("\n", 1)[0].removeprefix("# ").strip()


def sources(root: Path) -> list[Path]:
    """The source files of all lessons, in order."""
    return sorted(path for path in (root / "lessons").glob("*.py") if _FILE.fullmatch(path.stem))


def find(root: Path, number: str) -> Path:
    """The source file of one lesson.

    Args:
        root: the folder of the course.
        number: "01", "1" or the whole name "01_bloom_560m".

    Raises:
        LessonError: for a lesson that does not exist; it lists those that do.
    """
    wanted = number.zfill(2) if number.isdigit() else number
    for path in sources(root):
        if wanted in (path.stem, path.stem[:2]):
            return path
    known = ", ".join(path.stem for path in sources(root)) or "-"
    raise LessonError("There is no lesson {number!r}. There are: {known}.", number=number, known=known)


def parse(path: Path) -> Lesson:
    """Reads and checks one source file.

    Args:
        path: lessons/NN_slug.py.

    Raises:
        LessonError: with file and line, for text before the first cell, a raw cell, one without id, a bad or
            repeated id, a key that is not known, a prose cell that lacks a language or whose languages do not
            follow each other, a missing title, and a set-up cell that is missing, not first or not empty.
    """
    import jupytext

    text = path.read_text(encoding="utf-8")
    lines = [number for number, line in enumerate(text.splitlines(), 1) if _MARKER.match(line)]
    raw = jupytext.reads(text, fmt="py:percent").cells
    if len(raw) != len(lines):
        raise _error(path, lines[0] if lines else 1, Translated(
            "text before the first cell, or a line '# %%' inside a string. Every cell starts with a line '# "
            "%%'.",
        ))
    cells: list[Cell] = []
    waiting: Cell | None = None  # a prose cell's Vietnamese half, until its English half comes
    for line, cell in zip(lines, raw, strict=True):
        found = _read_cell(path, line, cell)
        if waiting is not None:
            if found.id != waiting.id or set(found.prose) != {"en"}:
                raise _lacks(path, waiting, "en")
            cells.append(Cell(waiting.id, waiting.line, None, waiting.prose | found.prose, waiting.tags))
            waiting = None
        elif "vi" in found.prose:
            waiting = found
        elif found.prose:
            raise _lacks(path, found, "vi")
        else:
            cells.append(found)
    if waiting is not None:
        raise _lacks(path, waiting, "en")
    _check_whole(path, cells)
    return Lesson(path, tuple(cells))


def _read_cell(path: Path, line: int, raw: dict) -> Cell:
    kind, given = raw["cell_type"], dict(raw["metadata"])
    if kind not in _KEYS:
        raise _error(path, line, Translated("a cell is code or [markdown], not [{kind}].", kind=kind))
    given.pop("lines_to_next_cell", None)  # jupytext's own note on blank lines
    unknown = sorted(set(given) - _KEYS[kind])
    if unknown:
        known = ", ".join(sorted(_KEYS[kind]))
        raise _error(path, line, Translated(
            "the cell's header has {unknown}, which the course does not know. Known here: {known}.",
            unknown=", ".join(unknown), known=known,
        ))
    name = given.get("id")
    if not isinstance(name, str) or not name:
        raise _error(path, line, Translated("this cell has no id. Add id=\"short-name\" to its line '# %%'."))
    if not _ID.fullmatch(name):
        raise _error(path, line, Translated(
            "the id {name!r} is not valid: letters, digits, - and _ only, 64 characters at most.", name=name,
        ))
    tags = tuple(given.get("tags", ()))
    if kind == "code":
        return Cell(name, line, raw["source"], {}, tags)
    language = given.get("lang")
    if language not in LANGUAGES:
        raise _error(path, line, Translated(
            'the prose cell {name!r} must say lang="vi" or lang="en".', name=name,
        ))
    if not raw["source"].strip():
        raise _error(path, line, Translated(
            "the prose cell {name!r} is empty in {language!r}.", name=name, language=language,
        ))
    return Cell(name, line, None, {language: raw["source"]}, tags)


def _check_whole(path: Path, cells: list[Cell]) -> None:
    seen: dict[str, int] = {}
    for cell in cells:
        if cell.id in seen:
            raise _error(path, cell.line, Translated(
                "the id {id!r} is already used in line {seen}. Each cell needs its own.",
                id=cell.id, seen=seen[cell.id],
            ))
        seen[cell.id] = cell.line
    if not cells or not all(cells[0].prose.get(language, "").startswith("# ") for language in LANGUAGES):
        raise _error(path, cells[0].line if cells else 1, Translated(
            "the first cell must be prose that opens with the title, '# Title', in both languages.",
        ))
    code = [cell for cell in cells if cell.code is not None]
    if not code or code[0].id != SETUP or not _empty(code[0].code):
        raise _error(path, code[0].line if code else 1, Translated(
            'the first code cell must have id="{setup}" and no code; the build fills it from '
            "lessons/setup_cell.py.",
            setup=SETUP,
        ))


def _empty(code: str | None) -> bool:
    return all(not line.strip() or line.lstrip().startswith("#") for line in (code or "").splitlines())


def _lacks(path: Path, cell: Cell, language: str) -> LessonError:
    return _error(path, cell.line, Translated(
        'the prose cell {id!r} lacks {language!r}. "vi" and "en" of one id must follow each other, "vi" '
        "first.",
        id=cell.id, language=language,
    ))


def _error(path: Path, line: int, message: Translated) -> LessonError:
    where = f"lessons/{path.name}:{line}"
    return LessonError("{where}: {message}", where=where, message=message)
