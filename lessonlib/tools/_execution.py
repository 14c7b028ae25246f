"""Runs a call: a registered function, arguments that were checked, a limit on time and on the answer.

Where the platform can fork (Linux, Colab, macOS), the function runs in a child process that is killed when
its time is over, together with what it started; its answer comes back as JSON through a pipe, never as a
pickle. So whatever it changes in memory is gone afterwards, as with a tool behind a network: what shall last
has to be written somewhere. A forked child cannot use CUDA, and should leave torch alone.

Where there is no fork (Windows), it runs in a thread. That cannot be killed: when the time is over the answer
comes, but the function goes on until it ends by itself, its prints are seen, and os._exit ends the notebook.

This module does not know what a function does. One that opens files or runs commands is as safe as the check
of its arguments: an enum, a narrow pattern, or a look at the path inside the function.
"""

import contextlib
import copy
import faulthandler
import gc
import json
import math
import os
import re
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError, tr
from lessonlib.tools._schemas import NAME
from lessonlib.tools._validation import check, measured

Functions = Mapping[str, Callable] | Sequence[Callable]
_RESULT_DEPTH = 20  # lists and objects in an answer
_MAX_ERROR = 200  # characters of an exception's message
_TOLD = 3  # problems of a call that are told at once
_HEADER = 8  # bytes that say how long the answer is
# "~/x", "/a/b", "C:\a", "../a", quoted or not. "km/h", "1/2" and "https://..." are none.
_QUOTED_PATH = re.compile(r"""(['"])(?:~|\.{1,2}|[A-Za-z]:)?[/\\][^'"]*\1""")
_PATH = re.compile(r"""(?<![\w:/])(?:~|\.{1,2}|[A-Za-z]:)?[/\\][^\s'",;)]+""")


def execute(
    call: Mapping[str, Any],
    functions: Functions,
    schemas: Sequence[Mapping[str, Any]],
    *,
    time_limit: float = 5.0,
    size_limit: int = 4000,
) -> dict[str, Any]:
    """Checks a call, runs its function and gives back the answer, or in one line why there is none.

    Args:
        call: {"name": str, "arguments": dict}.
        functions: what may run, by name; or functions, each registered under its own name. Nothing else runs.
        schemas: what the calls are checked against; a name has to be here, too.
        time_limit: seconds, after which the function is killed (see the module's text for Windows).
        size_limit: characters of the answer's JSON text; a longer answer is refused, as half of it is none.

    Returns:
        {"name": str, "content": the function's answer as JSON has it} or {"name": str, "content": {"error":
        str}}: a call that is not right, an exception (type and message, without traceback and paths), no time
        left, an answer that is too long or no JSON. Nothing that a call or a function does is raised here.

    Raises:
        LessonError: limits that are not above 0; functions that are none or share a name; a schema that
            `tools.check` refuses.
    """
    if not (0 < time_limit < math.inf) or size_limit < 1:
        raise LessonError(
            "time_limit={time_limit} and size_limit={size_limit} have to be finite and above 0.",
            time_limit=time_limit, size_limit=size_limit,
        )
    known = registered(functions)
    language.current()  # found out here: the child could not ask Colab
    name = call.get("name") if isinstance(call, Mapping) else None
    named = name[:64] if isinstance(name, str) else ""
    problems = check(call, schemas)
    if problems:
        return _failed(named, " ".join(map(str, problems[:_TOLD])))
    if name not in known:
        return _failed(named, tr(
            "{named} cannot be run here: no function of this name is registered.", named=named,
        ))
    arguments = _whole_numbers(call, schemas)
    run = _in_a_child if hasattr(os, "fork") else _in_a_thread
    outcome = run(known[name], arguments, time_limit, size_limit)
    if "value" not in outcome:
        return _failed(named, _why(named, outcome, time_limit, size_limit))
    return {"name": named, "content": outcome["value"]}


def registered(functions: Functions) -> dict[str, Callable]:
    """The functions by name, in a new dict.

    Raises:
        LessonError: something that is no function, one without a name of its own, or two of one name.
    """
    pairs = list(functions.items()) if isinstance(functions, Mapping) else [
        (getattr(function, "__name__", ""), function) for function in functions
    ]
    for name, function in pairs:
        if not callable(function) or not isinstance(name, str) or not NAME.fullmatch(name):
            raise LessonError(
                "{function!r} cannot be registered as {name!r}. Give functions that have a name (def), or "
                'write {{"name": function}}.',
                function=function, name=name,
            )
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise LessonError("Two functions are called {twice}. Rename one of them.", twice=twice)
    return dict(pairs)


def _whole_numbers(call: Mapping[str, Any], schemas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A copy of the arguments in which 5.0 is 5 where the schema wants an integer, as Python's range does."""
    tools = [schema.get("function", schema) for schema in schemas]
    parameters = next(tool.get("parameters") or {} for tool in tools if tool["name"] == call["name"])
    wanted = {name: part.get("type") for name, part in parameters.get("properties", {}).items()
              if isinstance(part, Mapping)}
    arguments = copy.deepcopy(call["arguments"])
    return {
        name: int(value) if isinstance(value, float) and wanted.get(name) == "integer" else value
        for name, value in arguments.items()
    }


# ---------------------------------------------------------------- what came of it, as JSON


def _outcome(function: Callable, arguments: dict[str, Any], size_limit: int) -> dict[str, Any]:
    """Calls the function. Whatever it raises, SystemExit too, is an outcome.

    Returns:
        {"json": str}, {"raised": str}, {"no_json": name of a type} or {"too_large": number of characters}.
    """
    try:
        value = function(**arguments)
    except BaseException as error:  # nothing of it may leave the child
        return {"raised": _one_line(error)}
    try:
        answer = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        answer.encode()
    except BaseException:
        return {"no_json": type(value).__name__[:60]}
    return {"too_large": len(answer)} if len(answer) > size_limit else {"json": answer}


def _one_line(error: BaseException) -> str:
    try:
        # The system's own words, without the file's name after them
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    except BaseException:
        said = ""
    seen = (letter if letter.isprintable() else " " for letter in said[: 10 * _MAX_ERROR])
    said = " ".join("".join(seen).split())
    said = _PATH.sub("…", _QUOTED_PATH.sub("…", said))
    line = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return line if len(line) <= _MAX_ERROR else line[: _MAX_ERROR - 1] + "…"


def _read(outcome: dict[str, Any], size_limit: int) -> dict[str, Any]:
    """The outcome with the answer's text turned into a value; how deep it is nested is looked at here."""
    if "json" not in outcome:
        return outcome
    try:
        value = json.loads(outcome["json"])
    except (TypeError, ValueError, RecursionError):
        return {"no_json": "nested"}
    refused = measured(value, characters=2 * size_limit, depth=_RESULT_DEPTH)  # its size was looked at there
    return {"value": value} if refused is None else {"no_json": refused.kind}


def _failed(name: str, line: str) -> dict[str, Any]:
    return {"name": name, "content": {"error": line}}


def _why(name: str, outcome: Mapping[str, Any], time_limit: float, size_limit: int) -> str:
    if "raised" in outcome:
        return str(outcome["raised"])
    if "too_large" in outcome:
        return tr(
            "{name} answered with {characters} characters, more than {size_limit}. Ask for less.",
            name=name, characters=outcome["too_large"], size_limit=size_limit,
        )
    if "no_json" in outcome:
        return tr("What {name} returned is no JSON ({why}).", name=name, why=outcome["no_json"])
    if "late" in outcome:
        return tr(
            "{name} took longer than {time_limit:g} s and was stopped.", name=name, time_limit=time_limit,
        )
    return tr("{name} ended without an answer.", name=name)


# ---------------------------------------------------------------- a child process


def _in_a_child(
    function: Callable, arguments: dict[str, Any], time_limit: float, size_limit: int
) -> dict[str, Any]:
    """Forks, and waits for the answer, for the child's end, or for the deadline, whichever comes first."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns that another thread's lock could stop the child: then the deadline ends it.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(reading)
        _answer_and_end(function, arguments, time_limit, size_limit, writing)
    os.close(writing)
    try:
        received = _received(reading, time.monotonic() + time_limit, 6 * size_limit + 10 * _MAX_ERROR)
    finally:
        os.close(reading)
        # The child leads a group of its own; killing the group before the child is waited for, its number is
        # still its own. Before setsid has run there is no such group, but only the child.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
    return _read(received, size_limit)


def _answer_and_end(
    function: Callable, arguments: dict[str, Any], time_limit: float, size_limit: int, writing: int
) -> NoReturn:
    """The child's whole life. It never returns into the code of its parent, whatever happens."""
    try:
        os.setsid()
        faulthandler.disable()  # Jupyter's would print where a crash happened
        gc.disable()  # collecting the parent's CUDA tensors here would abort
        # Should the parent die first, nobody kills the child: then this does.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(math.ceil(time_limit) + 1)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        sys.stdin, sys.stdout, sys.stderr = (open(os.devnull, mode) for mode in ("r", "w", "w"))  # noqa: SIM115
        outcome = _outcome(function, arguments, size_limit)
        answer = json.dumps(outcome, ensure_ascii=False).encode(errors="replace")
        message = len(answer).to_bytes(_HEADER, "big") + answer
        while message:
            message = message[os.write(writing, message) :]
    finally:
        os._exit(0)


def _received(reading: int, deadline: float, most: int) -> dict[str, Any]:
    """One message: its length, then so many bytes. A process that the function left behind may keep the pipe
    open, so the end of the message counts, not that of the pipe."""
    got, waiting = b"", select.poll()
    waiting.register(reading, select.POLLIN)
    while len(got) < _HEADER or len(got) < _HEADER + int.from_bytes(got[:_HEADER], "big"):
        left = deadline - time.monotonic()
        if left <= 0 or not waiting.poll(math.ceil(left * 1000)):
            return {"late": True}
        more = os.read(reading, 1 << 16)
        got += more
        if not more or len(got) >= _HEADER and int.from_bytes(got[:_HEADER], "big") > most:
            return {"gone": True}
    try:
        outcome = json.loads(got[_HEADER:])
    except ValueError:
        return {"gone": True}
    return outcome if isinstance(outcome, dict) else {"gone": True}


# ---------------------------------------------------------------- a thread, where there is no fork


def _in_a_thread(
    function: Callable, arguments: dict[str, Any], time_limit: float, size_limit: int
) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    runner = threading.Thread(
        target=lambda: found.append(_outcome(function, arguments, size_limit)), daemon=True
    )
    runner.start()
    runner.join(time_limit)
    return _read(found[0], size_limit) if found else {"late": True}
