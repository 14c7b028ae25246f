"""Builds notebooks/vi and notebooks/en from lessons/: executed in rehearsal, the same at every build."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lessonlib.runtime._language import LANGUAGES, LessonError
from lessonlib_course import check, execute, notebook, outputs, source
from lessonlib_course.notebook import Course
from lessonlib_course.source import Lesson

if TYPE_CHECKING:
    from nbformat import NotebookNode


def build(
    root: Path, numbers: Sequence[str] = (), *, accepted: Sequence[str] = (), limit: int = execute.CELL_LIMIT
) -> list[Path]:
    """Executes lessons in both languages and writes their notebooks: both of a lesson, or none.

    Args:
        root: the folder of the course.
        numbers: the lessons to build; default: all.
        accepted: ids of prose cells whose change in one language only is meant.
        limit: seconds that one cell may take.

    Returns:
        The notebooks written.

    Raises:
        LessonError: for a source that does not parse, a change in one language only, an id in `accepted` that
            no lesson has, or a cell that fails.
    """
    whole = notebook.course(root)
    paths = [source.find(root, number) for number in numbers] or whole.paths
    lessons = [source.parse(path) for path in paths]
    unknown = set(accepted) - {cell.id for lesson in lessons for cell in lesson.cells}
    if unknown:
        names = ", ".join(sorted(unknown))
        raise LessonError("--one-sided: no lesson being built has the cell {names}.", names=names)
    for lesson in lessons:  # all of them, before the first minute of execution
        check.refuse_one_sided(whole, lesson, accepted)
    written: list[Path] = []
    for lesson in lessons:
        built = {
            notebook.path_of(whole, lesson.stem, language): executed(whole, lesson, language, limit=limit)
            for language in LANGUAGES
        }
        notebook.write(built)
        written += built
    return written


def executed(
    whole: Course, lesson: Lesson, language: str, *, limit: int = execute.CELL_LIMIT
) -> "NotebookNode":
    """One notebook, executed in the rehearsal profile in a temporary folder, its outputs cleaned.

    Raises:
        CellError: where a cell fails.
    """
    made = notebook.make(whole, lesson, language)
    with tempfile.TemporaryDirectory(prefix="lessonlib-") as folder:
        work = Path(folder) / "work"
        work.mkdir()
        execute.execute(
            made, language=language, work=work, profile="rehearsal", limit=limit,
            label=f"{lesson.number} {language}",
        )
        outputs.clean(made, {work: "work", Path(folder): "tmp", whole.root: "course", Path.home(): "~"})
    made.metadata["lessonlib"]["outputs"] = notebook.outputs_digest(made)
    return made
