"""Conversations with tools, as data holds them: read, checked, and cut into the turns that are scored.

The form is transformers' tool-use convention (https://huggingface.co/docs/transformers/chat_extras):

    {"role": "user", "content": str}
    {"role": "assistant", "thinking": str, "tool_calls": [{"type": "function", "function": {"name",
        "arguments"}}]}
    {"role": "tool", "name": str, "content": str}
    {"role": "assistant", "thinking": str, "content": str}

In a Dataset, `tools` and `messages` are JSON texts: Arrow would give every call the arguments of all others,
filled with nulls.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lessonlib.runtime._language import LessonError, Translated

if TYPE_CHECKING:
    from datasets import Dataset

Message = dict[str, Any]
_ROLES = ("system", "user", "assistant", "tool")
# What may stand before a message of each role; None is the beginning.
_BEFORE = {
    "system": (None,),
    "user": (None, "system", "assistant", "tool"),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


def checked(messages: Sequence[Mapping[str, Any]], row: int | None = None) -> list[Message]:
    """The messages of one conversation in one form, each of them checked.

    Args:
        messages: one conversation; it is not changed.
        row: its number in the data, for error messages.

    Returns:
        system and user with "role" and "content"; assistant with "role", "thinking" ("" where there is none),
        "content" ("" likewise) and "calls", a list of {"name", "arguments"}; tool with "role", "name" and
        "content": what its JSON says, or the text itself where it is none.

    Raises:
        LessonError: with turn (and row), counted from 0: no messages; an unknown role; an order other than
            system (or none), user, then assistant and, for each call in order, one tool message; a message
            without text; a call without name, or whose arguments are no dict that JSON can write.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        if row is None:
            raise LessonError("there are no messages, or this is no list of messages.")
        raise LessonError("Row {row}: there are no messages, or this is no list of messages.", row=row)
    made: list[Message] = []
    waiting: list[str] = []  # names of calls that have no result yet
    before = None
    for turn, message in enumerate(messages):
        place = _place(row, turn)
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in _ROLES:
            raise LessonError(
                "{place}: there is no role {role!r}, only {roles}.",
                place=place, role=role, roles=", ".join(_ROLES),
            )
        _check_order(role, before, waiting, place)
        if role == "assistant":
            made.append(_assistant(message, place))
            waiting = [call["name"] for call in made[-1]["calls"]]
        elif role == "tool":
            made.append(_result(message, waiting.pop(0), place))
        else:
            made.append({"role": role, "content": _said(message, place)})
        before = role
    if made[-1]["role"] == "system":
        raise LessonError("{place}: no user turn follows it (system).", place=_place(row, len(made) - 1))
    return made


def calls_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The calls of one assistant message as plain dicts {"name", "arguments"}; none is an empty list."""
    functions = [call.get("function", call) for call in message.get("tool_calls") or ()]
    return [{"name": function["name"], "arguments": function["arguments"]} for function in functions]


def rows(dataset: "Dataset") -> Iterator[tuple[int, dict[str, Any], list, list]]:
    """(number, row, tools, messages) of each row, with the JSON texts read.

    Raises:
        LessonError: a missing column, no rows, a text that is no JSON list.
    """
    for column in ("tools", "messages"):
        if column not in dataset.column_names:
            there = ", ".join(dataset.column_names)
            raise LessonError(
                "Column {column!r} is missing; the data has: {there}.", column=column, there=there,
            )
    if len(dataset) == 0:
        raise LessonError("There are no conversations.")
    for number, row in enumerate(dataset):
        yield number, row, _list(row, "tools", number), _list(row, "messages", number)


def turns(dataset: "Dataset", *, which: str = "first") -> list[dict[str, Any]]:
    """The assistant's turns that a model is asked to write again, and what was said there.

    Args:
        dataset: with the columns `tools` and `messages` (JSON texts) and, if there, id, kind and language.
        which: "first" or "last" (one turn of each conversation) or "all".

    Returns:
        One dict each: row (its number), id, kind, language (None where there is no such column), tools (list
        of schemas), history (the messages before), expected (the assistant's message), calls (its calls as
        {"name", "arguments"}; empty where it says something).

    Raises:
        LessonError: an unknown `which`, a row that `checked` refuses, or one in which no assistant speaks.
    """
    if which not in ("first", "last", "all"):
        raise LessonError("There is no which={which!r}. Choose 'first', 'last' or 'all'.", which=which)
    wanted = {"first": slice(1), "last": slice(-1, None), "all": slice(None)}[which]
    found = []
    for number, row, tools, messages in rows(dataset):
        roles = [message["role"] for message in checked(messages, number)]
        places = [at for at, role in enumerate(roles) if role == "assistant"]
        if not places:
            raise LessonError(
                "Row {number}: there is no turn of the assistant to score. Leave this row out.",
                number=number,
            )
        for at in places[wanted]:
            found.append({
                "row": number, "id": row.get("id"), "kind": row.get("kind"), "language": row.get("language"),
                "tools": tools, "history": messages[:at], "expected": messages[at],
                "calls": calls_of(messages[at]),
            })
    return found


def _place(row: int | None, turn: int) -> Translated:
    """Where something is wrong."""
    if row is None:
        return Translated("Turn {turn}", turn=turn)
    return Translated("Row {row}, turn {turn}", row=row, turn=turn)


def _check_order(role: str, before: str | None, waiting: list[str], place: Translated) -> None:
    if role == "tool" and not waiting:
        raise LessonError(
            "{place}: a tool's result without a call that waits for one. Add tool_calls to the assistant's "
            "message before it, or leave the result out.",
            place=place,
        )
    if role != "tool" and waiting:
        raise LessonError(
            "{place}: the conversation goes on, but the call of {name!r} has no result. After tool_calls "
            "comes one tool message for each call, in their order.",
            place=place, name=waiting[0],
        )
    if before not in _BEFORE[role]:
        raise LessonError(
            "{place}: {role!r} cannot follow {before!r}. The order is system (or none), user, assistant "
            "(where it calls: tool, assistant), user, ...",
            place=place, role=role, before=before or Translated("the beginning"),
        )


def _said(message: Mapping[str, Any], place: Translated) -> str:
    content = message.get("content")
    if not isinstance(content, str) or not content.strip():
        raise LessonError(
            "{place} ({role}): there is no text (content is {content!r}).",
            place=place, role=message["role"], content=content,
        )
    return content


def _assistant(message: Mapping[str, Any], place: Translated) -> Message:
    thinking = message.get("thinking") or ""
    if not isinstance(thinking, str):
        raise LessonError(
            "{place} (assistant): 'thinking' has to be text (its value is {thinking!r}).",
            place=place, thinking=thinking,
        )
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise LessonError("{place} (assistant): 'tool_calls' has to be a list of calls.", place=place)
    for call in calls:
        _check_call(call, place)
    content = message.get("content") or "" if calls else _said(message, place)
    if not isinstance(content, str):
        raise LessonError(
            "{place} (assistant): 'content' has to be text (its value is {content!r}).",
            place=place, content=content,
        )
    return {"role": "assistant", "thinking": thinking, "content": content, "calls": calls_of(message)}


def _check_call(call: Any, place: Translated) -> None:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
        raise LessonError(
            "{place} (assistant): a call without a function's name. It has to look like "
            '{{"type": "function", "function": {{"name": ..., "arguments": {{...}}}}}}.',
            place=place,
        )
    arguments = function.get("arguments")
    if not isinstance(arguments, dict):
        raise LessonError(
            "{place}: the arguments of the call of {name!r} are of type {kind}, no dict. OpenAI's interface "
            "gives them as JSON text: use json.loads first.",
            place=place, name=name, kind=type(arguments).__name__,
        )
    try:
        json.dumps(arguments, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise LessonError(
            "{place}: the arguments of the call of {name!r} cannot be written as JSON ({error}).",
            place=place, name=name, error=error,
        ) from error


def _result(message: Mapping[str, Any], called: str, place: Translated) -> Message:
    name = message.get("name") or called
    if name != called:
        raise LessonError(
            "{place} (tool): the result is of {name!r}, but the call that waits is of {called!r}. Results "
            "come in the order of the calls.",
            place=place, name=name, called=called,
        )
    content = message.get("content")
    if isinstance(content, str):
        content = _value(content)
    elif content is None or not _is_json(content):
        raise LessonError(
            "{place} (tool): the content has to be JSON text. Use json.dumps; write 'null' where the "
            "function returned nothing.",
            place=place,
        )
    return {"role": "tool", "name": name, "content": content}


def _value(content: str) -> Any:
    """What a JSON text says; a text that is none, or says what JSON does not know, stays a text."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return content
    return value if _is_json(value) else content


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _list(row: Mapping[str, Any], column: str, number: int) -> list:
    value = row[column]
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise LessonError(
            "Row {number}: column {column!r} is no JSON ({error}).",
            number=number, column=column, error=error,
        ) from error
    if not isinstance(value, list):
        raise LessonError(
            "Row {number}: column {column!r} has to be a JSON list.", number=number, column=column,
        )
    return value
