import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lessonlib.runtime._language import LessonError
from lessonlib_course import build, check, execute, notebook, repository, source


@pytest.fixture(scope="module")
def built_course(tmp_path_factory):
    """The tiny course, built once; tests that change it copy it."""
    tiny = Path(__file__).parents[1] / "tiny_course"
    root = shutil.copytree(tiny, tmp_path_factory.mktemp("built") / "course")
    build.build(root)
    return root


@pytest.fixture
def course(built_course, tmp_path):
    return shutil.copytree(built_course, tmp_path / "copy")


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def lesson_of(root):
    return root / "lessons" / "01_tiny.py"


def notebook_of(root, language="vi"):
    return root / "notebooks" / language / "01_tiny.ipynb"


def cell_of(path, name):
    return next(cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["id"] == name)


def test_a_built_course_passes_its_check(built_course):
    assert check.check(built_course) == []


def test_a_rebuild_without_changes_is_the_same_byte_for_byte(course):
    paths = sorted(course.glob("notebooks/*/01_tiny.ipynb"))
    before = [path.read_bytes() for path in paths]
    assert build.build(course, ["01"]) == [notebook_of(course, "vi"), notebook_of(course, "en")]
    assert len(paths) == 2 and [path.read_bytes() for path in paths] == before


def test_both_languages_have_the_same_code_and_their_own_prose(built_course):
    vi, en = (notebook.read(notebook_of(built_course, name)) for name in ("vi", "en"))
    assert [cell.id for cell in vi.cells] == ["title", "setup", "noise", "noisy", "timed", "shown"]
    assert [cell.id for cell in en.cells] == [cell.id for cell in vi.cells]
    code = [[cell.source for cell in one.cells if cell.cell_type == "code"] for one in (vi, en)]
    assert code[0] == code[1]
    assert vi.cells[2].source.startswith("## Ồn ào") and en.cells[2].source.startswith("## Noise")
    assert [one.cells[5].outputs[0].data["text/plain"] for one in (vi, en)] == ["'xong'", "'done'"]
    assert vi.metadata.lessonlib.language == "vi" and en.metadata.lessonlib.language == "en"
    assert vi.metadata.kernelspec.name == "python3" and vi.metadata.accelerator == "GPU"


def test_outputs_are_kept_without_what_changes_from_run_to_run(built_course):
    noisy, timed = (cell_of(notebook_of(built_course), name) for name in ("noisy", "timed"))
    assert noisy["execution_count"] == 2
    assert "".join(noisy["outputs"][0]["text"]).splitlines() == [
        "started", "work/checkpoint <object object at 0x…>", "{'train_runtime': …, 'loss': 0.5}",
    ]
    assert timed["outputs"][0]["text"] == ["took … s\n"]


def test_the_first_cell_has_badge_neighbours_and_the_other_language(built_course):
    first, second = ("".join(cell_of(path, "title")["source"]) for path in (
        notebook_of(built_course), built_course / "notebooks" / "en" / "02_second.ipynb"
    ))
    colab = "https://colab.research.google.com/github/your_github_name/tiny/blob/main/notebooks"
    assert f"colab-badge.svg)]({colab}/vi/01_tiny.ipynb)" in first
    assert f"[Bài 2. Kế tiếp →]({colab}/vi/02_second.ipynb)" in first and "←" not in first
    assert f"[English]({colab}/en/01_tiny.ipynb)" in first
    assert f"[← Lesson 1. Tiny]({colab}/en/01_tiny.ipynb)" in second and "→" not in second
    assert f"[Tiếng Việt]({colab}/vi/02_second.ipynb)" in second


def test_the_setup_cell_is_stamped(built_course):
    setup = "".join(cell_of(notebook_of(built_course), "setup")["source"])
    assert setup == (
        'SOURCE = "https://github.com/your_github_name/tiny@main"\n'
        'PINS = """\nnbformat==5.11.1\n"""'
    )


def test_nbval_runs_built_notebooks_in_rehearsal_and_in_their_language(course):
    root = Path(__file__).parents[2]
    shutil.copy(root / "conftest.py", course)
    shutil.copy(root / "pyproject.toml", course)
    command = [sys.executable, "-m", "pytest", "notebooks", "-p", "no:cacheprovider", "-rA"]
    ours = ("LESSONLIB_", "PYTEST_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(command, cwd=course, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 6, done.stdout  # each lesson in one language
    command += ["--languages", "both"]
    done = subprocess.run(command, cwd=course, env=clean, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("PASSED") == 12, done.stdout
    edit(notebook_of(course, "en"), "'done'", "'xong'")  # a marked cell whose output is another one
    done = subprocess.run([*command, "-k", "en"], cwd=course, env=clean, capture_output=True, text=True)
    assert done.returncode == 1 and "Cell outputs differ" in done.stdout


def test_a_placeholder_that_nobody_fills_is_refused(course):
    edit(course / "lessons" / "setup_cell.py", "{{ref}}", "{{reff}}")
    with pytest.raises(LessonError, match=r"\{\{reff\}\} is not known. Known: repository, ref, pins"):
        notebook.setup_code(notebook.course(course))


def test_a_missing_setup_cell_is_named(course):
    (course / "lessons" / "setup_cell.py").unlink()
    with pytest.raises(LessonError, match="setup_cell.py is missing"):
        notebook.course(course)


def test_a_failing_cell_is_named_and_nothing_is_written(course):
    before = {path: path.read_bytes() for path in course.glob("notebooks/*/*")}
    failing = "def fail():\n    raise ValueError('no good')\n\nfail()\n"
    edit(lesson_of(course), "# NBVAL_CHECK_OUTPUT\nimport json\n", failing)
    message = r"code cell \[4\] of 4 \(id 'shown'\), under \"Ồn ào\""
    with pytest.raises(execute.CellError, match=message) as caught:
        build.build(course, ["01"])
    assert "line 4: fail()\n  ValueError: no good" in caught.value.en
    assert "dòng 4: fail()\n  ValueError: no good" in caught.value.vi and "\x1b" not in str(caught.value)
    assert {path: path.read_bytes() for path in course.glob("notebooks/*/*")} == before


def test_a_change_in_one_language_is_refused_until_it_is_accepted(course):
    edit(lesson_of(course), "# ## Noise", "# ## Much noise")
    message = r"lessons/01_tiny.py:13: the cell 'noise' changed in 'en' but not in 'vi'"
    assert any(problem.startswith(message.replace("\\", "")) for problem in check.check(course))
    with pytest.raises(LessonError, match=message + r"[\s\S]*lessonlib build --one-sided noise"):
        build.build(course, ["01"])
    build.build(course, ["01"], accepted=["noise"])
    assert check.check(course) == []


def test_a_change_in_both_languages_only_asks_for_a_build(course):
    edit(lesson_of(course), "# ## Noise", "# ## Much noise")
    edit(lesson_of(course), "# ## Ồn ào", "# ## Rất ồn")
    problems = check.check(course)
    assert problems == [
        "notebooks/vi/01_tiny.ipynb: the cell 'noise' differs from its source.",
        "notebooks/en/01_tiny.ipynb: the cell 'noise' differs from its source.",
    ]


def test_accepting_a_cell_that_is_not_there_is_refused(course):
    with pytest.raises(LessonError, match="no lesson being built has the cell nois"):
        build.build(course, accepted=["nois"])


def test_check_names_a_source_that_does_not_parse_and_goes_on(course):
    edit(lesson_of(course), ' id="noisy"', "")
    (course / "notebooks" / "vi" / "09_old.ipynb").write_text("{}", encoding="utf-8")
    first, last = check.check(course)
    assert first.startswith("lessons/01_tiny.py:20: this cell has no id")
    assert last == "notebooks/vi/09_old.ipynb: has no source in lessons/; remove it."


def broken(change):
    """What `check` says of the Vietnamese notebook after a change to its JSON."""

    def apply(root):
        path = notebook_of(root)
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content)
        path.write_text(json.dumps(content), encoding="utf-8")
        return check.check(root, ["1"])

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda nb: nb["cells"].pop(3), "lacks the cell 'noisy'."),
        (lambda nb: nb["cells"].append({**nb["cells"][0], "id": "new"}), "has the cell 'new', which"),
        (lambda nb: nb["cells"].insert(0, nb["cells"].pop(2)), "has its cells in another order"),
        (lambda nb: nb["cells"][3].update(source="x"), "the cell 'noisy' differs from its source."),
        (lambda nb: nb["cells"][0].update(source="# no badge"), "the cell 'title' differs from its source."),
        (lambda nb: nb["cells"][1].update(source="PINS = 1"), "the cell 'setup' differs from its source."),
        (lambda nb: nb["cells"][4].update(metadata={}), "the metadata of the cell 'timed' differ"),
        (lambda nb: nb["metadata"].pop("accelerator"), "its metadata are not what the build writes."),
        (lambda nb: nb["metadata"]["lessonlib"].update(language="en"), "its metadata are not what the build"),
        (lambda nb: nb["cells"][3].update(execution_count=None), "the cell 'noisy' was not executed"),
        (lambda nb: nb["cells"][3].update(outputs=[]), "its outputs were cleared or edited after the build."),
        (
            lambda nb: nb["cells"][3].update(
                outputs=[{"output_type": "error", "ename": "KeyError", "evalue": "x", "traceback": []}]
            ),
            "the cell 'noisy' has the error KeyError in its outputs.",
        ),
    ],
)
def test_check_finds_what_the_source_does_not_make(course, change, message):
    problems = broken(change)(course)
    assert any(problem.startswith("notebooks/vi/01_tiny.ipynb: " + message) for problem in problems), problems
    assert not any("notebooks/en" in problem for problem in problems)


def test_check_finds_notebooks_that_are_missing_unreadable_or_without_source(course):
    notebook_of(course, "vi").unlink()
    notebook_of(course, "en").write_text("{", encoding="utf-8")
    (course / "notebooks" / "en" / "09_old.ipynb").write_text("{}", encoding="utf-8")
    problems = check.check(course)
    assert "notebooks/vi/01_tiny.ipynb: is not built." in problems
    assert any("01_tiny.ipynb is not a readable notebook" in problem for problem in problems)
    assert "notebooks/en/09_old.ipynb: has no source in lessons/; remove it." in problems


def test_moving_the_repository_stamps_again_without_executing(course):
    before = notebook.read(notebook_of(course))
    old, new, changed = notebook.move(course, "hoa/course", "v1")
    assert (old.ref, new.name, len(changed)) == ("main", "hoa/course", 4)
    after = notebook.read(notebook_of(course))
    assert "github.com/hoa/course@v1" in after.cells[1].source
    assert "github/hoa/course/blob/v1/notebooks/vi/01_tiny.ipynb" in after.cells[0].source
    assert [cell.get("outputs") for cell in after.cells] == [cell.get("outputs") for cell in before.cells]
    assert check.check(course) == []
    assert notebook.move(course, "hoa/course")[2] == []


def test_moving_does_not_hide_a_cell_that_is_out_of_date(course):
    edit(course / "lessons" / "setup_cell.py", "SOURCE", "ORIGIN")
    notebook.move(course, "hoa/course")
    assert any("the cell 'setup' differs" in problem for problem in check.check(course))


def test_moving_changes_nothing_where_a_source_does_not_parse(course):
    edit(lesson_of(course), ' id="noisy"', "")
    with pytest.raises(LessonError, match="has no id"):
        notebook.move(course, "hoa/course")
    assert repository.setting(course).name == "your_github_name/tiny"


def test_headings_follow_the_prose(tiny_course):
    lesson = source.parse(source.find(tiny_course, "01"))
    made = notebook.make(notebook.course(tiny_course), lesson, "en")
    assert notebook.headings(made) == ["Lesson 1. Tiny", "Lesson 1. Tiny", "Noise", "Noise", "Noise", "Noise"]
