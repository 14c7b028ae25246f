"""Every exercise of lesson 03: untouched, wrong in each known way, right; and the solution that is shown."""

import re

import numpy
import pytest
import torch
import torch.nn.functional as F

from lessonlib.exercises import lesson03
from lessonlib.exercises._exercise import Wrong
from lessonlib.exercises.lesson03 import _template as lesson03_template
from lessonlib.exercises.lesson03 import solve_fill, solve_one_bos, solve_responses
from lessonlib.exercises.lesson03._parity import solve_kl, solve_q8_bytes
from lessonlib.exercises.lesson03._template import (
    _LLAMA_TEMPLATE,
    _PROMPTS,
    llama_tokenizer,
    read_modelfile,
    solve_markers,
    solve_modelfile,
)
from lessonlib.runtime import _language as language

SOLUTIONS = {
    "one_bos": solve_one_bos,
    "responses": solve_responses,
    "fill": solve_fill,
    "kl": solve_kl,
    "q8_bytes": solve_q8_bytes,
    "markers": solve_markers,
    "modelfile": solve_modelfile,
}


@pytest.fixture(scope="module")
def llama():
    return llama_tokenizer()


# --- answers, most of them wrong in one place


def tokenised(of, add_special_tokens=False):
    """one_bos that tokenises `of(text, bos)`."""
    return lambda tokenizer, text: tokenizer(
        of(text, tokenizer.bos_token), add_special_tokens=add_special_tokens
    )["input_ids"]


def spoken(ids, header, end):
    """The assistant's turns as (start, stop), its end token before `stop`."""
    starts = [at for at in range(len(ids)) if ids[at - len(header) : at] == header]
    return [(start, ids.index(end, start) + 1) for start in starts]


def labelled(spans):
    """responses with loss on `spans(ids, header, end)`."""

    def responses(ids, header, end):
        labels = [-100] * len(ids)
        for start, stop in spans(ids, header, end):
            labels[start:stop] = ids[start:stop]
        return labels

    return responses


def by_header_token(ids, header, end):
    """Takes a token of the header for the header, so that every turn is learnt."""
    starts = [at + 1 for at, token in enumerate(ids) if token == header[-1]]
    return [(start, ids.index(end, start) + 1) for start in starts]


def filled(columns=("question", "answer"), braces="{{%s}}", count=-1, missing=None, keep=True):
    def fill(row, values):
        new = dict(row) if keep else {}
        for column in ("question", "answer"):
            new[column] = row[column]
            for name, value in values.items() if column in columns else ():
                new[column] = new[column].replace(braces % name, value, count)
            if "{{" in new[column] and missing is not None:
                new[column] = re.sub(r"\{\{.*?\}\}", missing, new[column])
            elif "{{" in new[column] and column in columns and braces == "{{%s}}" and count == -1:
                return None
        return new

    return fill


def unchecked(row, values):
    new = dict(row)
    for name, value in values.items():
        for column in ("question", "answer"):
            new[column] = new[column].replace("{{" + name + "}}", value)
    return new


def strict(row, values):
    """Gives up a row that does not use every value."""
    text = row["question"] + row["answer"]
    return solve_fill(row, values) if all(f"{{{{{name}}}}}" in text for name in values) else None


def divergence(of):
    """kl as `of(p, q, log p, log q)`, by position and token, summed over the vocabulary, averaged."""

    def kl(first, second):
        log_p, log_q = first.log_softmax(-1), second.log_softmax(-1)
        return of(log_p.exp(), log_q.exp(), log_p, log_q).sum(-1).mean()

    return kl


def by_softmax(softmax):
    """kl by way of probabilities instead of log-probabilities."""

    def kl(first, second):
        p, q = softmax(first), softmax(second)
        return (p * (p.log() - q.log())).sum(-1).mean()

    return kl


def naive(logits):
    return logits.exp() / logits.exp().sum(-1, keepdim=True)


def torchs(reduction):
    return lambda first, second: F.kl_div(
        second.log_softmax(-1), first.log_softmax(-1), log_target=True, reduction=reduction
    )


def counted(of, pattern=r"<\|.*?\|>"):
    """markers with `of(tokenizer, prompt, marker)` for each."""
    return lambda tokenizer, prompt: {
        name: of(tokenizer, prompt, name) for name in re.findall(pattern, prompt)
    }


def tokens(tokenizer, prompt, name):
    return len(tokenizer(name, add_special_tokens=False)["input_ids"])


def written(source="FROM {gguf}", body='TEMPLATE """{template}"""', stop='PARAMETER stop "{stop}"'):
    def modelfile(template, stops, gguf):
        lines = [
            source.replace("{gguf}", gguf), body.replace("{template}", template),
            *(stop.replace("{stop}", each) for each in stops if stop),
        ]  # fmt: skip
        return "\n".join(line for line in lines if line)

    return modelfile


def with_stops(of):
    return lambda template, stops, gguf: written(stop="")(template, [], gguf) + "\n" + of(stops)


# (exercise, wrong answer, what the message has in it)
MISTAKES = [
    ("one_bos", tokenised(lambda text, bos: text, True), "There are 2 BOS: the chat template wrote one"),
    ("one_bos", tokenised(lambda text, bos: text), "came with 0 BOS the result has none"),
    ("one_bos", tokenised(lambda text, bos: text.removeprefix(bos)), "came with 1 BOS the result has none"),
    ("one_bos", tokenised(lambda text, bos: text.removeprefix(bos), True), "2 BOS, and 2 are left.*replace"),
    ("one_bos", tokenised(lambda text, bos: text.lstrip(bos), True), "lstrip takes off single characters"),
    ("one_bos", tokenised(lambda text, bos: text.lstrip(bos)), "lstrip takes off single characters"),
    ("one_bos", tokenised(lambda text, bos: text.replace(bos, "") + bos), "BOS is at position"),
    ("one_bos", lambda tokenizer, text: [tokenizer.bos_token_id] + [
        i for i in tokenizer(text)["input_ids"] if i not in tokenizer.all_special_ids
    ], r"<\|eot_id\|> is gone"),
    ("one_bos", lambda tokenizer, text: [*solve_one_bos(tokenizer, text), tokenizer.eos_token_id],
     r"There is \[1801\] too much at the end"),
    ("one_bos", tokenised(lambda text, bos: text.replace(bos, "").replace("\n\n", "\n"), True),
     r"from position \d+ the tokens are not the text's"),
    ("one_bos", lambda tokenizer, text: tokenizer(text), 'gives a dictionary. Take its ."input_ids".'),
    ("one_bos", lambda tokenizer, text: tokenizer(text, return_tensors="pt")["input_ids"], "One flat list"),
    ("one_bos", lambda tokenizer, text: tokenizer.tokenize(text), "pieces of text.*ids are wanted"),
    ("one_bos", lambda tokenizer, text: text, "Return a list of numbers, you returned str"),
    ("one_bos", lambda tokenizer, text: None, "you returned NoneType"),
    ("one_bos", lambda tokenizer, text: [], "came with 1 BOS the result has none"),
    ("responses", lambda ids, header, end: ids, "Every token carries loss"),
    ("responses", lambda ids, header, end: [-100] * len(ids), "No token carries loss: the header"),
    ("responses", labelled(lambda *row: spoken(*row)[-1:]), "Only the assistant's last turn"),
    ("responses", labelled(lambda *row: spoken(*row)[:1]), "Only the assistant's first turn"),
    ("responses", labelled(lambda ids, header, end: [
        (start - len(header), stop) for start, stop in spoken(ids, header, end)
    ]), r"The header \(positions 16 to 19\) carries loss"),
    ("responses", labelled(lambda *row: [(start - 1, stop) for start, stop in spoken(*row)]), "The header"),
    ("responses", labelled(lambda *row: [(start, stop - 1) for start, stop in spoken(*row)]),
     r"<\|eot_id\|> \(position 23\) is masked"),
    ("responses", labelled(lambda ids, header, end: [(spoken(ids, header, end)[0][0], len(ids))]),
     "From position 24 the user's words carry loss too"),
    ("responses", labelled(by_header_token), "Position 5 carries loss, but comes before.*whole header"),
    ("responses", lambda *row: [*solve_responses(*row)[1:], -100], "shifted by one"),
    ("responses", lambda *row: [int(label != -100) for label in solve_responses(*row)], "mask of 0 and 1"),
    ("responses", lambda *row: [label for label in solve_responses(*row) if label != -100],
     "24 of them, you gave 4"),
    ("responses", lambda *row: [solve_responses(*row)], "One flat list"),
    ("responses", lambda *row: None, "Return a list of numbers, you returned NoneType"),
    ("responses", labelled(lambda *row: [(start + 1, stop) for start, stop in spoken(*row)]),
     r"At position 20 \(token 51\) the label should be 51, you gave -100"),
    ("fill", unchecked, "The 'answer' of the row 'cancel_order' still holds a placeholder.*has to be None"),
    ("fill", filled(missing=""), "'cancel_order' you removed or made up"),
    ("fill", filled(missing="100"), "'cancel_order' you removed or made up"),
    ("fill", strict, "'track_order' lacks no value, so it has to be kept"),
    ("fill", filled(columns=("answer",)), "Nothing was replaced in 'question'"),
    ("fill", filled(columns=("question",)), "Nothing was replaced in 'answer'"),
    ("fill", filled(braces="{%s}"), "still in braces.*In an f-string"),
    ("fill", filled(braces="%s"), "still in braces"),
    ("fill", filled(count=1), "stands in the answer twice and was replaced once"),
    ("fill", filled(keep=False), "column intent is missing"),
    ("fill", lambda row, values: dict(row), r"should become \{'question': 'Where is my order DH-2041"),
    ("fill", lambda row, values: row["answer"], "Return a row .a dict. or None, you returned str"),
    ("fill", lambda row, values: solve_fill(row, values) if "{{" in row["question"] else None,
     "'store_hours' lacks no value"),
    ("fill", lambda row, values: None if "{{Refund" in row["answer"] else unchecked(row, values),
     "The 'question' of the row 'account' still holds"),
    ("kl", lambda first, second: solve_kl(second, first), r"KL\(q\|\|p\), the other way round"),
    ("kl", torchs("sum"), "the sum over positions"),
    ("kl", lambda first, second: torchs("none")(first, second).mean(), "vocabulary too.*batchmean"),
    ("kl", torchs("none"), r"a tensor \(5, 7\).*Sum over the vocabulary"),
    ("kl", divergence(lambda p, q, log_p, log_q: p * (p.log2() - q.log2())), "in bits .log2.*Nats"),
    ("kl", divergence(lambda p, q, log_p, log_q: p * (log_q - log_p)), "Wrong sign"),
    ("kl", divergence(lambda p, q, log_p, log_q: -p * log_q), "That is the cross-entropy"),
    ("kl", lambda first, second: (first.exp() * (first - second)).sum(-1).mean(), "a softmax is missing"),
    ("kl", lambda first, second: (first.softmax(-1) * (first - second)).sum(-1).mean(), "softmax is missing"),
    ("kl", lambda first, second: (first * (first / second).log()).sum() / 5, "gives nan.*A softmax is"),
    ("kl", lambda first, second: F.kl_div(second, first, reduction="batchmean"), "softmax is missing"),
    ("kl", lambda first, second: F.kl_div(second.softmax(-1), first.softmax(-1), reduction="batchmean"),
     "kl_div's first argument has to be log-probabilities"),
    ("kl", by_softmax(lambda logits: logits.softmax(0)), "dim=-1 and not dim=0"),
    ("kl", lambda first, second: F.kl_div(
        second.log_softmax(0), first.log_softmax(0), log_target=True, reduction="sum") / 7, "dim=-1 and not"),
    ("kl", by_softmax(naive), "With large logits the function gives nan.*Use log_softmax"),
    ("kl", by_softmax(lambda logits: logits.softmax(-1)), "With large logits the function gives"),
    ("kl", by_softmax(lambda logits: logits.softmax(-1) + 1e-9), "epsilon or a clamp in the logarithm"),
    ("kl", lambda first, second: torchs("none")(first, second).sum(-1), "KL position by position"),
    ("kl", divergence(lambda p, q, log_p, log_q: (p - q).abs()), r"KL is \d\.\d+, you gave"),
    ("q8_bytes", lambda rows, columns: rows * columns, "int8 numbers alone.*2 bytes more"),
    ("q8_bytes", lambda rows, columns: rows * columns // 32 * 36, "fp16 .2 bytes. and not fp32"),
    ("q8_bytes", lambda rows, columns: rows * columns / 32 * 33, "takes 2 bytes and not 1"),
    ("q8_bytes", lambda rows, columns: rows * (columns + 2), "one scale a row"),
    ("q8_bytes", lambda rows, columns: rows * columns * 8.5, "Those are bits"),
    ("q8_bytes", lambda rows, columns: 2 * rows * columns, "2 bytes a weight is f16"),
    ("q8_bytes", lambda rows, columns: rows * columns // 32, "the number of blocks"),
    ("q8_bytes", lambda rows, columns: rows * columns + 2, "294912 times 32 .* 10027008 bytes; you"),
    ("q8_bytes", lambda rows, columns: rows * columns // 64 * 68, "1 x 32 is 1 times 32 .* 34 bytes"),
    ("markers", counted(lambda tokenizer, prompt, name: len(tokenizer(name)["input_ids"])), "adds BOS"),
    ("markers", counted(lambda tokenizer, prompt, name: len(tokenizer(name))), "fields of a dictionary"),
    ("markers", counted(lambda tokenizer, prompt, name: prompt.count(name)), "how often a marker occurs"),
    ("markers", counted(lambda tokenizer, prompt, name: len(name)), "You count characters"),
    ("markers", counted(tokens, r"<\|.*\|>"), "swallows those after it"),
    ("markers", counted(tokens, r"<.*?>"), r"'< 2 \| 3 >' is no marker"),
    ("markers", counted(lambda tokenizer, _, name: name in tokenizer.get_vocab()), "not True or False"),
    ("markers", counted(lambda tokenizer, prompt, name: tokenizer.tokenize(name)), "and no lists of ids"),
    ("markers", lambda tokenizer, prompt: {
        name: 1 for name in tokenizer.all_special_tokens if name in prompt
    }, r"<\|start_header_id\|> is missing.*all_special_tokens lacks some"),
    ("markers", lambda tokenizer, prompt: re.findall(r"<\|.*?\|>", prompt), "Return a dict .* returned list"),
    ("markers", counted(lambda tokenizer, prompt, name: 1), r"<\|im_start\|> is \d+ tokens; you gave 1"),
    ("modelfile", written(source=""), "There is no FROM line"),
    ("modelfile", written(source="FROM llama3.2"), "name ./llama-q4_k_m.gguf, you wrote llama3.2"),
    ("modelfile", written(source="FROM ./llama-q4_k_m.gguf"), "FROM has to name ./gguf/shop-q8_0.gguf"),
    ("modelfile", written(body=""), "There is no TEMPLATE"),
    ("modelfile", written(body="TEMPLATE {template}"), r"line 4: '\{\{ .System \}\}.*in \"\"\""),
    ("modelfile", written(body='TEMPLATE """{template}'), "quotes that line 2 opens are never closed"),
    ("modelfile", written(body="TEMPLATE '{template}'"), "Ollama stops at line 4"),
    ("modelfile", written(body='TEMPLATE """\n{template}"""'), r"line end too many.*begins with '\\n\{\{ if"),
    ("modelfile", lambda template, stops, gguf: written()(template.strip(), stops, gguf),
     r"line end too many or too few: it ends in 'r_id\|>\\n\\n', .*ends in 'der_id\|>'"),
    ("modelfile", lambda template, stops, gguf: written()(re.sub(r"\{\{|\}\}", "", template), stops, gguf),
     "double braces in TEMPLATE are lost"),
    ("modelfile", written(body='TEMPLATE """{{ .Prompt }}"""'), "TEMPLATE as '{{ .Prompt }}', which is not"),
    ("modelfile", written(stop=""), "no PARAMETER stop: all hangs on the EOS"),
    ("modelfile", written(stop="PARAMETER stop '{stop}'"), "double quotes only.*single quotes are part"),
    ("modelfile", written(stop="PARAMETER stop {stop}"), "The space at an end of 'Khách: ' is lost"),
    ("modelfile", written(stop="PARAMETER stop={stop}"), "cannot read line 9: after PARAMETER come a name"),
    ("modelfile", written(stop="stop {stop}"), "stops at line 9.*begins with no command"),
    ("modelfile", with_stops(lambda stops: f"PARAMETER stop {stops}"), "One line for each stop"),
    ("modelfile", with_stops(lambda stops: f'PARAMETER stop "{", ".join(stops)}"'), "One line for each stop"),
    ("modelfile", with_stops(lambda stops: f'PARAMETER stop "{stops[0]}"'), r"stop <\|eom_id\|> is missing"),
    ("modelfile", with_stops(lambda stops: 'PARAMETER stop "<|im_end|>"'), r"not \['<\|im_end\|>'\]"),
    ("modelfile", lambda template, stops, gguf: ["FROM"], "Return a string, you returned list"),
]  # fmt: skip

ALSO_RIGHT = [
    ("one_bos", lambda tokenizer, text: tokenizer(text.replace(tokenizer.bos_token, ""))["input_ids"]),
    ("one_bos", lambda tokenizer, text: torch.tensor(solve_one_bos(tokenizer, text))),
    ("one_bos", lambda tokenizer, text: [tokenizer.bos_token_id] + [
        i for i in tokenizer(text)["input_ids"] if i != tokenizer.bos_token_id
    ]),
    ("responses", labelled(spoken)),
    ("responses", lambda *row: tuple(solve_responses(*row))),
    ("responses", lambda *row: torch.tensor(solve_responses(*row))),
    ("kl", torchs("batchmean")),
    ("kl", lambda first, second: F.kl_div(
        second.double().log_softmax(-1), first.double().softmax(-1), reduction="batchmean").item()),
    ("q8_bytes", lambda rows, columns: rows * columns * 8.5 / 8),
    ("q8_bytes", lambda rows, columns: rows * (columns // 32) * 34),
    ("markers", counted(tokens, r"<\|\w+\|>")),
    ("markers", counted(lambda tokenizer, prompt, name: len(tokenizer.tokenize(name)))),
    ("modelfile", lambda template, stops, gguf: "# shop\n\n" + written(
        "from {gguf}", stop='parameter stop "{stop}"\nPARAMETER temperature 0')(template, stops[::-1], gguf)),
    ("modelfile", written(body='TEMPLATE "{template}"')),  # Ollama reads these too, if no line ends in "
]  # fmt: skip


@pytest.mark.parametrize("name", SOLUTIONS)
def test_the_shown_solution_is_right(name):
    exercise = getattr(lesson03, name)
    feedback = exercise.check(SOLUTIONS[name])
    assert feedback.status == "right", feedback
    assert exercise.solve is SOLUTIONS[name]
    assert exercise.solve.__name__ in str(exercise.solution())


@pytest.mark.parametrize(("name", "answer"), ALSO_RIGHT)
def test_another_way_is_right_too(name, answer):
    feedback = getattr(lesson03, name).check(answer)
    assert feedback.status == "right", feedback


def test_untouched_starting_points_count_as_not_attempted():
    def untouched(*_):
        return ...  # your code here

    for exercise in lesson03.ALL:
        assert exercise.check(untouched).status == "not attempted"
        assert exercise.check(...).status == "not attempted"


@pytest.mark.parametrize(("name", "answer", "message"), MISTAKES)
def test_each_mistake_gets_its_own_message(name, answer, message):
    feedback = getattr(lesson03, name).check(answer)
    assert feedback.status == "wrong"
    assert re.search(message, str(feedback)), feedback
    assert feedback.vi != feedback.en


def test_a_function_that_changes_what_it_is_given_is_judged_by_what_it_returns():
    def responses(ids, header, end):
        labels = solve_responses(ids, header, end)
        ids.clear()
        return labels

    def fill(row, values):
        for name in list(values):
            value = values.pop(name)
            for column in ("question", "answer"):
                row[column] = row[column].replace("{{" + name + "}}", value)
        return None if "{{" in row["question"] + row["answer"] else row

    def kl(first, second):
        first -= first.logsumexp(-1, keepdim=True)
        second -= second.logsumexp(-1, keepdim=True)
        return (first.exp() * (first - second)).sum(-1).mean()

    def markers(tokenizer, prompt):
        tokenizer.add_bos_token = False
        return counted(lambda tokenizer, prompt, name: len(tokenizer(name)["input_ids"]))(tokenizer, prompt)

    for name, answer in (("responses", responses), ("fill", fill), ("kl", kl), ("markers", markers)):
        for _ in range(2):  # a second check finds everything as the first did
            feedback = getattr(lesson03, name).check(answer)
            assert feedback.status == "right", feedback


def test_everything_is_said_in_both_languages():
    assert len(lesson03.ALL) == len(SOLUTIONS) == 7
    for number, exercise in enumerate(lesson03.ALL, start=1):
        english = exercise.help().html
        language.use("vi")
        assert exercise.help().html != english
        language.use("en")
        assert exercise.title["en"].startswith(f"Exercise {number}")
        assert exercise.title["vi"].startswith(f"Bài tập {number}")
        for words in (exercise.title, exercise.praise, *exercise.hints):
            assert words["vi"] != words["en"] and all(words.texts.values())


# --- the solutions against a reference


MESSAGES = [
    {"role": "system", "content": "Bạn là nhân viên hỗ trợ."},
    {"role": "user", "content": "Đơn DH-2041 đang ở đâu?"},
    {"role": "assistant", "content": "Đơn đang trên đường."},
    {"role": "user", "content": "Cảm ơn assistant!"},
    {"role": "assistant", "content": "Không có gì."},
]
DATE = {"date_string": "26 Jul 2024"}


def test_one_bos_is_what_the_template_gives_for_messages(llama):
    rendered = llama.apply_chat_template(MESSAGES, tokenize=False, **DATE)
    from_messages = llama.apply_chat_template(MESSAGES, tokenize=True, return_dict=False, **DATE)
    assert from_messages.count(llama.bos_token_id) == 1
    assert solve_one_bos(llama, rendered) == from_messages
    assert solve_one_bos(llama, llama.bos_token + rendered) == from_messages
    assert llama(rendered)["input_ids"] == [llama.bos_token_id, *from_messages]  # the fault of the lesson


def test_labels_by_hand_are_those_of_the_course(llama):
    from datasets import Dataset

    from lessonlib.formatting import _chat as chat

    dataset = Dataset.from_dict({"messages": [MESSAGES, MESSAGES[1:3]]})
    header = llama.encode("<|start_header_id|>assistant<|end_header_id|>\n\n", add_special_tokens=False)
    end = llama.convert_tokens_to_ids("<|eot_id|>")
    for row in chat.encode(dataset, llama, max_length=512, template_options=DATE):
        labels = solve_responses(row["input_ids"], header, end)
        assert labels == row["labels"]
        assert labels.count(end) == 2 or len(row["labels"]) < 120


def test_a_row_is_filled_as_by_hand_or_given_up():
    values = {"Order Number": "DH-7", "City": "Huế"}
    twice = "{{Order Number}}, {{Order Number}}."
    row = {"question": "{{Order Number}} to {{City}}?", "answer": twice, "id": "x"}
    assert solve_fill(row, values) == {"question": "DH-7 to Huế?", "answer": "DH-7, DH-7.", "id": "x"}
    assert row["id"] == "x" and "{{City}}" in row["question"]  # the row that was given stays as it is
    assert solve_fill(row, {"City": "Huế"}) is None
    assert solve_fill({"question": "a", "answer": "{{b}}"}, values) is None
    assert solve_fill({"question": "a", "answer": "b"}, {}) == {"question": "a", "answer": "b"}


def test_kl_is_torchs():
    torch.manual_seed(0)
    first, second = torch.randn(20, 100), torch.randn(20, 100)
    want = torchs("batchmean")(first.double(), second.double()).item()
    assert solve_kl(first, second) == pytest.approx(want, rel=1e-5)
    assert solve_kl(first, first) == pytest.approx(0, abs=1e-6)
    # ln 2 by hand: p is sure, q is torn between two
    assert solve_kl(torch.tensor([[500.0, 0.0]]), torch.tensor([[7.0, 7.0]])) == pytest.approx(0.693147)


def test_q8_0_is_the_struct_of_llama_cpp():
    block = numpy.dtype([("d", "<f2"), ("qs", "i1", (32,))])  # block_q8_0: ggml_half d; int8_t qs[32]
    assert solve_q8_bytes(1, 32) == block.itemsize == 34
    assert solve_q8_bytes(256, 2048) == 256 * 2048 // 32 * block.itemsize
    q4_k = numpy.dtype([("d", "<f2", 2), ("scales", "u1", 12), ("qs", "u1", 128)])
    assert q4_k.itemsize == 144 and 144 * 8 / 256 == 4.5  # as the praise says


def test_markers_of_llama_are_single_tokens_and_chatml_is_not(llama):
    own, chatml, phi3, none = (solve_markers(llama, prompt) for prompt in _PROMPTS)
    assert own == dict.fromkeys(
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], 1
    )
    assert set(own) < set(llama.get_vocab()) and not set(chatml) & set(llama.get_vocab())
    assert set(chatml) == {"<|im_start|>", "<|im_end|>"} and min(chatml.values()) > 1
    assert set(phi3) == {"<|user|>", "<|end|>", "<|assistant|>"} and min(phi3.values()) > 1
    assert none == {}
    rendered = llama.apply_chat_template(MESSAGES, tokenize=False, **DATE)
    assert set(solve_markers(llama, rendered)) == set(own)


def test_a_modelfile_is_read_as_ollama_reads_it():
    assert read_modelfile(solve_modelfile(_LLAMA_TEMPLATE, ["<|eot_id|>"], "./a.gguf")) == [
        ("from", "./a.gguf"), ("template", _LLAMA_TEMPLATE), ("parameter stop", "<|eot_id|>"),
    ]  # fmt: skip
    text = '# c\nFROM  ./my file.gguf \nTEMPLATE """\na "b"\nFROM x\n """\nparameter stop " z "\n'
    text += "SYSTEM 's'\n"
    assert read_modelfile(text) == [
        ("from", "./my file.gguf"), ("template", '\na "b"\nFROM x\n '), ("parameter stop", " z "),
        ("system", "'s'"),
    ]  # fmt: skip
    for broken, message in (
        ("FORM ./a.gguf", "line 1: 'FORM ./a.gguf' begins with no command"),
        ("FROM a\nPARAMETER stop", "cannot read line 2"),
        ('FROM a\nSYSTEM "x', "line 2 opens"),
        ('TEMPLATE """x""', "line 1 opens"),
    ):
        with pytest.raises(Wrong, match=message):
            read_modelfile(broken)


def test_the_templates_of_the_export_exercises_are_the_models_own(llama):
    """Llama's prompt of exercise 6 and the Go template of exercise 7 are the twin's, filled by hand."""
    asked = [{"role": "user", "content": "Xin chào"}]
    rendered = llama.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, **DATE)
    system, user = rendered.split("<|start_header_id|>user")
    assert _PROMPTS[0] == llama.bos_token + "<|start_header_id|>user" + user
    said = system.split("<|end_header_id|>\n\n")[1].removesuffix("<|eot_id|>")
    by_ollama = lesson03_template._LLAMA_TEMPLATE
    for name, value in (("if .System", ""), ("end", ""), (".System", said), (".Prompt", "Xin chào")):
        by_ollama = by_ollama.replace("{{ " + name + " }}", value)
    assert llama.bos_token + by_ollama == rendered
