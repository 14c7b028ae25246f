"""Call, result, reply: lets a model use tools, with a bound on everything.

Only what the model writes as its own turn is read for calls. What a tool answers goes into the history, where
`rendering` makes the tags in it harmless; it is never parsed, so a call hidden in an answer cannot run by
itself. (A model may still be talked into writing that call: then it is a call like any other, checked and
bounded. Whoever registers a tool decides what it may do.)
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lessonlib.runtime._language import LessonError, tr
from lessonlib.tools._conversations import calls_of, checked
from lessonlib.tools._execution import Functions, execute, registered
from lessonlib.tools._lookalikes import shown
from lessonlib.tools._parsing import Parsed, parse
from lessonlib.tools._schemas import schemas as checked_schemas
from lessonlib.tools._validation import Problem, check, measured

Message = dict[str, Any]
_MAX_CALLS = 8  # in one turn: 20,000 characters could hold hundreds, each with its own time limit
_UNREADABLE = "unreadable"  # stands for a call that cannot be read, so that its error has a call to answer
_WIDTH = 300  # characters of one printed line


@dataclass(frozen=True, repr=False)
class Step:
    """One turn of the model.

    Args:
        raw: what it wrote.
        parsed: what was read in it.
        problems: what is wrong with its calls by their schemas; such calls were not run.
        results: {"name", "content"} for each call, in order; content {"error": str} where there is no answer.
    """

    raw: str
    parsed: Parsed
    problems: list[Problem] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [] if self.parsed.thinking is None else [_line("thought", self.parsed.thinking)]
        lines += [_line("answer", self.parsed.content)] if self.parsed.content else []
        lines += [_line("call", _written(call)) for call in self.parsed.calls]
        lines += [_line("repaired", note) for note in self.parsed.repaired]
        lines += [_line("problem", str(note)) for note in [*self.parsed.problems, *self.problems]]
        lines += [_result_line(result["content"]) for result in self.results]
        return "\n".join(lines)

    __repr__ = __str__


@dataclass(frozen=True, repr=False)
class Conversation:
    """What `converse` made of a conversation.

    Args:
        messages: all of it, in transformers' tool-use convention: for `render`, or to go on with.
        steps: one for each time that the model was asked.
        stopped: "answered" (it replied without a call), "empty" (it wrote nothing, and nothing was added),
            "max_turns", "repeated_call", "too_many_calls" or "unreadable" (for the second time).
    """

    messages: list[Message]
    steps: list[Step]
    stopped: str

    def __str__(self) -> str:
        lines = []
        for message in self.messages:
            if message["role"] == "tool":
                lines.append(_result_line(_value(message["content"])))
                continue
            if message.get("thinking"):
                lines.append(_line("thought", message["thinking"]))
            if message.get("content"):
                lines.append(_line("answer" if message["role"] == "assistant" else message["role"],
                                   message["content"]))
            lines += [_line("call", _written(call)) for call in calls_of(message)]
        return "\n".join([*lines, _line("stopped", _stopped(self.stopped))])

    __repr__ = __str__


def converse(
    generate: Callable[[list[Message]], str],
    messages: Sequence[Mapping[str, Any]],
    functions: Functions,
    *,
    schemas: Sequence[Mapping[str, Any]] | None = None,
    max_turns: int = 6,
    max_repeats: int = 2,
    time_limit: float = 5.0,
    size_limit: int = 4000,
) -> Conversation:
    """Lets a model call tools until it answers in words, or until a bound is reached.

    A call that does not fit its schema, fails, or takes too long is answered with an error, which the model
    may act on. So is a turn whose calls cannot be read; the second turn of which nothing can be read ends the
    loop. Calls of one turn run one after the other, in their order.

    Args:
        generate: from the messages so far, what the model writes next, with its tags: see `generator`.
        messages: the conversation so far, in transformers' tool-use convention; it ends with the user or a
            tool. It is not changed.
        functions: what may run (see `execute`).
        schemas: the tools' schemas; by default they are made from the functions.
        max_turns: how often the model is asked at most. The calls of the last turn still run.
        max_repeats: how often one and the same call, name and arguments, runs at most.
        time_limit, size_limit: of each call, as in `execute`.

    Returns:
        A `Conversation`, which prints as text. Its messages end with a reply or with tools' answers.

    Raises:
        LessonError: bounds below 1; messages that `_conversations.checked` refuses or that end with the
            assistant; a `generate` that returns no text; what `tools.schemas` and `execute` refuse.
    """
    for name, bound in (("max_turns", max_turns), ("max_repeats", max_repeats)):
        if bound < 1:
            raise LessonError("{name}={bound} has to be at least 1.", name=name, bound=bound)
    if checked(messages)[-1]["role"] == "assistant":
        raise LessonError(
            "The conversation ends with the assistant, so there is nothing to reply to. Add a user turn.",
        )
    known = registered(functions)
    tools = checked_schemas(list(schemas)) if schemas is not None else _described(known)
    history: list[Message] = [dict(message) for message in messages]
    steps: list[Step] = []
    ran: dict[str, int] = {}
    missed = False
    for _ in range(max_turns):
        raw = generate(list(history))
        if not isinstance(raw, str):
            raise LessonError("generate has to return text, not {name}.", name=type(raw).__name__)
        parsed = parse(raw)
        if not parsed.calls and not parsed.problems:
            steps.append(Step(raw, parsed))
            if parsed.content.strip():
                history.append({"role": "assistant", **_thought(parsed), "content": parsed.content})
            return Conversation(history, steps, "answered" if parsed.content.strip() else "empty")
        stopped = _bound_reached(parsed, ran, max_repeats, missed)
        missed = missed or not parsed.calls
        taken = parsed.calls[:_MAX_CALLS]
        problems = [problem for call in taken for problem in check(call, tools)]
        kept = [_as_kept(call) for call in taken]
        if stopped is None:
            limits: dict[str, Any] = {"time_limit": time_limit, "size_limit": size_limit}
            results = [execute(call, known, tools, **limits) for call in taken]
        else:
            results = [{"name": call["name"], "content": {"error": _stopped(stopped)}} for call in kept]
        if parsed.problems:
            kept.append({"name": _UNREADABLE, "arguments": {} if kept else {"text": raw[:200]}})
            told = " ".join(parsed.problems[:3])[:_WIDTH]
            results.append({"name": _UNREADABLE, "content": {"error": told}})
        steps.append(Step(raw, parsed, problems, results))
        history += _messages(parsed, kept, results)
        if stopped is not None:
            return Conversation(history, steps, stopped)
    return Conversation(history, steps, "max_turns")


def _bound_reached(parsed: Parsed, ran: dict[str, int], max_repeats: int, missed: bool) -> str | None:
    """Why the calls of this turn must not run, or None; counts them."""
    if not parsed.calls:
        return "unreadable" if missed else None
    if len(parsed.calls) > _MAX_CALLS:
        return "too_many_calls"
    for call in parsed.calls:
        key = json.dumps([call["name"], call["arguments"]], sort_keys=True)
        ran[key] = ran.get(key, 0) + 1
        if ran[key] > max_repeats:
            return "repeated_call"
    return None


def _described(functions: Mapping[str, Callable]) -> list[dict[str, Any]]:
    made = checked_schemas(list(functions.values()))
    for name, tool in zip(functions, made, strict=True):
        tool["function"]["name"] = name  # the name under which it is registered
    return made


def _as_kept(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call as the history keeps it: one too large to be run is too large to be read again."""
    arguments = call["arguments"] if measured(call["arguments"]) is None else {}
    return {"name": call["name"][:64] or _UNREADABLE, "arguments": arguments}


def _thought(parsed: Parsed) -> Message:
    return {"thinking": parsed.thinking} if parsed.thinking else {}


def _messages(parsed: Parsed, calls: list[dict[str, Any]], results: list[dict[str, Any]]) -> list[Message]:
    said: Message = {"role": "assistant", **_thought(parsed)}
    if parsed.content.strip() and parsed.calls:
        said["content"] = parsed.content
    said["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    return [said, *(
        {"role": "tool", "name": call["name"], "content": json.dumps(result["content"], ensure_ascii=False)}
        for call, result in zip(calls, results, strict=True)
    )]


# ---------------------------------------------------------------- as text


def _line(kind: str, said: str) -> str:
    names = {
        "system": tr("system"), "user": tr("user"), "thought": tr("thought"), "call": tr("call"),
        "result": tr("result"), "error": tr("error"), "answer": tr("answer"), "problem": tr("problem"),
        "repaired": tr("repaired"), "stopped": tr("stopped"),
    }
    short = " ".join(said[: _WIDTH + 1].split())
    # As JSON shows it, what cannot be seen is written out; its quotes are not wanted here.
    seen = "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in short)
    return f"{names[kind]:>10}  {seen if len(said) <= _WIDTH else seen + '…'}"


def _result_line(content: Any) -> str:
    if isinstance(content, dict) and set(content) == {"error"} and isinstance(content["error"], str):
        return _line("error", content["error"])
    return _line("result", json.dumps(content, ensure_ascii=False))


def _written(call: Mapping[str, Any]) -> str:
    return f"{shown(call['name'])[1:-1]}({json.dumps(call['arguments'], ensure_ascii=False)})"


def _value(content: str) -> Any:
    try:
        return json.loads(content)
    except (TypeError, ValueError, RecursionError):
        return content


def _stopped(reason: str) -> str:
    return {
        "answered": tr("answered"),
        "empty": tr("the model wrote nothing"),
        "max_turns": tr("no turns left"),
        "repeated_call": tr("the same call came too often"),
        "too_many_calls": tr("more than {most} calls in a turn", most=_MAX_CALLS),
        "unreadable": tr("the calls could not be read"),
    }[reason]
