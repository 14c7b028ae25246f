"""The rooms of lessonlib: their order and public names, and that `import lessonlib` loads nothing heavy."""

import ast
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import lessonlib

PACKAGE = Path(lessonlib.__file__).parent
ROOT = PACKAGE.parent
HEAVY = ("torch", "transformers", "datasets", "peft", "trl", "pandas", "matplotlib", "numpy")
FILES = sorted(path for room in lessonlib.ROOMS for path in (PACKAGE / room).rglob("*.py"))


def imported(path):
    """Every (module, name) that a file imports from lessonlib; name is "" for `import a.b`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and re.match(r"lessonlib\b", node.module or ""):
            found.update((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update((alias.name, "") for alias in node.names if re.match(r"lessonlib\b", alias.name))
    return found


def room_of(module, name):
    """The room an import reaches: "data" for `lessonlib.data._reading` and `from lessonlib import data`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else name


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_the_order_names_every_room_and_no_more_than_twelve():
    entries = {path.name for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "_data")}
    assert entries == {*lessonlib.ROOMS, "__init__.py", "py.typed"} and len(lessonlib.ROOMS) <= 12


@pytest.mark.parametrize("room", lessonlib.ROOMS)
def test_a_room_imports_only_rooms_before_it(room):
    earlier = set(lessonlib.ROOMS[: lessonlib.ROOMS.index(room)]) | {room}
    for path in (PACKAGE / room).rglob("*.py"):
        later = {room_of(*taken) for taken in imported(path)} - earlier
        assert not later, f"{path.relative_to(ROOT)} imports {later}"


@pytest.mark.parametrize("room", lessonlib.ROOMS)
def test_no_files_of_a_room_import_each_other_in_a_circle(room):
    names = {module_of(path) for path in FILES}
    arrows = {}
    for path in (PACKAGE / room).rglob("*.py"):
        here = module_of(path)
        whole = [(module, f"{module}.{name}") for module, name in imported(path)]
        reached = {name if name in names else module for module, name in whole}
        arrows[here] = {to for to in reached if to in names and to.startswith(f"lessonlib.{room}")} - {here}
    circle = find_circle(arrows)
    assert not circle, " -> ".join(circle)


def find_circle(arrows):
    """A path that comes back to where it began, or []."""
    done, way = set(), []

    def visit(here):
        if here in way:
            return [*way[way.index(here) :], here]
        if here in done:
            return []
        way.append(here)
        for there in sorted(arrows.get(here, ())):
            if circle := visit(there):
                return circle
        done.add(way.pop())
        return []

    return next((circle for start in sorted(arrows) if (circle := visit(start))), [])


def test_a_circle_would_be_found():
    circle = find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}})
    assert circle == ["b", "c", "b"] and all(there in "bc" for _, there in pairwise(circle))


def test_the_package_and_its_rooms_load_nothing_heavy():
    load = "import sys, lessonlib; [getattr(lessonlib, name) for name in lessonlib.ROOMS]"
    code = f"{load}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_room_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        lessonlib.nonsense  # noqa: B018


USERS = (*sorted((ROOT / "lessons").glob("*.py")), *sorted((ROOT / "lessonlib_course").rglob("*.py")),
         *sorted((ROOT / "benchmarks").glob("*.py")), ROOT / "docs" / "make_images.py")  # fmt: skip


def used_names(path):
    """(room, name) that a lesson, a command or a benchmark takes from the face of a room, or speaks of."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    taken = {(room_of(module, name), name) for module, name in imported(path) if module.count(".") == 1}
    called = {name: name for module, name in imported(path) if module == "lessonlib"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in called:
            taken.add((node.value.id, node.attr))
    rooms = "|".join(lessonlib.ROOMS)  # what a lesson's prose recommends: `room.name`
    return taken | {(room, name) for room, name in re.findall(rf"`({rooms})\.([a-z_]+)`", text)}


def test_every_public_name_is_used_by_a_lesson_a_command_or_a_benchmark():
    public = {(room, name) for room in lessonlib.ROOMS for name in getattr(lessonlib, room).__all__}
    assert not public - {taken for path in USERS for taken in used_names(path)}


@pytest.mark.parametrize("path", sorted((ROOT / "lessons").glob("[0-9]*.py")), ids=lambda path: path.stem[:2])
def test_lessons_import_rooms_and_never_files_inside_them(path):
    """`lora.layers` and `exercises.lessonNN` are public; what begins with an underscore is a room's own."""
    public = {(room, name) for room in lessonlib.ROOMS for name in getattr(lessonlib, room).__all__}
    for module, name in imported(path):
        parts = module.split(".")
        assert not any(part.startswith("_") for part in [*parts, name]), (module, name)
        if len(parts) == 2:
            assert (parts[1], name) in public, (module, name)
    for room, name in used_names(path):
        assert (room, name) in public or name in lessonlib.ROOMS, (room, name)


@pytest.mark.parametrize("room", lessonlib.ROOMS)
def test_a_face_says_what_the_room_does_and_names_things_that_exist(room):
    face = getattr(lessonlib, room)
    assert face.__doc__ and face.__all__ == sorted(set(face.__all__), key=face.__all__.index)
    for name in face.__all__:
        file = PACKAGE / room / f"{name}.py"
        assert hasattr(face, name) or file.is_file() or file.with_suffix("").is_dir()
