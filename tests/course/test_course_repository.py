import tomllib

import pytest

from lessonlib.runtime._language import LessonError
from lessonlib_course import repository
from lessonlib_course.repository import Repository


def test_the_setting_is_read_from_pyproject(tiny_course):
    where = repository.setting(tiny_course)
    assert where == Repository("your_github_name/tiny", "main")
    assert where.colab_url("a.ipynb") == (
        "https://colab.research.google.com/github/your_github_name/tiny/blob/main/a.ipynb"
    )


def test_a_missing_setting_is_named(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[tool.lessonlib]\nrepository = "a/b"\n', encoding="utf-8")
    with pytest.raises(LessonError, match=r"\[tool\.lessonlib\] must have repository and ref"):
        repository.setting(tmp_path)


def test_changing_it_keeps_comments_and_other_tables(tiny_course):
    before = (tiny_course / "pyproject.toml").read_text(encoding="utf-8")
    old, new = repository.change_setting(tiny_course, "hoa-nguyen/my.course", "v1.0")
    after = (tiny_course / "pyproject.toml").read_text(encoding="utf-8")
    assert old.name == "your_github_name/tiny" and new == repository.setting(tiny_course)
    assert after == before.replace('"your_github_name/tiny"', '"hoa-nguyen/my.course"').replace(
        'ref = "main"', 'ref = "v1.0"'
    )
    assert tomllib.loads(after)["tool"]["other"]["repository"] == "untouched"


def test_changing_it_mends_the_readme_links_of_this_repository_only(tiny_course):
    assert repository.stale_links(tiny_course) == []
    repository.change_setting(tiny_course, "hoa/course", "v1")
    text = (tiny_course / "README.md").read_text(encoding="utf-8")
    assert "github/hoa/course/blob/v1/notebooks/vi/01_tiny.ipynb" in text
    assert "git clone https://github.com/hoa/course.git" in text
    assert "https://github.com/your_github_name/tiny-two" in text
    assert repository.stale_links(tiny_course) == []
    repository.change_setting(tiny_course, "hoa/other")
    assert repository.setting(tiny_course) == Repository("hoa/other", "v1")


def test_a_readme_link_elsewhere_is_reported_with_its_line(tiny_course):
    readme = tiny_course / "README.md"
    readme.write_text("x\n\nhttps://colab.research.google.com/github/a/b/blob/main/x\n", encoding="utf-8")
    (problem,) = repository.stale_links(tiny_course)
    assert problem.startswith("README.md:3: https://colab.research.google.com/github/a/b/")


@pytest.mark.parametrize(
    "name", ["", "course", "a/b/c", "-a/b", "a-/b", "a--b/c", "a_b/c", "a/..", "a/b c", "https://github.com/a/b",
             "a" * 40 + "/b", 'a/b"', "a/b\n"]
)  # fmt: skip
def test_a_name_github_would_not_take_changes_nothing(tiny_course, name):
    before = (tiny_course / "pyproject.toml").read_bytes()
    with pytest.raises(LessonError, match="is not the name of a GitHub repository. Write OWNER/NAME"):
        repository.change_setting(tiny_course, name)
    assert (tiny_course / "pyproject.toml").read_bytes() == before


@pytest.mark.parametrize(
    "ref", ["", "-x", "a b", "a..b", "a/", "a.", "x.lock", "x.lock/y", "a//b", 'a"b', "a~1"]
)
def test_a_ref_git_would_not_take_changes_nothing(tiny_course, ref):
    with pytest.raises(LessonError, match="is not the name of a branch or tag"):
        repository.change_setting(tiny_course, "a/b", ref)
    assert repository.setting(tiny_course).name == "your_github_name/tiny"


@pytest.mark.parametrize("ref", ["main", "v1.0", "feature/lesson-2", "2026_11", "a.b.c"])
def test_usual_refs_are_taken(tiny_course, ref):
    assert repository.change_setting(tiny_course, "a/b", ref)[1].ref == ref


def test_the_root_is_found_from_inside_and_missing_outside(tiny_course, tmp_path, monkeypatch):
    assert repository.find_root(tiny_course / "lessons") == tiny_course
    monkeypatch.chdir(tiny_course / "lessons")
    assert repository.find_root() == tiny_course
    with pytest.raises(LessonError, match="no lessons/ in .* or above it"):
        repository.find_root(tmp_path)


def test_requirements_come_by_extra_from_a_clone_or_from_the_installed_package(tiny_course):
    assert repository.requirements(tiny_course) == {
        "": ["tqdm>=4", "nbformat==5.11.1"], "colab": ["torchao>=0.16"],
    }
    assert repository.setup_pins(tiny_course) == ["nbformat==5.11.1"]
    installed = repository.requirements(None)
    assert any(line.startswith("transformers==") for line in installed[""])
    assert any(line.startswith("pytest==") for line in installed["dev"])
