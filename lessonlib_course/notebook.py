"""Makes a lesson's notebook in one language: cells, links, metadata, the stamped set-up cell."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lessonlib.runtime._language import LANGUAGES, LessonError, Translated
from lessonlib_course import repository, source
from lessonlib_course.repository import Repository
from lessonlib_course.source import Cell, Lesson

if TYPE_CHECKING:
    from nbformat import NotebookNode

_BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_NAMES = Translated("English")

# Not what a kernel reports of itself: its Python version would make a notebook differ between machines.
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {
        "name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3",
    },
    "accelerator": "GPU",
    "colab": {"gpuType": "T4", "provenance": []},
}


@dataclass(frozen=True)
class Course:
    """Everything that stamps a notebook besides its lesson.

    Args:
        root: the folder of the course.
        repository: what badges and set-up cells point to.
        setup: lessons/setup_cell.py as it is, with its placeholders.
        pins: what the set-up cell installs, one requirement a line.
        torch: the versions of torch that the course runs with, such as ">=2.11,<2.14".
        paths: the source files of all lessons, in order.
    """

    root: Path
    repository: Repository
    setup: str
    pins: tuple[str, ...]
    torch: str
    paths: tuple[Path, ...]


def course(root: Path, where: Repository | None = None) -> Course:
    """Reads the course's settings.

    Args:
        root: the folder of the course.
        where: stamp another repository than the setting's.

    Raises:
        LessonError: where lessons/setup_cell.py is missing, or a setting is.
    """
    path = root / "lessons" / "setup_cell.py"
    if not path.is_file():
        raise LessonError("{path} is missing: it holds the set-up cell of every lesson.", path=path)
    return Course(
        root,
        where or repository.setting(root),
        path.read_text(encoding="utf-8"),
        tuple(repository.setup_pins(root)),
        repository.torch_range(root),
        tuple(source.sources(root)),
    )


def make(whole: Course, lesson: Lesson, language: str) -> "NotebookNode":
    """The notebook of one lesson in one language, not executed.

    Args:
        whole: the course.
        lesson: its parsed source.
        language: "vi" or "en".

    Returns:
        A notebook of format 4.5 whose cell ids are the source's.
    """
    from nbformat import v4

    cells = []
    for index, cell in enumerate(lesson.cells):
        metadata: dict = {"tags": list(cell.tags)} if cell.tags else {}
        if cell.code is None:
            metadata["lessonlib"] = {"prose": digests(cell)}
            text = cell.prose[language]
            if index == 0:
                text = f"{links(whole, lesson, language)}\n\n{text}"
            cells.append(v4.new_markdown_cell(text, id=cell.id, metadata=metadata))
        else:
            code = setup_code(whole) if cell.id == source.SETUP else cell.code
            cells.append(v4.new_code_cell(code, id=cell.id, metadata=metadata))
    metadata = json.loads(json.dumps(_METADATA))  # a copy: the caller may change the notebook
    metadata["lessonlib"] = {"language": language, "lesson": lesson.number}
    return v4.new_notebook(cells=cells, metadata=metadata, nbformat_minor=5)


def path_of(whole: Course, stem: str, language: str) -> Path:
    """Where the built notebook of a lesson lies."""
    return whole.root / "notebooks" / language / f"{stem}.ipynb"


def links(whole: Course, lesson: Lesson, language: str) -> str:
    """The line above the title: Colab badge, the other language, the lessons before and after."""

    def url(stem: str, of: str) -> str:
        return whole.repository.colab_url(f"notebooks/{of}/{stem}.ipynb")

    (other,) = [name for name in LANGUAGES if name != language]
    alt = Translated("Open in Colab")[language]
    parts = [f"[![{alt}]({_BADGE})]({url(lesson.stem, language)})"]
    at = whole.paths.index(lesson.path)
    for neighbour, form in ((at - 1, "← {}"), (at + 1, "{} →")):
        if 0 <= neighbour < len(whole.paths):
            title = source.parse(whole.paths[neighbour]).title(language)
            parts.append(f"[{form.format(title)}]({url(whole.paths[neighbour].stem, language)})")
    parts.append(f"[{_NAMES[other]}]({url(lesson.stem, other)})")
    return " · ".join(parts)


def setup_code(whole: Course) -> str:
    """lessons/setup_cell.py with {{repository}}, {{ref}}, {{pins}} (one requirement a line) and {{torch}} (a
    range of versions) filled in.

    Raises:
        LessonError: for a placeholder that nobody fills.
    """
    values = {
        "repository": whole.repository.name, "ref": whole.repository.ref, "pins": "\n".join(whole.pins),
        "torch": whole.torch,
    }

    def fill(match: re.Match[str]) -> str:
        if match.group(1) not in values:
            raise LessonError(
                "lessons/setup_cell.py: {match} is not known. Known: {values}.",
                match=match.group(), values=", ".join(values),
            )
        return values[match.group(1)]

    return _PLACEHOLDER.sub(fill, whole.setup).strip()


def digests(cell: Cell) -> dict[str, str]:
    """A short hash of a cell's prose in each language: it shows later which of them changed."""
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in cell.prose.items()}


def outputs_digest(built: "NotebookNode") -> str:
    """A short hash of all outputs: outputs that were cleared or edited by hand no longer match it."""
    outputs = [cell.outputs for cell in built.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()[:16]


def headings(built: "NotebookNode") -> list[str]:
    """For each cell, the Markdown heading it stands under."""
    found, current = [], ""
    for cell in built.cells:
        if cell.cell_type == "markdown":
            for line in cell.source.splitlines():
                match = re.match(r"#{1,6}\s+(.+)", line)
                current = match.group(1).strip() if match else current
        found.append(current)
    return found


def move(root: Path, name: str, ref: str | None = None) -> tuple[Repository, Repository, list[Path]]:
    """Changes the repository setting, and puts it into the built notebooks without executing them.

    A cell is changed only where it is what the old setting made of the source; anything else is left for
    `lessonlib build --check` to find.

    Args:
        root: the folder of the course.
        name: "OWNER/NAME" on GitHub.
        ref: branch or tag; default: the present one.

    Returns:
        The old setting, the new one, the notebooks that changed.

    Raises:
        LessonError: for a name or ref that GitHub would not take, or a source that does not parse; nothing is
            changed then.
    """
    lessons = [source.parse(path) for path in source.sources(root)]
    course(root)
    old, new = repository.change_setting(root, name, ref)
    before, after = course(root, old), course(root, new)
    changed = []
    for lesson in lessons:
        for language in LANGUAGES:
            path = path_of(after, lesson.stem, language)
            if not path.is_file():
                continue
            built = read(path)
            of_old = {cell.id: cell.source for cell in make(before, lesson, language).cells}
            of_new = {cell.id: cell.source for cell in make(after, lesson, language).cells}
            for cell in built.cells:
                if of_old.get(cell.id) == cell.source:
                    cell.source = of_new[cell.id]
            if serialise(built) != path.read_text(encoding="utf-8"):
                write({path: built})
                changed.append(path)
    return old, new, changed


def read(path: Path) -> "NotebookNode":
    """Reads a notebook.

    Raises:
        LessonError: where the file is no notebook.
    """
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises many kinds: JSON, version, schema
        raise LessonError(
            "{path} is not a readable notebook ({error}). Build this lesson again.", path=path, error=error,
        ) from error


def serialise(built: "NotebookNode") -> str:
    """The notebook's text as it is written: keys sorted, so that equal notebooks are equal byte for byte."""
    import nbformat

    return nbformat.writes(built) + "\n"


def write(notebooks: dict[Path, "NotebookNode"]) -> None:
    """Writes notebooks so that none is ever half there: first beside their places, then renamed."""
    partial = {path: path.with_name(f".{path.name}.partial") for path in notebooks}
    try:
        for path, built in notebooks.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial[path].write_text(serialise(built), encoding="utf-8")
        for path in notebooks:
            partial[path].replace(path)
    finally:
        for leftover in partial.values():
            leftover.unlink(missing_ok=True)
