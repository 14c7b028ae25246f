"""For each program: the files that it can take, and the steps, with what to expect.

The steps' wording lies in `steps/`, a Markdown file for each program and language.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from lessonlib.runtime._language import LANGUAGES, LessonError, Translated
from lessonlib.serving._apps._layout import layout
from lessonlib.serving._apps._modelfile import modelfile
from lessonlib.serving._formats import chat_format, checked_file

PUBLISHER = "lessonlib"
_STEPS = Path(__file__).parent / "steps"
_READ = "11/2026"  # when the documentation was read
_SAME = Translated(
    "At temperature 0 the answer has to be the same as the lesson got from this very file, or nearly so. "
    "Where the model talks nonsense or does not stop, it is nearly always the chat template.",
)
_DATED = Translated(" The original template writes the day's date into each prompt; here that date is fixed.")


@dataclass(frozen=True, repr=False)
class Recipe:
    """Files and steps for one program; a notebook shows the steps in its language.

    Args:
        steps: the steps, in Markdown; `vi` and `en` are their two texts.
        files: path below the program's folder -> content.
    """

    steps: Translated
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def vi(self) -> str:
        return self.steps.vi

    @property
    def en(self) -> str:
        return self.steps.en

    def __str__(self) -> str:
        return str(self.steps)

    __repr__ = __str__  # what a notebook keeps beside the Markdown

    def _repr_markdown_(self) -> str:
        return str(self)


def ollama(
    gguf: str | os.PathLike,
    *,
    folder: str | os.PathLike | None = None,
    system: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    licence: str | None = None,
    template_options: Mapping[str, Any] | None = None,
) -> Recipe:
    """A Modelfile and the two commands; arguments and errors are those of `modelfile`."""
    file = checked_file(gguf)
    content = modelfile(
        file, folder=folder, system=system, parameters=parameters, licence=licence,
        template_options=template_options,
    )  # fmt: skip
    form = chat_format(file)
    dated = _DATED if layout(form, options=template_options).dated else ""
    return _recipe("ollama", file, {"Modelfile": content}, bos=form.bos, dated=dated)


def jan(gguf: str | os.PathLike, *, publisher: str = PUBLISHER, system: str | None = None) -> Recipe:
    """Steps for Jan, and a model.yml for its data folder, for those who import without the window.

    Args:
        gguf: the file.
        publisher: folder above the model's in Jan's library.
        system: the system message, which in Jan belongs to an assistant.

    Raises:
        LessonError: a file that cannot be used; a name that Jan does not take.
    """
    file = checked_file(gguf)
    place = f"llamacpp/models/{_library(publisher, file)}"
    settings = {  # model_path is relative to Jan's data folder
        "model_path": f"{place}/{file.name}", "name": file.stem, "size_bytes": file.stat().st_size,
        "embedding": False,
    }  # fmt: skip
    lines = [f"{key}: {json.dumps(value)}\n" for key, value in settings.items()]
    told = _told(system, Translated("the Instructions of an assistant"))
    return _recipe("jan", file, {f"{place}/model.yml": "".join(lines)}, system=told)


def lm_studio(gguf: str | os.PathLike, *, publisher: str = PUBLISHER, system: str | None = None) -> Recipe:
    """Steps for LM Studio, which needs no file but the model; arguments and errors are those of `jan`."""
    file = checked_file(gguf)
    told = _told(system, Translated("the System Prompt box on the right"))
    return _recipe("lm_studio", file, {}, library=_library(publisher, file), system=told)


def gpt4all(
    gguf: str | os.PathLike,
    *,
    system: str | None = None,
    template_options: Mapping[str, Any] | None = None,
) -> Recipe:
    """Steps for GPT4All 3.5 or later, the chat template to paste, and the system message.

    Args:
        gguf: the file.
        system: the system message, plain text.
        template_options: variables of the chat template, as in training; a date becomes fixed.

    Raises:
        LessonError: a file that cannot be used; an irregular chat template.
    """
    file = checked_file(gguf)
    parts = layout(chat_format(file), options=template_options)
    files = {"chat_template.jinja": parts.jinja() + "\n"}
    told: str | Translated = ""
    if system and system.strip():
        files["system_message.txt"] = system.strip() + "\n"
        told = Translated(" Paste `system_message.txt` into the box **System Message**.")
    dated = _DATED if parts.dated else ""
    return _recipe("gpt4all", file, files, system=told, dated=dated)


def _recipe(program: str, file: Path, files: Mapping[str, str], **words: str | Translated) -> Recipe:
    """The steps of a program with our file's names in them; a word may differ by language."""
    size = file.stat().st_size
    same: dict[str, str | Translated] = {
        "file": file.name, "name": file.stem, "lower": file.stem.lower(), "read": _READ, "same": _SAME,
        "size": f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB",
    }  # fmt: skip
    written = {}
    for language in LANGUAGES:
        wording = Template((_STEPS / f"{program}.{language}.md").read_text(encoding="utf-8"))
        chosen = {
            key: word if isinstance(word, str) else word[language] for key, word in (same | words).items()
        }
        written[language] = wording.substitute(chosen)
    return Recipe(Translated.of(**written), files)


def _told(system: str | None, place: Translated) -> str | Translated:
    """Where the system message goes, and the message as an indented quotation; nothing if there is none."""
    if not (system and system.strip()):
        return ""
    quoted = "\n".join(f"   > {line}" for line in system.strip().splitlines())
    return Translated(" Copy this system message into {place}:\n\n{quoted}\n", place=place, quoted=quoted)


def _library(publisher: str, file: Path) -> str:
    """publisher/model, as Jan and LM Studio name their folders."""
    for part in (publisher, file.stem):
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", part):
            raise LessonError(
                "The name {part!r} cannot be a model's folder: Jan takes only plain letters, digits and _ - "
                ". Rename the file or the publisher.",
                part=part,
            )
    return f"{publisher}/{file.stem}"
