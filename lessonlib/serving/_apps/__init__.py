"""What an exported GGUF file needs in the programs that people chat with: Ollama, Jan, LM Studio, GPT4All.

Jan and LM Studio take the chat template from the file. Ollama wants it in Go's template language, and GPT4All
in a Jinja without assignments to `messages`; both are made here from the file's own template and checked
against it. The windows of these programs are not opened here: what the steps say of them follows their
documentation, which is named there. Their wording lies in `steps/`, a Markdown file for each program and
language.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template

from lessonlib.export._saving import MARKER, replacing, write_json
from lessonlib.runtime._language import LANGUAGES, LessonError, Translated
from lessonlib.serving._apps._layout import Layout, layout
from lessonlib.serving._apps._modelfile import modelfile
from lessonlib.serving._llama import chat_format, checked_file

_PUBLISHER = "lessonlib"  # the folder above the model in Jan's and LM Studio's libraries
_STEPS = Path(__file__).parent / "steps"
_READ = "11/2026"  # when the documentation was read
_SAME = Translated(
    "At temperature 0 the answer has to be the same as the lesson got from this very file, or nearly so. "
    "Where the model talks nonsense or does not stop, it is nearly always the chat template.",
)
_DATED = Translated(" The original template writes the day's date into each prompt; here that date is fixed.")


def write(
    export_folder: str | os.PathLike, *, kind: str = "q4_k_m", system: str | None = None
) -> dict[str, Path]:
    """Write `apps/ollama`, `apps/jan`, `apps/lm_studio` and `apps/gpt4all` beside the export's `gguf/`.

    All of it is small text: the GGUF file stays where it is and is named by the steps. The folder is written
    whole or not at all; a second call writes the same.

    Args:
        export_folder: holds `gguf/NAME-KIND.gguf`.
        kind: which of the GGUF files the programs shall run.
        system: the system message; in Ollama that of every conversation that has none, in the others to be
            pasted.

    Returns:
        program -> its folder.

    Raises:
        LessonError: no such GGUF file or more than one, or one that cannot be used; an irregular chat
            template; a name that Jan does not take; text that a Modelfile cannot hold; a folder `apps` that
            is something else.
    """
    folder = Path(export_folder).expanduser().absolute()
    target = folder / "apps"
    gguf = checked_file(_only(folder / "gguf", kind))
    form = chat_format(gguf)
    parts = layout(form)
    system = (system or "").strip()
    dated = _DATED if parts.dated else ""
    content = modelfile(f"../../gguf/{gguf.name}", parts, form.stops, system)
    made = {
        "ollama": {"Modelfile": content, **_steps("ollama", gguf, bos=form.bos, dated=dated)},
        "jan": _jan(gguf, system),
        "lm_studio": _lm_studio(gguf, system),
        "gpt4all": _gpt4all(gguf, parts, system, dated),
    }
    texts = {f"{program}/{name}": text for program, files in made.items() for name, text in files.items()}
    with replacing(target, "apps", sum(len(content.encode()) for content in texts.values())) as staging:
        for name, content in texts.items():
            place = staging / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content, encoding="utf-8", newline="\n")
        write_json(staging / MARKER, {"kind": "apps", "gguf": gguf.name})
    return {program: target / program for program in made}


def _jan(file: Path, system: str) -> dict[str, str]:
    """Steps, and a model.yml for Jan's data folder, for those who import without the window."""
    place = f"llamacpp/models/{_library(file)}"
    settings = {  # model_path is relative to Jan's data folder
        "model_path": f"{place}/{file.name}", "name": file.stem, "size_bytes": file.stat().st_size,
        "embedding": False,
    }  # fmt: skip
    lines = [f"{key}: {json.dumps(value)}\n" for key, value in settings.items()]
    told = _told(system, Translated("the Instructions of an assistant"))
    return {f"{place}/model.yml": "".join(lines), **_steps("jan", file, system=told)}


def _lm_studio(file: Path, system: str) -> dict[str, str]:
    """Steps for LM Studio, which needs no file but the model."""
    told = _told(system, Translated("the System Prompt box on the right"))
    return _steps("lm_studio", file, library=_library(file), system=told)


def _gpt4all(file: Path, parts: Layout, system: str, dated: str | Translated) -> dict[str, str]:
    """Steps for GPT4All 3.5 or later, the chat template to paste, and the system message."""
    files = {"chat_template.jinja": parts.jinja() + "\n"}
    told: str | Translated = ""
    if system:
        files["system_message.txt"] = system + "\n"
        told = Translated(" Paste `system_message.txt` into the box **System Message**.")
    return files | _steps("gpt4all", file, system=told, dated=dated)


def _steps(program: str, file: Path, **words: str | Translated) -> dict[str, str]:
    """The steps of a program in both languages, with our file's names in them."""
    size = file.stat().st_size
    known: Mapping[str, str | Translated] = {
        "file": file.name, "name": file.stem, "lower": file.stem.lower(), "read": _READ, "same": _SAME,
        "size": f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB", **words,
    }  # fmt: skip
    written = {}
    for language in LANGUAGES:
        wording = Template((_STEPS / f"{program}.{language}.md").read_text(encoding="utf-8"))
        chosen = {key: word if isinstance(word, str) else word[language] for key, word in known.items()}
        written["README.md" if language == "en" else f"README.{language}.md"] = wording.substitute(chosen)
    return written


def _told(system: str, place: Translated) -> str | Translated:
    """Where the system message goes, and the message as an indented quotation; nothing if there is none."""
    if not system:
        return ""
    quoted = "\n".join(f"   > {line}" for line in system.splitlines())
    return Translated(" Copy this system message into {place}:\n\n{quoted}\n", place=place, quoted=quoted)


def _library(file: Path) -> str:
    """publisher/model, as Jan and LM Studio name their folders."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", file.stem):
        raise LessonError(
            "The name {part!r} cannot be a model's folder: Jan takes only plain letters, digits and _ - "
            ". Rename the file.",
            part=file.stem,
        )
    return f"{_PUBLISHER}/{file.stem}"


def _only(folder: Path, kind: str) -> Path:
    found = sorted(folder.glob(f"*-{kind}.gguf"))
    if len(found) == 1:
        return found[0]
    there = ", ".join(sorted(file.name for file in folder.glob("*.gguf"))) or "-"
    raise LessonError(
        "In {folder} there has to be one file *-{kind}.gguf, and there are {count}. The .gguf files there: "
        "{there}. Choose another kind, or export GGUF first (lessonlib.export.make_gguf).",
        folder=folder, kind=kind, count=len(found), there=there,
    )
