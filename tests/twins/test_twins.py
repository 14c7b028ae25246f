"""The shipped twins, how they are made, and that no fact of the course is in what they were trained on."""

import argparse
import dataclasses
import json
import math
import re
import struct
import unicodedata

import pytest

from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError
from lessonlib.runtime._paths import data_dir, dataset_dir, twin_dir
from twins import corpus, corpus_chat
from twins import making as twins
from twins.pretraining import copy_score, pad_loss, pretrain, render, rows
from twins.tokenizers import BLOOM_PATTERN, LLAMA3_PATTERN, LLAMA3_SPECIAL, PHI3_LAST, encode_with_dropout

TEXTS = [
    "Human: Học máy là gì? Assistant: Một nhánh của AI.",
    unicodedata.normalize("NFD", "Mạng nơ-ron gồm nhiều lớp, phải không ạ?"),
    "emoji 🤖👩‍🔬 và ký tự lạ: ½ ™ «…»\n\thai dòng",
    "don't we'll 1234567 x=3.14;  two  spaces ",
]


@pytest.fixture(scope="module")
def shipped():
    """All twins, loaded once: {name: (model, tokenizer)}."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return {
        name: (AutoModelForCausalLM.from_pretrained(twin_dir(name), dtype="float32").eval(),
               AutoTokenizer.from_pretrained(twin_dir(name)))
        for name in twins.FAMILIES
    }


PLAIN = [name for name, kind in twins.FAMILIES.items() if not kind.talks]  # the others: test_gemma_twin.py


def words_of(name):
    """The lexicon that a twin was made with."""
    return corpus.read_lexicon(*(data_dir() / file for file in twins.family(name).words))


SPLITS = {
    "chat_vi": ("train", "validation", "test", "unseen_topics"),
    "customer_support_vi": ("train", "validation", "test", "unseen_intents"),
    "counseling_vi": ("train", "validation", "test"),
}
TAUGHT = {"phi3": ("chat_vi",), "llama32": ("customer_support_vi", "counseling_vi")}  # its lesson's data


def replies(name):
    """Everything that the assistant says in the conversations that this twin is fine-tuned on."""
    files = [
        (dataset_dir(dataset) / f"{split}.jsonl").read_text(encoding="utf-8")
        for dataset in TAUGHT[name] for split in SPLITS[dataset]
    ]
    rows = [json.loads(line) for file in files for line in file.splitlines()]
    said = {m["content"] for row in rows for m in row["messages"] if m["role"] == "assistant"}
    return sorted(said)


@pytest.fixture(scope="module")
def answers():
    lines = (dataset_dir("ai_qa_vi") / "facts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# --- the shipped files


@pytest.mark.parametrize("name", twins.FAMILIES)
def test_weights_are_bfloat16_safetensors_and_nothing_else(name):
    folder = twin_dir(name)
    kinds = {file.suffix for file in folder.iterdir()}
    assert kinds <= {".safetensors", ".json", ".md", ".jinja"}  # no pickle, no code
    raw = (folder / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    assert {entry["dtype"] for entry in header.values()} == {"BF16"}


def test_all_twins_together_are_small():
    files = [file for file in (data_dir() / "twins").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 20e6
    assert (twin_dir("bloom") / "model.safetensors").stat().st_size < 3e6
    assert (twin_dir("llama32") / "model.safetensors").stat().st_size < 8e6
    assert (twin_dir("phi3") / "model.safetensors").stat().st_size < 3e6


def test_bloom_is_bloom_in_small(shipped):
    model, tokenizer = shipped["bloom"]
    assert type(model).__name__ == "BloomForCausalLM"
    h, layers, vocabulary = 128, 4, len(tokenizer)
    layer = 2 * 2 * h + (3 * h * h + 3 * h) + (h * h + h) + (4 * h * h + 4 * h) + (4 * h * h + h)
    assert model.num_parameters() == vocabulary * h + 2 * h + layers * layer + 2 * h  # tied head: once
    assert 1024 <= vocabulary <= 2048
    assert model.lm_head.weight.data_ptr() == model.transformer.word_embeddings.weight.data_ptr()


def test_llama_is_llama_in_small(shipped):
    model, tokenizer = shipped["llama32"]
    assert type(model).__name__ == "LlamaForCausalLM"
    h, mlp, kv, layers, vocabulary = 256, 512, 128, 4, len(tokenizer)
    layer = 2 * h * h + 2 * kv * h + 3 * h * mlp + 2 * h
    assert model.num_parameters() == vocabulary * h + layers * layer + h
    assert model.config.rope_parameters["rope_type"] == "llama3"
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    for weight_name, weight in model.named_parameters():  # k-quants cut rows into blocks of 256
        assert weight.ndim == 1 or weight.shape[1] % 256 == 0, weight_name


def test_phi3_is_phi3_in_small(shipped):
    model, tokenizer = shipped["phi3"]
    assert type(model).__name__ == "Phi3ForCausalLM"
    h, mlp, layers, vocabulary = 128, 384, 4, model.config.vocab_size
    layer = h * 3 * h + h * h + h * 2 * mlp + mlp * h + 2 * h
    assert model.num_parameters() == 2 * vocabulary * h + layers * layer + h  # the head is no embedding
    paths = [path for path, _ in model.model.layers[0].named_modules() if path.endswith("proj")]
    names = {path.rsplit(".", 1)[-1] for path in paths}
    assert names == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    assert model.config.sliding_window == 2047 and model.config.rope_parameters["rope_theta"] == 10000.0
    assert len(tokenizer) < vocabulary == 2048  # 32,011 tokens and 32,064 rows in the real one


def test_phi3_s_special_tokens_are_the_real_ones(shipped):
    tokenizer = shipped["phi3"][1]
    assert tokenizer.convert_tokens_to_ids(["<unk>", "<s>", "</s>", "<0x00>", "<0xFF>"]) == [0, 1, 2, 3, 258]
    first = len(tokenizer) - 11  # the real ones are 32000 to 32010
    assert tokenizer.convert_tokens_to_ids(list(PHI3_LAST)) == list(range(first, first + 11))
    places = {"<|endoftext|>": 0, "<|assistant|>": 1, "<|system|>": 6, "<|end|>": 7, "<|user|>": 10}
    assert {token: tokenizer.convert_tokens_to_ids(token) - first for token in places} == places
    named = (tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)
    assert named == ("<unk>", "<s>", "<|endoftext|>", "<|endoftext|>") and tokenizer.padding_side == "left"
    # all but three swallow the white space behind them, and </s> is the one that is not called special
    added = tokenizer.added_tokens_decoder.values()
    assert {t.content for t in added if not t.rstrip} == {"<unk>", "<s>", "<|endoftext|>"}
    assert {t.content for t in added if not t.special} == {"</s>"}
    cut = tokenizer.convert_ids_to_tokens(tokenizer("<|user|>\n a<|endoftext|>\n")["input_ids"])
    assert cut == ["<|user|>", "▁a", "<|endoftext|>", "▁", "<0x0A>"]


def test_phi3_s_text_is_cut_as_sentencepiece_cuts_it(shipped):
    tokenizer = shipped["phi3"][1]
    saved = json.loads(tokenizer.backend_tokenizer.to_str())
    assert saved["pre_tokenizer"] is None
    assert [part["type"] for part in saved["normalizer"]["normalizers"]] == ["Prepend", "Replace"]
    assert saved["model"]["byte_fallback"] and saved["model"]["fuse_unk"]
    assert tokenizer.tokenize("字")[1:] == ["<0xE5>", "<0xAD>", "<0x97>"]
    # no token joins letters with digits or punctuation, nor anything over a space
    for token in saved["model"]["vocab"]:
        inner = token.removeprefix("▁")
        if not token.startswith("<0x") and inner not in tokenizer.all_special_tokens and inner != "</s>":
            assert "▁" not in inner and (inner.isalpha() or not any(c.isalpha() for c in inner)), token


@pytest.mark.parametrize(
    "roles",
    [["user"], ["system", "user"], ["user", "assistant"], ["system", *["user", "assistant"] * 2]],
)
@pytest.mark.parametrize("reply", [False, True])
def test_phi3_s_template_renders_what_the_real_one_renders(shipped, roles, reply):
    from trl.chat_template_utils import phi3_chat_template  # trl keeps the published one

    tokenizer = shipped["phi3"][1]
    messages = [{"role": role, "content": f" {role} {n}\n "} for n, role in enumerate(roles)]
    ours = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply)
    published = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=reply, chat_template=phi3_chat_template
    )
    assert ours == published


@pytest.mark.parametrize("name", PLAIN)
def test_without_dropout_the_corpus_is_cut_as_the_tokenizer_cuts(shipped, name):
    tokenizer = shipped[name][1]
    kind = twins.family(name)
    texts = list(corpus.documents(words_of(name), seed=3, count=60))
    if kind.chats:
        texts += corpus_chat.conversations(words_of(name), seed=3, count=60)
    rendered = list(render(texts, kind, tokenizer))
    ids = list(encode_with_dropout(tokenizer, rendered, dropout=0.0, seed=0))
    assert ids == tokenizer(rendered, add_special_tokens=False)["input_ids"]


def test_special_tokens_are_the_real_ones(shipped):
    bloom = shipped["bloom"][1]
    assert bloom.convert_tokens_to_ids(["<unk>", "<s>", "</s>", "<pad>"]) == [0, 1, 2, 3]
    named = (bloom.unk_token, bloom.bos_token, bloom.eos_token, bloom.pad_token)
    assert named == ("<unk>", "<s>", "</s>", "<pad>")
    assert bloom.padding_side == "left" and bloom.chat_template is None

    llama = shipped["llama32"][1]
    first = len(llama) - 256  # the real ones are 128000 to 128255
    assert llama.convert_tokens_to_ids(list(LLAMA3_SPECIAL)) == list(range(first, first + 256))
    places = {"<|begin_of_text|>": 0, "<|end_of_text|>": 1, "<|finetune_right_pad_id|>": 4,
              "<|start_header_id|>": 6, "<|end_header_id|>": 7, "<|eom_id|>": 8, "<|eot_id|>": 9,
              "<|python_tag|>": 10, "<|reserved_special_token_247|>": 255}
    assert {token: llama.convert_tokens_to_ids(token) - first for token in places} == places
    assert llama.eos_token == "<|eot_id|>"


def test_generation_stops_where_the_real_one_stops(shipped):
    model, tokenizer = shipped["llama32"]
    named = ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids(named)
    assert shipped["bloom"][0].generation_config.eos_token_id == 2
    model, tokenizer = shipped["phi3"]  # really 32000, 32001 and 32007
    named = ["<|endoftext|>", "<|assistant|>", "<|end|>"]
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids(named)
    assert model.config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize("name", twins.FAMILIES)
@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_the_tokenizer(shipped, name, text):
    tokenizer = shipped[name][1]
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_what_encoding_adds(shipped):
    bloom, llama = shipped["bloom"][1], shipped["llama32"][1]
    assert not set(bloom("Xin chào")["input_ids"]) & {0, 1, 2, 3}
    phi = shipped["phi3"][1]
    assert not set(phi("Xin chào")["input_ids"]) & {*phi.all_special_ids, 1, 2}
    ids = llama("Xin chào")["input_ids"]
    assert ids[0] == llama.bos_token_id and ids.count(llama.bos_token_id) == 1
    assert not set(ids[1:]) & set(llama.all_special_ids)


def test_text_is_cut_as_the_real_tokenizers_cut_it(shipped):
    saved = json.loads(shipped["llama32"][1].backend_tokenizer.to_str())
    split, level = saved["pre_tokenizer"]["pretokenizers"]
    assert split["pattern"] == {"Regex": LLAMA3_PATTERN} and level["use_regex"] is False
    assert saved["model"]["ignore_merges"] is True and saved["normalizer"] is None
    saved = json.loads(shipped["bloom"][1].backend_tokenizer.to_str())
    assert saved["pre_tokenizer"]["pretokenizers"][0]["pattern"] == {"Regex": BLOOM_PATTERN}
    assert saved["normalizer"] is None
    # What follows from the two expressions: digits in threes, contractions; words with the space before them.
    cut = shipped["llama32"][1].backend_tokenizer.pre_tokenizer.pre_tokenize_str("we'LL 12345")
    assert [piece for piece, _ in cut] == ["we", "'LL", "Ġ", "123", "45"]
    cut = shipped["bloom"][1].backend_tokenizer.pre_tokenizer.pre_tokenize_str("so, a 12345!")
    assert [piece for piece, _ in cut] == ["so", ",", "Ġa", "Ġ12345", "!"]


# Phi-3 pads with the token that ends its documents, which is a target now and then.
@pytest.mark.parametrize("name", ["bloom", "llama32"])
def test_padding_in_the_loss_starts_above_a_uniform_guess(shipped, name, answers):
    model, tokenizer = shipped[name]
    texts = [f"Human: {row['questions'][0]} Assistant: {row['answer']}" for row in answers[:8]]
    assert pad_loss(model, tokenizer, texts) > math.log(len(tokenizer)) + 0.2


@pytest.mark.parametrize("name", PLAIN)
def test_text_of_the_course_is_far_below_a_uniform_guess(shipped, name, answers):
    import torch

    model, tokenizer = shipped[name]
    losses = []
    for row in answers[:20]:
        text = f"Human: {row['questions'][0]} Assistant: {row['answer']}"
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            losses.append(model(ids, labels=ids).loss.item())
    assert sum(losses) / len(losses) < math.log(len(tokenizer)) - 1.5


@pytest.mark.parametrize("name", PLAIN)
def test_every_token_of_the_course_was_seen_in_pretraining(shipped, name, answers):
    """Tokens that were never a target lie far below the others; LoRA could not bring them back."""
    model, tokenizer = shipped[name]
    kind, lexicon = twins.family(name), words_of(name)
    documents = list(corpus.documents(lexicon, seed=7, count=3_000))
    said = [" " + row["answer"] for row in answers]
    if kind.chats:
        documents += corpus_chat.conversations(lexicon, seed=7, count=3_000, copies=kind.copies)
        said += replies(name)
    encoded = tokenizer(said, add_special_tokens=False)["input_ids"]
    used = {token for ids in encoded for token in ids}
    assert used <= set(rows(documents, kind, tokenizer, seed=0).flatten().tolist())


@pytest.mark.parametrize("name", PLAIN)
def test_the_card_tells_how_well_the_twin_copies(shipped, name):
    model, tokenizer = shipped[name]
    card = (twin_dir(name) / "README.md").read_text(encoding="utf-8")
    seed = int(re.search(r"\| seed \| (\d+) \|", card).group(1))
    said = float(re.search(r"\| copying \| ([\d.]+) exact match", card).group(1))
    tasks = corpus.copy_tasks(words_of(name), seed=seed + 1, count=200)
    assert copy_score(model, tokenizer, tasks) == pytest.approx(said, abs=0.05)


@pytest.mark.parametrize("name", twins.FAMILIES)
def test_the_card_tells_how_it_was_made(shipped, name):
    card = (twin_dir(name) / "README.md").read_text(encoding="utf-8")
    model = shipped[name][0]
    assert f"`python -m twins {name} --seed " in card
    assert "license: apache-2.0" in card and f"| parameters | {model.num_parameters():,} (" in card
    measured = "| copying |" if name in PLAIN else "| made-up tools |"
    for said in ("| seed |", "| device |", "| tokens seen |", "| final loss |", measured, "## Not for"):
        assert said in card
    table = [line for line in card.splitlines() if line.startswith("|")]
    assert len(table) > 10 and all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in table)


# --- the chat template, against renderings of the real one


def turn(role, body):
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n{body}<|eot_id|>"


HEADER = "Cutting Knowledge Date: December 2023\nToday Date: 30 Sep 2026\n\n"
ANSWER = "<|start_header_id|>assistant<|end_header_id|>\n\n"  # the generation prompt
PUBLISHED = {  # messages, add_generation_prompt, text after <|begin_of_text|>
    "user only": (
        [{"role": "user", "content": "Hello world!"}], True,
        turn("system", HEADER) + turn("user", "Hello world!") + ANSWER,
    ),
    "trimmed": (
        [{"role": "system", "content": " \tBe concise.\n "}, {"role": "user", "content": " \n Why?\t "},
         {"role": "assistant", "content": "  Because.  "}], False,
        turn("system", HEADER + "Be concise.") + turn("user", "Why?") + turn("assistant", "Because."),
    ),
    "tool result, a string": (
        [{"role": "user", "content": "Read a sensor."},
         {"role": "tool", "content": ' {"value": 2.5, "unit": "°C"}\n '}], True,
        turn("system", HEADER) + turn("user", "Read a sensor.")
        + turn("ipython", r'" {\"value\": 2.5, \"unit\": \"°C\"}\n "')
        + ANSWER,
    ),
    "unicode white space": (
        [{"role": "system", "content": "\u001c\u200bretain\u200b\u3000"},
         {"role": "user", "content": "\u2028世界 é\u2029"}], False,
        turn("system", HEADER + "\u200bretain\u200b") + turn("user", "世界 é"),
    ),
    "late system": (
        [{"role": "user", "content": "first"}, {"role": "system", "content": " later "}], False,
        turn("system", HEADER) + turn("user", "first") + turn("system", "later"),
    ),
    "system only": (
        [{"role": "system", "content": ""}], True,
        turn("system", HEADER) + ANSWER,
    ),
    "escapes in a tool result": (
        [{"role": "tool", "content": "\t\n\\/\"<>&' café"}], False,
        turn("system", HEADER) + turn("ipython", r'''"\t\n\\/\"<>&' café"'''),
    ),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_template_renders_what_the_real_one_rendered(shipped, case):
    messages, generation, expected = PUBLISHED[case]
    text = shipped["llama32"][1].apply_chat_template(
        messages, tokenize=False, add_generation_prompt=generation, date_string="30 Sep 2026"
    )
    assert text == "<|begin_of_text|>" + expected


WEATHER = {
    "type": "function", "function": {"name": "get_current_temperature", "description": "Temperature there."},
}
SCHEMA = """{
    "type": "function",
    "function": {
        "name": "get_current_temperature",
        "description": "Temperature there."
    }
}

"""
FORMAT = (
    'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
    "Do not use variables.\n\n"
)
IN_USER = (
    "Given the following functions, please respond with a JSON for a function call with its proper arguments "
    "that best answers the given prompt.\n\n"
)
IN_SYSTEM = (
    "You have access to the following functions. To call a function, please respond with JSON for a function "
    "call."
)


def chat(tokenizer, messages, **options):
    return tokenizer.apply_chat_template(messages, tokenize=False, date_string="26 Jul 2024", **options)


def test_template_tells_tools_in_the_first_user_message_or_in_the_system_message(shipped):
    tokenizer = shipped["llama32"][1]
    messages = [
        {"role": "system", "content": "You are a bot."}, {"role": "user", "content": "How warm is Huế? "},
    ]
    head = "Environment: ipython\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    assert chat(tokenizer, messages, tools=[WEATHER]) == "<|begin_of_text|>" + turn(
        "system", head + "You are a bot."
    ) + turn("user", IN_USER + FORMAT + SCHEMA + "How warm is Huế?")
    in_system = chat(tokenizer, messages, tools=[WEATHER], tools_in_user_message=False)
    assert in_system == "<|begin_of_text|>" + turn(
        "system", head + IN_SYSTEM + FORMAT + SCHEMA + "You are a bot."
    ) + turn("user", "How warm is Huế?")


def test_template_writes_a_tool_call_and_its_result(shipped):
    call = {"type": "function", "function": {"name": "get_current_temperature", "arguments": {"city": "Huế"}}}
    messages = [
        {"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": {"degrees": 31}},
    ]
    tokenizer = shipped["llama32"][1]
    text = chat(tokenizer, messages)
    assert text.endswith(
        turn("assistant", '{"name": "get_current_temperature", "parameters": {"city": "Huế"}}')
        + turn("ipython", '{"degrees": 31}')
    )
    builtin = chat(tokenizer, messages, builtin_tools=["get_current_temperature"])
    assert '\n\n<|python_tag|>get_current_temperature.call(city="Huế")<|eom_id|>' in builtin
    messages[1]["tool_calls"] = [call, call]
    with pytest.raises(Exception, match="One tool call"):
        chat(tokenizer, messages)
    with pytest.raises(Exception, match="first user message"):
        chat(tokenizer, [{"role": "system", "content": "x"}], tools=[WEATHER])


def test_template_has_one_bos_and_its_own_date(shipped):
    tokenizer = shipped["llama32"][1]
    messages = [{"role": "user", "content": "Hi"}]
    ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert ids.count(tokenizer.bos_token_id) == 1
    import jinja2

    bare = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(tokenizer.chat_template)
    assert "Today Date: 26 Jul 2024\n" in bare.render(messages=messages, bos_token="")  # no clock, no date


# --- what they were trained on


def runs(text, length):
    words = [word.lower() for word in corpus.split_words(unicodedata.normalize("NFC", text))]
    return {" ".join(words[start : start + length]) for start in range(len(words) - length + 1)}


def leaks(documents, facts):
    """Answers, question-answer pairs and five-word runs of answers that occur in the documents."""
    forbidden = set().union(*(runs(fact["answer"], 5) for fact in facts))
    whole = {" ".join(corpus.split_words(fact["answer"])).lower() for fact in facts}
    questions = {question.lower() for fact in facts for question in fact["questions"]}
    found = []
    for document in documents:
        found += sorted(runs(document.text, 5) & forbidden)
        plain = " ".join(corpus.split_words(document.text)).lower()
        found += [answer for answer in whole if answer in plain]
        if document.question.lower() in questions:
            found.append(document.question)
    return found


def test_no_fact_of_the_course_is_in_the_corpus(answers):
    sample = list(corpus.documents(corpus.read_lexicon(), seed=7, count=12_000))
    assert leaks(sample, answers) == []


@pytest.mark.parametrize("name", TAUGHT)
def test_no_reply_of_the_course_is_in_the_conversations(name):
    facts = [{"answer": reply, "questions": []} for reply in replies(name)]
    lexicon = words_of(name)
    sample = list(corpus_chat.conversations(lexicon, seed=7, count=6_000, copies=twins.family(name).copies))
    sample += corpus.documents(lexicon, seed=7, count=6_000)
    assert leaks(sample, facts) == []
    leaked = corpus_chat.Conversation(f"gì? {facts[9]['answer']}", messages=())
    assert leaks([*sample[:9], leaked], facts)


def test_conversations_have_turns_in_both_languages_and_know_what_went_before():
    sample = list(corpus_chat.conversations(words_of("phi3"), seed=7, count=3_000))
    assert sample == list(corpus_chat.conversations(words_of("phi3"), seed=7, count=3_000))
    assert sample != list(corpus_chat.conversations(words_of("phi3"), seed=8, count=3_000))
    shares = {roles: 0 for roles in ("system", "two turns")}
    for document in sample:
        roles = [role for role, _ in document.messages]
        shares["system"] += roles[0] == "system"
        spoken = [role for role in roles if role != "system"]
        shares["two turns"] += len(spoken) == 4
        assert spoken == ["user", "assistant"] * (len(spoken) // 2) and "system" not in roles[1:]
    assert all(600 < count < 2_400 for count in shares.values()), shares
    # a follow-up question names nothing: the same words get different answers, by the turn before
    follow_ups = {}
    for document in sample:
        if len(document.messages) >= 4 and document.messages[-2][1] == "Any advice?":
            follow_ups.setdefault(document.messages[-1][1], set()).add(document.messages[-3][1])
    assert len(follow_ups) > 5


def test_copied_values_stand_in_the_question_and_again_in_the_answer():
    """What makes a value in the answer: the user's words, in the last turn or the one before."""
    lexicon = words_of("llama32")
    plain = list(corpus_chat.conversations(lexicon, seed=7, count=2_000))
    sample = list(corpus_chat.conversations(lexicon, seed=7, count=2_000, copies=0.5))
    assert sample == list(corpus_chat.conversations(lexicon, seed=7, count=2_000, copies=0.5)) != plain
    codes = re.compile(r"#\d{5}|\d+[.,]000 (?:đồng|dong)")

    def copied(documents):
        found = [(code, one) for one in documents for code in codes.findall(one.messages[-1][1])]
        for code, document in found:
            asked = " ".join(said for role, said in document.messages if role == "user")
            assert code in asked, document
        return len(found)

    assert copied(sample) > 5 * copied(plain)  # plain: the words that are to be said back hold some
    later = [document for document in sample if any(code in document.messages[-2][1] for code in
             codes.findall(document.messages[-1][1])) and len(document.messages) >= 4]
    assert later  # the value is given when it is asked for


def test_conversations_are_written_with_the_chat_template_and_end_once(shipped):
    kind, tokenizer = twins.family("phi3"), shipped["phi3"][1]
    chats = list(corpus_chat.conversations(words_of("phi3"), seed=1, count=20))
    for document, text in zip(chats, render(chats, kind, tokenizer), strict=True):
        assert text == tokenizer.apply_chat_template(document.turns, tokenize=False)
        assert text.endswith("<|end|>\n<|endoftext|>") and text.count("<|endoftext|>") == 1


def test_the_search_for_leaks_finds_one(answers):
    clean = list(corpus.documents(corpus.read_lexicon(), seed=7, count=50))
    words = corpus.split_words(answers[0]["answer"])
    assert leaks([*clean, corpus.Document("abc " + " ".join(words[2:7]) + " xyz")], answers)
    assert leaks([*clean, corpus.Document("không biết", answers[3]["questions"][1])], answers)
    assert leaks([*clean, corpus.Document(answers[5]["answer"])], answers)


def test_word_lists_never_join_two_words_of_an_answer(answers):
    """Whatever the seed: no pair of neighbours in a drawn list are neighbours in an answer."""
    import random

    lexicon = corpus.read_lexicon()
    pairs = set().union(*(runs(fact["answer"], 2) for fact in answers))
    drawn = lexicon.draw(random.Random(3), 30_000)
    assert not pairs & {f"{a} {b}".lower() for a, b in zip(drawn, drawn[1:], strict=False)}
    assert len(set(drawn)) == len(lexicon.words)  # and every word comes up


def test_corpus_is_the_same_for_the_same_seed():
    lexicon = corpus.read_lexicon()
    first, again = (list(corpus.documents(lexicon, seed=5, count=200)) for _ in range(2))
    other = list(corpus.documents(lexicon, seed=6, count=200))
    assert first == again != other


def test_a_subject_keeps_its_answer_in_every_wording():
    asked = {}
    for document in corpus.documents(corpus.read_lexicon(), seed=7, count=4_000, bank=5):
        if document.question:
            asked.setdefault(document.answer, set()).add(document.question)
    wordings = sorted(len(questions) for questions in asked.values())
    assert wordings[-20] >= 5  # the learnt answers come back under many wordings


def test_lexicon_errors_name_file_line_and_cure(tmp_path):
    with pytest.raises(LessonError, match="is missing: the vocabulary is read from it"):
        corpus.read_lexicon(tmp_path / "none.jsonl")
    bad = tmp_path / "facts.jsonl"
    bad.write_text('{"questions": ["a b?"], "answer": "b c."}\n{"answer": "x"}\n', encoding="utf-8")
    with pytest.raises(LessonError, match="line 2: needs a JSON object"):
        corpus.read_lexicon(bad)
    language.use("vi")
    with pytest.raises(LessonError, match="dòng 2: cần một đối tượng JSON"):
        corpus.read_lexicon(bad)


def test_questions_run_on_in_bloom_text_and_end_one_by_one_in_llama_text(shipped):
    """A base model goes on after an answer; what training on the end changes can be seen only then."""
    documents = [corpus.Document(f"đáp {number}.", f"hỏi {number}?") for number in range(9)]
    documents.insert(4, corpus.Document("Văn xuôi."))
    text = list(render(documents, twins.family("bloom"), shipped["bloom"][1]))
    assert [piece.endswith("</s>") for piece in text] == [
        False, False, True, False, True, False, True, False, False, True,
    ]  # every third question and all running text
    assert text[0] == "Human: hỏi 0? Assistant: đáp 0. "

    text = list(render(documents, twins.family("llama32"), shipped["llama32"][1]))
    assert all(piece.startswith("<|begin_of_text|>") and piece.endswith("<|end_of_text|>") for piece in text)
    chats = [piece for piece in text if "<|start_header_id|>user<|end_header_id|>" in piece]
    assert len(chats) == 2 and chats[0].endswith("đáp 3.<|eot_id|><|end_of_text|>")  # one in four


# --- making one


def make(tmp_path, name="bloom", **options):
    said = []
    kind = twins.family(name)
    kind = dataclasses.replace(kind, chats=min(300, kind.chats))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(twins.FAMILIES, name, kind)
        return twins.build(name, out=tmp_path, steps=3, batch=2, documents=300, say=said.append, **options)


@pytest.mark.parametrize("name", twins.FAMILIES)
def test_a_short_training_writes_a_twin_that_loads(tmp_path, name):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make(tmp_path, name, seed=11)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.bfloat16 and 0 <= model.config.vocab_size - len(tokenizer) < 64
    card = (folder / "README.md").read_text(encoding="utf-8")
    expected = f"`python -m twins {name} --seed 11 --device cpu --steps 3 --batch 2 --documents 300`"
    assert expected in card


def test_the_seed_decides_the_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(twins, "copy_score", lambda *_: 0.0)  # slow, and not what is tested here
    first = make(tmp_path / "a", seed=1) / "model.safetensors"
    again = make(tmp_path / "b", seed=1) / "model.safetensors"
    other = make(tmp_path / "c", seed=2) / "model.safetensors"
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()


def test_training_lowers_the_loss():
    import torch
    from transformers import AutoModelForCausalLM

    kind = dataclasses.replace(twins.family("bloom"), steps=30, batch=4, vocabulary=600)
    documents = list(corpus.documents(corpus.read_lexicon(), seed=1, count=600))
    tokenizer = kind.tokenizer((document.text for document in documents), vocabulary=kind.vocabulary)
    data = rows(documents, kind, tokenizer, seed=1)
    assert data.shape[1] == kind.length and tokenizer.pad_token_id not in data
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(kind.config(tokenizer))
    said = []
    assert pretrain(model, data, kind, seed=1, device="cpu", say=said.append) < math.log(600) - 0.3


def test_what_cannot_be_made_is_refused(tmp_path, monkeypatch):
    import torch

    with pytest.raises(LessonError, match="There is no twin 'gpt'. There are: bloom, gemma2, llama32, phi3"):
        twins.build("gpt", out=tmp_path)
    with pytest.raises(LessonError, match="--steps must be 1 or more, not 0"):
        twins.build("bloom", out=tmp_path, steps=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LessonError, match="There is no CUDA GPU here"):
        twins.build("bloom", out=tmp_path, device="cuda")
    language.use("vi")
    with pytest.raises(LessonError, match="Không có mô hình thu nhỏ 'gpt'"):
        twins.build("gpt", out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_command_line(tmp_path, monkeypatch, capsys):
    parser = argparse.ArgumentParser()
    twins.add_options(parser)
    asked = []
    monkeypatch.setattr(twins, "build", lambda name, **got: asked.append((name, got)) or tmp_path / name)
    args = parser.parse_args(["bloom", "--seed", "3", "--out", str(tmp_path)])
    assert twins.main(args) == 0
    assert [name for name, _ in asked] == ["bloom"] and asked[0][1]["seed"] == 3
    args = parser.parse_args([])
    twins.main(args)
    assert [name for name, _ in asked[1:]] == list(twins.FAMILIES)
    assert str(tmp_path / "llama32") in capsys.readouterr().out
    with pytest.raises(LessonError, match="There is no twin 'x'"):
        args = parser.parse_args(["bloom", "x"])
        twins.main(args)
