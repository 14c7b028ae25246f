"""The Modelfile with which `ollama create` makes a model of a GGUF file."""

import unicodedata
from collections.abc import Sequence

from lessonlib.runtime._language import LessonError
from lessonlib.serving._apps._layout import Layout

# Greedy; with Ollama's names: https://github.com/ollama/ollama/blob/main/docs/modelfile.mdx
_PARAMETERS = {"temperature": 0, "repeat_penalty": 1.0, "num_ctx": 2048}
_LONGEST_LINE = 60  # of a text that a message quotes


def modelfile(source: str, parts: Layout, stops: Sequence[str], system: str | None = None) -> str:
    """The Modelfile: FROM, TEMPLATE, PARAMETER lines and SYSTEM.

    The template is the file's own, in Go's template language (`Layout.go`); it was compared with the
    file's on several conversations. It differs from Ollama's for llama3.2
    (https://ollama.com/library/llama3.2), which leaves out the date, writes tools, and leaves a last message
    of the assistant open. Answers stop at every token at which llama.cpp would stop.

    Args:
        source: the GGUF file's path, seen from the Modelfile.
        parts: the file's chat template, taken apart.
        stops: texts of the tokens at which an answer ends.
        system: the system message of every conversation that has none.

    Returns:
        The text of the Modelfile.

    Raises:
        LessonError: text that a Modelfile cannot hold.
    """
    lines = [f"FROM {_plain(source, 'FROM')}", f"TEMPLATE {_quoted(parts.go(), 'TEMPLATE')}"]
    lines += [f'PARAMETER stop "{_plain(stop, "stop")}"' for stop in stops]
    lines += [f"PARAMETER {name} {value}" for name, value in _PARAMETERS.items()]
    if system and system.strip():
        lines.append(f"SYSTEM {_quoted(system.strip(), 'SYSTEM')}")
    return "\n".join(lines) + "\n"


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
