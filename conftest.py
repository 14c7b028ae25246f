"""Runs the built notebooks (nbval collects their cells) as the build does: rehearsal, their language.

Both languages of a lesson have the same code cells (tests/notebooks holds them to that) and were executed
when they were built, so one run a lesson tells whether it still works: odd lessons in Vietnamese, even ones
in English. `--languages both` runs all.
"""

import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from nbval.plugin import IPyNbFile

from lessonlib_course.execute import environment

LANGUAGES = ("vi", "en")


def pytest_addoption(parser):
    parser.addoption(
        "--languages", choices=("one", "both", *LANGUAGES), default="one",
        help="which built notebooks nbval executes: one of each lesson, both, or those of one language",
    )


def pytest_ignore_collect(collection_path, config):
    """True for a notebook of a language that is not wanted; None leaves the decision to others."""
    language, number = collection_path.parent.name, collection_path.stem[:2]
    if collection_path.suffix != ".ipynb" or language not in LANGUAGES or not number.isdigit():
        return None
    named = [Path(argument.partition("::")[0]).absolute() for argument in config.args]
    if collection_path in named:  # whoever names a notebook wants that one
        return None
    wanted = config.getoption("languages")
    if wanted == "one":
        wanted = "vi" if int(number) % 2 else "en"
    return True if wanted in LANGUAGES and wanted != language else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item):
    """nbval starts a notebook's kernel when it sets up the first cell; it inherits our environment."""
    file = item.getparent(IPyNbFile)
    if file is None or file.kernel is not None:
        return (yield)
    work = Path(tempfile.mkdtemp(prefix="lessonlib-nbval-"))
    item.config.add_cleanup(lambda: shutil.rmtree(work, ignore_errors=True))
    with mock.patch.dict(os.environ, environment(file.path.parent.name, work, "rehearsal")):
        return (yield)


@pytest.fixture
def tiny_course(tmp_path):
    """A copy of a course of two lessons that execute in a second, without torch."""
    return shutil.copytree(Path(__file__).parent / "tests" / "tiny_course", tmp_path / "course")
