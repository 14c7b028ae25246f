"""Writes the files and steps for all programs into the folder of an export."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lessonlib.export._saving import MARKER, replacing, write_json
from lessonlib.runtime._language import LessonError
from lessonlib.serving._apps._recipes import PUBLISHER, gpt4all, jan, lm_studio, ollama


def write(
    export_folder: str | os.PathLike,
    *,
    kind: str = "q4_k_m",
    system: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    licence: str | None = None,
    publisher: str = PUBLISHER,
    template_options: Mapping[str, Any] | None = None,
) -> dict[str, Path]:
    """Write `apps/ollama`, `apps/jan`, `apps/lm_studio` and `apps/gpt4all` beside the export's `gguf/`.

    All of it is small text: the GGUF file stays where it is and is named by the steps. The folder is written
    whole or not at all; a second call writes the same.

    Args:
        export_folder: holds `gguf/NAME-KIND.gguf`.
        kind: which of the GGUF files the programs shall run.
        system, parameters, licence, template_options: as in `modelfile`.
        publisher: the folder above the model in Jan's and LM Studio's libraries.

    Returns:
        program -> its folder.

    Raises:
        LessonError: no such GGUF file or more than one; what `modelfile` refuses; a folder `apps` that
            is something else.
    """
    folder = Path(export_folder).expanduser().absolute()
    gguf = _only(folder / "gguf", kind)
    target = folder / "apps"
    recipes = {
        "ollama": ollama(
            gguf, folder=target / "ollama", system=system, parameters=parameters, licence=licence,
            template_options=template_options,
        ),
        "jan": jan(gguf, publisher=publisher, system=system),
        "lm_studio": lm_studio(gguf, publisher=publisher, system=system),
        "gpt4all": gpt4all(gguf, system=system, template_options=template_options),
    }  # fmt: skip
    texts = {
        f"{program}/{name}": content
        for program, recipe in recipes.items()
        for name, content in {**recipe.files, "README.vi.md": recipe.vi, "README.md": recipe.en}.items()
    }
    with replacing(target, "apps", sum(len(content.encode()) for content in texts.values())) as staging:
        for name, content in texts.items():
            place = staging / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content, encoding="utf-8", newline="\n")
        write_json(staging / MARKER, {"kind": "apps", "gguf": gguf.name})
    return {program: target / program for program in recipes}


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
