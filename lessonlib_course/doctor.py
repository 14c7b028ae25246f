"""`lessonlib course doctor`: which installed package is not the version that the lessons were run with."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from lessonlib_course import repository

if TYPE_CHECKING:
    from packaging.requirements import Requirement


@dataclass(frozen=True)
class Finding:
    """One required package.

    Args:
        name: the distribution.
        wanted: the version it must have, as a specifier such as "==5.17.0".
        installed: its version here; None where it is missing.
        ok: whether the two agree.
    """

    name: str
    wanted: str
    installed: str | None
    ok: bool


def examine(root: Path | None, version: Callable[[str], str] = metadata.version) -> list[Finding]:
    """Compares every required package with what is installed.

    The base packages must be there; those of an extra only have to be right where they are there.

    Args:
        root: the clone whose pyproject.toml says what is required; None: what the installed lessonlib says.
        version: looks up an installed version; it raises PackageNotFoundError for one that is missing.

    Returns:
        One finding a package, base first.
    """
    from packaging.requirements import Requirement

    findings: dict[str, Finding] = {}
    for extra, lines in repository.requirements(root).items():
        for requirement in map(Requirement, lines):
            if requirement.name == "lessonlib" or requirement.name in findings:
                continue  # an extra may name lessonlib's own extras
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            try:
                installed = version(requirement.name)
            except metadata.PackageNotFoundError:
                if extra:
                    continue
                installed = None
            findings[requirement.name] = _compare(requirement, installed)
    return list(findings.values())


def _compare(requirement: "Requirement", installed: str | None) -> Finding:
    ok = installed is not None and requirement.specifier.contains(installed, prereleases=True)
    return Finding(requirement.name, str(requirement.specifier) or "any", installed, ok)


def cure(findings: list[Finding]) -> str | None:
    """The pip command that mends all that is off; None where nothing is."""
    wrong = [finding for finding in findings if not finding.ok]
    if not wrong:
        return None
    return "python -m pip install " + " ".join(
        f'"{finding.name}{"" if finding.wanted == "any" else finding.wanted}"' for finding in wrong
    )


def table(findings: list[Finding]) -> str:
    """The findings as aligned text, with this Python's version."""
    rows = [
        (found.name, found.wanted, found.installed or "-", "ok" if found.ok else "OFF") for found in findings
    ]
    rows.insert(0, ("python", ">=3.11", platform.python_version(), "ok"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(row[at].ljust(width) for at, width in enumerate(widths)), row[3]]) for row in rows
    )
