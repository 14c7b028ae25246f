"""Running a checked call: what comes back, what never runs, and that nothing hangs."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress

import psutil
import pytest

from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError
from lessonlib.tools import _execution as execution
from lessonlib.tools._execution import execute, registered


def tool(name, /, **properties):
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters}}


def run(function, arguments=None, *, schemas=None, name="f", **limits):
    schemas = schemas or [tool(name, **{key: {} for key in arguments or {}})]
    found = execute({"name": name, "arguments": arguments or {}}, {name: function}, schemas, **limits)
    assert set(found) == {"name", "content"} and found["name"] == name
    return found["content"]


def error_of(*given, **more):
    content = run(*given, **more)
    assert set(content) == {"error"} and "\n" not in content["error"] and len(content["error"]) <= 300
    return content["error"]


@pytest.fixture(params=["child", "thread"])
def way(request, monkeypatch):
    """Both ways of running: the second is what happens on Windows."""
    if request.param == "thread":
        monkeypatch.delattr(os, "fork")
    return request.param


def raises(error):
    raise error


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("answer", [
    {"city": "Huế", "temperature": 31.5, "rain": [True, None, -1]}, "Xin chào 🌦", [], 0, False, None, "",
])  # fmt: skip
def test_an_answer_comes_back_as_it_is(way, answer):
    content = run(lambda: answer)
    assert content == answer and type(content) is type(answer)


def test_arguments_arrive_and_are_copies(way):
    given = {"items": [1, 2]}

    def grow(items):
        items.append(3)
        return items

    assert run(grow, given) == [1, 2, 3] and given == {"items": [1, 2]}


def test_a_whole_number_arrives_as_an_integer(way):
    schemas = [tool("f", days={"type": "integer"}, amount={"type": "number"})]
    given = {"days": 3.0, "amount": 3.0}
    assert run(lambda days, amount: [repr(days), repr(amount)], given, schemas=schemas) == ["3", "3.0"]


def test_functions_may_be_a_list():
    def now():
        return "12:00"

    assert execute({"name": "now", "arguments": {}}, [now], [tool("now")])["content"] == "12:00"


def test_what_the_child_changes_in_memory_is_gone():
    kept = []
    assert run(lambda: kept.append(1) or len(kept)) == 1 and kept == []


# ---------------------------------------------------------------- errors as content


def test_a_wrong_call_is_told_and_not_run(way, tmp_path):
    canary = tmp_path / "canary"
    schemas = [tool("f", city={"type": "string"})]
    assert error_of(lambda city: canary.write_text(city), {"city": 5}, schemas=schemas) == (
        "city must be string, but 5 is integer."
    )
    assert not canary.exists()


@pytest.mark.parametrize(("error", "expected"), [
    (ValueError("no such city"), "ValueError: no such city"),
    (ValueError(), "ValueError"),
    (KeyError("Huế"), "KeyError: 'Huế'"),
    (ValueError("two\nlines\x00 and\u202e more"), "ValueError: two lines and more"),
    (FileNotFoundError(2, "No such file or directory", "/home/me/secret.txt"),
     "FileNotFoundError: No such file or directory"),
    (RuntimeError("no '/home/me/my notes/a.txt' at 5 km/h"), "RuntimeError: no … at 5 km/h"),
    (RuntimeError(r"C:\Users\me\a.txt, ~/b and ../c, https://x.y/z"), "RuntimeError: …, … and …, https://x.y/z"),
    (ValueError("x" * 10**6), "ValueError: " + "x" * 187 + "…"),
    (ValueError("a\ud800b"), "ValueError: a b"),
    (SystemExit(3), "SystemExit: 3"),
    (KeyboardInterrupt(), "KeyboardInterrupt"),
])  # fmt: skip
def test_an_exception_is_one_line_without_paths(way, error, expected):
    assert error_of(lambda: raises(error)) == expected


def test_an_exception_that_cannot_even_be_written_is_still_one(way):
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError

    assert error_of(lambda: raises(Odd())) == "Odd"


def test_arguments_that_the_function_does_not_take(way):
    assert "unexpected keyword argument 'city'" in error_of(lambda: 1, {"city": "Huế"})


def circle():
    held = []
    held.append(held)
    return held


def deep(levels):
    value = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("function", [
    object, lambda: {1, 2}, lambda: b"x", lambda: float("nan"), lambda: [float("inf")], lambda: {(1, 2): 3},
    lambda: "\ud800", lambda: print, circle, lambda: deep(21), lambda: deep(900), lambda: deep(5000),
    lambda: 10**5000, lambda: 10**400, lambda: (number for number in [1]),
])  # fmt: skip
def test_an_answer_that_is_no_json_is_an_error(way, function):
    assert error_of(function).startswith("What f returned is no JSON (")


def test_depth_of_an_answer(way):
    assert run(lambda: deep(20)) == deep(20)


def test_the_limit_on_size_is_on_the_compact_json_text(way):
    assert run(lambda: "é" * 98, size_limit=100) == "é" * 98
    assert error_of(lambda: "é" * 99, size_limit=100) == (
        "f answered with 101 characters, more than 100. Ask for less."
    )
    many = [{"a": "\x00🌦"}] * 10
    assert run(lambda: many, size_limit=len(json.dumps(many, ensure_ascii=False))) == many
    language.use("vi")
    assert error_of(lambda: "é" * 99, size_limit=100).startswith("f trả về 101 ký tự")


def test_a_function_without_end_is_stopped(way):
    assert error_of(lambda: time.sleep(60), time_limit=0.1) == "f took longer than 0.1 s and was stopped."


# ---------------------------------------------------------------- only what is registered


@pytest.mark.parametrize("name", ["__import__", "eval", "open", "os.system", "print", "f.__call__", ""])
def test_a_name_that_is_not_registered_does_not_run(name):
    found = execute({"name": name, "arguments": {}}, {"f": lambda: 1}, [tool("f")])
    assert found["name"] == name and found["content"]["error"].startswith(f'There is no tool "{name}".')


def test_a_schema_alone_does_not_make_a_name_run():
    offered = [tool("f"), tool("eval", x={})]
    found = execute({"name": "eval", "arguments": {"x": "1"}}, {"f": lambda: 1}, offered)
    said = "eval cannot be run here: no function of this name is registered."
    assert found == {"name": "eval", "content": {"error": said}}


def test_a_function_alone_does_not_make_a_name_run():
    found = execute({"name": "g", "arguments": {}}, {"f": lambda: 1, "g": lambda: 2}, [tool("f")])
    assert found["content"]["error"].startswith('There is no tool "g".')


def test_a_name_without_end_is_cut():
    found = execute({"name": "x" * 10**6, "arguments": {}}, {}, [])
    assert found["name"] == "x" * 64 and len(found["content"]["error"]) < 200


@pytest.mark.parametrize("call", [None, "f", {"name": ["f"]}, {"name": "f"}, {"arguments": {}}])
def test_what_is_no_call_is_an_error(call):
    assert "A call has to look like" in execute(call, {"f": lambda: 1}, [tool("f")])["content"]["error"]


@pytest.mark.parametrize("functions", [[lambda: 1], {"f": 1}, {"f g": print}, {"": print}, {1: print}, ["f"]])
def test_what_cannot_be_registered_is_refused(functions):
    with pytest.raises(LessonError, match="cannot be registered as"):
        registered(functions)


def test_two_functions_of_one_name_are_refused():
    with pytest.raises(LessonError, match="Two functions are called print"):
        registered([print, print])


@pytest.mark.parametrize("limits", [
    {"time_limit": 0}, {"time_limit": -1}, {"time_limit": float("inf")}, {"time_limit": float("nan")},
    {"size_limit": 0},
])  # fmt: skip
def test_limits_that_are_none_are_refused(limits):
    with pytest.raises(LessonError, match="have to be finite and above 0"):
        run(lambda: 1, **limits)


# ---------------------------------------------------------------- the child


def children():
    """The processes that this one has started and not yet collected, also those that ended."""
    return {child.pid for child in psutil.Process().children()}


def test_prints_reach_nobody(capfd):
    def loud():
        print("to stdout", flush=True)
        print("to stderr", file=sys.stderr, flush=True)
        os.write(1, b"past Python")
        subprocess.run(["echo", "from another program"])
        return "said"

    assert run(loud) == "said"
    assert capfd.readouterr() == ("", "")


def test_nothing_is_asked_of_the_learner():
    assert error_of(lambda: input("?")).startswith("EOFError")


def test_text_that_waits_to_be_written_is_not_written_twice(capfd):
    """A forked process has a copy of what is still in the buffer."""
    sys.__stdout__.write("once")
    assert run(lambda: sys.__stdout__.flush()) is None
    sys.__stdout__.flush()
    assert capfd.readouterr().out == "once"


@pytest.mark.parametrize("end", [
    lambda: os._exit(0), lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: os.abort(),
], ids=["_exit", "kill", "abort"])  # fmt: skip
def test_a_function_that_ends_its_process_ends_only_that(end, capfd):
    assert error_of(end) == "f ended without an answer."
    assert capfd.readouterr() == ("", "")


def test_what_the_function_started_is_killed_with_it(tmp_path):
    """A program that outlives the function, and keeps the pipe open, delays nothing and does not go on."""
    started = tmp_path / "pid"

    def leave_behind():
        left = subprocess.Popen(["sleep", "60"], close_fds=False)
        started.write_text(str(left.pid))
        return "done"

    assert run(leave_behind, time_limit=30) == "done"
    wait_until_gone(int(started.read_text()))


def test_a_killed_function_leaves_no_process_behind(tmp_path):
    before, started = children(), tmp_path / "pid"

    def stubborn():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        started.write_text(str(os.getpid()))
        time.sleep(60)

    assert "was stopped" in error_of(stubborn, time_limit=2)
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
    assert children() == before


def wait_until_gone(pid):
    for _ in range(500):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.01)
    raise AssertionError("the process is still there")


def test_a_call_may_come_from_any_thread():
    """A widget's callback may run outside of the main thread, where Python sets no signal handlers."""
    found = []
    other = threading.Thread(target=lambda: found.append(run(lambda: 1)))
    other.start()
    other.join()
    assert found == [1]


def test_descriptors_are_closed_again():
    before = len(os.listdir("/dev/fd"))
    for function in (lambda: 1, lambda: os._exit(0), lambda: raises(ValueError())):
        run(function)
    assert len(os.listdir("/dev/fd")) == before


def test_a_child_without_parent_ends_by_its_own_clock():
    assert 0 < run(lambda: signal.getitimer(signal.ITIMER_REAL)[0], time_limit=3.5) <= 5


@pytest.mark.parametrize(("forged", "expected"), [
    ((10).to_bytes(8, "big") + b'{"json":5}', "What f returned is no JSON (nested)."),  # so it does arrive
    ((5).to_bytes(8, "big") + b"[1,2]", "f ended without an answer."),
    ((3).to_bytes(8, "big") + b"{}}", "f ended without an answer."),
    (b"\xff" * 8 + b"x" * 100, "f ended without an answer."),
])  # fmt: skip
def test_a_message_that_somebody_else_wrote_into_the_pipe_is_no_answer(forged, expected):
    before = set(os.listdir("/dev/fd"))

    def forge():
        for descriptor in map(int, set(os.listdir("/dev/fd")) - before):
            with suppress(OSError):
                if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                    os.write(descriptor, forged)
        os._exit(0)

    assert error_of(forge) == expected


def test_a_learner_who_stops_the_cell_stops_the_function_too(monkeypatch):
    before = children()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(execution, "_received", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(lambda: time.sleep(60))
    assert children() == before
