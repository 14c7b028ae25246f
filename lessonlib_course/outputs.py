"""Cleans the outputs of an executed notebook of everything that differs from run to run.

What stays is what the lesson measured. What goes: stderr (progress bars, warnings of libraries), widget
views, object addresses, temporary paths, the Trainer's own timings; in cells tagged "timed", times and sizes.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbformat import NotebookNode

_TIMED = "timed"

_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}")
_TRAINER = re.compile(
    r"((?:\w+_)?(?:runtime|samples_per_second|steps_per_second|tokens_per_second)['\"]?\s*[:=]\s*['\"]?)[\d.e+-]+"
)
_UNITS = r"ms|µs|s|sec|seconds?|minutes?|min|giây|phút|(?:[a-z]+|it)/s|[KMG]i?B"
_MEASURED = re.compile(rf"(?<![\w.])\d[\d.,]*(\s*(?:{_UNITS}))(?![\w/])")
_STYLER = re.compile(r"\bT_[0-9a-f]{5}(?=[_\"\s])")  # pandas gives each styled table a random name


def clean(executed: "NotebookNode", words: Mapping[Path, str]) -> None:
    """Makes the outputs of an executed notebook the same at every run, in place.

    Args:
        executed: the notebook.
        words: what to write for a path of this machine, such as the work folder: "work".
    """
    replacements = sorted(
        {str(form): word for path, word in words.items() for form in (path, path.resolve())}.items(),
        key=lambda item: -len(item[0]),  # the longest first: one may lie inside another
    )
    for cell in executed.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        timed = _TIMED in cell.metadata.get("tags", [])
        cell.outputs = _merged([output for output in cell.outputs if _keep(output)])
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = _text(output.text, replacements, timed)
            elif output.output_type in ("display_data", "execute_result"):
                for kind, value in output.data.items():
                    output.data[kind] = _data(kind, value, replacements, timed)
    executed.metadata.pop("widgets", None)


def _keep(output: Any) -> bool:
    if output.output_type == "stream":
        return output.name != "stderr"
    # With a widget's view goes its text form too: a progress bar at 0%.
    return "application/vnd.jupyter.widget-view+json" not in output.get("data", {})


def _merged(outputs: list) -> list:
    """Neighbouring stream pieces as one: where a kernel cuts a stream is a matter of timing."""
    merged: list = []
    for output in outputs:
        if merged and output.output_type == merged[-1].output_type == "stream":
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def _data(kind: str, value: Any, replacements: list[tuple[str, str]], timed: bool) -> Any:
    if not isinstance(value, str) or not (kind.startswith("text/") or kind == "image/svg+xml"):
        return value
    names: dict[str, str] = {}
    value = _STYLER.sub(lambda match: names.setdefault(match.group(), f"T_{len(names):05}"), value)
    return _text(value, replacements, timed)


def _text(value: str, replacements: list[tuple[str, str]], timed: bool) -> str:
    for path, word in replacements:
        value = value.replace(path, word)
    value = _ADDRESS.sub("0x…", value)
    value = _TRAINER.sub(r"\1…", value)
    return _MEASURED.sub(r"…\1", value) if timed else value
