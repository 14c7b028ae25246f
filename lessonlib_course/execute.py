"""Executes a notebook cell by cell in a kernel of this very Python, and says clearly where it stopped.

It knows nothing of lessons: it takes a notebook and gives the same notebook with outputs.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonlib.runtime._language import VARIABLE, LessonError, Translated
from lessonlib_course import notebook

if TYPE_CHECKING:
    from nbformat import NotebookNode

CELL_LIMIT = 1800  # seconds

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LINES = 12  # of an error message; a learner needs its end, not screens of it


class CellError(LessonError):
    """A notebook stopped in one of its cells; what ran before is in the notebook."""


def environment(language: str, work: Path, profile: str) -> dict[str, str]:
    """The environment of a lesson's kernel: this process's, and what makes a lesson run by itself.

    Args:
        language: of lessonlib's messages.
        work: the folder that the lesson writes to.
        profile: "auto", "rehearsal", "laptop", "t4" or "large".
    """
    made = {
        **os.environ,
        VARIABLE: language,
        "LESSONLIB_WORK": str(work),
        "LESSONLIB_PROFILE": profile,
        "LESSONLIB_HEADLESS": "1",
        "PYTHONHASHSEED": "0",  # the order of a printed set is part of an output
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",  # trl would report each trainer to the Hub
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # transformers' bars over weights follow it too
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    if profile in ("auto", "rehearsal", "laptop"):
        # With other load on the machine two threads can be thirty times slower than one.
        made.setdefault("OMP_NUM_THREADS", "1")
    if profile == "rehearsal":
        made["HF_HUB_OFFLINE"] = "1"
    return made


def execute(
    built: "NotebookNode", *, language: str, work: Path, profile: str, limit: int = CELL_LIMIT,
    label: str = "", variables: Mapping[str, str | None] | None = None,
) -> None:
    """Executes all code cells in order, in place, with a progress bar on stderr.

    Args:
        built: the notebook; its code cells get outputs and execution counts 1..n.
        language: of lessonlib's messages in the kernel.
        work: the lesson's work folder, also the kernel's working folder; it must exist.
        profile: "auto", "rehearsal", "laptop", "t4" or "large".
        limit: seconds that one cell may take.
        label: in front of the progress bar.
        variables: environment variables for the kernel, over those of `environment`; None takes one away.

    Raises:
        CellError: where a cell raises, takes longer than `limit`, or its kernel dies. The notebook then holds
            the outputs up to there.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from tqdm import tqdm

    client = NotebookClient(
        built, timeout=limit, kernel_manager_class=_kernel_manager(), store_widget_state=False,
        record_timing=False, force_raise_errors=True,
    )
    client.log.disabled = True  # we say it ourselves, once
    headings = notebook.headings(built)
    code = [at for at, cell in enumerate(built.cells) if cell.cell_type == "code"]
    metadata = dict(built.metadata)
    asked = {**environment(language, work, profile), **(variables or {})}
    kernel_env = {name: value for name, value in asked.items() if value is not None}
    with (
        tqdm(total=len(code), unit="cell", file=sys.stderr, dynamic_ncols=True) as bar,
        # What a cell writes to stderr comes over the wire; this is the kernel process's own chatter.
        client.setup_kernel(
            cwd=str(work), env=kernel_env, stderr=subprocess.DEVNULL
        ),
    ):
        for number, at in enumerate(code, 1):
            bar.set_description_str(f"{label} {headings[at]}".strip()[:48])
            try:
                client.execute_cell(built.cells[at], at, execution_count=number)
            except CellExecutionError as error:
                raise _cell_error(built, at, number, headings[at], _where(built.cells[at], error)) from None
            except CellTimeoutError:
                raise _cell_error(built, at, number, headings[at], Translated(
                    "The cell took longer than {limit} seconds and was stopped. If the machine is slow or "
                    "busy, try a larger --cell-limit.",
                    limit=limit,
                )) from None
            except DeadKernelError:
                raise _cell_error(built, at, number, headings[at], Translated(
                    "The kernel died, mostly for want of memory. Close other programs, or use "
                    "--profile rehearsal.",
                )) from None
            bar.update()
    built.metadata.clear()
    built.metadata.update(metadata)  # nbclient adds what the kernel says of itself


def _kernel_manager() -> type:
    """A kernel manager for the Python that runs this, whatever kernel specs are installed on the machine."""
    from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class ThisPython(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())

    return ThisPython


def _where(cell: Any, error: Any) -> str | Translated:
    """The failing line of the cell and the error's own words, in place of a screen of traceback."""
    traceback = _ANSI.sub("", "\n".join(
        "\n".join(output.traceback) for output in cell.outputs if output.output_type == "error"
    ))
    line = re.search(r"^-+>\s*(\d+)\s?(.*)$", traceback, re.MULTILINE)
    words = f"{error.ename}: {_ANSI.sub('', error.evalue)}".strip().splitlines()
    if len(words) > _LINES:
        words = [*words[:2], "…", *words[3 - _LINES :]]
    shown = "\n".join(f"  {word}" for word in words)
    if line is None:
        return shown
    at, code = line.groups()
    return Translated("  line {at}: {code}\n{shown}", at=at, code=code.strip(), shown=shown)


def _cell_error(built: Any, at: int, number: int, heading: str, detail: str | Translated) -> CellError:
    total = sum(cell.cell_type == "code" for cell in built.cells)
    name = built.cells[at].id
    return CellError(
        'Stopped in code cell [{number}] of {total} (id {name!r}), under "{heading}":\n{detail}',
        number=number, total=total, name=name, heading=heading, detail=detail,
    )
