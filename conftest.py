"""Runs the built notebooks (nbval collects their cells) as the build does: rehearsal, their language."""

import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from nbval.plugin import IPyNbFile

from lessonlib.course.execute import environment


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
