"""The exercises of lesson 04 (Gemma 2, function calling): no system role, JSON, labels, a guard, scores.

Each judge raises `Wrong` with a message for the mistake that learners really make; each `solve_*` is what the
lesson shows as the solution and what the tests run. Exercises 2 and 5 are in `lesson04_calls`, 3 and 4 in
`lesson04_training`, 6 and 7 in `lesson04_scoring`; the lesson finds all of them here.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from lessonlib.exercises._exercise import Exercise, Wrong, unwritten
from lessonlib.exercises.lesson04._calls import allowed, literal
from lessonlib.exercises.lesson04._scoring import invented, match
from lessonlib.exercises.lesson04._scoring import solve_invented as solve_invented
from lessonlib.exercises.lesson04._training import adapter_size, labels
from lessonlib.runtime._language import Translated

Message = dict[str, Any]

# 1. No system role ----------------------------------------------------------------------------------------


def solve_fold(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The conversation without a system message: its text stands before the first user turn's."""
    if messages[0]["role"] != "system":
        return [dict(message) for message in messages]
    system, user, *rest = [dict(message) for message in messages]  # copies: the data set stays as it is
    return [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *rest]


_SYSTEM = "Bạn được dùng các công cụ sau."
_CALLED = {"role": "assistant", "tool_calls": [{"function": {"name": "get_weather", "arguments": {}}}]}
_TALKS: tuple[list[Message], ...] = (
    [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": "Huế mưa không?"},
        _CALLED,
        {"role": "tool", "name": "get_weather", "content": '{"rain":true}'},
        {"role": "assistant", "content": "Có mưa."},
        {"role": "user", "content": "Còn Đà Nẵng?"},
        {"role": "assistant", "content": "Trời nắng."},
    ],
    [{"role": "user", "content": "Chào bạn."}, {"role": "assistant", "content": "Chào bạn!"}],
)


def _judge_fold(fold: Callable[[list[Message]], Any]) -> None:
    for talk in _TALKS:
        given, want = deepcopy(talk), solve_fold(talk)
        got = fold(given)
        if not isinstance(got, list) or not all(isinstance(message, Mapping) for message in got):
            raise Wrong("Return a list of messages (dicts), you returned {name}.", name=type(got).__name__)
        if got != want:
            _judge_folded(talk, got, want)
        if given != talk:
            raise Wrong(
                "The result is right, but the conversation that was given has changed: a second call on the "
                'same data would spoil it. Make a new dict, such as `{**user, "content": ...}`.',
            )


def _judge_folded(talk: list[Message], got: list[Message], want: list[Message]) -> None:
    roles = [message.get("role") for message in got]
    if talk[0]["role"] != "system":
        raise Wrong(
            "A conversation without a system message has to stay as it is. Look at the first message's role "
            "before you fold.",
        )
    if "system" in roles:
        raise Wrong(
            "There is a system message left: Gemma's chat template stops with \"System role not supported\".",
        )
    if roles[:2] == ["user", "user"]:
        raise Wrong(
            "Two user turns in a row: another name for the role is not enough, Gemma's template wants user "
            "and assistant to take turns. Join the two texts in one turn.",
        )
    holders = [at for at, message in enumerate(got) if _SYSTEM in str(message.get("content"))]
    if not holders:
        raise Wrong(
            "The system's words are gone. Without them the model does not know which tools there are.",
        )
    if holders != [0]:
        raise Wrong("The system's words belong in the first user turn, and only there.")
    if got[0]["content"] != want[0]["content"]:
        raise Wrong(
            "The first turn should be {want!r} (system text, empty line, question), you gave {got!r}.",
            want=want[0]["content"], got=got[0]["content"],
        )
    raise Wrong(
        "The first turn is right, but later ones have changed. They stay as they are, tool_calls and the "
        "role tool included.",
    )


fold = Exercise(
    title=Translated(
        "Exercise 1. Gemma has no system role: fold the system's words into the first user turn.",
    ),
    judge=_judge_fold,
    hints=(
        Translated(
            "`system, user, *rest = messages` takes the conversation apart. But is the first one a system "
            "message?",
        ),
        Translated('`[{**user, "content": system["content"] + "\\n\\n" + user["content"]}, *rest]`.'),
    ),
    solve=solve_fold,
    praise=Translated(
        "This is what `formatting.fold_system` does. Gemma's template stops at a system message; other "
        "templates may leave out, without a word, a role that they do not know.",
    ),
    start=unwritten,
)


ALL = (fold, literal, adapter_size, labels, allowed, match, invented)
