"""Lesson 04's exercises 2 and 5: a call written as Python turned into JSON, and a guard before a tool "
"runs."""

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from lessonlib.exercises._exercise import Exercise, Wrong, unwritten

# What is given, the right answer, and what to say where the learner's differs: (given, want, vi, en).
Case = tuple[tuple[Any, ...], Any, str, str]


def judge_cases(answer: Callable[..., Any], cases: Sequence[Case], kind: type) -> None:
    """Ask the learner's function case by case; the first that differs is explained by its own words.

    An error that only an odd case brings out is explained too; one in the first case is shown as it is, with
    the learner's own line.
    """
    vi_kind, en_kind = {bool: ("True hoặc False", "True or False"), int: ("một số", "a number")}[kind]
    for number, (given, want, vi, en) in enumerate(cases):
        try:
            got = answer(*deepcopy(given))
        except (KeyError, TypeError, AttributeError) as error:
            if number == 0:
                raise
            what = f"{type(error).__name__}: {error}"
            raise Wrong(
                vi=f"Với {_shown(given)} hàm của bạn dừng vì lỗi {what}\n{vi}",
                en=f"With {_shown(given)} your function stopped with {what}\n{en}",
            ) from error
        if type(got) is not kind:
            raise Wrong(
                vi=f"Hãy trả về {vi_kind}, bạn trả về {type(got).__name__}.",
                en=f"Return {en_kind}, you returned {type(got).__name__}.",
            )
        if got != want:
            raise Wrong(
                vi=f"Với {_shown(given)} phải là {want}, bạn trả về {got}. {vi}",
                en=f"With {_shown(given)} it should be {want}, you gave {got}. {en}",
            )


def _shown(given: Sequence[Any]) -> str:
    """What the function was given, but for schemas, which are long and printed in the lesson."""
    return ", ".join(repr(one) for one in given if one is not SCHEMAS)


# 2. Python's literals to JSON -----------------------------------------------------------------------------


def solve_literal(said: str) -> str | None:
    """The call as JSON text, or None where it is no literal call or has no JSON form."""
    try:
        call = ast.literal_eval(said)  # reads literals and nothing else: no names, no calls, no operators
        if not isinstance(call, dict) or set(call) != {"name", "arguments"}:
            return None
        return json.dumps(call, ensure_ascii=False, allow_nan=False)  # Infinity and NaN are no JSON
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


_LITERALS = (
    "{'name': 'get_weather', 'arguments': {'city': 'Huế', 'days': None, 'hourly': True}}",
    "{'name': 'find_book', 'arguments': {'title': \"It's None of 'em\", 'new': False, 'pages': [1, -2.5]}}",
)

# (a text to refuse, why)
_REFUSED = (
    (
        "{'name': 'f', 'arguments': {'x': 1}",
        "Dòng này bị cắt giữa chừng.",
        "This one is cut off in the middle.",
    ),
    (
        "get_weather(city='Huế')",
        "Đây là mã Python, không phải dict viết sẵn giá trị (literal).",
        "This is Python code and no dict of literals.",
    ),
    (
        "['f', {'x': 1}]",
        "Đây không phải dict có name và arguments.",
        "This is no dict of name and arguments.",
    ),
    ("{'name': 'f'}", "Không có arguments thì chưa phải lời gọi.", "Without arguments it is no call."),
    (
        "{'name': 'f', 'arguments': {'x': {1, 2}}}",
        "JSON không có kiểu set: json.dumps báo TypeError.",
        "JSON has no sets: json.dumps raises TypeError.",
    ),
    (
        "{'name': 'f', 'arguments': {'x': 1e999}}",
        "1e999 là vô cực, mà JSON không có Infinity: hãy đặt allow_nan=False.",
        "1e999 is infinite, and JSON has no Infinity: pass allow_nan=False.",
    ),
)
# A method of a literal: it needs no builtins, so that eval with empty globals runs it too.
_CODE = "{'name': 'f', 'arguments': {'x': 'ab'.upper()}}"


def _judge_literal(literal: Callable[[str], Any]) -> None:
    for said in _LITERALS:
        _judge_converted(said, literal(said))
    if _refusal(literal, _CODE, "Đây là mã, không phải giá trị.", "This is code and no value.") is not None:
        raise Wrong(
            vi=f"Hàm của bạn đã chạy mã nằm trong {_CODE}: lần này chỉ là .upper(), lần sau có thể là xóa "
            "tệp. eval và exec không bao giờ an toàn, kể cả khi bỏ hết builtins. Hãy dùng ast.literal_eval.",
            en=f"Your function ran the code in {_CODE}: it was only .upper() now, but may delete files next "
            "time. eval and exec are never safe, not even without builtins. Use ast.literal_eval.",
        )
    for said, vi, en in _REFUSED:
        if (got := _refusal(literal, said, vi, en)) is not None:
            raise Wrong(
                vi=f"{said} phải là None, bạn trả về {got!r}. {vi}",
                en=f"{said} should be None, you gave {got!r}. {en}",
            )


def _refusal(literal: Callable[[str], Any], said: str, vi: str, en: str) -> Any:
    """What the learner's function makes of a text that has to be refused; an error is no refusal."""
    try:
        return literal(said)
    except (ValueError, SyntaxError, TypeError, KeyError, AttributeError, NameError) as error:
        kind = type(error).__name__
        raise Wrong(
            vi=f"Với {said} hàm của bạn dừng vì {kind}; một dòng hỏng sẽ làm dừng cả bộ dữ liệu. Hãy bắt lỗi "
            f"và trả về None. {vi}",
            en=f"With {said} your function stopped with {kind}; one bad row would stop the whole data set. "
            f"Catch it and return None. {en}",
        ) from error


def _judge_converted(said: str, got: Any) -> None:
    want = ast.literal_eval(said)
    if got is None:
        raise Wrong(
            vi=f"{said} là một lời gọi hợp lệ, vậy mà bạn trả về None. json.loads không đọc được nháy đơn; "
            "ast.literal_eval thì được.",
            en=f"{said} is a good call, and you gave None. json.loads does not read single quotes; "
            "ast.literal_eval does.",
        )
    if not isinstance(got, str):
        raise Wrong(
            vi=f"Hãy trả về văn bản JSON, bạn trả về {type(got).__name__}. Bước cuối là json.dumps.",
            en=f"Return JSON text, you returned {type(got).__name__}. The last step is json.dumps.",
        )
    try:
        found = json.loads(got)
    except ValueError as error:
        raise Wrong(
            vi=f"{got} chưa phải JSON ({error}). Đổi nháy hay None bằng replace sẽ làm hỏng cả chữ nằm trong "
            "chuỗi. Hãy đọc thành giá trị Python trước, rồi json.dumps.",
            en=f"{got} is no JSON ({error}). Replacing quotes or None breaks the words inside strings too. "
            "Read it into Python's values first, then json.dumps.",
        ) from error
    if found != want:
        raise Wrong(
            vi=f"{said} đã thành {found}: giá trị bị đổi. replace động cả vào chữ nằm trong chuỗi.",
            en=f"{said} became {found}: a value has changed. replace reaches into strings too.",
        )
    if "\\u" in got:
        raise Wrong(
            vi=f"{got} đúng là JSON, nhưng mô hình sẽ học viết \\u1ebf thay cho ế. Hãy đặt "
            "ensure_ascii=False.",
            en=f"{got} is JSON, but the model would learn to write \\u1ebf for ế. Pass ensure_ascii=False.",
        )


literal = Exercise(
    title={
        "vi": "Bài tập 2. Đổi một lời gọi viết kiểu Python thành JSON mà không chạy dòng mã nào trong đó.",
        "en": "Exercise 2. Turn a call written as Python into JSON without running any code in it.",
    },
    judge=_judge_literal,
    hints=(
        {
            "vi": "`ast.literal_eval(said)` chỉ đọc giá trị viết sẵn: chuỗi, số, list, dict, True, None. Gặp "
            "thứ khác, nó báo ValueError hoặc SyntaxError.",
            "en": "`ast.literal_eval(said)` reads only literals: strings, numbers, lists, dicts, True, None. "
            "For anything else it raises ValueError or SyntaxError.",
        },
        {
            "vi": "`json.dumps(call, ensure_ascii=False, allow_nan=False)`, đặt trong try: TypeError là kiểu "
            "mà JSON không có. Trước đó, kiểm tra xem có đúng hai khóa `name` và `arguments` không.",
            "en": "`json.dumps(call, ensure_ascii=False, allow_nan=False)`, inside try: TypeError is a type "
            "that JSON lacks. Before it, check for the two keys `name` and `arguments`.",
        },
    ),
    solve=solve_literal,
    praise={
        "vi": "Dữ liệu lấy trên mạng cũng là lời người lạ: đọc thì được, chạy thì không. `tools.parse` cũng "
        "chỉ đọc như vậy, và còn giới hạn cả độ dài lẫn độ sâu.",
        "en": "Data from the net is a stranger's word: to be read and never to be run. `tools.parse` only "
        "reads, too, with limits on length and depth besides.",
    },
    start=unwritten,
)


# 5. The guard ---------------------------------------------------------------------------------------------


def _tool(name: str, properties: dict[str, Any], required: list[str] | None) -> dict[str, Any]:
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required is not None:
        parameters["required"] = required
    return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}


SCHEMAS = [
    _tool("get_weather", {"city": {"type": "string"}, "unit": {"type": "string"}}, ["city"]),
    _tool("set_timer", {"minutes": {"type": "integer"}, "label": {"type": "string"}}, ["minutes"]),
    _tool("now", {}, None),  # JSON Schema lets "required" be left out
]


def solve_allowed(call: Mapping[str, Any], schemas: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a call names an offered tool, with all of its required arguments and none that it lacks."""
    tools = {schema["function"]["name"]: schema["function"]["parameters"] for schema in schemas}
    name, arguments = call.get("name"), call.get("arguments")
    if name not in tools or not isinstance(arguments, dict):
        return False
    required = tools[name].get("required", [])
    known = tools[name]["properties"]
    return all(one in arguments for one in required) and all(one in known for one in arguments)


def _guarded(name: str | None, arguments: Any, want: bool, vi: str, en: str) -> Case:
    call = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    return (call, SCHEMAS), want, vi, en


_CALLS = (
    _guarded(
        "get_weather", {"city": "Huế", "unit": "celsius"}, True,
        "Tên có, đủ đối số, không thừa: lời gọi này phải qua.",
        "Known, complete, nothing too much: this call has to pass.",
    ),
    _guarded(
        "get_weather", {"city": "Huế"}, True,
        "unit không nằm trong required, nên được phép bỏ.",
        "unit is not in required, so it may be left out.",
    ),
    _guarded(
        "set_timer", {"minutes": 0}, True,
        "0 cũng là một giá trị. Hãy hỏi `tên in arguments`, đừng hỏi giá trị có \"đúng\" hay không.",
        "0 is a value too. Ask `name in arguments`, not whether the value is true.",
    ),
    _guarded(
        "now", {}, True,
        "Schema không có required thì không bắt buộc gì: `.get(\"required\", [])`.",
        "A schema without required requires nothing: `.get(\"required\", [])`.",
    ),
    _guarded(
        "delete_files", {}, False,
        "Không có công cụ nào tên như vậy.",
        "No tool of that name was offered.",
    ),
    _guarded(
        "weather", {"city": "Huế"}, False,
        "Một phần của tên không phải là tên. Hãy so bằng ==, hoặc tìm trong dict hay tập các tên.",
        "Part of a name is no name. Compare by ==, or look it up in a dict or set of names.",
    ),
    _guarded("get_weather", {}, False, "Thiếu city, mà city là bắt buộc.", "city is required and missing."),
    _guarded(
        "get_weather", {"unit": "celsius"}, False,
        "Đối số bắt buộc là city; có đối số khác không thay được.",
        "city is what is required; another argument does not stand for it.",
    ),
    _guarded(
        "get_weather", {"city": "Huế", "country": "VN"}, False,
        "country không có trong properties: hàm Python sẽ báo TypeError, hoặc tệ hơn, nhận luôn.",
        "country is not among the properties: the function would raise TypeError or, worse, take it.",
    ),
    _guarded(
        "set_timer", {"minutes": 5, "city": "Huế"}, False,
        "city là đối số của công cụ khác. Chỉ xét schema của công cụ được gọi.",
        "city is another tool's argument. Look at the called tool's schema only.",
    ),
    _guarded("now", {"zone": "UTC"}, False, "Công cụ này không nhận đối số nào.", "This tool takes none."),
    _guarded(
        "now", None, False,
        "arguments phải là dict. Thứ khác thì từ chối, đừng để chương trình dừng.",
        "arguments have to be a dict. Refuse anything else, and do not crash.",
    ),
    _guarded(
        "get_weather", ["city"], False,
        "arguments phải là dict: với một list, `in` hỏi các phần tử chứ không hỏi khóa.",
        "arguments have to be a dict: with a list, `in` asks for elements and not for keys.",
    ),
    _guarded(
        None, {"city": "Huế"}, False,
        "Lời gọi không có name thì từ chối: `call.get(\"name\")`.",
        "A call without a name is refused: `call.get(\"name\")`.",
    ),
)  # fmt: skip


def _judge_allowed(allowed: Callable[..., Any]) -> None:
    judge_cases(allowed, _CALLS, bool)


allowed = Exercise(
    title={
        "vi": "Bài tập 5. Người gác cổng: lời gọi nào được chạy, lời gọi nào bị từ chối?",
        "en": "Exercise 5. The guard: which calls may run, and which are refused?",
    },
    judge=_judge_allowed,
    hints=(
        {
            "vi": 'Lập dict `{tên: parameters}` từ `schema["function"]`, rồi tìm tên trong đó. Không có thì '
            "trả về False.",
            "en": 'Build a dict `{name: parameters}` from `schema["function"]` and look the name up. Not '
            "there: False.",
        },
        {
            "vi": "Hai điều kiện: mọi tên trong `required` có trong arguments; mọi tên trong arguments có "
            "trong `properties`.",
            "en": "Two conditions: all names in `required` are in the arguments; all names in the arguments "
            "are in `properties`.",
        },
    ),
    solve=solve_allowed,
    praise={
        "vi": "Không gì chạy nếu chưa đăng ký. lessonlib.tools.check kiểm thêm kiểu và giá trị bằng "
        "jsonschema, và nói rõ sai ở đâu để mô hình sửa.",
        "en": "Nothing runs that was not registered. lessonlib.tools.check adds types and values by way of "
        "jsonschema and says what is wrong, so that the model can mend it.",
    },
    start=unwritten,
)
