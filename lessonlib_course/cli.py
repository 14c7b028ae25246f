"""The command `lessonlib`: what instructors and maintainers type. It reads arguments, no more."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import lessonlib
from lessonlib.runtime._language import LANGUAGES, LessonError, current, tr
from lessonlib_course.execute import CELL_LIMIT

# What `pip install lessonlib` alone does not bring; a learner in Colab never needs it.
_COURSE_PACKAGES = ("babel", "ipykernel", "jupytext", "latex2mathml", "nbclient", "nbconvert", "nbformat")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; an expected error is one clear message on stderr."""
    options = _parser().parse_args(arguments)
    try:
        return options.main(options)
    except LessonError as error:
        print(f"lessonlib: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _COURSE_PACKAGES:
            raise
        print(f"lessonlib: {_missing(str(error.name))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(tr("\nlessonlib: stopped."), file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    from lessonlib_course import export_cli

    parser = argparse.ArgumentParser(prog="lessonlib", description="Runs, builds and checks the lessons.")
    parser.add_argument("--version", action="version", version=f"lessonlib {lessonlib.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="execute a lesson: notebook, HTML report, metrics.json")
    run.add_argument("lesson", metavar="NN", help="the lesson's number, such as 01")
    run.add_argument("--lang", choices=LANGUAGES, help="default: LESSONLIB_LANG, else vi")
    run.add_argument(
        "--profile", choices=("auto", "rehearsal", "laptop", "t4"), default="auto", help="default: auto"
    )
    run.add_argument(
        "--dry-run", choices=("t4",), help="the profile t4 on this CPU: a simulated card, twins for weights"
    )
    run.add_argument("--out", type=Path, metavar="DIR", help="default: runs/NN-LANG in the course's folder")
    _add_limit(run)
    run.set_defaults(main=_run)

    build = commands.add_parser("build", help="make notebooks/vi and notebooks/en from lessons/, executed")
    build.add_argument("lessons", metavar="NN", nargs="*", help="default: all lessons")
    build.add_argument("--check", action="store_true", help="execute nothing; fail on a stale notebook")
    build.add_argument(
        "--one-sided", metavar="CELL_ID", action="append", default=[],
        help="accept that this prose cell changed in one language only",
    )
    _add_limit(build)
    build.set_defaults(main=_build)

    export_cli.add_parser(commands)

    course = commands.add_parser("course", help="environment, tools, messages, the repository setting")
    parts = course.add_subparsers(required=True, metavar="PART")
    doctor = parts.add_parser("doctor", help="compare installed packages with the pins")
    doctor.set_defaults(main=_doctor)
    tools = parts.add_parser("tools", help="llama.cpp for lesson 03: compile it, fetch its converter")
    tools.set_defaults(main=_tools)
    words = parts.add_parser("messages", help="bring the catalogues of messages up to the code")
    words.add_argument("--check", action="store_true", help="change nothing; fail where they are behind")
    words.set_defaults(main=_messages)
    where = parts.add_parser("repository", help="set where badges and set-up cells point to")
    where.add_argument("name", metavar="OWNER/NAME")
    where.add_argument("--ref", help="branch or tag; default: unchanged")
    where.set_defaults(main=_repository)
    return parser


def _add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cell-limit", type=int, default=CELL_LIMIT, metavar="SECONDS", help="default: %(default)s"
    )


def _run(options: argparse.Namespace) -> int:
    from lessonlib_course import dry_run, repository, run

    result = run.run(
        repository.find_root(), options.lesson, language=options.lang or current(), profile=options.profile,
        out=options.out, limit=options.cell_limit, dry_run=options.dry_run is not None,
    )
    print(f"\n{result.table}\n")
    if options.dry_run:
        print(tr("A dry run, not a T4. Other than there:"))
        print("".join(f"- {difference}\n" for difference in dry_run.DIFFERENCES))
    for label, path in (("notebook", result.notebook), ("HTML", result.html), ("metrics", result.metrics)):
        print(f"{label:<9} {path}")
    return 0


def _build(options: argparse.Namespace) -> int:
    from lessonlib_course import build, check, repository

    root = repository.find_root()
    if options.check:
        problems = check.check(root, options.lessons)
        for problem in problems:
            print(problem, file=sys.stderr)
        if not problems:
            print(tr("The notebooks match their sources."))
        return 1 if problems else 0
    for path in build.build(root, options.lessons, accepted=options.one_sided, limit=options.cell_limit):
        print(path)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from lessonlib_course import doctor, repository

    try:
        root = repository.find_root()
    except LessonError:  # an installed package outside a clone is examined as it is
        root = None
    findings = doctor.examine(root)
    print(doctor.table(findings))
    cure = doctor.cure(findings)
    if cure:
        print(tr("\nMend it with:\n  {cure}", cure=cure))
    return 1 if cure else 0


def _tools(options: argparse.Namespace) -> int:
    from lessonlib.runtime import _llama_cpp as llama_cpp_tools

    tools = llama_cpp_tools.install()
    print(f"llama.cpp ({tools.version}): {tools.converter.parent}")
    return 0


def _messages(options: argparse.Namespace) -> int:
    from lessonlib_course import messages, repository

    root = repository.find_root()
    found = messages.problems(root) if options.check else messages.update(root)
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


def _repository(options: argparse.Namespace) -> int:
    from lessonlib_course import notebook, repository

    old, new, changed = notebook.move(repository.find_root(), options.name, options.ref)
    print(f"{old.name}@{old.ref} -> {new.name}@{new.ref}")
    for path in changed:
        print(path)
    return 0


def _missing(module: str) -> str:
    return tr(
        'the package {module} is missing. Install it: python -m pip install "lessonlib[course]"',
        module=module,
    )


if __name__ == "__main__":
    sys.exit(main())
