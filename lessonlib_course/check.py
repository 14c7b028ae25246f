"""Compares the built notebooks with their sources, without executing anything: `lessonlib build --check`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lessonlib.runtime._language import LANGUAGES, LessonError, Translated, tr
from lessonlib_course import notebook, repository, source
from lessonlib_course.notebook import Course
from lessonlib_course.source import Lesson

if TYPE_CHECKING:
    from nbformat import NotebookNode


def check(root: Path, numbers: Sequence[str] = ()) -> list[str]:
    """Everything in which the built notebooks are not what their sources make.

    Args:
        root: the folder of the course.
        numbers: the lessons to check; default: all, with notebooks that have no source and README links.

    Returns:
        One message a problem, with file and cell; empty where all is well.
    """
    whole = notebook.course(root)
    problems: list[str] = []
    for path in [source.find(root, number) for number in numbers] or whole.paths:
        try:
            lesson = source.parse(path)
        except LessonError as error:
            problems.append(str(error))
            continue
        problems += [_one_sided_message(*change) for change in one_sided(whole, lesson)]
        for language in LANGUAGES:
            try:
                problems += _check_notebook(whole, lesson, language)
            except LessonError as error:  # an unreadable notebook, or a neighbour whose title cannot be read
                problems.append(str(error))
    if not numbers:
        stems = {path.stem for path in whole.paths}
        for built in sorted((root / "notebooks").glob("*/*.ipynb")):
            if built.stem not in stems or built.parent.name not in LANGUAGES:
                problems.append(_at(root, built, Translated("has no source in lessons/; remove it.")))
        problems += repository.stale_links(root)
    return list(dict.fromkeys(problems))


def one_sided(whole: Course, lesson: Lesson) -> list[tuple[str, str, str, str]]:
    """The prose cells that changed in one language since the last build, while the other stayed.

    Returns:
        For each: file and line of the source, cell id, the language that changed, the one that did not.
    """
    found: dict[str, tuple[str, str, str, str]] = {}
    now = {cell.id: (cell, notebook.digests(cell)) for cell in lesson.cells if cell.code is None}
    for language in LANGUAGES:
        for name, before in _built_prose(notebook.path_of(whole, lesson.stem, language)).items():
            if name not in now:
                continue
            cell, after = now[name]
            changed = [one for one in LANGUAGES if before.get(one) != after[one]]
            if len(changed) == 1:
                (stayed,) = [one for one in LANGUAGES if one not in changed]
                found[name] = (f"lessons/{lesson.path.name}:{cell.line}", name, changed[0], stayed)
    return list(found.values())


def _built_prose(path: Path) -> dict[str, dict[str, str]]:
    """The hashes that the last build left in a notebook, by cell; none without a readable notebook."""
    try:
        cells = notebook.read(path).cells if path.is_file() else []
    except LessonError:
        return {}  # the check names it, a build replaces it
    found = {cell.get("id"): cell.metadata.get("lessonlib", {}).get("prose") for cell in cells}
    return {name: prose for name, prose in found.items() if prose}


def refuse_one_sided(whole: Course, lesson: Lesson, accepted: Sequence[str] = ()) -> None:
    """Stops a build where one language of a cell changed and the other did not.

    Args:
        whole: the course.
        lesson: the lesson about to be built.
        accepted: ids of cells where that is meant, such as a corrected typing error.

    Raises:
        LessonError: naming every such cell and its languages.
    """
    changes = [change for change in one_sided(whole, lesson) if change[1] not in accepted]
    if changes:
        messages = "\n".join(_one_sided_message(*change) for change in changes)
        option = " ".join(f"--one-sided {change[1]}" for change in changes)
        raise LessonError(
            "{messages}\nChange the other language too, or accept it (a typing error): lessonlib build "
            "{option}",
            messages=messages, option=option,
        )


def _one_sided_message(where: str, name: str, changed: str, stayed: str) -> str:
    return tr(
        "{where}: the cell {name!r} changed in {changed!r} but not in {stayed!r}.",
        where=where, name=name, changed=changed, stayed=stayed,
    )


def _check_notebook(whole: Course, lesson: Lesson, language: str) -> list[str]:
    path = notebook.path_of(whole, lesson.stem, language)

    def problem(message: Translated) -> str:
        return _at(whole.root, path, message)

    if not path.is_file():
        return [problem(Translated("is not built."))]
    built = notebook.read(path)
    made = notebook.make(whole, lesson, language)
    wanted, there = [cell.id for cell in made.cells], [cell.get("id") for cell in built.cells]
    problems = []
    for name in sorted(set(wanted) - set(there)):
        problems.append(problem(Translated("lacks the cell {name!r}.", name=name)))
    for name in sorted(str(name) for name in set(there) - set(wanted)):
        problems.append(problem(Translated("has the cell {name!r}, which the source has not.", name=name)))
    if set(wanted) == set(there) and wanted != there:
        problems.append(problem(Translated("has its cells in another order than the source.")))
    by_id = {cell.id: cell for cell in made.cells}
    for cell in built.cells:
        name = cell.get("id")
        if name not in by_id:
            continue
        same = by_id[name]
        if cell.cell_type != same.cell_type or cell.source != same.source:
            problems.append(problem(Translated("the cell {name!r} differs from its source.", name=name)))
        elif cell.metadata != same.metadata:
            problems.append(problem(Translated(
                "the metadata of the cell {name!r} differ from the source's.", name=name,
            )))
    metadata = {**built.metadata, "lessonlib": dict(built.metadata.get("lessonlib", {}))}
    outputs = metadata["lessonlib"].pop("outputs", None)
    same_format = (built.nbformat, built.nbformat_minor) == (made.nbformat, made.nbformat_minor)
    if metadata != made.metadata or not same_format:
        problems.append(problem(Translated("its metadata are not what the build writes.")))
    return problems + _check_outputs(built, outputs, problem)


def _check_outputs(
    built: "NotebookNode", digest: str | None, problem: Callable[[Translated], str]
) -> list[str]:
    problems = []
    code = [cell for cell in built.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, 1):
        name, count = cell.get("id"), cell.execution_count
        if count != number:
            problems.append(problem(Translated(
                "the cell {name!r} was not executed in order (count {count} for {number}).",
                name=name, count=count, number=number,
            )))
        problems += [
            problem(Translated(
                "the cell {name!r} has the error {ename} in its outputs.", name=name, ename=output.ename,
            ))
            for output in cell.outputs if output.output_type == "error"
        ]
    if digest != notebook.outputs_digest(built):
        problems.append(problem(Translated("its outputs were cleared or edited after the build.")))
    return problems


def _at(root: Path, path: Path, message: Translated) -> str:
    return f"{path.relative_to(root).as_posix()}: {message}"
