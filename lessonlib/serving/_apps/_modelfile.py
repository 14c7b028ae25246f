"""The Modelfile with which `ollama create` makes a model of a GGUF file."""

import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lessonlib.runtime._language import LessonError
from lessonlib.serving._apps._layout import layout
from lessonlib.serving._formats import chat_format, checked_file

# https://github.com/ollama/ollama/blob/main/docs/modelfile.mdx; `ollama create` refuses any other
_PARAMETERS = (
    "min_p", "num_ctx", "num_predict", "repeat_last_n", "repeat_penalty", "seed", "stop", "temperature",
    "top_k", "top_p",
)  # fmt: skip
_GREEDY: Mapping[str, Any] = {"temperature": 0, "repeat_penalty": 1.0, "num_ctx": 2048}
_LONGEST_LINE = 60  # of a text that a message quotes


def modelfile(
    gguf: str | os.PathLike,
    *,
    folder: str | os.PathLike | None = None,
    system: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    licence: str | None = None,
    template_options: Mapping[str, Any] | None = None,
) -> str:
    """The Modelfile: FROM, TEMPLATE, PARAMETER lines, SYSTEM and LICENSE.

    The template is the file's own, in Go's template language (`Layout.go`); it was compared with the
    file's on several conversations. It differs from Ollama's for llama3.2
    (https://ollama.com/library/llama3.2), which leaves out the date, writes tools, and leaves a last message
    of the assistant open. Answers stop at every token at which llama.cpp would stop.

    Args:
        gguf: the file.
        folder: where the Modelfile will lie; the path in FROM is then relative to it. None: absolute.
        system: the system message of every conversation that has none.
        parameters: over `GREEDY` (temperature 0, no repeat penalty, 2,048 tokens of context); names as in
            Ollama's documentation. `stop`, a string or several, comes on top of the file's own.
        licence: name or text of the model's licence.
        template_options: variables of the chat template, as in training; a date becomes fixed.

    Returns:
        The text of the Modelfile.

    Raises:
        LessonError: a file that cannot be used; an irregular chat template; an unknown parameter; text that a
            Modelfile cannot hold.
    """
    file = checked_file(gguf)
    form = chat_format(file)
    parts = layout(form, options=template_options)
    source = Path(os.path.relpath(file, folder)) if folder is not None else file
    wanted = {**_GREEDY, **(parameters or {})}
    further = wanted.pop("stop", [])
    stops = [*form.stops, *([further] if isinstance(further, str) else further)]
    lines = [f"FROM {_plain(source.as_posix(), 'FROM')}", f"TEMPLATE {_quoted(parts.go(), 'TEMPLATE')}"]
    lines += [f'PARAMETER stop "{_plain(stop, "stop")}"' for stop in dict.fromkeys(stops)]
    lines += [f"PARAMETER {name} {_number(name, value)}" for name, value in wanted.items()]
    if system and system.strip():
        lines.append(f"SYSTEM {_quoted(system.strip(), 'SYSTEM')}")
    if licence:
        lines.append(f"LICENSE {_quoted(licence.strip(), 'LICENSE')}")
    return "\n".join(lines) + "\n"


def _number(name: str, value: Any) -> str:
    if name not in _PARAMETERS:
        raise LessonError(
            "Ollama has no parameter {name!r}, only {parameters}.",
            name=name, parameters=", ".join(_PARAMETERS),
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LessonError("The parameter {name} has to be a number, not {value!r}.", name=name, value=value)
    return str(value)


def _quoted(text: str, instruction: str) -> str:
    """Between triple quotes, the one way to write several lines; there is no escape for them inside."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if '"""' in text:
        raise LessonError(
            "{instruction} contains three double quotes in a row, and a Modelfile has no way to write them "
            "inside a text. Use curly quotes.",
            instruction=instruction,
        )
    _check_printable(text, instruction)
    return f'"""{text}"""'


def _plain(text: str, instruction: str) -> str:
    """A value on one line."""
    if "\n" in text or text.startswith('"') or text != text.strip():
        raise LessonError(
            "A Modelfile cannot hold {text!r} for {instruction}: the value has to be one line, not begin "
            "with a double quote, and have no white space around it.",
            text=text, instruction=instruction,
        )
    _check_printable(text, instruction)
    return text


def _check_printable(text: str, instruction: str) -> None:
    """Ollama's reader drops, without a word, what Go's strconv.IsPrint does not count as printable."""
    lost = [c for c in text if c not in " \n\t" and unicodedata.category(c)[0] not in "LMNPS"]
    if lost:
        names = ", ".join(_name(character) for character in dict.fromkeys(lost))
        at = text.index(lost[0])
        near = text[max(0, at - _LONGEST_LINE // 2) : at + _LONGEST_LINE // 2]
        raise LessonError(
            "{instruction} has characters that Ollama would drop without a word: {names}, near {near!r}. "
            "Take them out or replace them (by an ordinary space, say).",
            instruction=instruction, names=names, near=near,
        )


def _name(character: str) -> str:
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".strip()
