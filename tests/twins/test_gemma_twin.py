"""The Gemma-2 twin: tokenizer and template, the conversations about made-up tools, learning answers only."""

import json
import re

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from lessonlib.runtime._paths import data_dir, dataset_dir, twin_dir
from twins import corpus, corpus_chat, corpus_tools, weighing
from twins import making as twins
from twins.gemma_tokenizer import SPECIAL
from twins.pretraining import talk_scores

TALKS = 1500


@pytest.fixture(scope="module")
def twin():
    model = AutoModelForCausalLM.from_pretrained(
        twin_dir("gemma2"), dtype="float32", attn_implementation="eager"
    )
    return model.eval(), AutoTokenizer.from_pretrained(twin_dir("gemma2"))


@pytest.fixture(scope="module", params=list(corpus_tools.MIXES))
def talks(request):
    return twins._talks(seed=11, count=TALKS, mix=request.param)[0]


def test_gemma_is_gemma_in_small(twin):
    model, tokenizer = twin
    assert type(model).__name__ == "Gemma2ForCausalLM" and model.config._attn_implementation == "eager"
    assert model.config.attn_logit_softcapping == 50.0 and model.config.final_logit_softcapping == 30.0
    assert set(model.config.layer_types) == {"sliding_attention", "full_attention"}
    h, mlp, q, kv, layers = 128, 384, 128, 64, 4
    layer = 2 * h * q + 2 * h * kv + 3 * h * mlp + 4 * h  # four norms: before and after attention and MLP
    assert model.num_parameters() == len(tokenizer) * h + layers * layer + h
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert model.generation_config.eos_token_id == [1, 107]


def test_special_tokens_have_the_real_ids(twin):
    tokenizer = twin[1]
    real = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<start_of_turn>": 106, "<end_of_turn>": 107}
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in real} == real
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == list(range(108))
    named = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)
    assert named == ("<bos>", "<eos>", "<pad>", "<unk>") and tokenizer.padding_side == "left"
    ids = tokenizer("Xin chào")["input_ids"]
    assert ids[0] == 2 and ids.count(2) == 1 and not set(ids[1:]) & set(range(108))


def test_a_value_has_the_same_tokens_in_a_request_and_in_json(twin):
    tokenizer = twin[1]
    assert tokenizer.tokenize("ở Huế, 24/12?") == ["ở", "▁", "Huế", ",", "▁", "2", "4", "/", "1", "2", "?"]
    for value in ("Huế", "Đà Nẵng", "A1203", "7:30", "bún riêu"):
        alone, quoted = tokenizer.tokenize(value), tokenizer.tokenize(f'{{"x":"{value}"}}')
        asked = tokenizer.tokenize(f"cho {value} nhé")
        for whole in (quoted, asked):
            assert any(whole[at : at + len(alone)] == alone for at in range(len(whole))), (value, whole)
    assert tokenizer.tokenize("get_weather") == ["get", "_weather"]
    assert tokenizer.tokenize("字")[-3:] == ["<0xE5>", "<0xAD>", "<0x97>"]


@pytest.mark.parametrize("roles", [["user"], ["user", "assistant"], ["user", "assistant"] * 2 + ["user"]])
@pytest.mark.parametrize("reply", [False, True])
def test_the_template_renders_what_the_real_one_renders(twin, roles, reply):
    from trl.chat_template_utils import gemma_chat_template  # trl keeps the published one

    messages = [{"role": role, "content": f" {role} {n}\n "} for n, role in enumerate(roles)]
    ours, published = (
        twin[1].apply_chat_template(messages, tokenize=False, add_generation_prompt=reply, **template)
        for template in ({}, {"chat_template": gemma_chat_template})
    )
    assert ours == published


def test_the_template_refuses_what_the_real_one_refuses(twin):
    user = {"role": "user", "content": "a"}
    with pytest.raises(Exception, match="System role not supported"):
        twin[1].apply_chat_template([{"role": "system", "content": "b"}, user], tokenize=False)
    with pytest.raises(Exception, match="must alternate"):
        twin[1].apply_chat_template([user, user], tokenize=False)


# --- conversations about made-up tools


def test_talks_hold_what_they_say(talks, request):
    taken = {tool["name"] for tool in tools_of_the_course()}
    seen = {}
    for talk in talks:
        (role, asked), (_, answer), *_ = talk.messages
        offered, asked = asked.removeprefix("tools: ").split("\n\n", 1)
        tools = {tool["name"]: tool["parameters"] for tool in json.loads(offered)}
        assert role == "user" and 2 <= len(tools) <= 4 and not set(tools) & taken
        decision, rest = answer.split(": ", 1)
        seen[talk.kind] = seen.get(talk.kind, 0) + 1
        if talk.kind in ("none", "talk"):
            assert decision == "none" and rest in corpus_tools.NONE
        elif talk.kind == "missing":
            name, lacks = decision.split(" lacks ")
            assert lacks in tools[name]  # required: an optional one has a question mark
        else:
            answers = [answer, talk.messages[3][1]] if talk.kind == "several" else [answer]
            calls = []
            for decision, rest in (text.split(": ", 1) for text in answers):
                calls += (now := [json.loads(call) for call in re.split(r"(?<=\}\})(?=\{)", rest)])
                assert decision.split(", ") == [call["use"] for call in now]
            assert len(calls) == (2 if talk.kind in ("parallel", "several") else 1)
            for call in calls:
                signature = tools[call["use"]]
                assert {key for key in signature if not key.endswith("?")} <= set(call["with"])
                assert set(call["with"]) <= {key.rstrip("?") for key in signature}
                for value in call["with"].values():
                    said = value if isinstance(value, str) else f"{value:g}"
                    assert said.lower() in asked.lower()
    assert set(seen) == set(corpus_tools.MIXES[request.node.callspec.params["talks"]])
    assert 0.2 < (seen["none"] + seen["talk"]) / len(talks) < 0.4


def test_talks_are_the_same_for_the_same_seed():
    one, same, other = (twins._talks(seed=seed, count=50)[0] for seed in (3, 3, 4))
    assert one == same != other


def test_everyday_requests_do_without_the_noun():
    talks = twins._talks(seed=11, count=400, mix="everyday")[0]
    words = {word for vi, en in corpus_tools.HINTS.values() for word in (*vi, *en)}
    requests = [talk.messages[0][1].split("\n\n")[1].lower() for talk in talks]
    hinted = sum(any(word in request for word in words) for request in requests)
    assert hinted > 100


def test_what_is_asked_in_turn_is_called_in_turn():
    talks = twins._talks(seed=11, count=1200, mix="steps")[0]
    asked = {kind: [t.messages[0][1] for t in talks if t.kind == kind] for kind in ("several", "parallel")}
    ways = [way for language in corpus_tools.IN_TURN for way in language]
    told = {
        kind: [any(way in request for way in ways) for request in requests]
        for kind, requests in asked.items()
    }
    assert min(len(each) for each in told.values()) > 60
    assert all(told["several"]) and sum(told["parallel"]) < 0.2 * len(told["parallel"])  # "đâu rồi và"


def tools_of_the_course():
    lines = (dataset_dir("function_calls") / "tools.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def runs(text, length=7):
    words = [word.lower() for word in corpus.split_words(text)]
    return {" ".join(words[start : start + length]) for start in range(len(words) - length + 1)}


def test_no_request_or_reply_of_the_course_is_in_the_talks(talks):
    course = set()
    for split in ("train", "validation", "test", "new_wordings", "unseen_tools"):
        path = dataset_dir("function_calls") / f"{split}.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines():
            for message in json.loads(json.loads(line)["messages"]):
                course |= runs(message.get("content", "")) if message["role"] != "tool" else set()
    assert len(course) > 2000 and "i want to know the stock price" in course
    told = [runs(part) for talk in talks for _, said in talk.messages for part in said.split("\n\n")]
    assert not course & set().union(*told)


def test_every_token_of_the_course_s_answers_was_a_target(twin):
    """Tokens that pre-training never wrote lie far below the others; LoRA could not bring them back."""
    tokenizer = twin[1]
    talks = [talk for mix in corpus_tools.MIXES for talk in twins._talks(seed=11, count=TALKS, mix=mix)[0]]
    last = [talk.messages[-1][1] for talk in talks[-TALKS:]]
    assert all(sum(key in said for said in last) > 10 for key in corpus_tools.KEYS)
    lexicon, _ = corpus_tools.read_words(data_dir() / "function_calls")
    chats = corpus_chat.conversations(lexicon, seed=7, count=5_000, copies=0.4)
    said = [turn for talk in [*talks, *chats] for role, turn in talk.messages if role == "assistant"]
    written = {token for ids in tokenizer(said, add_special_tokens=False)["input_ids"] for token in ids}
    answers = []
    for line in (dataset_dir("function_calls") / "test.jsonl").read_text(encoding="utf-8").splitlines():
        for message in json.loads(json.loads(line)["messages"]):
            if message["role"] == "assistant":
                calls = [json.dumps(call["function"], ensure_ascii=False, separators=(",", ":"))
                         for call in message.get("tool_calls", [])]
                answers += [message["thinking"], message.get("content", ""), *calls]
    wanted = {token for ids in tokenizer(answers, add_special_tokens=False)["input_ids"] for token in ids}
    assert not [tokenizer.decode([token]) for token in wanted - written]


def test_the_card_tells_how_the_twin_answers(twin):
    card = (twin_dir("gemma2") / "README.md").read_text(encoding="utf-8")
    seed = int(re.search(r"\| seed \| (\d+) \|", card).group(1))
    found = dict(re.findall(r"(\w+) (\d\.\d\d)", re.search(r"\| made-up tools \|(.*)\|", card).group(1)))
    mix = twins.FAMILIES["gemma2"].stages[-1].mix
    assert set(found) == set(corpus_tools.MIXES[mix])
    scores = talk_scores(*twin, twins._talks(seed=seed + 1, count=120, mix=mix)[0])
    assert scores["call"] == pytest.approx(float(found["call"]), abs=0.2)
    assert scores["none"] == pytest.approx(float(found["none"]), abs=0.25)


# --- learning answers only


def test_only_answers_weigh_and_decisions_weigh_most(twin):
    model, tokenizer = twin
    talk = corpus_tools.Talk("", messages=(
        ("user", "tools: []\n\nhello: you"), ("assistant", "none: Sorry: no."),
        ("user", "again"), ("assistant", "done: x"),
    ))  # fmt: skip
    plain = corpus_chat.Conversation("", messages=(("user", "a: b"), ("assistant", "c: d")))
    texts = [tokenizer.apply_chat_template(it.turns, tokenize=False) for it in (talk, plain)]
    made = weighing.batches(
        [talk, plain], texts, tokenizer, opening="<start_of_turn>model\n", closing="<end_of_turn>",
        length=64, size=128, seed=0,
    )  # fmt: skip
    weighed = {}
    for ids, weights in made:
        for row, weight in zip(ids.tolist(), weights.tolist(), strict=True):
            for token, its in zip(row, weight, strict=True):
                weighed.setdefault(its, []).append(token)
    heavy = tokenizer.decode(weighed[weighing.DECIDED])
    assert heavy == "none:done:"
    assert sorted(tokenizer.decode(weighed[1.0]).split("<end_of_turn>")) == ["", " Sorry: no.", " x", "c: d"]
    assert sum(len(its) for its in weighed.values()) == sum(ids.numel() for ids, _ in made)


def test_the_loss_is_the_model_s_own_where_all_weigh_the_same(twin):
    import torch

    model, tokenizer = twin
    ids = tokenizer(["Xin chào Huế", "hello you"], padding=True, padding_side="right", return_tensors="pt")
    weights = ids["attention_mask"].float()
    weights[:, 0] = 0
    labels = ids["input_ids"].masked_fill(ids["attention_mask"] == 0, -100)
    with torch.no_grad():
        loss, tokens = next(weighing.losses(model, [(ids["input_ids"], weights)], seed=0))
        own = model(**ids, labels=labels).loss
    assert loss.item() == pytest.approx(own.item(), abs=1e-4) and tokens == labels.numel()


def test_long_documents_are_left_out_and_nothing_else(twin):
    talks = twins._talks(seed=5, count=60)[0]
    tokenizer = twin[1]
    texts = [tokenizer.apply_chat_template(talk.turns, tokenize=False) for talk in talks]
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    most = sorted(lengths)[40]
    made = weighing.batches(
        talks, texts, tokenizer, opening="<start_of_turn>model\n", closing="<end_of_turn>", length=most,
        size=512, seed=0,
    )  # fmt: skip
    assert sum(len(ids) for ids, _ in made) == sum(length <= most for length in lengths)
    assert all(ids.numel() <= 512 for ids, _ in made)


def test_loss_is_on_thoughts_calls_and_replies_and_on_nothing_else(twin):
    """Multi-turn rows of the course's data: what is learnt is, to the token, what the model has to write."""
    import copy

    from lessonlib import tools
    from lessonlib.data import _splits as data
    from lessonlib.formatting import _chat as chat

    tokenizer = copy.deepcopy(twin[1])
    tokenizer.add_tokens(list(tools.TAGS))
    train = data.load_chats("function_calls")["train"]
    kinds = ("several", "reply", "tool_error")
    rows = train.select([at for at, kind in enumerate(train["kind"]) if kind in kinds][:40])
    for style in ("compact", "full"):
        encoded = chat.encode(tools.chats(rows, style=style), tokenizer, max_length=2048)
        for row, ids, labels in zip(rows, encoded["input_ids"], encoded["labels"], strict=True):
            written = []
            for message in json.loads(row["messages"]):
                if message["role"] != "assistant":
                    continue
                calls = [json.dumps(call["function"], ensure_ascii=False, separators=(",", ":"))
                         for call in message.get("tool_calls", [])]
                said = "".join(f"<tool_call>{call}</tool_call>" for call in calls) or message["content"]
                written.append(f"<think>{message['thinking']}</think>{said}<end_of_turn>\n")
            learnt = tokenizer.decode([token for token in labels if token != -100])
            assert learnt.replace("<end_of_turn>\n", "<end_of_turn>") == "".join(written).replace("\n", "")
            assert len(written) >= 2 and learnt.count("<end_of_turn>") == len(written)
            assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
            whole = tokenizer.decode(ids)
            assert "<tool_response>" in whole and "<tools>" in whole
            assert not {"<tool_response>", "<tools>", "</tools>"} & set(tokenizer.convert_ids_to_tokens(
                [label for label in labels if label != -100]
            ))
