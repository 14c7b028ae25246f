import subprocess
import sys
from importlib import metadata

import pytest

import lessonlib
from lessonlib.runtime._language import LessonError
from lessonlib_course import cli, doctor

VERSIONS = {"tqdm": "4.70.1", "nbformat": "5.10.0"}


def version(name):
    if name not in VERSIONS:
        raise metadata.PackageNotFoundError(name)
    return VERSIONS[name]


def test_a_wrong_version_is_found_and_the_command_that_mends_it_given(tiny_course):
    findings = doctor.examine(tiny_course, version)
    assert [(found.name, found.wanted, found.installed, found.ok) for found in findings] == [
        ("tqdm", ">=4", "4.70.1", True), ("nbformat", "==5.11.1", "5.10.0", False),
    ]
    assert doctor.cure(findings) == 'python -m pip install "nbformat==5.11.1"'
    lines = doctor.table(findings).splitlines()
    assert lines[0].startswith("python") and lines[1].endswith("ok")
    assert lines[2].split() == ["nbformat", "==5.11.1", "5.10.0", "OFF"]


def test_a_missing_base_package_is_off_and_a_missing_extra_is_not(tiny_course):
    def nothing(name):
        raise metadata.PackageNotFoundError(name)

    findings = doctor.examine(tiny_course, nothing)
    assert [(found.name, found.installed, found.ok) for found in findings] == [
        ("tqdm", None, False), ("nbformat", None, False),
    ]
    assert doctor.cure(findings) == 'python -m pip install "tqdm>=4" "nbformat==5.11.1"'


def test_an_extra_that_is_installed_is_examined(tiny_course):
    versions = {**VERSIONS, "nbformat": "5.11.1", "torchao": "0.10.0"}
    findings = doctor.examine(tiny_course, versions.__getitem__)
    assert [found.name for found in findings if not found.ok] == ["torchao"]


def test_a_local_version_label_counts_as_the_version(tiny_course):
    versions = {**VERSIONS, "nbformat": "5.11.1+cpu", "torchao": "0.17"}
    findings = doctor.examine(tiny_course, versions.__getitem__)
    assert doctor.cure(findings) is None


def test_the_status_is_1_where_a_package_is_off(tiny_course, capsys, monkeypatch):
    monkeypatch.chdir(tiny_course)
    assert cli.main(["course", "doctor"]) == 0
    assert "nbformat" in capsys.readouterr().out
    path = tiny_course / "pyproject.toml"
    path.write_text(path.read_text(encoding="utf-8").replace("5.11.1", "5.0.0"), encoding="utf-8")
    assert cli.main(["course", "doctor"]) == 1
    assert 'Mend it with:\n  python -m pip install "nbformat==5.0.0"' in capsys.readouterr().out


def test_outside_a_clone_the_installed_package_is_examined(tmp_path, monkeypatch, capsys):
    from lessonlib_course import repository

    def no_clone(start=None):
        raise LessonError("none")

    monkeypatch.setattr(repository, "find_root", no_clone)
    assert cli.main(["course", "doctor"]) in (0, 1)
    assert "transformers" in capsys.readouterr().out


def test_build_check_and_repository_from_the_command_line(tiny_course, capsys, monkeypatch):
    monkeypatch.chdir(tiny_course)
    assert cli.main(["build", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        str(tiny_course / "notebooks" / name / "02_second.ipynb") for name in ("vi", "en")
    ]
    assert cli.main(["build", "--check", "2"]) == 0
    assert "match their sources" in capsys.readouterr().out
    assert cli.main(["build", "--check"]) == 1
    assert "notebooks/vi/01_tiny.ipynb: is not built." in capsys.readouterr().err
    assert cli.main(["course", "repository", "hoa/course", "--ref", "v1"]) == 0
    assert "your_github_name/tiny@main -> hoa/course@v1" in capsys.readouterr().out
    assert cli.main(["course", "repository", "hoa"]) == 1
    assert capsys.readouterr().err.startswith("lessonlib: 'hoa' is not the name of a GitHub repository.")


def test_a_missing_course_package_is_named_with_its_cure(tiny_course, capsys, monkeypatch):
    monkeypatch.chdir(tiny_course)
    monkeypatch.setitem(sys.modules, "jupytext", None)
    assert cli.main(["build", "--check"]) == 1
    assert 'the package jupytext is missing. Install it: python -m pip install "lessonlib[course]"' in (
        capsys.readouterr().err
    )


def test_any_other_missing_package_is_a_bug_and_stays_loud(tiny_course, monkeypatch):
    monkeypatch.chdir(tiny_course)
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["course", "doctor"])


def test_the_command_line_names_its_version_and_loads_nothing_heavy():
    heavy = "{'torch', 'transformers', 'nbclient'}"
    code = f"import sys; from lessonlib_course import cli; print({heavy} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
    printed = subprocess.check_output([sys.executable, "-m", "lessonlib_course.cli", "--version"], text=True)
    assert printed == f"lessonlib {lessonlib.__version__}\n"
