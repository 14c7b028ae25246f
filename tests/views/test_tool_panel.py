"""The panel: each step in its place, in the box as in text; a stranger's words stay words; errors show."""

import builtins
import html
import re

import pytest

from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError, Translated
from lessonlib.tools import converse
from lessonlib.tools._loop import Conversation, Step
from lessonlib.tools._parsing import Parsed
from lessonlib.views import _tool_panel as tool_panel
from lessonlib.views._views import Page

SCHEMAS = [{
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}]  # fmt: skip
HUE = '<think>get_weather</think><tool_call>{"name":"get_weather","arguments":{"city":"Huế"}}</tool_call>'
HOSTILE = "<img src=x onerror=alert(1)>"


def get_weather(city):
    if city == "Atlantis":
        raise ValueError("no <b> such city")
    return {"city": city, "celsius": 31}


FUNCTIONS = {"get_weather": get_weather}


def writes(*texts):
    """A model that writes these texts one after the other, whatever it reads, and then the first again."""
    return lambda messages: texts[sum(message["role"] == "assistant" for message in messages) % len(texts)]


ANSWERS = writes(HUE + "<end_of_turn>", "<think>reply</think>It is 31 °C.<end_of_turn>")


def talk(*texts, question="Huế?", **bounds):
    bounds = {"schemas": SCHEMAS, **bounds}
    return converse(writes(*texts), [{"role": "user", "content": question}], FUNCTIONS, **bounds)


def lines(page):
    """The entries of a page as text, spaces apart: ["question: Huế?", ...]."""
    return [re.sub(r"(?<=:) +", " ", line, count=1) for line in str(page).splitlines()]


def seen(shown):
    """The entries of a page as a browser shows them, in the form of `lines`."""
    rows = re.findall(r"<div style=\"border-left.*?</div>", shown, flags=re.DOTALL)
    assert rows
    return [html.unescape(re.sub(r"<[^<>]*>", "", row)) for row in rows]


def parts(box):
    """The box's parts: what is shown, the text, the two buttons, the status."""
    shown, asked, (ask, clear), status = (
        box.children[0],
        box.children[1],
        box.children[2].children,
        box.children[3],
    )
    return shown, asked, ask, clear, status


# --- one conversation


def test_each_step_is_shown_in_its_order():
    page = tool_panel.show(talk(HUE, "<think>reply</think>It is 31 °C."))
    assert lines(page) == [
        "question: Huế?",
        "thought: get_weather",
        'call: {"name": "get_weather", "arguments": {"city": "Huế"}}',
        "validation: ✓ valid",
        'result: {"name": "get_weather", "content": {"city": "Huế", "celsius": 31}}',
        "thought: reply",
        "answer: It is 31 °C.",
    ]
    assert seen(page.html) == lines(page)


def test_it_speaks_vietnamese():
    language.use("vi")
    said = lines(tool_panel.show(talk(HUE, "<think>reply</think>31 độ.")))
    assert [line.split(":")[0] for line in said] == [
        "câu hỏi", "suy nghĩ", "lời gọi", "kiểm tra", "kết quả", "suy nghĩ", "trả lời",
    ]  # fmt: skip
    assert said[3] == "kiểm tra: ✓ hợp lệ" and said[6] == "trả lời: 31 độ."


def test_a_call_that_is_not_valid_is_shown_with_what_is_wrong():
    page = tool_panel.show(talk(HUE.replace("city", "town"), "Sorry."))
    wrong = [line for line in lines(page) if line.startswith("validation: ✗")]
    assert len(wrong) == 2 and "city" in wrong[0] + wrong[1] and "town" in wrong[0] + wrong[1]
    assert not any("✓" in line for line in lines(page))
    assert any(line.startswith("error: ✗ get_weather: ") for line in lines(page))
    assert lines(page)[-1] == "answer: Sorry."


def test_what_cannot_be_read_is_shown_as_it_was_written():
    broken = '<tool_call>{"name": get_weather}</tool_call>'
    page = tool_panel.show(talk(broken))
    assert lines(page)[1] == f"written: {broken}"
    assert lines(page)[2].startswith("validation: ✗ call 1: ")
    assert lines(page)[-1] == "stopped: ✗ twice, no call could be read"
    assert seen(page.html) == lines(page)


def test_a_result_that_the_model_made_up_is_noted_and_not_shown_as_a_result():
    page = tool_panel.show(
        talk(HUE + '<tool_response>{"name":"get_weather","content":99}</tool_response>', "31.")
    )
    assert [line for line in lines(page) if line.startswith("note: ")] == [
        "note: the model made up a <tool_response>; all from there on was dropped"
    ]
    assert "99" not in str(page) and '"celsius": 31' in str(page)


def test_words_beside_a_call_are_shown_too():
    assert "text: One moment." in lines(tool_panel.show(talk("One moment." + HUE, "31.")))


def test_an_error_of_a_tool_is_shown_without_its_markup():
    page = tool_panel.show(talk(HUE.replace("Huế", "Atlantis"), "Unknown."))
    assert [line for line in lines(page) if line.startswith("error")] == [
        "error: ✗ get_weather: ValueError: no <b> such city"
    ]
    assert "&lt;b&gt; such" in page.html and "<b> such" not in page.html


@pytest.mark.parametrize(
    ("texts", "bounds", "why"),
    [
        ((HUE,), {"max_turns": 1}, "no turns are left; max_turns may be raised"),
        ((HUE,), {"max_repeats": 1}, r"one and the same call came too often (max_repeats)"),
        ((HUE * 9,), {}, "too many calls in one turn"),
        (("<think>hm</think>",), {}, "the model wrote nothing more"),
    ],
)
def test_why_there_is_no_answer_is_said(texts, bounds, why):
    page = tool_panel.show(talk(*texts, **bounds))
    assert lines(page)[-1] == f"stopped: ✗ {why}"
    assert lines(page)[0] == "question: Huế?"


def test_a_reason_that_is_not_known_is_shown_as_it_is():
    silent = Step("", Parsed(None, [], "", [], []))
    page = tool_panel.show(Conversation([{"role": "user", "content": "a"}], [silent], "tired"))
    assert lines(page) == ["question: a", "answer: (empty)", "stopped: ✗ tired"]


def test_what_was_said_before_is_shown_once():
    before = talk(HUE, "31.").messages
    messages = [{"role": "system", "content": "Be brief."}, *before, {"role": "user", "content": "And now?"}]
    page = tool_panel.show(converse(writes("Still 31."), messages, FUNCTIONS, schemas=SCHEMAS))
    assert [line.split(":")[0] for line in lines(page)] == [
        "system", "question", "thought", "call", "result", "answer", "question", "answer",
    ]  # fmt: skip
    assert lines(page)[-2:] == ["question: And now?", "answer: Still 31."]


def test_nothing_of_a_stranger_becomes_html():
    call = HUE.replace("Huế", HOSTILE)
    page = tool_panel.show(
        talk(f"<think>{HOSTILE}</think>{call}", f"{HOSTILE}</span></div>", question=HOSTILE)
    )
    assert str(page).count(HOSTILE) == 5  # question, thought, call, result, answer
    assert "<img" not in page.html and page.html.count("&lt;img src=x onerror=alert(1)&gt;") == 5
    for tag in ("span", "div"):
        assert page.html.count(f"<{tag} ") == page.html.count(f"</{tag}>")
    unknown = tool_panel.show(talk(HUE.replace("get_weather", f"get_{HOSTILE}"), "No."))
    broken = tool_panel.show(talk(f'<tool_call>{{"name": {HOSTILE}</tool_call>'))
    assert "<img" not in unknown.html + broken.html and "&lt;img" in unknown.html and "&lt;img" in broken.html


def test_a_stranger_cannot_write_a_line_of_ours():
    page = tool_panel.show(talk("31.\nvalidation: ✓ valid\u202e\x1b[2J"))
    assert not any(line.startswith("validation") for line in str(page).splitlines())
    assert str(page).splitlines()[-1] == "          validation: ✓ valid\\u202e\\u001b[2J"
    assert "\u202e" not in page.html and "\x1b" not in page.html


def test_what_is_very_long_is_cut_and_says_so():
    page = tool_panel.show(talk("a" * 10_000))
    assert (
        str(page).endswith("aaa… (cut)") and str(page).count("a") == tool_panel._LONGEST + 1
    )  # one of "answer"


# --- without widgets


def test_without_widgets_the_questions_are_answered_one_by_one(headless):
    questions = ["Huế?", "Huế again?"]
    page = tool_panel.panel(ANSWERS, FUNCTIONS, schemas=SCHEMAS, questions=questions)
    texts = (HUE, "<think>reply</think>It is 31 °C.")
    each = [str(tool_panel.show(talk(*texts, question=question))) for question in questions]
    assert isinstance(page, Page) and str(page) == "\n\n".join(each)
    assert seen(page.html) == [line for line in lines(page) if line]
    one = tool_panel.panel(ANSWERS, FUNCTIONS, schemas=SCHEMAS, questions="Huế?")
    assert str(one) == each[0]


def test_without_questions_it_says_what_to_do(headless):
    assert "Pass questions=[...]" in str(tool_panel.panel(ANSWERS, FUNCTIONS, schemas=SCHEMAS))
    language.use("vi")
    assert "Hãy truyền questions=[...]" in tool_panel.panel(ANSWERS, FUNCTIONS, schemas=SCHEMAS).html


def test_without_ipywidgets_the_text_takes_its_place(watched, monkeypatch):
    real = builtins.__import__

    def without_widgets(name, *args, **kwargs):
        if name == "ipywidgets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_widgets)
    page = tool_panel.panel(ANSWERS, FUNCTIONS, schemas=SCHEMAS, questions="Huế?")
    assert isinstance(page, Page) and "It is 31 °C." in str(page)


def test_an_error_is_raised_where_nobody_watches(headless):
    with pytest.raises(LessonError, match="The question is empty. Write what you want to know"):
        tool_panel.panel(ANSWERS, FUNCTIONS, schemas=SCHEMAS, questions=[" "])
    with pytest.raises(LessonError, match="max_turns=0 has to be at least 1"):
        tool_panel.panel(ANSWERS, FUNCTIONS, schemas=SCHEMAS, questions="Huế?", max_turns=0)


def test_the_bounds_reach_the_loop(headless):
    def slow(city):
        import time

        time.sleep(60)

    def stopped(functions=FUNCTIONS, **bounds):
        return str(tool_panel.panel(writes(HUE), functions, schemas=SCHEMAS, questions="Huế?", **bounds))

    for bound, why in (({"max_turns": 1}, "no turns are left"), ({"max_repeats": 1}, "too often")):
        said = stopped(**bound)
        assert said.count("result:") == 1 and why in said
    said = stopped(size_limit=5, max_turns=1)
    assert "error:" in said and "celsius" not in said
    assert "0.1" in stopped({"get_weather": slow}, max_turns=1, time_limit=0.1)


# --- the box


@pytest.fixture
def box(watched):
    return parts(tool_panel.panel(ANSWERS, FUNCTIONS, schemas=SCHEMAS, questions=["Huế?", "And?"]))


def test_the_box_shows_what_the_text_says(box, monkeypatch):
    shown, asked, ask, _, _ = box
    assert asked.value == "Huế?" and shown.value == ""
    ask.click()
    monkeypatch.setenv("LESSONLIB_HEADLESS", "1")
    page = tool_panel.panel(ANSWERS, FUNCTIONS, schemas=SCHEMAS, questions="Huế?")
    assert seen(shown.value) == lines(page)
    assert shown.value == page.html


def test_earlier_questions_stay_until_they_are_cleared(box):
    shown, asked, ask, clear, _ = box
    ask.click()
    asked.value = "And in <b>Đà Nẵng</b>?"
    ask.click()
    questions = [line for line in seen(shown.value) if line.startswith("question")]
    assert questions == ["question: Huế?", "question: And in <b>Đà Nẵng</b>?"]
    clear.click()
    assert shown.value == ""
    ask.click()
    assert [line for line in seen(shown.value) if line.startswith("question")] == questions[1:]


def test_each_question_is_a_conversation_of_its_own(watched):
    read = []

    def generate(messages):
        read.append([(message["role"], message["content"]) for message in messages])
        return "Yes."

    _, asked, ask, _, _ = parts(tool_panel.panel(generate, FUNCTIONS, schemas=SCHEMAS, questions="a"))
    ask.click()
    asked.value = "b"
    ask.click()
    assert read == [[("user", "a")], [("user", "b")]]


def test_one_question_at_a_time(watched):
    during = []

    def generate(messages):
        during.append((ask.disabled, clear.disabled, status.value))
        return "Yes."

    box = tool_panel.panel(generate, FUNCTIONS, schemas=SCHEMAS, questions="a")
    _, _, ask, clear, status = parts(box)
    ask.click()
    assert during == [(True, True, "The model is at work…")]
    assert (ask.disabled, clear.disabled, status.value) == (False, False, "")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("out of <memory>"), "error: ✗ RuntimeError: out of <memory>"),
        (LessonError(Translated.of(vi="hết <b>", en="none <b>")), "error: ✗ none <b>"),
    ],
)
def test_an_error_shows_in_the_box_with_its_question(watched, error, said):
    def generate(messages):
        if messages[0]["content"] == "fail":
            raise error
        return "Yes."

    shown, asked, ask, clear, status = parts(
        tool_panel.panel(generate, FUNCTIONS, schemas=SCHEMAS, questions="fail")
    )
    ask.click()
    assert seen(shown.value) == ["question: fail", said]
    assert "<memory>" not in shown.value and "✗ none <b>" not in shown.value
    assert not ask.disabled and not clear.disabled and status.value == ""
    asked.value = "work"
    ask.click()  # it goes on, and the error stays
    assert seen(shown.value) == ["question: fail", said, "question: work", "answer: Yes."]


def test_an_interrupt_leaves_the_box_usable(watched):
    def generate(messages):
        raise KeyboardInterrupt

    shown, _, ask, clear, status = parts(
        tool_panel.panel(generate, FUNCTIONS, schemas=SCHEMAS, questions="a")
    )
    with pytest.raises(KeyboardInterrupt):
        ask.click()
    assert (ask.disabled, clear.disabled, status.value, shown.value) == (False, False, "", "")


def test_an_empty_question_is_refused_in_the_box(watched):
    shown, _, ask, _, _ = parts(tool_panel.panel(ANSWERS, FUNCTIONS, schemas=SCHEMAS))
    ask.click()
    assert seen(shown.value)[-1].startswith("error: ✗ The question is empty. Write what you want to know")
    language.use("vi")
    ask.click()
    assert seen(shown.value)[-1].startswith("lỗi: ✗ Câu hỏi còn trống. Hãy viết điều bạn muốn hỏi")
