"""Where the course lies on disk and on GitHub: its root, its one repository setting, its pins.

Everything here is read from pyproject.toml, the one place of each; nothing knows about notebooks, except the
command that changes the setting, which asks `notebook` to stamp it again.
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from lessonlib.runtime import _extras as extras
from lessonlib.runtime._language import LessonError
from lessonlib.runtime._paths import PACKAGE

# GitHub: an owner is letters, digits and single hyphens inside, 39 at most; a name is 100 characters at most.
_REPOSITORY = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}")
# A branch or tag as `git check-ref-format` takes it, less what a URL or Markdown would need quoted.
_REF = re.compile(r"(?!.*(?:\.\.|//|/\.|\.lock(?:/|$)))[A-Za-z0-9_][A-Za-z0-9._/-]*(?<![./])")


@dataclass(frozen=True)
class Repository:
    """Where the course is published.

    Args:
        name: "OWNER/NAME" on GitHub.
        ref: the branch or tag that badges and set-up cells point to.
    """

    name: str
    ref: str

    def colab_url(self, path: str) -> str:
        """The address at which Colab opens a file of the repository, `path` relative to its root."""
        return f"https://colab.research.google.com/github/{self.name}/blob/{self.ref}/{path}"


def find_root(start: Path | None = None) -> Path:
    """The folder of the course: the nearest one around `start` that has lessons/ and a pyproject.toml.

    Args:
        start: where to begin to look; default: the working folder, then the clone this package lies in.

    Raises:
        LessonError: outside a clone (an installed wheel holds no lessons).
    """
    begin = Path.cwd() if start is None else start
    for folder in (begin, *begin.parents, *([PACKAGE.parent] if start is None else [])):
        if (folder / "lessons").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    raise LessonError(
        "There is no lessons/ in {begin} or above it. Run this command inside a clone of the course.",
        begin=begin,
    )


def setting(root: Path) -> Repository:
    """The repository setting of pyproject.toml, table [tool.lessonlib].

    Raises:
        LessonError: where the table or one of its two keys is missing.
    """
    table = _pyproject(root).get("tool", {}).get("lessonlib", {})
    if not {"repository", "ref"} <= set(table):
        raise LessonError(
            "{root}: the table [tool.lessonlib] must have repository and ref.", root=root / "pyproject.toml",
        )
    return Repository(table["repository"], table["ref"])


def change_setting(root: Path, name: str, ref: str | None = None) -> tuple[Repository, Repository]:
    """Writes a new repository setting into pyproject.toml and into the links of README*.md.

    Comments and everything else in these files stay as they are.

    Args:
        root: the folder of the course.
        name: "OWNER/NAME".
        ref: branch or tag; default: the present one.

    Returns:
        The old setting and the new one.

    Raises:
        LessonError: for a name or ref that GitHub would not take; nothing is changed then.
    """
    if not _REPOSITORY.fullmatch(name):
        raise LessonError(
            "{name!r} is not the name of a GitHub repository. Write OWNER/NAME, such as "
            "hoa-nguyen/finetune-vi.",
            name=name,
        )
    if ref is not None and not _REF.fullmatch(ref):
        raise LessonError(
            "{ref!r} is not the name of a branch or tag. Use letters, digits and . _ / -, such as main or "
            "v1.0.",
            ref=ref,
        )
    old = setting(root)
    new = Repository(name, ref if ref is not None else old.ref)
    path = root / "pyproject.toml"
    head, table, rest = _split_at_table(path.read_text(encoding="utf-8"))
    for key, value in (("repository", new.name), ("ref", new.ref)):
        table = re.sub(rf'(?m)^({key}\s*=\s*)"[^"]*"', rf'\g<1>"{value}"', table)
    path.write_text(head + table + rest, encoding="utf-8")
    for readme in sorted(root.glob("README*.md")):
        before = readme.read_text(encoding="utf-8")
        readme.write_text(_relink(before, old, new), encoding="utf-8")
    return old, new


def stale_links(root: Path) -> list[str]:
    """The links of README*.md that open another repository or ref in Colab than the setting, as messages."""
    wanted = setting(root).colab_url("")
    problems = []
    for readme in sorted(root.glob("README*.md")):
        for number, line in enumerate(readme.read_text(encoding="utf-8").splitlines(), 1):
            for url in re.findall(r"https://colab\.research\.google\.com/github/[^)\s\"'>]*", line):
                if not url.startswith(wanted):
                    problems.append(f"{readme.name}:{number}: {url} does not point to {wanted}")
    return problems


def requirements(root: Path | None) -> dict[str, list[str]]:
    """What lessonlib requires: requirement strings by extra; the key "" holds the base dependencies.

    Args:
        root: a clone, whose pyproject.toml is read; None: the metadata of the installed package.
    """
    if root is not None:
        project = _pyproject(root)["project"]
        return {"": project["dependencies"], **project.get("optional-dependencies", {})}
    return extras.declared()


def setup_pins(root: Path) -> list[str]:
    """What the set-up cell pins on a host such as Colab: the exact pins; what has a range, the host keeps."""
    needed = requirements(root)
    return [line for line in needed[""] + needed.get("colab", []) if "==" in line]


def torch_range(root: Path) -> str:
    """The versions of torch that the package asks for; "" for a course without it."""
    from packaging.requirements import Requirement

    asked = [Requirement(line) for line in requirements(root)[""]]
    return next((str(one.specifier) for one in asked if one.name == "torch"), "")


def _pyproject(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def _split_at_table(text: str) -> tuple[str, str, str]:
    """pyproject.toml before, inside and after the table [tool.lessonlib]."""
    match = re.search(r"(?ms)^\[tool\.lessonlib\].*?(?=^\[|\Z)", text)
    assert match is not None  # `setting` has just read the table
    return text[: match.start()], match.group(), text[match.end() :]


def _relink(text: str, old: Repository, new: Repository) -> str:
    # With the ref first: a plain link to the repository is a prefix of a link to one of its files.
    for site in ("github.com", "colab.research.google.com/github"):
        for kind in ("blob", "tree", "raw"):
            before, after = (f"{site}/{one.name}/{kind}/{one.ref}/" for one in (old, new))
            text = text.replace(before, after)
    # Not a repository whose name only begins with this one's.
    return re.sub(rf"(github\.com/){re.escape(old.name)}(?=\.git\b|(?![\w.-]*\w))", rf"\g<1>{new.name}", text)
