"""The wheel as a learner gets it: what a lesson or a command uses and no more, run with no clone in reach."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import lessonlib
from lessonlib_course import source

ROOT = Path(__file__).parents[2]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
# An editable installation puts the clone on every interpreter's path: it goes before anything is imported.
NO_CLONE = f"""
import os
import sys
from importlib.util import find_spec
sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) != {os.path.realpath(ROOT)!r}]
assert find_spec("twins") is None and find_spec("conftest") is None, sys.path
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    subprocess.run([*PIP, "wheel", *options, str(ROOT)], check=True)
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([*PIP, "install", *options, str(wheel)], check=True)
    return folder


@pytest.fixture
def run(site, tmp_path):
    """Runs code in a process of its own that sees the installed wheel and no clone; gives what it printed."""

    def run(code):
        empty = tmp_path / "empty"
        empty.mkdir()
        environment = os.environ | {
            "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", "LESSONLIB_LANG": "en",
            "LESSONLIB_PROFILE": "rehearsal", "LESSONLIB_HEADLESS": "1",
            "LESSONLIB_WORK": str(tmp_path / "work"), "LESSONLIB_CACHE": str(tmp_path / "cache"),
        }
        command = [sys.executable, "-c", NO_CLONE + code]
        done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_there_are_two_packages_and_neither_tests_nor_the_twins_maker(names):
    top = {name.split("/")[0] for name in names}
    assert top == {"lessonlib", "lessonlib_course", f"lessonlib-{lessonlib.__version__}.dist-info"}
    code = [name for name in names if not name.startswith("lessonlib/_data/")]
    folders = {folder for name in code for folder in name.split("/")[:-1]}
    assert not folders & {"twins", "tests", "benchmarks", "lessons", "notebooks", "__pycache__"}
    assert not [name for name in names if re.search(r"/(make|test_[^/]*|conftest)\.py$", name)]


def test_every_module_is_in_the_wheel(names):
    for package in ("lessonlib", "lessonlib_course"):
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py")}
        shipped = {name for name in names if name.startswith(f"{package}/") and name.endswith(".py")}
        assert files and files == shipped


def test_messages_come_compiled(names):
    catalogues = {name.rpartition(".")[2] for name in names if "/locale/" in name}
    assert catalogues == {"mo"}


CARDS = sorted((ROOT / "data").glob("*/README.md"))


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.parent.name)
def test_a_dataset_has_its_card_its_splits_and_what_lessons_read_beside_them(names, card):
    from huggingface_hub import DatasetCard

    (config,) = DatasetCard.load(card).data.configs
    beside = {"ai_qa_vi": {"raw.jsonl"}, "counseling_vi": {"crisis_words.jsonl"}}.get(card.parent.name, set())
    folder = f"lessonlib/_data/{card.parent.name}/"
    shipped = {name.removeprefix(folder) for name in names if name.startswith(folder)}
    assert shipped == {"README.md", *beside, *(entry["path"] for entry in config["data_files"])}


def test_a_twin_has_its_card_and_what_transformers_loads(names):
    found = {}
    for name in names:
        if name.startswith("lessonlib/_data/twins/"):
            twin, file = name.removeprefix("lessonlib/_data/twins/").split("/")
            found.setdefault(twin, set()).add(file)
    assert set(found) == {path.parent.name for path in (ROOT / "data" / "twins").glob("*/config.json")}
    needed = {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }
    for twin, files in found.items():
        assert files - {"chat_template.jinja"} == needed, twin


def test_the_command_says_its_version(run):
    code = """
import runpy
sys.argv[1:] = ["--version"]
runpy.run_module("lessonlib_course.cli", run_name="__main__")
"""
    assert run(code).strip() == f"lessonlib {lessonlib.__version__}"


def test_lesson_01_loads_its_twin_and_its_data_from_the_wheel(run, site):
    cells = [cell for cell in source.parse(source.find(ROOT, "01")).cells if cell.code is not None]
    last = next(number for number, cell in enumerate(cells) if "load_splits(" in cell.code)
    code = [cell.code for cell in cells[1 : last + 1]]  # after the set-up
    assert any("from_pretrained(" in one for one in code)
    told = """
import lessonlib_course
print(json.dumps({
    "files": [lessonlib.__file__, lessonlib_course.__file__, str(raw), path],
    "rows": {name: len(rows) for name, rows in splits.items()}, "parameters": base.num_parameters(),
}))
"""
    printed = run("\n\n".join(["import json, lessonlib", *code, told])).splitlines()
    found = json.loads(printed[-1])
    assert all(Path(file).is_relative_to(site) for file in found["files"]), found["files"]
    assert set(found["rows"]) == {"train", "validation", "new_wordings", "unseen_facts"}
    assert found["rows"]["train"] > 100 and 1e6 < found["parameters"] < 2e6
