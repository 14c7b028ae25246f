"""Lesson 04's exercises 6 and 7: equal calls in any order, and results that the model makes up itself."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lessonlib.exercises._exercise import Exercise, Wrong, unwritten
from lessonlib.exercises.lesson04._calls import Case, judge_cases
from lessonlib.runtime._language import Translated

# 6. Parallel calls ----------------------------------------------------------------------------------------


def solve_match(expected: Sequence[Mapping[str, Any]], got: Sequence[Mapping[str, Any]]) -> bool:
    """Whether two lists hold the same calls, each as often, in any order."""

    def key(call: Mapping[str, Any]) -> str:
        return json.dumps(call, sort_keys=True)  # the order of keys goes; 1, "1" and true stay apart

    return sorted(map(key, expected)) == sorted(map(key, got))


def _call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


_HUE, _HANOI = _call("get_weather", city="Huế", days=1), _call("get_weather", city="Hà Nội", days=1)
_TIMER = _call("set_timer", minutes=5)

_PAIRS: tuple[Case, ...] = (
    (([_HUE, _TIMER], [_HUE, _TIMER]), True, Translated("The two lists are equal.")),
    (([_HUE], [_TIMER]), False, Translated("Name and arguments both differ.")),
    (
        ([_HUE, _TIMER], [_TIMER, _HUE]), True,
        Translated("Parallel calls have no order."),
    ),
    (
        ([_HUE, _HANOI], [_HANOI, _HUE]), True,
        Translated("Two calls of one name: sorting by name alone is not enough, the arguments count too."),
    ),
    (
        ([_HUE], [{"arguments": {"days": 1, "city": "Huế"}, "name": "get_weather"}]), True,
        Translated("The order of keys means nothing: pass sort_keys=True, or compare dicts as dicts."),
    ),
    (
        ([_HUE], [_HANOI]), False,
        Translated("The names are equal, and the arguments are not."),
    ),
    (
        ([_HUE], [{**_HUE, "name": "get_forecast"}]), False,
        Translated("The arguments are equal, but it is another tool."),
    ),
    (
        ([_HUE, _TIMER], [_HUE]), False,
        Translated("A call is missing. Compare both ways, or the counts too."),
    ),
    (
        ([_HUE], [_HUE, _TIMER]), False,
        Translated("There is a call too many: something would run that nobody asked for."),
    ),
    (
        ([_TIMER], [_TIMER, _TIMER]), False,
        Translated("Twice is not once: a set loses how often."),
    ),
    (
        ([_TIMER, _TIMER, _HUE], [_TIMER, _HUE, _HUE]), False,
        Translated(
            "As long and with the same calls, but not each as often. Sort and compare, or cross them off "
            "one by one.",
        ),
    ),
    (
        ([_call("f", x=1)], [_call("f", x="1")]), False,
        Translated('JSON keeps types apart: 1 is a number and "1" a string.'),
    ),
    (
        ([_call("f", x=True)], [_call("f", x=1)]), False,
        Translated(
            "JSON keeps types apart: true is not 1, though True == 1 in Python. Their JSON texts tell them "
            "apart.",
        ),
    ),
    (
        ([_call("f", x=[{"y": False}])], [_call("f", x=[{"y": 0}])]), False,
        Translated("JSON keeps types apart, deep inside too: false is not 0."),
    ),
    (
        ([_call("f", x=[1, 2])], [_call("f", x=[2, 1])]), False,
        Translated("Calls have no order, but a list among the arguments does."),
    ),
    (([], []), True, Translated("No call on either side: they match.")),
    (([_HUE], []), False, Translated("One side calls and the other does not.")),
)  # fmt: skip


def _judge_match(match: Callable[..., Any]) -> None:
    judge_cases(match, _PAIRS, bool)


match = Exercise(
    title=Translated(
        "Exercise 6. Compare two lists of parallel calls: any order, but counts and JSON types as asked.",
    ),
    judge=_judge_match,
    hints=(
        Translated('In Python `True == 1`. JSON text tells them apart: `true`, `1`, `"1"`.'),
        Translated(
            "`json.dumps(call, sort_keys=True)` makes a string of each call. Then compare the two `sorted` "
            "lists of strings.",
        ),
    ),
    solve=solve_match,
    praise=Translated(
        "This is the comparison behind the score. Some questions have several right answers (an optional "
        "argument left out, for instance); lessonlib.tools sees to those too.",
    ),
    start=unwritten,
)


# 7. Break-it lab: results that nobody sent ----------------------------------------------------------------


def solve_invented(texts: Sequence[str]) -> int:
    """How many texts go on, after a call, with a <tool_response> of the model's own."""
    count = 0
    for text in texts:
        # What is thought of is not yet written; a thought that never ends goes on to the end of the text.
        said = re.sub(r"<think>.*?(</think>|$)", "", text, flags=re.DOTALL)
        _, *after = re.split(r"<tool_call>.*?</tool_call>", said, flags=re.DOTALL)
        count += any("<tool_response>" in part for part in after)  # open is enough: it need not be closed
    return count


_THOUGHT = "<think>get_weather</think>"
_ASKED = '<tool_call>{"name":"get_weather","arguments":{"city":"Huế"}}</tool_call>'
_MADE_UP = '<tool_response>{"name":"get_weather","content":{"celsius":31}}</tool_response>'

_TEXTS: tuple[Case, ...] = tuple(
    (([text],), want, why)
    for text, want, why in (
        (
            _THOUGHT + _ASKED + "<end_of_turn>", 0,
            Translated("It calls and stops, as it should."),
        ),
        (
            _THOUGHT + _ASKED + _MADE_UP + "31 °C.<end_of_turn>", 1,
            Translated("Nobody ran the tool, and there is its result: made up."),
        ),
        (
            _ASKED + _MADE_UP + _ASKED + _MADE_UP, 1,
            Translated("Count texts and not tags: this one makes up two results and is one text."),
        ),
        (
            _ASKED + _MADE_UP[:40], 1,
            Translated(
                "max_new_tokens cut the made-up result off: it has no </tool_response>, but it is made up.",
            ),
        ),
        (
            _ASKED + "<end_of_turn>\n<start_of_turn>user\n" + _MADE_UP, 1,
            Translated(
                "It plays the user's part and makes up the result there. The tag need not follow "
                "</tool_call> at once.",
            ),
        ),
        (
            _ASKED + _ASKED + _MADE_UP, 1,
            Translated("Two parallel calls, and then a made-up result."),
        ),
        (
            "<think>call, then wait for <tool_response></think>" + _ASKED + "<end_of_turn>", 0,
            Translated("The tag is inside <think>: a result is thought of, and none is written."),
        ),
        (
            _ASKED + "<think>now\n<tool_response> will come</think><end_of_turn>", 0,
            Translated(
                "The tag is inside <think>, after the call this time and with a line break: `.` needs "
                "re.DOTALL.",
            ),
        ),
        (
            '<tool_call>{"name":"search","arguments":{"query":"<tool_response> là gì?"}}</tool_call>', 0,
            Translated(
                "The tag is inside a string of the call: the user asked about it. Take calls out before you "
                "look.",
            ),
        ),
        (
            _MADE_UP + "31 °C.<end_of_turn>", 0,
            Translated("No call comes before it. Only results made up after a call are counted."),
        ),
    )
)  # fmt: skip


def _judge_invented(invented: Callable[[list[str]], Any]) -> None:
    judge_cases(invented, _TEXTS, int)
    every = [text for (texts,), _, _ in _TEXTS for text in texts]
    for texts, want in ((every, sum(want for _, want, _ in _TEXTS)), ([], 0)):
        if (got := invented(list(texts))) != want:
            raise Wrong(
                "One by one you are right, but for all {count} texts it should be {want}, you gave {got}. "
                "Is there a return inside the loop?",
                count=len(texts), want=want, got=got,
            )


invented = Exercise(
    title=Translated("Exercise 7 (break it, mend it). How many answers make up a tool's result themselves?"),
    judge=_judge_invented,
    hints=(
        Translated(
            "First take the thoughts out: `re.sub(r'<think>.*?</think>', '', text, flags=re.DOTALL)`.",
        ),
        Translated(
            "`re.split(r'<tool_call>.*?</tool_call>', ...)` gives what is outside calls; the first piece "
            "comes before the first call. Does any other hold `<tool_response>`?",
        ),
    ),
    solve=solve_invented,
    praise=Translated(
        "With loss on tool responses the model learns to write them, and it writes a number that looks "
        "real. The cure: label -100 there, and generation that stops where the call ends.",
    ),
    start=unwritten,
)
