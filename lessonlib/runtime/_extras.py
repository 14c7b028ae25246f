"""The packages that one lesson needs and the others do not: are they there, and how do they get there?

They are the extras of lessonlib's own package, such as `lesson03`. In Colab and Kaggle they are installed; on
somebody's own machine nothing is installed behind their back, and the command is shown instead.
"""

import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING

from lessonlib.runtime import _detect as runtime
from lessonlib.runtime import _llama_cpp as llama_cpp_tools
from lessonlib.runtime._language import LessonError, tr

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# Unsloth asks for packages that no lesson uses (diffusers, torchvision, xformers) and for a range of torch
# that would replace the host's own.
_ALONE = ("unsloth",)
_COMPILED = "gguf"  # llama.cpp, with tools of its own


def declared() -> dict[str, list[str]]:
    """What the installed lessonlib requires on this system, by extra; "" holds the base dependencies."""
    from packaging.requirements import Requirement

    found: dict[str, list[str]] = {"": []}
    for line in metadata.requires("lessonlib") or []:
        requirement = Requirement(line)
        named = re.search(r"extra\s*==\s*['\"]([^'\"]+)", str(requirement.marker or ""))
        extra = named.group(1) if named else ""
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": extra}):  # else it is for another system
            requirement.marker = None
            found.setdefault(extra, []).append(str(requirement))
    return found


def ensure(*names: str, say: Callable[[str], object] = print) -> None:
    """Make sure that these extras of lessonlib are installed, each package at its version.

    Args:
        names: extras, such as "lesson03" and "unsloth"; for "gguf" llama.cpp's converter is fetched, too.
        say: is given a line before pip starts, which may take minutes.

    Raises:
        LessonError: no such extra; pip failed, with the end of what it said; packages changed under the
            running kernel, which has to restart (`restart`); or something is missing on a
            machine of one's own: then it names the packages and the command. "unsloth" may be missing there,
            as the lessons do without it. For "gguf" as `_llama_cpp.install` and `find`.
    """
    known = declared()
    for name in names:
        if name == _COMPILED and runtime.hosted():
            llama_cpp_tools.install(prebuilt=True, say=say)
            continue
        if name == _COMPILED:
            llama_cpp_tools.check_packages()
            llama_cpp_tools.find(say=say)
            continue
        if name not in known:
            raise LessonError(
                "lessonlib has no extra {name!r}. It has: {known}.",
                name=name, known=", ".join(filter(None, known)),
            )
        missing = _missing(known[name])
        if not missing:
            continue
        command = ["install", *(["--no-deps"] if name in _ALONE else []), *missing]
        if runtime.hosted():
            say(tr("Installing {missing}...", missing=", ".join(missing)))
            _pip(command)
            if changed := runtime.restart_needed():  # pip may have moved what this kernel has loaded
                runtime.restart(changed)
        elif name not in _ALONE:
            written = " ".join(f'"{part}"' if part in missing else part for part in command)
            raise LessonError(
                "This lesson also needs: {missing}. Install them and run this cell again: python -m pip "
                "{written}",
                missing=", ".join(missing), written=written,
            )


def _missing(lines: list[str]) -> list[str]:
    """The requirements that are not met here, as pip takes them."""
    from packaging.requirements import Requirement

    return [line for line in lines if not _met(Requirement(line))]


def _met(requirement: "Requirement") -> bool:
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(found, prereleases=True)


def _pip(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *command], capture_output=True, text=True)
    importlib.invalidate_caches()  # this very process is to find what was installed
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise LessonError(
            "The installation failed: check the network, then run this cell again.\n{tail}", tail=tail,
        )
