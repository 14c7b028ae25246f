"""Every exercise of lesson 04: untouched, wrong in each known way, right; and the solution that is shown."""

import ast
import itertools
import json
import re

import exercise_cases
import pytest

from lessonlib import tools
from lessonlib.exercises import lesson04
from lessonlib.exercises.lesson04 import solve_fold
from lessonlib.exercises.lesson04._calls import _CALLS, _SCHEMAS, solve_allowed, solve_literal
from lessonlib.exercises.lesson04._scoring import _PAIRS, _TEXTS, solve_invented, solve_match
from lessonlib.exercises.lesson04._training import solve_adapter_size, solve_labels
from lessonlib.formatting import _chat as chat
from lessonlib.tools._parsing import _REPAIRED

SOLUTIONS = {
    "fold": solve_fold,
    "literal": solve_literal,
    "adapter_size": solve_adapter_size,
    "labels": solve_labels,
    "allowed": solve_allowed,
    "match": solve_match,
    "invented": solve_invented,
}


# --- answers, most of them wrong in one place


def folded(user=lambda system, user: {**user, "content": f"{system}\n\n{user['content']}"}, rest=list):
    """fold that is right but for the first user turn or for the turns behind it."""

    def fold(messages):
        if messages[0]["role"] != "system":
            return messages
        first, second, *others = messages
        return [user(first["content"], second), *rest(others)]

    return fold


def in_place(messages):
    if messages[0]["role"] == "system":
        messages[1]["content"] = f"{messages[0]['content']}\n\n{messages[1]['content']}"
        return messages[1:]
    return messages


def popped(messages):
    return in_place(messages) if messages[0]["role"] != "system" else [
        {**messages[1], "content": f"{messages.pop(0)['content']}\n\n{messages[0]['content']}"},
        *messages[1:],
    ]  # fmt: skip


def unconditional(messages):
    system, user, *rest = messages
    return [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *rest]


def into_every(messages):
    system, *rest = messages
    if system["role"] != "system":
        return messages
    return [
        {**m, "content": f"{system['content']}\n\n{m['content']}"} if m["role"] == "user" else m for m in rest
    ]


def as_call(read, write=lambda call: json.dumps(call, ensure_ascii=False, allow_nan=False)):
    """literal that reads and writes as told, and gives None for what is no call or fails."""

    def literal(said):
        try:
            call = read(said)
            return write(call) if isinstance(call, dict) and set(call) == {"name", "arguments"} else None
        except Exception:
            return None

    return literal


def replaced(said):
    for old, new in (("'", '"'), ("None", "null"), ("True", "true"), ("False", "false")):
        said = said.replace(old, new)
    return said


def by_words(said):
    """Reads right, but swaps None for null in strings too."""
    return as_call(lambda said: json.loads(json.dumps(ast.literal_eval(said)).replace("None", "null")))(said)


def bare(said):
    return json.dumps(ast.literal_eval(said), ensure_ascii=False)


def sizes(whole=2, lora=4, rows=4, tables=2, of=lambda pair: pair):
    return lambda v, h, n_lora, n: of((lora * n_lora + whole * tables * v * h, lora * n_lora + rows * n * h))


def each_turn(of):
    """labels that are `of(role, ids, header)` for each turn, one behind the other."""
    return lambda turns, header: [label for role, ids in turns for label in of(role, ids, header)]


def spoken(of):
    """labels that are right but for the assistant's turns, where they are `of(ids, header)`."""
    return each_turn(lambda role, ids, header: of(ids, header) if role == "assistant" else [-100] * len(ids))


def learnt(ids, header):
    return [-100] * len(header) + ids[len(header) :]


def last_only(turns, header):
    before = sum(len(ids) for _, ids in turns[:-1])
    return [-100] * before + solve_labels(turns, header)[before:]


def guard(known=True, required=True, unexpected=True, has=lambda arguments, name: name in arguments):
    """allowed with some of its three checks."""

    def allowed(call, schemas):
        tools = {schema["function"]["name"]: schema["function"]["parameters"] for schema in schemas}
        name, arguments = call.get("name"), call.get("arguments")
        if not isinstance(arguments, dict):
            return False
        if name not in tools:
            return not known
        needed, offered = tools[name].get("required", []), tools[name]["properties"]
        if required and not all(has(arguments, one) for one in needed):
            return False
        return not unexpected or all(one in offered for one in arguments)

    return allowed


def of_any_tool(call, schemas):
    offered = {one for schema in schemas for one in schema["function"]["parameters"]["properties"]}
    return guard(unexpected=False)(call, schemas) and set(call["arguments"]) <= offered


def by_schema(of):
    """allowed as `of(arguments, properties, required)` for a tool that is known."""

    def allowed(call, schemas):
        for schema in schemas:
            if schema["function"]["name"] == call["name"]:
                parameters = schema["function"]["parameters"]
                return of(call["arguments"], parameters["properties"], parameters.get("required", []))
        return False

    return allowed


def keyed(key, of=sorted):
    return lambda expected, got: of(map(key, expected)) == of(map(key, got))


def crossed_off(expected, got):
    left = [json.dumps(call, sort_keys=True) for call in got]
    for call in expected:
        if json.dumps(call, sort_keys=True) not in left:
            return False
        left.remove(json.dumps(call, sort_keys=True))
    return not left


def unordered(value):
    """A call as text, with the lists in it sorted."""
    if isinstance(value, dict):
        return json.dumps({name: unordered(one) for name, one in value.items()}, sort_keys=True)
    return json.dumps(sorted(value, key=json.dumps) if isinstance(value, list) else value)


def typed(expected, got):
    """Compares types, but of the arguments themselves only."""

    def key(call):
        kinds = {name: (type(value).__name__, value) for name, value in call["arguments"].items()}
        return call["name"], kinds

    return crossed(list(map(key, expected)), list(map(key, got)))


def crossed(expected, got):
    left = list(got)
    for call in expected:
        if call not in left:
            return False
        left.remove(call)
    return not left


def texts_with(pattern, of=lambda text: text):
    return lambda texts: sum(re.search(pattern, of(text), flags=re.DOTALL) is not None for text in texts)


def without(text, *tags):
    for tag in tags:
        text = re.sub(rf"<{tag}>.*?</{tag}>", "", text, flags=re.DOTALL)
    return text


def first_only(texts):
    for text in texts:
        return solve_invented([text])
    return 0


# (exercise, wrong answer, what the message has in it)
MISTAKES = [
    ("fold", lambda messages: messages, "There is a system message left.*System role not supported"),
    ("fold", unconditional, "without a system message has to stay as it is"),
    ("fold", folded(lambda system, user: user), "system's words are gone"),
    ("fold", lambda messages: [{**m, "role": m["role"].replace("system", "user")} for m in messages],
     "Two user turns in a row"),
    ("fold", into_every, "first user turn, and only there"),
    ("fold", folded(lambda system, user: {**user, "content": f"{user['content']}\n\n{system}"}),
     r"should be 'Bạn .*\\n\\nHuế mưa không\?' .*, you gave 'Huế mưa không\?\\n\\nBạn"),
    ("fold", folded(lambda system, user: {**user, "content": f"{system}\n{user['content']}"}), "empty line"),
    ("fold", folded(rest=lambda others: others[:1]), "later ones have changed"),
    ("fold", folded(rest=lambda others: [m for m in others if m["role"] != "tool"]), "later ones have chang"),
    ("fold", in_place, "the conversation that was given has changed"),
    ("fold", popped, "the conversation that was given has changed"),
    ("fold", lambda messages: messages[0], r"Return a list of messages \(dicts\), you returned dict"),
    ("fold", lambda messages: [m["content"] for m in messages[1:2]], "Return a list of messages"),
    ("literal", as_call(eval), "ran the code in .*upper.*eval and exec are never safe"),
    ("literal", as_call(lambda said: eval(said, {"__builtins__": {}})), "ran the code in"),
    ("literal", lambda said: json.dumps(eval(said), ensure_ascii=False), "ran the code in"),
    ("literal", as_call(json.loads), "is a good call, and you gave None. json.loads does not read single"),
    ("literal", as_call(ast.literal_eval, lambda call: call), "Return JSON text, you returned dict"),
    ("literal", replaced, "is no JSON.*breaks the words inside strings"),
    ("literal", lambda said: said, r"is no JSON \(Expecting property name"),
    ("literal", by_words, "a value has changed. replace reaches into strings"),
    ("literal", as_call(ast.literal_eval, json.dumps), r"learn to write \\u1ebf for ế. Pass ensure_ascii"),
    ("literal", bare, r"upper.*stopped with ValueError; one bad row.*return None. This is code"),
    ("literal", as_call(ast.literal_eval, lambda call: json.dumps(call, ensure_ascii=False)),
     r"1e999.* should be None, you gave .*Infinity.*pass allow_nan=False"),
    ("literal", lambda said: as_call(ast.literal_eval)(said) or ("{}" if "1}" in said else None),
     "should be None, you gave '{}'. This one is cut off"),
    ("adapter_size", sizes(of=lambda pair: pair[::-1]), "The two are swapped"),
    ("adapter_size", lambda v, h, lora, n: (4 * lora + 4 * n * h, 4 * lora + 4 * v * h), "The two are swapp"),
    ("adapter_size", sizes(lora=0), "LoRA itself is missing"),
    ("adapter_size", sizes(tables=1), "one table.*peft writes both"),
    ("adapter_size", sizes(whole=4), "kept in bf16 as in the base model: 2 bytes"),
    ("adapter_size", sizes(lora=2, rows=2), r"trained \(LoRA and the new rows\) is kept in fp32"),
    ("adapter_size", sizes(rows=2), "new rows are trained, and so they are kept in fp32"),
    ("adapter_size", sizes(rows=8), "one copy of the new rows"),
    ("adapter_size", lambda v, h, lora, n: (4 * lora + 4 * v * h, 4 * lora + 4 * n), "row of `hidden` numb"),
    ("adapter_size", sizes(whole=1, lora=1, rows=1), "numbers of weights. The question is in bytes"),
    ("adapter_size", sizes(of=lambda pair: (pair[0] / 1e9, pair[1] / 1e6)),
     r"Whole tables, for .*256000, 2304.*: 2442362880 bytes; you gave 2.44"),
    ("adapter_size", sizes(of=lambda pair: (pair[0], 0)), "New rows, for .*: 83140608 bytes; you gave 0"),
    ("adapter_size", lambda v, h, lora, n: 4 * lora, "Return two numbers"),
    ("labels", each_turn(lambda role, ids, header: [-100] * len(ids) if role == "user" else
                         learnt(ids, header) if role == "assistant" else ids),
     r"A tool response \(turn 2\) carries loss.*make results up"),
    ("labels", lambda turns, header: [one for _, ids in turns for one in ids], "User turn 0 .*schemas incl"),
    ("labels", last_only, "turn 1 carries no loss. Each of its turns"),
    ("labels", spoken(lambda ids, header: [-100] * len(ids)), "turn 1 carries no loss"),
    ("labels", spoken(lambda ids, header: ids), r"opening of turn 1 \(positions 11 to 13\) carries loss"),
    ("labels", spoken(lambda ids, header: learnt(ids, header[:1])), "opening of turn 1"),
    ("labels", spoken(lambda ids, header: learnt(ids, [1, 2, 3])), r"turn 1 \(positions 7 to 10\)"),
    ("labels", spoken(lambda ids, header: [*learnt(ids, header)[:-2], -100, -100]),
     "<end_of_turn> of turn 1 is masked"),
    ("labels", spoken(lambda ids, header: learnt(ids, [0] * 4)), r"They should be \[-100, .*, you gave \["),
    ("labels", lambda turns, header: [*solve_labels(turns, header)[1:], -100], "shifted by one"),
    ("labels", lambda turns, header: [int(n != -100) for n in solve_labels(turns, header)], "mask of 0 and"),
    ("labels", lambda turns, header: [n for n in solve_labels(turns, header) if n != -100],
     "37 of them, you gave 11"),
    ("labels", lambda turns, header: [solve_labels([turn], header) for turn in turns], "One flat list"),
    ("labels", lambda turns, header: None, "One flat list"),
    ("allowed", lambda call, schemas: True, "delete_files.* should be False, you gave True. No tool of that"),
    ("allowed", lambda call, schemas: False, "this call has to pass"),
    ("allowed", guard(known=False), "No tool of that name was offered"),
    ("allowed", guard(required=False), "city is required and missing"),
    ("allowed", guard(unexpected=False), "country is not among the properties"),
    ("allowed", of_any_tool, "city is another tool's argument"),
    ("allowed", guard(has=lambda arguments, name: arguments.get(name)), "0 is a value too. Ask `name in arg"),
    ("allowed", by_schema(lambda arguments, known, required: set(arguments) == set(known)), "be left out"),
    ("allowed", by_schema(lambda arguments, known, required: bool(required) and
        set(required) <= set(arguments) <= set(known)), "requires nothing"),
    ("allowed", by_schema(lambda arguments, known, required: len(required) <= len(arguments) <= len(known)),
     "another argument does not stand for it"),
    ("allowed", lambda call, schemas: call["name"] in str(schemas) and (
        call["name"] == "weather" or guard()(call, schemas)), "Part of a name is no name"),
    ("allowed", by_schema(lambda arguments, known, required: all(one in arguments for one in required)
                          and all(one in known for one in arguments)),
     r"'arguments': None.* stopped with TypeError: .*not iterable\nargum.*have to be a dict. Refuse"),
    ("allowed", lambda call, schemas: by_schema(lambda arguments, known, required: (arguments is not None and
        all(one in arguments for one in required) and all(one in known for one in arguments)))(call, schemas),
     r"\['city'\].* should be False, you gave True. .*asks for elements"),
    ("allowed", by_schema(lambda arguments, known, required: isinstance(arguments, dict) and
        set(required) <= set(arguments) <= set(known)), "with KeyError: 'name'\nA call without a name"),
    ("allowed", lambda call, schemas: call["name"] in schemas[0]["functions"], "Your code stopped with"),
    ("allowed", lambda call, schemas: [], "Return True or False, you returned list"),
    ("match", lambda expected, got: expected == got, "Parallel calls have no order"),
    ("match", lambda expected, got: False, "The two lists are equal"),
    ("match", lambda expected, got: True, "Name and arguments both differ"),
    ("match", keyed(lambda call: call["name"]), "The names are equal, and the arguments are not"),
    ("match", keyed(lambda call: json.dumps(call["arguments"], sort_keys=True)), "it is another tool"),
    ("match", lambda expected, got: sorted(expected, key=lambda call: call["name"]) == sorted(
        got, key=lambda call: call["name"]), "sorting by name alone is not enough"),
    ("match", keyed(json.dumps), "The order of keys means nothing"),
    ("match", keyed(str), "The order of keys means nothing"),
    ("match", lambda expected, got: all(call in expected for call in got), "A call is missing. Compare both"),
    ("match", lambda expected, got: all(call in got for call in expected), "There is a call too many"),
    ("match", keyed(lambda call: json.dumps(call, sort_keys=True), set), "Twice is not once: a set"),
    ("match", lambda expected, got: len(expected) == len(got) and all(call in got for call in expected),
     "not each as often"),
    ("match", keyed(lambda call: (call["name"], sorted((k, str(v)) for k, v in call["arguments"].items()))),
     "1 is a number and \"1\" a string"),
    ("match", crossed, "true is not 1, though True == 1"),
    ("match", typed, "deep inside too: false is not 0"),
    ("match", keyed(unordered), "a list among the arguments does"),
    ("match", lambda expected, got: bool(got) and crossed_off(expected, got), "No call on either side"),
    ("match", lambda expected, got: not got or crossed_off(expected, got), "One side calls"),
    ("match", lambda expected, got: sorted(expected) == sorted(got), "Your code stopped with TypeError"),
    ("match", lambda expected, got: None if expected else True, "Return True or False, you returned NoneTy"),
    ("invented", lambda texts: len(texts), "should be 0, you gave 1. It calls and stops"),
    ("invented", lambda texts: 0, "Nobody ran the tool.*made up"),
    ("invented", lambda texts: sum(without(text, "think").count("<tool_response>") for text in texts),
     "should be 1, you gave 2. Count texts and not tags"),
    ("invented", texts_with("<tool_call>.*<tool_response>.*</tool_response>"), "cut the made-up result off"),
    ("invented", texts_with("</tool_call>\\s*<tool_response>"), "The tag need not follow </tool_call> at"),
    ("invented", lambda texts: sum("<tool_response>" in text for text in texts), "The tag is inside <think>"),
    ("invented", texts_with("<tool_call>.*<tool_response>"), r"<think>, after the call this time.*re.DOTALL"),
    ("invented", lambda texts: sum(re.search("</tool_call>.*<tool_response>", re.sub(
        "<think>.*?</think>", "", text), flags=re.DOTALL) is not None for text in texts), "a line break"),
    ("invented", texts_with("<tool_call>.*<tool_response>", lambda text: without(text, "think")),
     "The tag is inside a string of the call"),
    ("invented", texts_with("<tool_response>", lambda text: without(text, "think", "tool_call")),
     "Only results made up after a call"),
    ("invented", lambda texts: [text for text in texts if "<tool_response>" in text], "Return a number"),
    ("invented", lambda texts: "<tool_response>" in texts[0], "Return a number, you returned bool"),
    ("invented", first_only, "One by one you are right, but for all 10 texts it should be 5, you gave 0"),
    ("invented", lambda texts: texts_with("^<tool_call>.*?</tool_call><tool_call>.*?</tool_call><tool_resp")(
        texts) + sum(text.count("/tool_call><tool_resp") > 0 for text in texts), "should be 1, you gave 0"),
    ("invented", lambda texts: solve_invented(texts[:9]) or int(not texts), "all 0 texts it should be 0"),
    ("invented", lambda texts: sum(text["said"] for text in texts), "Your code stopped with TypeError"),
]  # fmt: skip

ALSO_RIGHT = [
    ("fold", chat.fold_system),
    ("fold", folded()),
    ("literal", as_call(ast.literal_eval)),
    ("literal", as_call(ast.literal_eval, lambda call: json.dumps(
        call, ensure_ascii=False, allow_nan=False, separators=(",", ":")))),
    ("adapter_size", lambda v, h, lora, n: [lora * 4 + v * h * 4, 4.0 * (lora + n * h)]),
    ("labels", spoken(learnt)),
    ("labels", lambda turns, header: tuple(solve_labels(turns, header))),
    ("labels", lambda turns, header: [
        -100 if role != "assistant" or at < len(header) else token
        for role, ids in turns for at, token in enumerate(ids)
    ]),
    ("allowed", guard()),
    ("allowed", lambda call, schemas: isinstance(call["arguments"], dict) and "name" in call and by_schema(
        lambda arguments, known, required: set(required) <= set(arguments) <= set(known))(call, schemas)),
    ("match", crossed_off),
    ("match", keyed(lambda call: json.dumps([call["name"], call["arguments"]], sort_keys=True))),
    ("invented", texts_with(
        "</tool_call>.*<tool_response>", lambda text: without(text.replace("</tool_call>", "</tool_call>", 1),
                                                              "think"))),
]  # fmt: skip


@pytest.mark.parametrize("name", SOLUTIONS)
def test_the_shown_solution_is_right(name):
    exercise_cases.shown_solution(getattr(lesson04, name), SOLUTIONS[name])


@pytest.mark.parametrize(("name", "answer"), ALSO_RIGHT)
def test_another_way_is_right_too(name, answer):
    exercise_cases.right(getattr(lesson04, name), answer)


@pytest.mark.parametrize(("name", "answer", "message"), MISTAKES)
def test_each_mistake_gets_its_own_message(name, answer, message):
    exercise_cases.wrong(getattr(lesson04, name), answer, message)


def test_untouched_starting_points_count_as_not_attempted():
    exercise_cases.untouched(lesson04.ALL)


def test_everything_is_said_in_both_languages():
    assert [getattr(lesson04, name) for name in SOLUTIONS] == list(lesson04.ALL)
    exercise_cases.bilingual(lesson04.ALL)


def test_a_function_that_changes_what_it_is_given_is_judged_by_what_it_returns():
    def labels(turns, header):
        right = solve_labels(turns, header)
        header.clear()
        turns.clear()
        return right

    def allowed(call, schemas):
        right = solve_allowed(call, schemas)
        call.clear()
        for schema in schemas:
            schema["function"]["parameters"].clear()
        return right

    def match(expected, got):
        right = solve_match(expected, got)
        for call in expected + got:
            call["arguments"].clear()
        return right

    for name, answer in (("labels", labels), ("allowed", allowed), ("match", match)):
        for _ in range(2):  # a second check finds everything as the first did
            exercise_cases.right(getattr(lesson04, name), answer)


# --- the solutions against a reference


def test_no_code_of_a_row_runs(tmp_path):
    trap = tmp_path / "ran"
    for code in (f"__import__('pathlib').Path({str(trap)!r}).touch()", f"open({str(trap)!r}, 'w')"):
        assert solve_literal(f"{{'name': 'f', 'arguments': {{'x': {code}}}}}") is None
    assert not trap.exists()
    assert solve_literal("{'name': 'f', 'arguments': " + "[" * 5000 + "]" * 5000 + "}") is None
    assert json.loads(solve_literal("{'name': 'f', 'arguments': {'x': None}}"))["arguments"] == {"x": None}


def test_the_size_of_the_adapter_is_gemmas():
    """Gemma-2-2b by hand: 26 layers, hidden 2304, 8 heads of 256 (4 for keys, values), MLP 9216; r = 16."""
    q, k, v, o = 2304 + 2048, 2304 + 1024, 2304 + 1024, 2048 + 2304
    lora = 26 * 16 * (q + k + v + o + 3 * (2304 + 9216))
    assert lora == 20_766_720
    whole, rows = solve_adapter_size(256_000, 2304, lora, 8)
    assert (whole, rows) == (2_442_362_880, 83_140_608)
    on_tables = 4 * 2 * 16 * (256_000 + 2304)  # the original's LoRA on embed_tokens and lm_head, in fp32
    assert round((whole + on_tables) / 1e9, 2) == 2.48


def test_labels_by_hand_are_those_of_the_course(tokenizer):
    """A result stands in a turn that Gemma calls user; the course scores the same tokens by the template."""
    import copy

    from datasets import Dataset

    gemma = copy.deepcopy(tokenizer)
    gemma.chat_template = (
        "{{ bos_token }}{% for m in messages %}<{{ 'model' if m.role == 'assistant' else 'user' }}>"
        "{{ m.content }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<model>{% endif %}"
    )
    said = [("user", "Huế?"), ("assistant", "gọi"), ("tool", "31"), ("assistant", "31 độ")]
    talk = [{"role": role.replace("tool", "user"), "content": content} for role, content in said]
    row = chat.encode(Dataset.from_dict({"messages": [talk]}), gemma, max_length=200)[0]

    def ids(text):
        return gemma(text, add_special_tokens=False)["input_ids"]

    turns = []
    for role, content in said:
        name = "model" if role == "assistant" else "user"
        turns.append((role, ids(f"<{name}>{content}{gemma.eos_token}\n")))
    turns[0][1].insert(0, gemma.bos_token_id)
    assert [token for _, turn in turns for token in turn] == row["input_ids"]
    assert solve_labels(turns, ids("<model>")) == row["labels"]
    assert row["labels"].count(gemma.eos_token_id) == 2


def test_the_guard_agrees_with_jsonschema():
    from jsonschema import Draft202012Validator

    schemas = {schema["function"]["name"]: schema["function"]["parameters"] for schema in _SCHEMAS}
    verdicts = []
    for (call, _), want, _ in _CALLS:
        schema = {**schemas.get(call.get("name"), {}), "additionalProperties": False}
        valid = call.get("name") in schemas and Draft202012Validator(schema).is_valid(call["arguments"])
        assert solve_allowed(call, _SCHEMAS) == valid == want
        verdicts.append(valid)
    assert verdicts.count(True) == 4


def test_a_match_is_a_pairing():
    def equal(one, other):
        return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)

    for (expected, got), want, _ in _PAIRS:
        pairings = [zip(expected, order, strict=False) for order in itertools.permutations(got)]
        found = any(all(equal(one, other) for one, other in pairing) for pairing in pairings)
        assert solve_match(expected, got) == (len(expected) == len(got) and found) == want


def test_made_up_results_are_counted_as_by_hand():
    assert [solve_invented(texts) for (texts,), _, _ in _TEXTS] == [0, 1, 1, 1, 1, 1, 0, 0, 0, 0]
    for (texts,), want, _ in _TEXTS:
        if "<end_of_turn>\n" not in texts[0]:  # there the course's reader stops, as the program does
            parsed = tools.parse(texts[0])
            made_up = _REPAIRED["made_up"]["en"] in parsed.repaired
            assert want == (made_up and bool(parsed.calls))
    assert solve_invented([]) == 0
    assert solve_invented(["<tool_call>{}</tool_call><think>and <tool_response>"]) == 0  # an endless thought
