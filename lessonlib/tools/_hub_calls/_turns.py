"""What was said in a conversation of Hermes' format: roles, tools, calls and results, out of the tags.

Each function is one step of `from_hermes`: it takes the row's tools and messages (JSON texts) and gives what
changes, or raises a LessonError with the reason why the row goes. Turns are counted from 1, the system's.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from lessonlib.data._cleaning import Row
from lessonlib.runtime._language import LessonError, Translated
from lessonlib.tools import _literals as literals
from lessonlib.tools._parsing import parse
from lessonlib.tools._validation import check

Message = dict[str, Any]

_ROLES = {
    "system": "system", "human": "user", "user": "user", "model": "assistant", "assistant": "assistant",
    "tool": "tool",
}  # fmt: skip
# Which role may follow which; None is the beginning.
_FOLLOWS: dict[str | None, tuple[str, ...]] = {
    None: ("system",), "system": ("user",), "user": ("assistant",), "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}  # fmt: skip
_TOOLS = re.compile(r"<tools>(.*?)</tools>", re.DOTALL)
_RESPONSE = re.compile(r"<tool_response>(.*?)</tool_response>", re.DOTALL)


def in_order(_: str, said: str) -> Row:
    """Roles by transformers' names, in an order that chat templates take; the system's text goes to tools."""
    turns = json.loads(said)
    if not any(_ROLES.get(turn["role"]) == "assistant" for turn in turns):
        raise LessonError("no turn of the model")
    before = None
    for number, turn in enumerate(turns, start=1):
        role = _ROLES.get(turn["role"])
        if role is None or role not in _FOLLOWS[before]:
            raise _at(number, Translated("{turn!r} is out of order", turn=turn["role"]))
        if not (turn["content"] or "").strip():
            raise _at(number, Translated("empty"))
        turn["role"] = before = role
    if before != "assistant":
        raise _at(len(turns), Translated("the last one is not the model's"))
    return {"tools": turns[0]["content"], "messages": _json(turns[1:])}


def offered(system: str, _: str) -> Row:
    """The list of tools in the system's text, whose instructions also name the tags, with nothing inside."""
    blocks = [block for block in _TOOLS.findall(system) if block.strip()]
    if len(blocks) != 1:
        raise LessonError(
            "{count} blocks of <tools> in the system's text, and it should be one", count=len(blocks),
        )
    found = _value(blocks[0], 1)
    found = [found] if isinstance(found, dict) else found
    if not isinstance(found, list) or not found:
        raise LessonError("<tools> offers no tool")
    return {"tools": _json(found)}


def called(_: str, said: str) -> Row:
    """The model's turns as thought, calls and text."""
    messages = json.loads(said)
    made = [
        _assistant(message["content"], number) if message["role"] == "assistant" else message
        for number, message in enumerate(messages, start=2)
    ]
    return {"messages": _json(made)}


def answered(_: str, said: str) -> Row:
    """One tool message for each call, in their order: the tool's name, and its result as JSON text."""
    made: list[Message] = []
    waiting: list[str] = []  # names of the calls that have no result yet
    for number, message in enumerate(json.loads(said), start=2):
        if message["role"] != "tool":
            if waiting:
                raise _at(number, Translated("no result of {waiting} yet", waiting=waiting[0]))
            waiting = [call["name"] for call in _calls([message])]
            made.append(message)
            continue
        for value in _results(message["content"], number):
            if not waiting:
                raise _at(number, Translated("a result of no call"))
            name = waiting.pop(0)
            if isinstance(value, dict) and set(value) == {"name", "content"}:
                if value["name"] != name:
                    raise _at(number, Translated(
                        "a result of {value!r}, not of {name!r}", value=value["name"], name=name,
                    ))
                value = value["content"]
            made.append({"role": "tool", "name": name, "content": _json(value)})
    return {"messages": _json(made)}


def known(offered: str, said: str) -> Row:
    """Refuses a call of a tool that is not among those offered."""
    names = [tool["function"]["name"] for tool in json.loads(offered)]
    for call in _calls(json.loads(said)):
        if call["name"] not in names:
            raise LessonError(
                "calls {call!r}, but there is only: {names}", call=call["name"], names=", ".join(names),
            )
    return {}


def valid(offered: str, said: str) -> Row:
    """Refuses a call that does not fit its tool's schema (`tools.check`)."""
    schemas = json.loads(offered)
    for call in _calls(json.loads(said)):
        if problems := check(call, schemas):
            told = f"{call['name']}: {problems[0].message}"
            raise LessonError(Translated.of(vi=told, en=told))
    return {}


def kind(messages: Sequence[Message]) -> str:
    """What a conversation is, told by its form (see `from_hermes`)."""
    made = [len(list(_calls([message]))) for message in messages if message["role"] == "assistant"]
    turns_of_calls = sum(count > 0 for count in made)
    if not turns_of_calls:
        return "no_call"
    if len(made) == 1:
        return "call" if made[0] == 1 else "parallel"
    if turns_of_calls > 1 or made[-1]:
        return "several"
    results = (json.loads(message["content"]) for message in messages if message["role"] == "tool")
    return "tool_error" if any(isinstance(it, dict) and it.get("error") for it in results) else "reply"


def _assistant(content: str, number: int) -> Message:
    after = content.rpartition("</think>")[2]  # a thought may speak of the tags
    for tag, where in (("think", content), ("tool_call", after)):
        begun, ended = where.count(f"<{tag}>"), where.count(f"</{tag}>")
        if begun != ended:
            raise _at(number, Translated(
                "{begun} times <{tag}>, {ended} times </{tag}>: cut off", begun=begun, tag=tag, ended=ended,
            ))
    if "<tool_response>" in after:
        raise _at(number, Translated("the model writes a tool's result"))
    parsed = parse(content)
    if parsed.problems:
        raise _at(number, parsed.problems[0])
    text = parsed.content.strip()
    message: Message = {"role": "assistant"}
    if parsed.thinking:
        message["thinking"] = parsed.thinking.strip()
    if text:
        message["content"] = text
    if parsed.calls:
        # `tools.render` writes text before the calls, and a model is to stop at the end of a call.
        if after.rpartition("</tool_call>")[2].strip():
            raise _at(number, Translated("text after a call"))
        message["tool_calls"] = [{"type": "function", "function": call} for call in parsed.calls]
    elif not text:
        raise _at(number, Translated("a thought and nothing else"))
    return message


def _results(content: str, number: int) -> Iterator[Any]:
    """The results in a tool's turn: JSON or Python literals; what looks like neither is text."""
    found = _RESPONSE.findall(content)
    if not found or _RESPONSE.sub("", content).strip():
        raise _at(number, Translated("not of the form <tool_response>...</tool_response>"))
    for one in map(str.strip, found):
        yield _value(one, number) if one.startswith(("[", "{")) else one


def _calls(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    for message in messages:
        for call in message.get("tool_calls", ()):
            yield call["function"]


def _value(said: str, number: int) -> Any:
    """What JSON or a Python literal says; neither is ever evaluated."""
    try:
        value, end, _ = literals.read(said)
    except literals.NotRead as reason:
        raise _at(number, reason.message) from None
    if rest := said[end:].strip():
        raise _at(number, Translated("after the value comes {rest!r}", rest=rest[:30]))
    return value


def _at(number: int, reason: Translated | str) -> LessonError:
    return LessonError("turn {number}: {reason}", number=number, reason=reason)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
