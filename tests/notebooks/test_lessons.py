"""The course's own notebooks against their sources; nbval executes them (pyproject.toml, conftest.py)."""

from pathlib import Path

import pytest

from lessonlib.course import check, notebook, source

ROOT = Path(__file__).parent.parent.parent
LESSONS = source.sources(ROOT)


def test_every_notebook_is_what_its_source_makes():
    assert LESSONS and check.check(ROOT) == []


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_code_cells_are_identical_in_both_languages(path):
    whole = notebook.course(ROOT)
    vi, en = (
        [cell.source for cell in notebook.read(notebook.path_of(whole, path.stem, name)).cells
         if cell.cell_type == "code"]
        for name in ("vi", "en")
    )
    assert vi == en and len(vi) > 1
