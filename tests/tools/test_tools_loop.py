"""Call, result, reply: what goes back to the model, when the loop ends, and how a model is asked."""

import copy
import json

import pytest

from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError
from lessonlib.tools._generation import generator, replies
from lessonlib.tools._loop import _UNREADABLE, converse
from lessonlib.tools._rendering import render

pytestmark = pytest.mark.filterwarnings("ignore:.*made harmless")

def tool(name, /, **properties):
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters}}


TOOLS = [tool("get_weather", city={"type": "string"}), tool("fail")]
ASKED = [{"role": "user", "content": "Thời tiết Huế?"}]
CALL = '<think>get_weather</think><tool_call>{"name":"get_weather","arguments":{"city":"Huế"}}</tool_call>'


@pytest.fixture
def functions(tmp_path):
    """Tools that keep a record in a file: what they change in memory is gone with their process."""
    record = tmp_path / "record"

    def get_weather(city):
        with record.open("a") as file:
            file.write(f"{city}\n")
        return {"temperature": 31}

    def fail():
        raise ValueError("no connection")

    get_weather.record = record
    return {"get_weather": get_weather, "fail": fail}


def ran(functions):
    record = functions["get_weather"].record
    return record.read_text().split("\n")[:-1] if record.exists() else []


class Scripted:
    """Says one line after the other, the last one for ever; keeps what it was shown."""

    def __init__(self, *lines):
        self.lines, self.seen = list(lines), []

    def __call__(self, messages):
        self.seen.append(copy.deepcopy(messages))
        return self.lines.pop(0) if len(self.lines) > 1 else self.lines[0]


def call(name, **arguments):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}</tool_call>"


def as_message(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def test_a_call_its_result_and_the_reply(functions):
    model = Scripted(CALL, "<think>done</think>Huế 31 độ.")
    found = converse(model, ASKED, functions, schemas=TOOLS)
    assert found.messages == [
        *ASKED,
        {"role": "assistant", "thinking": "get_weather",
         "tool_calls": [as_message("get_weather", city="Huế")]},
        {"role": "tool", "name": "get_weather", "content": '{"temperature": 31}'},
        {"role": "assistant", "thinking": "done", "content": "Huế 31 độ."},
    ]
    assert found.stopped == "answered" and len(found.steps) == 2 and ran(functions) == ["Huế"]
    assert model.seen == [found.messages[:1], found.messages[:3]]
    first, last = found.steps
    assert first.raw == CALL and first.problems == []
    assert first.results == [{"name": "get_weather", "content": {"temperature": 31}}]
    assert last.parsed.content == "Huế 31 độ." and last.results == []


def test_messages_can_be_rendered_again_and_gone_on_with(functions):
    found = converse(Scripted(CALL, "31 độ."), ASKED, functions, schemas=TOOLS)
    assert render(found.messages, [], family="gemma2") == [
        {"role": "user", "content": "Thời tiết Huế?"},
        {"role": "assistant", "content": CALL},
        {"role": "user", "content":
            '<tool_response>{"name":"get_weather","content":{"temperature":31}}</tool_response>'},
        {"role": "assistant", "content": "31 độ."},
    ]  # fmt: skip
    asked = [*found.messages, {"role": "user", "content": "Cảm ơn."}]
    more = converse(Scripted("Không có gì."), asked, functions, schemas=TOOLS)
    assert more.messages[:4] == found.messages and more.messages[-1]["content"] == "Không có gì."


def test_what_was_given_is_not_changed(functions):
    asked = copy.deepcopy(ASKED)

    def greedy(messages):
        messages.clear()
        return "Xin chào."

    assert len(converse(greedy, asked, functions, schemas=TOOLS).messages) == 2 and asked == ASKED


def test_parallel_calls_run_in_their_order(functions):
    calls = call("get_weather", city="Huế") + call("fail") + call("get_weather", city="Vinh")
    found = converse(Scripted("Một lát." + calls, "Xong."), ASKED, functions, schemas=TOOLS)
    assert ran(functions) == ["Huế", "Vinh"] and found.messages[1]["content"] == "Một lát."
    assert [(message["name"], message["content"]) for message in found.messages[2:5]] == [
        ("get_weather", '{"temperature": 31}'), ("fail", '{"error": "ValueError: no connection"}'),
        ("get_weather", '{"temperature": 31}'),
    ]  # fmt: skip
    assert render(found.messages, TOOLS)


def test_errors_go_back_to_the_model_which_can_mend_them(functions):
    model = Scripted(call("get_wether", city="Huế"), call("get_weather", city=5), CALL, "31 độ.")
    found = converse(model, ASKED, functions, schemas=TOOLS)
    assert found.stopped == "answered" and ran(functions) == ["Huế"]
    assert "Did you mean get_weather?" in model.seen[1][-1]["content"]
    assert "city must be string" in model.seen[2][-1]["content"]
    assert [[problem.kind for problem in step.problems] for step in found.steps] == [
        ["unknown_tool"], ["type"], [], []
    ]  # fmt: skip


# ---------------------------------------------------------------- bounds


def test_what_cannot_be_read_is_told_once_and_ends_the_loop_the_second_time(functions):
    broken = '<tool_call>{"name": get_weather}</tool_call>'
    model = Scripted(broken)
    found = converse(model, ASKED, functions, schemas=TOOLS)
    assert found.stopped == "unreadable" and len(model.seen) == 2 and ran(functions) == []
    told = model.seen[1][-1]
    assert told["role"] == "tool"
    assert found.steps[0].parsed.problems[0] in json.loads(told["content"])["error"]
    assert model.seen[1][-2]["tool_calls"] == [as_message(_UNREADABLE, text=broken)]
    assert render(found.messages, TOOLS)

    mended = converse(Scripted(broken, CALL, "31 độ."), ASKED, functions, schemas=TOOLS)
    assert mended.stopped == "answered" and ran(functions) == ["Huế"]


def test_of_two_calls_the_one_that_can_be_read_runs(functions):
    model = Scripted("<tool_call>{'name': broken</tool_call>" + call("get_weather", city="Huế"), "31 độ.")
    found = converse(model, ASKED, functions, schemas=TOOLS)
    assert ran(functions) == ["Huế"] and found.stopped == "answered"
    answered = [message["name"] for message in found.messages if message["role"] == "tool"]
    assert answered == ["get_weather", _UNREADABLE]
    assert render(found.messages, TOOLS)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_same_call_runs_only_so_often(functions, most):
    model = Scripted(CALL)
    found = converse(model, ASKED, functions, schemas=TOOLS, max_repeats=most, max_turns=9)
    assert found.stopped == "repeated_call" and ran(functions) == ["Huế"] * most
    assert "the same call came too often" in found.messages[-1]["content"] and render(found.messages, TOOLS)


def test_the_same_arguments_in_another_order_are_the_same_call(functions):
    two = [tool("get_weather", city={}, unit={})]
    lines = [call("get_weather", city="Huế", unit="C"), call("get_weather", unit="C", city="Huế")]
    found = converse(Scripted(*lines), ASKED, functions, schemas=two, max_repeats=1)
    assert found.stopped == "repeated_call" and len(found.steps) == 2


def test_repeats_within_one_turn_count(functions):
    model = Scripted(call("get_weather", city="Huế") * 3)
    assert converse(model, ASKED, functions, schemas=TOOLS).stopped == "repeated_call"
    assert ran(functions) == []


def test_the_number_of_turns_is_bounded(functions):
    model = Scripted(*(call("get_weather", city=city) for city in "abcdefgh"))
    found = converse(model, ASKED, functions, schemas=TOOLS, max_turns=3)
    assert found.stopped == "max_turns" and ran(functions) == ["a", "b", "c"] and len(found.steps) == 3
    assert found.messages[-1]["role"] == "tool" and render(found.messages, TOOLS)


def test_the_number_of_calls_in_a_turn_is_bounded(functions):
    many = "".join(call("get_weather", city=str(number)) for number in range(9))
    found = converse(Scripted(many), ASKED, functions, schemas=TOOLS)
    assert found.stopped == "too_many_calls" and ran(functions) == [] and render(found.messages, TOOLS)


@pytest.mark.parametrize("nothing", ["", " \n", "<think>hm</think>"])
def test_a_model_that_writes_nothing_ends_the_loop(functions, nothing):
    found = converse(Scripted(nothing), ASKED, functions, schemas=TOOLS)
    assert found.stopped == "empty" and found.messages == ASKED


def test_limits_are_handed_on(functions):
    long = {"get_weather": lambda city: "x" * 100}
    found = converse(Scripted(CALL, "31."), ASKED, long, schemas=TOOLS[:1], size_limit=50)
    assert "more than 50" in found.messages[2]["content"]


def test_a_call_too_large_to_run_is_too_large_to_be_read_again(functions):
    model = Scripted(call("get_weather", city="x" * 5000), "Xin lỗi.")
    found = converse(model, ASKED, functions, schemas=TOOLS)
    assert ran(functions) == [] and len(json.dumps(found.messages)) < 1000
    assert [problem.kind for problem in found.steps[0].problems] == ["too_large"]


def test_schemas_are_made_from_the_functions():
    def double(number: int) -> int:
        """Doubles a number.

        Args:
            number: the number
        """
        return 2 * number

    for functions, name in (([double], "double"), ({"twice": double}, "twice")):
        found = converse(Scripted(call(name, number=4), "8"), ASKED, functions)
        assert found.messages[2]["content"] == "8" and found.stopped == "answered"
        wrong = converse(Scripted(call(name, number="4"), "?"), ASKED, functions)
        assert [problem.kind for problem in wrong.steps[0].problems] == ["type"]


@pytest.mark.parametrize("bound", ["max_turns", "max_repeats"])
def test_bounds_below_one_are_refused(functions, bound):
    with pytest.raises(LessonError, match=f"{bound}=0 has to be at least 1"):
        converse(Scripted(""), ASKED, functions, schemas=TOOLS, **{bound: 0})


def test_nothing_to_reply_to_is_refused(functions):
    with pytest.raises(LessonError, match="ends with the assistant"):
        converse(Scripted(""), [*ASKED, {"role": "assistant", "content": "Xong."}], functions, schemas=TOOLS)


def test_a_generate_that_gives_no_text_is_refused(functions):
    with pytest.raises(LessonError, match="generate has to return text, not list"):
        converse(lambda messages: ["a"], ASKED, functions, schemas=TOOLS)


# ---------------------------------------------------------------- printed


def test_a_conversation_prints_as_text_in_both_languages(functions):
    found = converse(Scripted(CALL, call("fail"), "Huế\n31 độ.\u202e"), ASKED, functions, schemas=TOOLS)
    assert repr(found) == str(found) == """\
      user  Thời tiết Huế?
   thought  get_weather
      call  get_weather({"city": "Huế"})
    result  {"temperature": 31}
      call  fail({})
     error  ValueError: no connection
    answer  Huế 31 độ.\\u202e
   stopped  answered"""
    assert str(found.steps[1]) == "      call  fail({})\n     error  ValueError: no connection"
    language.use("vi")
    lines = str(found).split("\n")
    assert lines[1:3] == ["  suy nghĩ  get_weather", '   lời gọi  get_weather({"city": "Huế"})']
    assert lines[-1] == "      dừng  đã trả lời"


def test_a_step_prints_its_problems_and_long_lines_are_cut(functions):
    found = converse(Scripted(call("get_weather", city=5) + "x" * 1000, "?"), ASKED, functions, schemas=TOOLS)
    printed = str(found.steps[0])
    assert "   problem  city must be string, but 5 is integer." in printed
    assert max(map(len, printed.split("\n"))) < 320


# ---------------------------------------------------------------- a model

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message.role == 'assistant' else message.role }}\n"
    "{{ message.content }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>"]
# So that a call takes few steps to write
PIECES = ["get_weather", '{"name":"', '","arguments":{"city":"Huế"}}', "31 độ."]


@pytest.fixture
def gemma(tokenizer, tiny_gemma2):
    """A random Gemma-2 that writes what its `script` says, and a tokenizer with the tags as added tokens."""
    import torch

    told = copy.deepcopy(tokenizer)
    told.chat_template = TEMPLATE
    told.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    told.add_tokens([*TAGS, *PIECES])
    tiny_gemma2.resize_token_embeddings(len(told))
    tiny_gemma2.script = iter(())

    def write(module, given, logits):
        following = next(tiny_gemma2.script)
        return torch.nn.functional.one_hot(torch.tensor(following), len(told)).expand(logits.shape) * 1.0

    tiny_gemma2.lm_head.register_forward_hook(write)
    tiny_gemma2.say = lambda text: setattr(
        tiny_gemma2, "script", iter(told(text, add_special_tokens=False)["input_ids"])
    )
    return tiny_gemma2, told


@pytest.mark.parametrize("end", ["<end_of_turn>", "</s>", "<tool_response>", "<start_of_turn>"])
def test_a_turn_ends_at_its_end_and_not_later(gemma, end):
    model, told = gemma
    model.say(CALL + end + "31 độ.")
    assert replies(model, told, ["Huế?"]) == [CALL]
    assert told.decode(list(model.script)) == "31 độ."  # nothing beyond was asked of the model


def test_a_turn_without_end_is_cut_and_settings_are_as_before(gemma):
    model, told = gemma
    settings = model.generation_config
    before = settings.to_dict()
    model.say("x" * 100)
    assert replies(model, told, ["Huế?"], max_new_tokens=7) == ["x" * 7]
    assert model.generation_config is settings and settings.to_dict() == before
    with pytest.raises(LessonError, match="must be a list of texts"):
        replies(model, told, "Huế?")
    assert model.generation_config is settings and settings.to_dict() == before


def test_tags_are_kept_even_where_they_are_special_tokens(gemma):
    model, told = gemma
    told.add_special_tokens({"additional_special_tokens": TAGS})
    model.say("<unk>" + CALL + "</s>")
    assert replies(model, told, ["Huế?"]) == [CALL]


def test_a_mark_that_is_several_tokens_is_no_stop(tokenizer, tiny_gemma2, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "lessonlib.evaluation._answers.continuations",
        lambda model, *_, **__: seen.append(model.generation_config.eos_token_id) or [[]],
    )
    assert replies(tiny_gemma2, tokenizer, ["Huế?"]) == [""] and seen == [[2]]  # </s> alone


def test_a_generator_renders_the_conversation_and_writes_the_next_turn(gemma, functions, monkeypatch):
    from lessonlib.evaluation import _answers as evaluation

    model, told = gemma
    prompts = []
    real = evaluation.continuations

    def watched(model, tokenizer, given, **options):
        prompts.extend(given)
        assert options == {"max_new_tokens": 20, "batch_size": 1}
        return real(model, tokenizer, given, **options)

    monkeypatch.setattr(evaluation, "continuations", watched)
    write = generator(model, told, TOOLS[:1], style="compact", max_new_tokens=20)
    model.say(CALL + "<end_of_turn>" + "31 độ.<end_of_turn>")
    found = converse(write, ASKED, functions, schemas=TOOLS)
    assert found.messages[-1]["content"] == "31 độ." and ran(functions) == ["Huế"]
    first = (
        '<s><start_of_turn>user\n<tools>[{"name":"get_weather","parameters":{"city":"string"}}]</tools>\n\n'
        "Thời tiết Huế?<end_of_turn>\n<start_of_turn>model\n"
    )
    assert prompts == [
        first,
        f'{first}{CALL}<end_of_turn>\n<start_of_turn>user\n<tool_response>{{"name":"get_weather","content":'
        '{"temperature":31}}</tool_response><end_of_turn>\n<start_of_turn>model\n',
    ]


def test_the_language_of_the_instruction_is_the_notebooks_or_ones_own(gemma, monkeypatch):
    model, told = gemma
    asked = []
    monkeypatch.setattr(
        "lessonlib.evaluation._answers.continuations",
        lambda model, tokenizer, given, **_: asked.extend(given) or [[]],
    )
    language.use("vi")
    generator(model, told, TOOLS)(ASKED)
    generator(model, told, TOOLS, language="en")(ASKED)
    assert "Bạn có thể gọi hàm" in asked[0] and "You may call functions" in asked[1]
