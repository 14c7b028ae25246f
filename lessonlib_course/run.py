"""`lessonlib run NN`: executes a lesson from its source; leaves a notebook, an HTML report, its metrics."""

import hashlib
import json
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lessonlib.runtime._language import LessonError, tr, use
from lessonlib_course import execute, notebook, report, source
from lessonlib_course.dry_run import simulated_t4

if TYPE_CHECKING:
    from nbformat import NotebookNode

_MARK = ".lessonlib-run.json"


@dataclass(frozen=True)
class Result:
    """What a run left behind.

    Args:
        notebook: the executed notebook.
        html: the same as a page.
        metrics: what the lesson measured.
        table: base against tuned, as text.
    """

    notebook: Path
    html: Path
    metrics: Path
    table: str


def run(
    root: Path, number: str, *, language: str = "vi", profile: str = "auto", out: Path | None = None,
    limit: int = execute.CELL_LIMIT, dry_run: bool = False,
) -> Result:
    """Executes one lesson from its first cell to its last, and writes what came out.

    A run that was killed goes on from its checkpoints when it is started again; a finished or failed one
    starts anew.

    Args:
        root: the folder of the course.
        number: the lesson, such as "01".
        language: "vi" or "en".
        profile: "auto" (what the machine can do), "rehearsal" (the twin, on any CPU), "laptop" (on any
            CPU; the lessons take their twins there, too, so far) or "t4".
        out: the folder for everything; default: runs/NN-LANGUAGE in the course.
        limit: seconds that one cell may take.
        dry_run: take the profile t4 on this machine's CPU, with a simulated card (`dry_run`).

    Raises:
        CellError: a cell failed; the notebook up to there is saved, its path is in the message.
        LessonError: for an unknown lesson, a folder that is not ours to empty, or a lesson without metrics.
    """
    use(language)
    whole = notebook.course(root)
    lesson = source.parse(source.find(root, number))
    made = notebook.make(whole, lesson, language)
    profile = "t4" if dry_run else profile
    name = f"{lesson.number}-{language}" + ("-dry-run" if dry_run else "")
    out = (out or root / "runs" / name).resolve()
    work = prepare(out, _digest(made, f"{profile} {dry_run}"))
    path = out / f"{lesson.stem}.ipynb"
    record = out / "record.jsonl" if dry_run else None
    if record is not None:
        record.unlink(missing_ok=True)
    try:
        card: AbstractContextManager[dict[str, str | None]]
        card = simulated_t4(record) if dry_run else nullcontext({})
        with card as variables:
            execute.execute(
                made, language=language, work=work, profile=profile, limit=limit,
                label=f"{lesson.number} {language}", variables=variables,
            )
    except execute.CellError as error:
        notebook.write({path: made})
        _finish(out)
        raise execute.CellError(
            "{error}\nThe notebook up to there: {path}", error=error.message, path=path,
        ) from None
    notebook.write({path: made})
    _finish(out)
    page = path.with_suffix(".html")
    page.write_text(report.to_html(made, title=lesson.title(language), language=language), encoding="utf-8")
    metrics = out / "metrics.json"
    if not (work / "metrics.json").is_file():
        raise LessonError(
            "Lesson {stem} ran to its end but wrote no metrics.json to {work}. The notebook: {path}",
            stem=lesson.stem, work=work, path=path,
        )
    shutil.copyfile(work / "metrics.json", metrics)
    return Result(path, page, metrics, table_text(metrics))


def table_text(metrics: Path) -> str:
    """The table of a metrics.json as aligned text, one row a line.

    Raises:
        LessonError: where the file has no {"table": {"columns": [...], "rows": [[...], ...]}}.
    """
    try:
        table = json.loads(metrics.read_text(encoding="utf-8"))["table"]
        rows = [[str(value) for value in row] for row in [table["columns"], *table["rows"]]]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    except (ValueError, KeyError, TypeError) as error:
        raise LessonError(
            "{metrics} has no table with columns and rows ({error}). Write it with evaluation.save_metrics.",
            metrics=metrics, error=error,
        ) from error
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _digest(made: "NotebookNode", profile: str) -> str:
    """What must be unchanged for a killed run to go on: the code and the profile."""
    code = [cell.source for cell in made.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps([profile, code]).encode()).hexdigest()


def prepare(out: Path, digest: str) -> Path:
    """Makes the work folder, and marks it as in use by this run.

    Args:
        out: the run's folder.
        digest: of code and profile; where a run of the same was killed, its work folder stays as it lies.

    Raises:
        LessonError: where there is a work folder that no run made; it is never emptied.
    """
    work, mark = out / "work", out / _MARK
    killed = None
    if mark.is_file():
        try:
            killed = json.loads(mark.read_text(encoding="utf-8"))["running"]
        except (ValueError, KeyError):  # killed while it wrote the mark: nothing to go on from
            killed = None
    elif work.exists() and any(work.iterdir()):
        raise LessonError(
            "{work} exists and was not made by lessonlib run, so it is not emptied. Choose another folder "
            "with --out.",
            work=work,
        )
    if killed == digest:
        message = tr("Going on with the interrupted run in")
        print(f"{message} {work}")
    elif work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps({"running": digest}), encoding="utf-8")
    return work


def _finish(out: Path) -> None:
    (out / _MARK).write_text(json.dumps({"running": None}), encoding="utf-8")
