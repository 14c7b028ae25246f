"""Compares the built notebooks with their sources, without executing anything: `lessonlib build --check`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lessonlib.runtime._language import LANGUAGES, LessonError, text
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
                problems.append(_at(root, built, vi="không có bài nguồn trong lessons/; hãy xóa nó.",
                                    en="has no source in lessons/; remove it."))
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
            vi=f"{messages}\nHãy sửa nốt ngôn ngữ kia, hoặc chấp nhận (lỗi chính tả): lessonlib build "
               f"{option}",
            en=f"{messages}\nChange the other language too, or accept it (a typing error): lessonlib "
               f"build {option}",
        )


def _one_sided_message(where: str, name: str, changed: str, stayed: str) -> str:
    return text(
        vi=f"{where}: ô {name!r} đã đổi ở {changed!r} mà chưa đổi ở {stayed!r}.",
        en=f"{where}: the cell {name!r} changed in {changed!r} but not in {stayed!r}.",
    )


def _check_notebook(whole: Course, lesson: Lesson, language: str) -> list[str]:
    path = notebook.path_of(whole, lesson.stem, language)

    def problem(*, vi: str, en: str) -> str:
        return _at(whole.root, path, vi=vi, en=en)

    if not path.is_file():
        return [problem(vi="chưa được build.", en="is not built.")]
    built = notebook.read(path)
    made = notebook.make(whole, lesson, language)
    wanted, there = [cell.id for cell in made.cells], [cell.get("id") for cell in built.cells]
    problems = []
    for name in sorted(set(wanted) - set(there)):
        problems.append(problem(vi=f"thiếu ô {name!r}.", en=f"lacks the cell {name!r}."))
    for name in sorted(str(name) for name in set(there) - set(wanted)):
        problems.append(problem(
            vi=f"thừa ô {name!r}.", en=f"has the cell {name!r}, which the source has not.",
        ))
    if set(wanted) == set(there) and wanted != there:
        problems.append(problem(vi="các ô sai thứ tự.", en="has its cells in another order than the source."))
    by_id = {cell.id: cell for cell in made.cells}
    for cell in built.cells:
        name = cell.get("id")
        if name not in by_id:
            continue
        same = by_id[name]
        if cell.cell_type != same.cell_type or cell.source != same.source:
            problems.append(problem(
                vi=f"ô {name!r} khác với nguồn.", en=f"the cell {name!r} differs from its source.",
            ))
        elif cell.metadata != same.metadata:
            problems.append(problem(
                vi=f"metadata của ô {name!r} khác với nguồn.",
                en=f"the metadata of the cell {name!r} differ from the source's.",
            ))
    metadata = {**built.metadata, "lessonlib": dict(built.metadata.get("lessonlib", {}))}
    outputs = metadata["lessonlib"].pop("outputs", None)
    same_format = (built.nbformat, built.nbformat_minor) == (made.nbformat, made.nbformat_minor)
    if metadata != made.metadata or not same_format:
        problems.append(problem(
            vi="metadata của notebook khác với bản build.", en="its metadata are not what the build writes.",
        ))
    return problems + _check_outputs(built, outputs, problem)


def _check_outputs(built: "NotebookNode", digest: str | None, problem: Callable[..., str]) -> list[str]:
    problems = []
    code = [cell for cell in built.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, 1):
        name, count = cell.get("id"), cell.execution_count
        if count != number:
            problems.append(problem(
                vi=f"ô {name!r} chưa chạy theo thứ tự (số thứ tự {count}, phải là {number}).",
                en=f"the cell {name!r} was not executed in order (count {count} for {number}).",
            ))
        problems += [
            problem(vi=f"ô {name!r} có lỗi {output.ename} trong kết quả.",
                    en=f"the cell {name!r} has the error {output.ename} in its outputs.")
            for output in cell.outputs if output.output_type == "error"
        ]
    if digest != notebook.outputs_digest(built):
        problems.append(problem(
            vi="kết quả của các ô bị xóa hoặc sửa sau khi build.",
            en="its outputs were cleared or edited after the build.",
        ))
    return problems


def _at(root: Path, path: Path, *, vi: str, en: str) -> str:
    return f"{path.relative_to(root).as_posix()}: {text(vi=vi, en=en)}"
