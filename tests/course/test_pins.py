"""Holds every place that names a version to the others, and to what the code imports."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lessonlib_course import notebook, repository

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def parsed(lines):
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(one.name): one for one in requirements if one.name != "lessonlib"}


def pins(lines):
    """Names and exact versions; anything that is not exact fails."""
    found = {}
    for name, requirement in parsed(lines).items():
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and not specifier.version.endswith("*"), name
        found[name] = specifier.version
    return found


def lines_of_requirements():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_requirements_pin_exactly_what_a_run_needs():
    assert set(pins(lines_of_requirements())) == set(parsed(PROJECT["dependencies"] + EXTRAS["course"]))


def test_requirements_keep_to_pyproject():
    for name, requirement in parsed(PROJECT["dependencies"] + EXTRAS["course"]).items():
        version = pins(lines_of_requirements())[name]
        assert requirement.specifier.contains(version), f"{name} {version} is not {requirement.specifier}"


def test_conda_users_get_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["dependencies"] == [
        "python=3.11", "pip", {"pip": [*lines_of_requirements(), "-e ."]},
    ]
    assert PROJECT["requires-python"] == ">=3.11"


def test_the_libraries_that_decide_a_result_are_pinned_exactly():
    exact = {name for name, one in parsed(PROJECT["dependencies"]).items() if "==" in str(one.specifier)}
    assert {"transformers", "tokenizers", "trl", "peft", "accelerate", "datasets", "bitsandbytes"} <= exact
    assert "torch" not in exact and "numpy" not in exact  # a host such as Colab keeps its own


def test_the_set_up_cell_installs_the_pins_of_pyproject():
    code = notebook.setup_code(notebook.course(ROOT))
    wanted = [line for line in PROJECT["dependencies"] if "==" in line]
    assert wanted and [line for line in wanted if line not in code] == []
    where = repository.setting(ROOT)
    assert where.name in code and where.ref in code and "{{" not in code
    ast.parse(code)


@pytest.mark.parametrize("language", ["vi", "en"])
def test_the_built_notebooks_carry_that_set_up_cell(language):
    whole = notebook.course(ROOT)
    built = [notebook.read(notebook.path_of(whole, path.stem, language)) for path in whole.paths]
    setups = [cell.source for one in built for cell in one.cells if cell.id == "setup"]
    assert setups == [notebook.setup_code(whole)] * len(whole.paths) and setups


def test_every_extra_has_content():
    assert {"colab", "gguf", "lesson03", "unsloth", "serving", "dev"} <= set(EXTRAS)
    assert all(EXTRAS.values())
    for extra in ("gguf", "lesson03", "unsloth"):
        assert set(pins(EXTRAS[extra])), extra


def test_unsloth_s_own_file_pins_what_the_extra_pins():
    lines = (ROOT / "requirements-unsloth.txt").read_text(encoding="utf-8").splitlines()
    assert pins([line for line in lines if not line.startswith("#")]) == pins(EXTRAS["unsloth"])


def test_the_readmes_install_unsloth_and_the_tests_what_lesson_03_needs():
    for name in ("README.md", "README.vi.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        commands = [line for line in text.splitlines() if line.startswith("python -m pip install -r")]
        assert len(commands) == 2, name
        assert all("pip install --no-deps -r requirements-unsloth.txt" in line for line in commands)
        assert ".[dev,lesson03]" in commands[1] and "lessonlib course tools" in commands[1]
    assert set(pins([line for line in EXTRAS["dev"] if line != "lessonlib[course]"]))


def test_whatever_lessonlib_imports_is_declared():
    lessons = EXTRAS["lesson03"] + EXTRAS["gguf"]
    declared = parsed(PROJECT["dependencies"] + EXTRAS["course"] + lessons)
    known = {name.replace("-", "_") for name in declared} | set(sys.stdlib_module_names) | {"lessonlib"}
    known |= {"google", "kaggle_secrets", "unsloth"}  # Colab's and Kaggle's own; a backend used where it is
    known |= {"convert_hf_to_gguf", "conversion", "gguf"}  # llama.cpp's own, from its source
    known |= {"llama_cpp", "yaml", "IPython"}  # llama-cpp-python's, pyyaml's, ipykernel's
    for path in sorted((ROOT / "lessonlib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                assert name.split(".")[0] in known, f"{path.name}:{node.lineno} imports {name}"
