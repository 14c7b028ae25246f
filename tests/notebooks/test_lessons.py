"""The course's own notebooks against their sources; nbval executes them (pyproject.toml, conftest.py)."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from lessonlib_course import check, notebook, source

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


@pytest.mark.parametrize(("option", "runs"), [
    ("one", {"vi/01", "en/02"}), ("both", {"vi/01", "en/01", "vi/02", "en/02"}), ("vi", {"vi/01", "vi/02"}),
])  # fmt: skip
def test_which_notebooks_nbval_executes(option, runs, request, tmp_path):
    plugin = request.config.pluginmanager.get_plugin(str(ROOT / "conftest.py"))
    config = SimpleNamespace(args=["tests", "notebooks"], getoption={"languages": option}.get)

    def executed(config):
        return {
            f"{language}/{number}" for language in ("vi", "en") for number in ("01", "02")
            if not plugin.pytest_ignore_collect(ROOT / "notebooks" / language / f"{number}_x.ipynb", config)
        }

    assert executed(config) == runs
    named = SimpleNamespace(args=[f"{ROOT}/notebooks/en/01_x.ipynb::Cell 0"], getoption=config.getoption)
    assert "en/01" in executed(named)
    assert plugin.pytest_ignore_collect(tmp_path / "test_x.py", config) is None
