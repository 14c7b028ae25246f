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

from lessonlib.runtime._language import LessonError

if TYPE_CHECKING:
    from datasets import Dataset

Message = dict[str, Any]
ROLES = ("system", "user", "assistant", "tool")
# What may stand before a message of each role; None is the beginning.
BEFORE = {
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
        place = ("", "") if row is None else (f"Dòng {row}: ", f"Row {row}: ")
        raise LessonError(
            vi=f"{place[0]}không có tin nhắn nào, hoặc đây không phải danh sách các tin nhắn.",
            en=f"{place[1]}there are no messages, or this is no list of messages.",
        )
    made: list[Message] = []
    waiting: list[str] = []  # names of calls that have no result yet
    before = None
    for turn, message in enumerate(messages):
        vi, en = _place(row, turn)
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ROLES:
            raise LessonError(
                vi=f"{vi}: không có vai trò {role!r}. Chỉ có: {', '.join(ROLES)}.",
                en=f"{en}: there is no role {role!r}, only {', '.join(ROLES)}.",
            )
        _check_order(role, before, waiting, vi, en)
        if role == "assistant":
            made.append(_assistant(message, vi, en))
            waiting = [call["name"] for call in made[-1]["calls"]]
        elif role == "tool":
            made.append(_result(message, waiting.pop(0), vi, en))
        else:
            made.append({"role": role, "content": _said(message, vi, en)})
        before = role
    if made[-1]["role"] == "system":
        vi, en = _place(row, len(made) - 1)
        raise LessonError(
            vi=f"{vi}: sau tin nhắn system không có lượt user nào.", en=f"{en}: no user turn follows it "
            "(system)."
        )
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
                vi=f"Thiếu cột {column!r}; dữ liệu có: {there}.",
                en=f"Column {column!r} is missing; the data has: {there}.",
            )
    if len(dataset) == 0:
        raise LessonError(vi="Không có hội thoại nào.", en="There are no conversations.")
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
        raise LessonError(
            vi=f"which={which!r} không hợp lệ. Hãy chọn 'first', 'last' hoặc 'all'.",
            en=f"There is no which={which!r}. Choose 'first', 'last' or 'all'.",
        )
    wanted = {"first": slice(1), "last": slice(-1, None), "all": slice(None)}[which]
    found = []
    for number, row, tools, messages in rows(dataset):
        roles = [message["role"] for message in checked(messages, number)]
        places = [at for at, role in enumerate(roles) if role == "assistant"]
        if not places:
            raise LessonError(
                vi=f"Dòng {number}: không có lượt nào của assistant để chấm. Hãy bỏ dòng này.",
                en=f"Row {number}: there is no turn of the assistant to score. Leave this row out.",
            )
        for at in places[wanted]:
            found.append({
                "row": number, "id": row.get("id"), "kind": row.get("kind"), "language": row.get("language"),
                "tools": tools, "history": messages[:at], "expected": messages[at],
                "calls": calls_of(messages[at]),
            })
    return found


def _place(row: int | None, turn: int) -> tuple[str, str]:
    """Where something is wrong, in both languages."""
    if row is None:
        return f"Lượt {turn}", f"Turn {turn}"
    return f"Dòng {row}, lượt {turn}", f"Row {row}, turn {turn}"


def _check_order(role: str, before: str | None, waiting: list[str], vi: str, en: str) -> None:
    if role == "tool" and not waiting:
        raise LessonError(
            vi=f"{vi}: có kết quả công cụ (tool) mà trước đó không có lời gọi nào chờ kết quả. Hãy thêm "
            "tool_calls vào tin nhắn assistant đứng trước, hoặc bỏ kết quả này.",
            en=f"{en}: a tool's result without a call that waits for one. Add tool_calls to the assistant's "
            "message before it, or leave the result out.",
        )
    if role != "tool" and waiting:
        raise LessonError(
            vi=f"{vi}: lời gọi {waiting[0]!r} chưa có kết quả mà hội thoại đã đi tiếp. Sau tool_calls phải "
            "có một tin nhắn tool cho mỗi lời gọi, đúng thứ tự.",
            en=f"{en}: the conversation goes on, but the call of {waiting[0]!r} has no result. After "
            "tool_calls comes one tool message for each call, in their order.",
        )
    if before not in BEFORE[role]:
        raise LessonError(
            vi=f"{vi}: {role!r} không thể đứng sau {before or 'chỗ bắt đầu'!r}. Thứ tự là system (có thể "
            "không có), user, assistant (nếu gọi hàm thì tool, assistant), user, ...",
            en=f"{en}: {role!r} cannot follow {before or 'the beginning'!r}. The order is system (or none), "
            "user, assistant (where it calls: tool, assistant), user, ...",
        )


def _said(message: Mapping[str, Any], vi: str, en: str) -> str:
    content = message.get("content")
    if not isinstance(content, str) or not content.strip():
        raise LessonError(
            vi=f"{vi} ({message['role']}): không có văn bản (content là {content!r}).",
            en=f"{en} ({message['role']}): there is no text (content is {content!r}).",
        )
    return content


def _assistant(message: Mapping[str, Any], vi: str, en: str) -> Message:
    thinking = message.get("thinking") or ""
    if not isinstance(thinking, str):
        raise LessonError(
            vi=f"{vi} (assistant): 'thinking' phải là văn bản (giá trị là {thinking!r}).",
            en=f"{en} (assistant): 'thinking' has to be text (its value is {thinking!r}).",
        )
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise LessonError(
            vi=f"{vi} (assistant): 'tool_calls' phải là danh sách các lời gọi.",
            en=f"{en} (assistant): 'tool_calls' has to be a list of calls.",
        )
    for call in calls:
        _check_call(call, vi, en)
    content = message.get("content") or "" if calls else _said(message, vi, en)
    if not isinstance(content, str):
        raise LessonError(
            vi=f"{vi} (assistant): 'content' phải là văn bản (giá trị là {content!r}).",
            en=f"{en} (assistant): 'content' has to be text (its value is {content!r}).",
        )
    return {"role": "assistant", "thinking": thinking, "content": content, "calls": calls_of(message)}


def _check_call(call: Any, vi: str, en: str) -> None:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
        raise LessonError(
            vi=f"{vi} (assistant): lời gọi không có tên hàm. Cần dạng "
            '{"type": "function", "function": {"name": ..., "arguments": {...}}}.',
            en=f"{en} (assistant): a call without a function's name. It has to look like "
            '{"type": "function", "function": {"name": ..., "arguments": {...}}}.',
        )
    arguments = function.get("arguments")
    if not isinstance(arguments, dict):
        raise LessonError(
            vi=f"{vi}: 'arguments' của lời gọi {name!r} là {type(arguments).__name__}, không phải dict. API "
            "của OpenAI trả về một chuỗi JSON: hãy dùng json.loads trước.",
            en=f"{en}: the arguments of the call of {name!r} are of type {type(arguments).__name__}, no "
            "dict. OpenAI's interface gives them as JSON text: use json.loads first.",
        )
    try:
        json.dumps(arguments, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise LessonError(
            vi=f"{vi}: 'arguments' của lời gọi {name!r} không ghi thành JSON được ({error}).",
            en=f"{en}: the arguments of the call of {name!r} cannot be written as JSON ({error}).",
        ) from error


def _result(message: Mapping[str, Any], called: str, vi: str, en: str) -> Message:
    name = message.get("name") or called
    if name != called:
        raise LessonError(
            vi=f"{vi} (tool): kết quả ghi tên {name!r}, nhưng lời gọi đang chờ là {called!r}. Các kết quả "
            "phải theo đúng thứ tự lời gọi.",
            en=f"{en} (tool): the result is of {name!r}, but the call that waits is of {called!r}. Results "
            "come in the order of the calls.",
        )
    content = message.get("content")
    if isinstance(content, str):
        content = _value(content)
    elif content is None or not _is_json(content):
        raise LessonError(
            vi=f"{vi} (tool): content phải là một chuỗi JSON. Hãy dùng json.dumps; hàm không trả về gì thì "
            "ghi 'null'.",
            en=f"{en} (tool): the content has to be JSON text. Use json.dumps; write 'null' where the "
            "function returned nothing.",
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
            vi=f"Dòng {number}: cột {column!r} không phải JSON ({error}).",
            en=f"Row {number}: column {column!r} is no JSON ({error}).",
        ) from error
    if not isinstance(value, list):
        raise LessonError(
            vi=f"Dòng {number}: cột {column!r} phải là một danh sách JSON.",
            en=f"Row {number}: column {column!r} has to be a JSON list.",
        )
    return value
