"""Imports point one way, and `import lessonlib` loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lessonlib

PACKAGE = Path(lessonlib.__file__).parent
HEAVY = ("torch", "transformers", "datasets", "peft", "trl", "pandas", "matplotlib", "numpy")


def imported(path):
    """Names of lessonlib's modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "lessonlib":
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lessonlib."):
            names.add(node.module.split(".")[1])
    return names


def test_every_module_has_its_place_in_the_order():
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"course"}
    assert files | packages == set(lessonlib.MODULES)


@pytest.mark.parametrize("name", lessonlib.MODULES)
def test_a_module_imports_only_what_stands_before_it(name):
    path = PACKAGE / f"{name}.py"
    for file in [path] if path.is_file() else (PACKAGE / name).glob("*.py"):
        later = imported(file) - set(lessonlib.MODULES[: lessonlib.MODULES.index(name)]) - {name}
        assert not later, f"{file.name} imports {later}"


def test_the_package_and_its_modules_load_nothing_heavy():
    load = "import sys, lessonlib; [getattr(lessonlib, name) for name in lessonlib.MODULES]"
    code = f"{load}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_module_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        lessonlib.nonsense  # noqa: B018
