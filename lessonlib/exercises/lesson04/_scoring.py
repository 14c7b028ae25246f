"""Lesson 04's exercises 6 and 7: equal calls in any order, and results that the model makes up itself."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lessonlib.exercises._exercise import Exercise, Wrong, unwritten
from lessonlib.exercises.lesson04._calls import Case, judge_cases

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
_ONE = "JSON giữ các kiểu tách biệt", "JSON keeps types apart"

_PAIRS: tuple[Case, ...] = (
    (([_HUE, _TIMER], [_HUE, _TIMER]), True, "Hai danh sách giống hệt nhau.", "The two lists are equal."),
    (([_HUE], [_TIMER]), False, "Khác cả tên lẫn đối số.", "Name and arguments both differ."),
    (
        ([_HUE, _TIMER], [_TIMER, _HUE]), True,
        "Các lời gọi song song không có thứ tự.",
        "Parallel calls have no order.",
    ),
    (
        ([_HUE, _HANOI], [_HANOI, _HUE]), True,
        "Hai lời gọi cùng tên: chỉ xếp theo tên thì chưa đủ, phải kể cả đối số.",
        "Two calls of one name: sorting by name alone is not enough, the arguments count too.",
    ),
    (
        ([_HUE], [{"arguments": {"days": 1, "city": "Huế"}, "name": "get_weather"}]), True,
        "Thứ tự của khóa trong dict không có nghĩa: đặt sort_keys=True, hoặc so dict với dict.",
        "The order of keys means nothing: pass sort_keys=True, or compare dicts as dicts.",
    ),
    (
        ([_HUE], [_HANOI]), False,
        "Tên giống nhau nhưng đối số khác nhau.",
        "The names are equal, and the arguments are not.",
    ),
    (
        ([_HUE], [{**_HUE, "name": "get_forecast"}]), False,
        "Đối số giống nhau nhưng là công cụ khác.",
        "The arguments are equal, but it is another tool.",
    ),
    (
        ([_HUE, _TIMER], [_HUE]), False,
        "Thiếu một lời gọi. So hai chiều, hoặc so cả số lượng.",
        "A call is missing. Compare both ways, or the counts too.",
    ),
    (
        ([_HUE], [_HUE, _TIMER]), False,
        "Thừa một lời gọi: một việc không ai yêu cầu sẽ chạy.",
        "There is a call too many: something would run that nobody asked for.",
    ),
    (
        ([_TIMER], [_TIMER, _TIMER]), False,
        "Gọi hai lần không phải một lần: set (tập hợp) làm mất số lần.",
        "Twice is not once: a set loses how often.",
    ),
    (
        ([_TIMER, _TIMER, _HUE], [_TIMER, _HUE, _HUE]), False,
        "Cùng độ dài, cùng các lời gọi, nhưng số lần khác nhau. Hãy xếp thứ tự rồi so, hoặc gạch dần từng "
        "cái.",
        "As long and with the same calls, but not each as often. Sort and compare, or cross them off one by "
        "one.",
    ),
    (
        ([_call("f", x=1)], [_call("f", x="1")]), False,
        f"{_ONE[0]}: 1 là số, \"1\" là chuỗi.",
        f"{_ONE[1]}: 1 is a number and \"1\" a string.",
    ),
    (
        ([_call("f", x=True)], [_call("f", x=1)]), False,
        f"{_ONE[0]}: true không phải 1, dù trong Python True == 1. So văn bản JSON thì phân biệt được.",
        f"{_ONE[1]}: true is not 1, though True == 1 in Python. Their JSON texts tell them apart.",
    ),
    (
        ([_call("f", x=[{"y": False}])], [_call("f", x=[{"y": 0}])]), False,
        f"{_ONE[0]}, cả ở sâu bên trong: false không phải 0.",
        f"{_ONE[1]}, deep inside too: false is not 0.",
    ),
    (
        ([_call("f", x=[1, 2])], [_call("f", x=[2, 1])]), False,
        "Các lời gọi không có thứ tự, nhưng một list bên trong đối số thì có.",
        "Calls have no order, but a list among the arguments does.",
    ),
    (([], []), True, "Không lời gọi nào ở cả hai bên: khớp.", "No call on either side: they match."),
    (([_HUE], []), False, "Một bên có lời gọi, một bên không.", "One side calls and the other does not."),
)  # fmt: skip


def _judge_match(match: Callable[..., Any]) -> None:
    judge_cases(match, _PAIRS, bool)


match = Exercise(
    title={
        "vi": "Bài tập 6. So hai danh sách lời gọi song song: thứ tự tùy ý, số lần và kiểu JSON phải đúng.",
        "en": "Exercise 6. Compare two lists of parallel calls: any order, but counts and JSON types as "
        "asked.",
    },
    judge=_judge_match,
    hints=(
        {
            "vi": 'Trong Python `True == 1`. Văn bản JSON thì phân biệt: `true`, `1`, `"1"`.',
            "en": 'In Python `True == 1`. JSON text tells them apart: `true`, `1`, `"1"`.',
        },
        {
            "vi": "`json.dumps(call, sort_keys=True)` cho mỗi lời gọi một chuỗi. Rồi so hai danh sách chuỗi "
            "đã `sorted`.",
            "en": "`json.dumps(call, sort_keys=True)` makes a string of each call. Then compare the two "
            "`sorted` lists of strings.",
        },
    ),
    solve=solve_match,
    praise={
        "vi": "Đó là phép so của bảng điểm. Một số câu có nhiều đáp án đúng (chẳng hạn được bỏ đối số tùy "
        "chọn); lessonlib.tools lo thêm phần ấy.",
        "en": "This is the comparison behind the score. Some questions have several right answers (an "
        "optional argument left out, for instance); lessonlib.tools sees to those too.",
    },
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
    (([text],), want, vi, en)
    for text, want, vi, en in (
        (
            _THOUGHT + _ASKED + "<end_of_turn>", 0,
            "Mô hình gọi rồi dừng, đúng như phải làm.",
            "It calls and stops, as it should.",
        ),
        (
            _THOUGHT + _ASKED + _MADE_UP + "31 °C.<end_of_turn>", 1,
            "Chưa ai chạy công cụ mà kết quả đã có: mô hình bịa.",
            "Nobody ran the tool, and there is its result: made up.",
        ),
        (
            _ASKED + _MADE_UP + _ASKED + _MADE_UP, 1,
            "Đếm số văn bản, không đếm số thẻ: văn bản này bịa hai lần nhưng chỉ là một.",
            "Count texts and not tags: this one makes up two results and is one text.",
        ),
        (
            _ASKED + _MADE_UP[:40], 1,
            "Kết quả bịa bị cắt ngang vì hết max_new_tokens: không có </tool_response>, nhưng vẫn là bịa.",
            "max_new_tokens cut the made-up result off: it has no </tool_response>, but it is made up.",
        ),
        (
            _ASKED + "<end_of_turn>\n<start_of_turn>user\n" + _MADE_UP, 1,
            "Mô hình tự đóng vai người dùng rồi bịa kết quả. Thẻ không cần đứng ngay sau </tool_call>.",
            "It plays the user's part and makes up the result there. The tag need not follow </tool_call> at "
            "once.",
        ),
        (
            _ASKED + _ASKED + _MADE_UP, 1,
            "Hai lời gọi song song rồi mới bịa kết quả.",
            "Two parallel calls, and then a made-up result.",
        ),
        (
            "<think>call, then wait for <tool_response></think>" + _ASKED + "<end_of_turn>", 0,
            "Thẻ nằm trong <think>: mô hình chỉ nghĩ đến kết quả, chưa viết ra.",
            "The tag is inside <think>: a result is thought of, and none is written.",
        ),
        (
            _ASKED + "<think>now\n<tool_response> will come</think><end_of_turn>", 0,
            "Thẻ nằm trong <think>, lần này ở sau lời gọi và có xuống dòng: `.` cần re.DOTALL.",
            "The tag is inside <think>, after the call this time and with a line break: `.` needs re.DOTALL.",
        ),
        (
            '<tool_call>{"name":"search","arguments":{"query":"<tool_response> là gì?"}}</tool_call>', 0,
            "Thẻ nằm trong một chuỗi của lời gọi: người dùng hỏi về nó. Hãy bỏ cả lời gọi ra trước khi tìm.",
            "The tag is inside a string of the call: the user asked about it. Take calls out before you "
            "look.",
        ),
        (
            _MADE_UP + "31 °C.<end_of_turn>", 0,
            "Không có lời gọi nào ở trước. Đề chỉ đếm kết quả bịa sau một lời gọi.",
            "No call comes before it. Only results made up after a call are counted.",
        ),
    )
)  # fmt: skip


def _judge_invented(invented: Callable[[list[str]], Any]) -> None:
    judge_cases(invented, _TEXTS, int)
    every = [text for (texts,), _, _, _ in _TEXTS for text in texts]
    for texts, want in ((every, sum(want for _, want, _, _ in _TEXTS)), ([], 0)):
        if (got := invented(list(texts))) != want:
            raise Wrong(
                vi=f"Từng văn bản một thì đúng, nhưng với cả {len(texts)} văn bản phải là {want}, bạn trả về "
                f"{got}. Bạn có return trong vòng lặp không?",
                en=f"One by one you are right, but for all {len(texts)} texts it should be {want}, you gave "
                f"{got}. Is there a return inside the loop?",
            )


invented = Exercise(
    title={
        "vi": "Bài tập 7 (phá hỏng rồi sửa). Bao nhiêu câu trả lời tự bịa ra kết quả của công cụ?",
        "en": "Exercise 7 (break it, mend it). How many answers make up a tool's result themselves?",
    },
    judge=_judge_invented,
    hints=(
        {
            "vi": "Trước hết bỏ phần nghĩ: `re.sub(r'<think>.*?</think>', '', text, flags=re.DOTALL)`.",
            "en": "First take the thoughts out: `re.sub(r'<think>.*?</think>', '', text, flags=re.DOTALL)`.",
        },
        {
            "vi": "`re.split(r'<tool_call>.*?</tool_call>', ...)` cho các mảnh nằm ngoài lời gọi; mảnh đầu "
            "đứng trước lời gọi thứ nhất. Có mảnh nào khác chứa `<tool_response>` không?",
            "en": "`re.split(r'<tool_call>.*?</tool_call>', ...)` gives what is outside calls; the first "
            "piece comes before the first call. Does any other hold `<tool_response>`?",
        },
    ),
    solve=solve_invented,
    praise={
        "vi": "Loss tính cả trên kết quả của công cụ thì mô hình học viết luôn kết quả, và nó viết ra một "
        "con số trông rất thật. Cách chữa: nhãn -100 ở đó, và dừng sinh ngay khi lời gọi kết thúc.",
        "en": "With loss on tool responses the model learns to write them, and it writes a number that looks "
        "real. The cure: label -100 there, and generation that stops where the call ends.",
    },
    start=unwritten,
)
