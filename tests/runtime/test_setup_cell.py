"""The set-up cell with a pip that is played: what it installs, what it leaves alone, when it stops."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import lessonlib
from lessonlib.runtime import _detect as runtime
from lessonlib.runtime._language import LessonError

SOURCE = (Path(__file__).parents[2] / "lessons" / "setup_cell.py").read_text(encoding="utf-8")
PINS = ["transformers==5.17.0", "datasets==4.8.5"]
COLAB = {"torch": "2.11.0+cu128", "transformers": "5.15.0", "datasets": "4.0.0", "torchao": "0.10.0"}
DONE = {"torch": "2.11.0+cu128", "transformers": "5.17.0", "datasets": "4.8.5"}
URL = "git+https://github.com/somebody/course@v1"


@pytest.fixture
def host(monkeypatch):
    """A machine: `installed` is what pip has, `commands` what was asked of it, `fails` what pip then says."""
    machine = SimpleNamespace(installed={}, commands=[], fails="", has_lessonlib=False)

    def version(name):
        if name not in machine.installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return machine.installed[name]

    def run(command, **_):
        assert command[:3] == [sys.executable, "-m", "pip"]
        machine.commands.append(command[3:])
        if machine.fails:
            return SimpleNamespace(returncode=1, stdout="", stderr=machine.fails)
        if command[3] == "uninstall":
            del machine.installed[command[-1]]
        else:
            machine.installed.update(pin.split("==") for pin in command if "==" in pin)
            machine.has_lessonlib = True
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    found = importlib.util.find_spec("lessonlib")
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found if machine.has_lessonlib else None)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(runtime, "_WATCHED", ("pyarrow",))
    monkeypatch.delitem(sys.modules, "pyarrow", raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    for name in ("KAGGLE_KERNEL_RUN_TYPE", "COLAB_RELEASE_TAG"):
        monkeypatch.delenv(name, raising=False)
    machine.in_colab = lambda: monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    return machine


def run_cell():
    stamped = SOURCE.replace("{{repository}}", "somebody/course").replace("{{ref}}", "v1")
    stamped = stamped.replace("{{torch}}", ">=2.11,<2.14")
    exec(
        compile(stamped.replace("{{pins}}", "\n".join(PINS)), "setup_cell", "exec"), {"__name__": "__main__"}
    )


@pytest.mark.parametrize("found", ["2.10.0+cu126", "2.15.0", None])
def test_a_torch_that_the_course_does_not_run_with_is_said_before_pip_starts(host, found):
    host.in_colab()
    host.installed = COLAB | {"torch": found} if found else {}
    with pytest.raises(RuntimeError, match=r"has torch .*needs torch >=2.11,<2.14.*Runtime version"):
        run_cell()
    assert host.commands == []


def test_where_lessonlib_is_installed_it_only_says_the_version(host, capsys):
    host.has_lessonlib = True  # other versions than the pins are the user's own affair here
    run_cell()
    assert host.commands == []
    assert capsys.readouterr().out == f"lessonlib {lessonlib.__version__}\n"


def test_elsewhere_without_lessonlib_nothing_is_installed_behind_the_users_back(host):
    with pytest.raises(RuntimeError, match=f"pip install 'lessonlib @ {URL.replace('+', '.')}'"):
        run_cell()
    assert host.commands == []


def test_in_colab_it_installs_the_pins_keeps_torch_and_removes_the_old_torchao(host, capsys):
    host.in_colab()
    host.installed = dict(COLAB)
    run_cell()
    assert host.commands == [
        ["uninstall", "--yes", "torchao"],
        ["install", "--quiet", "torch==2.11.0+cu128", f"lessonlib @ {URL}", *PINS],
    ]
    assert host.installed == DONE
    assert capsys.readouterr().out.splitlines()[-1] == f"lessonlib {lessonlib.__version__}"


def test_on_kaggle_it_installs_too(host, monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    host.installed = dict(COLAB)
    run_cell()
    assert len(host.commands) == 2


def test_a_newer_torchao_stays(host):
    host.in_colab()
    host.installed = {**COLAB, "torchao": "0.16.0"}
    run_cell()
    assert [command[0] for command in host.commands] == ["install"]


def test_a_second_run_installs_nothing(host):
    host.in_colab()
    host.installed = dict(COLAB)
    run_cell()
    host.commands.clear()
    run_cell()
    assert host.commands == []


def test_lessonlib_with_one_package_off_its_pin_is_installed_again(host):
    host.in_colab()
    host.has_lessonlib = True
    host.installed = {**DONE, "datasets": "4.0.0"}
    run_cell()
    assert len(host.commands) == 1


def test_failing_pip_shows_its_last_lines_and_the_cure(host):
    host.in_colab()
    host.installed = dict(COLAB)
    host.fails = "\n".join(f"line {number}" for number in range(1, 21))
    with pytest.raises(RuntimeError, match="check the network, then run this cell again") as caught:
        run_cell()
    assert "line 20" in str(caught.value) and "line 12" not in str(caught.value)
    assert "kiểm tra mạng rồi chạy lại ô này" in str(caught.value)


def test_a_package_that_changed_under_the_kernel_stops_the_notebook(host, monkeypatch):
    host.in_colab()
    host.installed = {**COLAB, "pyarrow": "21.0.0"}
    loaded = ModuleType("pyarrow")
    loaded.__version__ = "18.1.0"
    monkeypatch.setitem(sys.modules, "pyarrow", loaded)
    shut_down = []
    shell = SimpleNamespace(kernel=SimpleNamespace(do_shutdown=shut_down.append))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    with pytest.raises(LessonError, match="pyarrow 18.1.0 -> 21.0.0"):
        run_cell()
    assert shut_down == [True]
    monkeypatch.delitem(sys.modules, "pyarrow")  # the new kernel
    host.commands.clear()
    run_cell()
    assert host.commands == []


def test_it_stays_short_and_holds_no_host_of_its_own():
    assert len(SOURCE.splitlines()) <= 54
    assert SOURCE.count("http") == 1 and "{{repository}}" in SOURCE
