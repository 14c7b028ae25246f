"""Extras on a played machine: what pip is asked for, and what is said where nothing may be installed."""

import importlib.metadata
import subprocess
import sys
from types import SimpleNamespace

import pytest

from lessonlib.runtime import _detect as runtime
from lessonlib.runtime import _extras as extras
from lessonlib.runtime import _llama_cpp as llama_cpp_tools
from lessonlib.runtime._language import LessonError
from lessonlib_course import repository

REQUIRES = [
    "torch<2.14,>=2.11",
    "wandb==0.31.0; extra == 'lesson03'",
    "gpt4all==2.8.2; sys_platform != 'none' and extra == 'lesson03'",
    "winonly==1.0; sys_platform == 'none' and extra == 'lesson03'",
    "unsloth==2026.10.9; extra == 'unsloth'",
]


@pytest.fixture
def machine(monkeypatch):
    state = SimpleNamespace(installed={"wandb": "0.31.0", "gpt4all": "2.8.2"}, commands=[], fails="", said=[])

    def version(name):
        if name not in state.installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return state.installed[name]

    def run(command, **_):
        assert command[:3] == [sys.executable, "-m", "pip"]
        state.commands.append(command[3:])
        return SimpleNamespace(returncode=bool(state.fails), stdout="", stderr=state.fails)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: REQUIRES)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(runtime, "hosted", lambda: state.hosted)
    monkeypatch.setattr(runtime, "restart_needed", list)
    state.hosted = True
    return state


def test_what_is_there_is_left_alone(machine):
    extras.ensure("lesson03", say=machine.said.append)
    assert machine.commands == machine.said == []


def test_a_host_gets_what_is_missing_or_off_and_a_word_before(machine):
    machine.installed["wandb"] = "0.28.1"
    extras.ensure("lesson03", "unsloth", say=machine.said.append)
    assert machine.commands == [["install", "wandb==0.31.0"], ["install", "--no-deps", "unsloth==2026.10.9"]]
    assert len(machine.said) == 2 and "wandb==0.31.0" in machine.said[0]


def test_on_a_machine_of_ones_own_the_command_is_shown_and_nothing_runs(machine):
    machine.hosted = False
    del machine.installed["gpt4all"]
    wanted = 'also needs: gpt4all==2.8.2.*python -m pip install "gpt4all==2.8.2"'
    with pytest.raises(LessonError, match=wanted):
        extras.ensure("lesson03")
    assert machine.commands == []


def test_there_the_lessons_do_without_unsloth(machine):
    machine.hosted = False
    extras.ensure("unsloth")
    assert machine.commands == []


def test_pip_that_fails_shows_its_last_lines(machine):
    machine.fails = "\n".join(f"line {number}" for number in range(1, 21))
    with pytest.raises(LessonError, match="(?s)check the network.*line 20") as caught:
        extras.ensure("unsloth", say=machine.said.append)
    assert "line 12" not in str(caught.value)


def test_llama_cpp_is_compiled_on_a_host_and_only_looked_at_elsewhere(machine, monkeypatch):
    called = []
    for name in ("install", "find", "check_packages"):
        monkeypatch.setattr(llama_cpp_tools, name, lambda name=name, **_: called.append(name))
    extras.ensure("gguf")
    machine.hosted = False
    extras.ensure("gguf")
    assert called == ["install", "check_packages", "find"]


def test_the_kernel_restarts_where_an_extra_changed_what_it_has_loaded(machine, monkeypatch):
    del machine.installed["wandb"]
    monkeypatch.setattr(runtime, "restart_needed", lambda: ["numpy 2.4.0 -> 2.4.6"])
    with pytest.raises(LessonError, match="Packages changed under the running kernel .numpy 2.4.0 -> 2.4.6"):
        extras.ensure("lesson03")


def test_an_unknown_extra_names_those_there_are(machine):
    with pytest.raises(LessonError, match="no extra 'lesson3'. It has: lesson03, unsloth"):
        extras.ensure("lesson3")


def test_the_installed_package_declares_its_extras():
    declared = extras.declared()
    assert {"dev", "course"} <= set(declared) and any(line.startswith("torch") for line in declared[""])
    assert repository.requirements(None) == declared
