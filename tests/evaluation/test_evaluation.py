import copy
import math
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model

from lessonlib.evaluation import _answers as evaluation
from lessonlib.evaluation import _likelihood as likelihood
from lessonlib.evaluation import _scoring as scoring
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError

PROMPTS = [
    "Human: Học máy là gì? Assistant:",
    "Human: What is a token? Assistant:",
    "Mạng",
    "Human: Mạng nơ-ron gồm nhiều lớp, mỗi lớp có nhiều nút. Học máy là gì? Assistant:",
    "a b c",
]


def by_hand(model, tokenizer, prompt, *, new):
    """Greedy decoding without batch, cache or padding: the reference."""
    ids = tokenizer(prompt)["input_ids"]
    said = []
    for _ in range(new):
        with torch.no_grad():
            token = int(model(torch.tensor([ids + said]), use_cache=False).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        said.append(token)
    return said


@pytest.fixture(params=["tiny_bloom", "tiny_llama"])
def model(request):
    """Layers made to outweigh the tied embedding, or a random model only repeats its last token."""
    model = request.getfixturevalue(request.param)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in name:
                weight *= 15
    return model


def with_lora(model):
    target = ["query_key_value"] if "Bloom" in type(model).__name__ else ["q_proj", "v_proj"]
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=target, task_type="CAUSAL_LM"))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    return tuned


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_answers_are_those_of_greedy_decoding_one_by_one(model, tokenizer, batch_size):
    expected = [by_hand(model, tokenizer, prompt, new=8) for prompt in PROMPTS]
    assert len({tuple(ids) for ids in expected}) > 3 and max(len(set(ids)) for ids in expected) > 2
    found = evaluation.continuations(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=batch_size)
    assert found == expected
    texts = evaluation.answers(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=batch_size)
    assert texts == [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in expected]


def test_answers_end_at_the_end_of_sequence_token(tiny_bloom, tokenizer, monkeypatch):
    said = tokenizer(" Học máy")["input_ids"]
    script = [*said, tokenizer.eos_token_id, *said]

    def scripted(input_ids, **_):
        new = torch.tensor([script] * len(input_ids))
        return torch.cat([input_ids, new], dim=1)

    monkeypatch.setattr(tiny_bloom, "generate", scripted)
    assert evaluation.answers(tiny_bloom, tokenizer, PROMPTS) == ["Học máy"] * len(PROMPTS)


def test_answers_really_stop_generating_at_the_tokens_of_the_models_own_settings(model, tokenizer):
    first = by_hand(model, tokenizer, PROMPTS[0], new=1)[0]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, first]
    assert evaluation.answers(model, tokenizer, PROMPTS[:1]) == [""]


def test_answers_of_a_peft_model_are_the_tuned_ones(model, tokenizer):
    before = evaluation.continuations(model, tokenizer, PROMPTS, max_new_tokens=8)
    tuned = with_lora(model).eval()
    expected = [by_hand(tuned, tokenizer, prompt, new=8) for prompt in PROMPTS]
    assert expected != before
    assert evaluation.continuations(tuned, tokenizer, PROMPTS, max_new_tokens=8) == expected


def test_answers_ignore_sampling_and_penalties_in_the_models_settings(model, tokenizer):
    plain = evaluation.continuations(model, tokenizer, PROMPTS, max_new_tokens=8)
    settings = model.generation_config
    settings.update(do_sample=True, temperature=2.0, repetition_penalty=5.0, no_repeat_ngram_size=1)
    assert evaluation.continuations(model, tokenizer, PROMPTS, max_new_tokens=8) == plain
    assert model.generation_config is settings and settings.repetition_penalty == 5.0


@pytest.mark.parametrize("fails", [False, True])
def test_answers_leave_model_and_tokenizer_as_they_were(model, tokenizer, monkeypatch, fails):
    tuned = with_lora(model)
    tuned.train()
    tuned.gradient_checkpointing_enable()
    tuned.enable_input_require_grads()
    tuned.config.use_cache = False
    frozen = next(module for module in tuned.modules() if "Norm" in type(module).__name__)
    frozen.eval()  # one module in another mode than the rest
    state = {name: weight.clone() for name, weight in tuned.state_dict().items()}
    side, pad = tokenizer.padding_side, tokenizer.pad_token
    settings = model.generation_config
    if fails:
        monkeypatch.setattr(tuned, "generate", lambda **_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            evaluation.answers(tuned, tokenizer, PROMPTS, max_new_tokens=2)
    else:
        evaluation.answers(tuned, tokenizer, PROMPTS, max_new_tokens=2)
    assert tuned.training and not frozen.training
    assert tuned.config.use_cache is False and tuned.is_gradient_checkpointing
    assert model.generation_config is settings
    assert (tokenizer.padding_side, tokenizer.pad_token) == (side, pad)
    assert all(torch.equal(state[name], weight) for name, weight in tuned.state_dict().items())


@pytest.mark.parametrize("pad", [None, "</s>"])
def test_a_pad_token_that_is_missing_or_equal_to_eos_changes_nothing(model, tokenizer, pad):
    expected = evaluation.continuations(model, tokenizer, PROMPTS, max_new_tokens=8)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = pad
    assert evaluation.continuations(model, tokenizer, PROMPTS, max_new_tokens=8) == expected


def test_a_prompt_that_brings_its_own_bos_gets_no_second_one(tokenizer):
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    adds = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    adds.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    plain, rendered = evaluation.prompt_ids(adds, ["Học máy", "<s>Học máy"])
    assert plain == rendered and plain.count(1) == 1


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("Human:", "must be a list of texts"),
        (["a", "Human: b? Assistant: "], "row 1 ends in white space"),
        (["a\n"], "row 0 ends in white space"),
        (["a", " "], "row 1 is empty"),
    ],
)
def test_prompts_that_cannot_be_answered_are_refused(tiny_bloom, tokenizer, prompts, message):
    with pytest.raises(LessonError, match=message):
        evaluation.answers(tiny_bloom, tokenizer, prompts)


def test_white_space_is_allowed_where_the_chat_template_puts_it(tiny_llama, tokenizer):
    """What a template rendered ends as it did in training; all other white space is still refused."""
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = (
        "{% for m in messages %}{{ m.role + ':\n' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
    )
    prompt = chatty.apply_chat_template(
        [{"role": "user", "content": "Học máy là gì?"}], tokenize=False, add_generation_prompt=True
    )
    assert evaluation.prompt_ids(chatty, [prompt]) == [chatty(prompt)["input_ids"]]
    assert len(evaluation.answers(tiny_llama, chatty, [prompt], max_new_tokens=2)) == 1
    for spoilt in (prompt + " ", prompt + "\n", prompt[:-1] + " ", "user:\n"):
        with pytest.raises(LessonError, match="row 1 ends in white space"):
            evaluation.prompt_ids(chatty, [prompt, spoilt])
    with pytest.raises(LessonError, match="row 0 ends in white space"):
        evaluation.prompt_ids(tokenizer, [prompt])  # without the template nobody knows



def test_the_refusal_of_a_trailing_space_speaks_vietnamese(tiny_bloom, tokenizer):
    language.use("vi")
    with pytest.raises(LessonError, match="Prompt ở dòng 0 có khoảng trắng ở cuối"):
        evaluation.answers(tiny_bloom, tokenizer, ["Human: a? Assistant: "])


def test_answers_need_an_end_of_sequence_token(tiny_bloom, tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = None
    tiny_bloom.generation_config.eos_token_id = None
    with pytest.raises(LessonError, match="no end-of-sequence token"):
        evaluation.answers(tiny_bloom, tokenizer, ["a"])


@pytest.mark.parametrize("headless", [True, False])
def test_a_progress_bar_only_where_somebody_looks(tiny_bloom, tokenizer, monkeypatch, capsys, headless):
    monkeypatch.setattr("lessonlib.runtime._detect.headless", lambda: headless)
    evaluation.answers(tiny_bloom, tokenizer, PROMPTS, max_new_tokens=1)
    assert ("0/5" in capsys.readouterr().err) is not headless


# ---------------------------------------------------------------- answer_loss


@pytest.fixture
def encoded(tokenizer):
    """Rows of different length and share of loss, so that a mean of means would be wrong."""
    long = " trí tuệ nhân tạo, mạng nơ-ron, mỗi lớp có nút"
    rows = []
    for prompt, answer in [("Human: Học máy là gì?", " một nhánh"), ("a", long), ("b c", " d")]:
        head, tail = tokenizer(prompt)["input_ids"], tokenizer(answer)["input_ids"] + [2]
        rows.append({"input_ids": head + tail, "labels": [-100] * len(head) + tail})
    return Dataset.from_list(rows)


def loss_by_hand(model, rows):
    total, count = 0.0, 0
    for row in rows:
        with torch.no_grad():
            chances = model(torch.tensor([row["input_ids"]])).logits[0].double().log_softmax(-1)
        for position, label in enumerate(row["labels"]):
            if position and label != -100:
                total -= chances[position - 1, label].item()
                count += 1
    return total / count


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_answer_loss_is_the_sum_over_tokens_by_the_number_of_tokens(model, encoded, batch_size):
    expected = loss_by_hand(model, encoded)
    mean_of_means = sum(loss_by_hand(model, [row]) for row in encoded) / len(encoded)
    assert abs(expected - mean_of_means) > 0.01
    assert evaluation.answer_loss(model, encoded, batch_size=batch_size) == pytest.approx(expected, abs=1e-4)


def test_answer_loss_does_not_count_the_first_token(model):
    rows = Dataset.from_list([{"input_ids": [5, 6, 7], "labels": [5, -100, 7]}])
    assert evaluation.answer_loss(model, rows) == pytest.approx(loss_by_hand(model, rows), abs=1e-4)


def test_answer_loss_respects_an_attention_mask(model, encoded):
    padded = [
        {
            "input_ids": [3] * 9 + row["input_ids"],
            "labels": [-100] * 9 + row["labels"],
            "attention_mask": [0] * 9 + [1] * len(row["input_ids"]),
        }
        for row in encoded
    ]
    expected = evaluation.answer_loss(model, encoded)
    assert evaluation.answer_loss(model, Dataset.from_list(padded)) == pytest.approx(expected, abs=1e-4)


def test_answer_loss_leaves_the_model_as_it_was(model, encoded):
    tuned = with_lora(model)
    tuned.train()
    evaluation.answer_loss(tuned, encoded)
    assert tuned.training and all(weight.grad is None for weight in tuned.parameters())


def test_an_untrained_model_has_about_the_loss_of_a_uniform_guess(tiny_bloom, encoded):
    uniform = math.log(tiny_bloom.config.vocab_size)
    assert evaluation.answer_loss(tiny_bloom, encoded) == pytest.approx(uniform, abs=0.5)


@pytest.mark.parametrize("rows", [[], [{"input_ids": [5, 6], "labels": [-100, -100]}]])
def test_answer_loss_without_a_token_to_predict_is_refused(tiny_bloom, rows):
    with pytest.raises(LessonError, match="No token carries loss"):
        evaluation.answer_loss(tiny_bloom, Dataset.from_list(rows))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_answers_of_a_model_whose_logits_are_no_numbers_are_refused(tiny_bloom, tokenizer, broken):
    with torch.no_grad():
        tiny_bloom.transformer.ln_f.bias[0] = broken
    with pytest.raises(LessonError, match=r"logits are NaN or infinite.*checkpoint.*float16 overflows"):
        evaluation.answers(tiny_bloom, tokenizer, PROMPTS, max_new_tokens=3)


def test_tokens_that_sampling_rules_out_are_no_broken_logits(tiny_bloom, tokenizer):
    ids = torch.tensor([tokenizer(PROMPTS[0])["input_ids"]])
    said = tiny_bloom.generate(
        ids, do_sample=True, top_k=5, top_p=0.9, max_new_tokens=4, pad_token_id=3,
        logits_processor=evaluation.finite_logits(),
    )  # fmt: skip
    assert said.shape[1] > ids.shape[1]


def test_a_loss_that_is_not_a_number_is_refused(tiny_bloom, encoded):
    with torch.no_grad():
        tiny_bloom.transformer.ln_f.weight[0] = float("nan")
    with pytest.raises(LessonError, match="NaN or infinite"):
        evaluation.answer_loss(tiny_bloom, encoded)
    language.use("vi")
    with pytest.raises(LessonError, match="fp16 bị tràn số"):
        evaluation.answer_loss(tiny_bloom, encoded)


# ---------------------------------------------------------------- perplexity


def test_answer_losses_are_those_of_each_row_alone_in_the_datasets_order(model, encoded):
    found = evaluation.answer_losses(model, encoded, batch_size=2)
    assert list(found.columns) == ["nats", "tokens"]
    assert found["tokens"].tolist() == [sum(label != -100 for label in row["labels"]) for row in encoded]
    lengths = [len(row["input_ids"]) for row in encoded]
    assert lengths != sorted(lengths, reverse=True)  # rows are taken by length, so a wrong order would show
    for row, nats, tokens in zip(encoded, found["nats"], found["tokens"], strict=True):
        assert nats / tokens == pytest.approx(loss_by_hand(model, [row]), abs=1e-4)
    total = found["nats"].sum() / found["tokens"].sum()
    assert evaluation.answer_loss(model, encoded, batch_size=2) == pytest.approx(total, rel=1e-12)


def perplexity(model, rows, **groups):
    return likelihood.perplexity_of(evaluation.answer_losses(model, rows), **groups)


def test_a_row_without_loss_is_passed_over(model, encoded):
    silent = {"input_ids": [5, 6, 7], "labels": [5, -100, -100]}
    rows = Dataset.from_list([encoded[0], silent, encoded[1]])
    found = evaluation.answer_losses(model, rows)
    assert found.loc[1].tolist() == [0.0, 0]
    two = perplexity(model, rows)
    assert two.n == 2 and two.mean == pytest.approx(math.exp(loss_by_hand(model, rows)), rel=1e-3)
    assert perplexity(model, encoded.select([0, 1])) == two


def test_perplexity_is_exp_of_the_loss_with_an_interval_around_it(model, encoded):
    found = perplexity(model, encoded, groups=["a", "b", "c"])
    assert found.n == 3 and found == perplexity(model, encoded)
    assert found.mean == pytest.approx(math.exp(evaluation.answer_loss(model, encoded)))
    rows = [math.exp(evaluation.answer_loss(model, encoded.select([row]))) for row in range(3)]
    assert min(rows) * 0.999 < found.low < found.mean < found.high < max(rows) * 1.001


def losses_of(nats, tokens):
    return pd.DataFrame({"nats": nats, "tokens": tokens})


def test_perplexity_weighs_tokens_and_resamples_groups():
    found = likelihood.perplexity_of(losses_of([2.0, 9.0], [2, 3]))
    assert found.mean == pytest.approx(math.exp(11 / 5))  # not the mean of e and e^3
    # Two groups: a sample is one of them twice (a quarter of the samples each) or both.
    assert (found.low, found.high) == (pytest.approx(math.e), pytest.approx(math.exp(3)))
    certain = likelihood.perplexity_of(losses_of([0.0] * 5, [3] * 5))
    assert (certain.mean, certain.low, certain.high) == (1, 1, 1)
    uniform = likelihood.perplexity_of(losses_of([math.log(400) * n for n in range(1, 9)], range(1, 9)))
    assert (uniform.mean, uniform.low, uniform.high) == pytest.approx((400, 400, 400))


def test_the_interval_is_close_to_theory():
    """A mean of n independent losses per token: half its width is 1.96 standard errors, in logarithms."""
    rng = np.random.default_rng(1)
    nats = rng.normal(2.0, 0.5, size=400)
    found = likelihood.perplexity_of(losses_of(nats * 10, [10] * 400))
    half = 1.96 * nats.std() / math.sqrt(400)
    assert math.log(found.low) == pytest.approx(nats.mean() - half, abs=half / 10)
    assert math.log(found.high) == pytest.approx(nats.mean() + half, abs=half / 10)


def test_rows_of_a_group_are_drawn_together():
    """Four copies of each row are no new evidence: by rows the interval is half as wide, by groups not."""
    nats, tokens = [1.0, 2.0, 4.0, 3.0, 8.0] * 4, [2, 2, 2, 2, 2] * 4
    few, many = losses_of(nats[:5], tokens[:5]), losses_of(nats, tokens)
    once, blind = likelihood.perplexity_of(few), likelihood.perplexity_of(many)
    grouped = likelihood.perplexity_of(many, groups=list("abcde") * 4)
    assert (grouped.mean, grouped.low, grouped.high) == pytest.approx((once.mean, once.low, once.high))
    assert grouped.n == 5 and blind.n == 20
    assert math.log(blind.high / blind.low) < 0.65 * math.log(once.high / once.low)


BASE = {"new": losses_of([4.0, 12.0, 2.0, 20.0], [2, 4, 1, 5]), "old": losses_of([3.0, 6.0], [3, 3])}


def better(factor, splits=BASE):
    """A model that spends this much less on each token, whatever the row."""
    saved = math.log(factor)
    return {name: losses_of(it["nats"] - saved * it["tokens"], it["tokens"]) for name, it in splits.items()}


def test_two_models_are_compared_by_a_paired_ratio():
    found = likelihood.compare_perplexity({"base": BASE, "tuned": better(2)})
    assert list(found.index) == ["new", "old"] and found.index.name == "split"
    assert list(found.columns.get_level_values(0).unique()) == ["base", "tuned", "tuned / base"]
    for name, losses in (("base", BASE), ("tuned", better(2))):
        for split in BASE:
            alone = likelihood.perplexity_of(losses[split])
            assert dict(found.loc[split, name]) == pytest.approx(vars(alone))
    # half the perplexity on every row: the ratio is certain, though rows differ widely
    half = {"mean": 0.5, "low": 0.5, "high": 0.5, "n": 4}
    assert dict(found.loc["new", "tuned / base"]) == pytest.approx(half)
    assert found.loc["new", ("tuned", "high")] > found.loc["new", ("base", "low")]  # unpaired they overlap
    assert scoring.table(found).loc["new", "tuned / base"] == "0.50 [0.50, 0.50]"


def test_the_ratio_is_last_by_first_with_groups_and_one_model_has_none():
    tuned = {name: losses_of([1.0] * len(it), it["tokens"]) for name, it in BASE.items()}
    groups = {"new": ["a", "a", "b", "b"], "old": ["c", "d"]}
    found = likelihood.compare_perplexity({"base": BASE, "other": better(3), "tuned": tuned}, groups=groups)
    names = list(found.columns.get_level_values(0).unique())
    assert names == ["base", "other", "tuned", "tuned / base"]
    assert found.loc["new", ("tuned / base", "mean")] == pytest.approx(math.exp((4 - 38) / 12))
    # Group a spends 16 nats on 6 tokens against 2 on 6, b 22 against 2; the ends are one group drawn twice.
    ends = found.loc["new", "tuned / base"][["low", "high", "n"]].tolist()
    assert ends == pytest.approx([math.exp(-20 / 6), math.exp(-14 / 6), 2])
    alone = likelihood.compare_perplexity({"base": BASE})
    assert list(alone.columns.get_level_values(0).unique()) == ["base"]


def test_perplexities_that_cannot_be_compared_are_refused():
    with pytest.raises(LessonError, match="no model to compare"):
        likelihood.compare_perplexity({})
    with pytest.raises(LessonError, match=r"'tuned' has the splits \['new'\], but 'base' has \['new', 'old'"):
        likelihood.compare_perplexity({"base": BASE, "tuned": {"new": BASE["new"]}})
    with pytest.raises(LessonError, match="'groups' has the splits"):
        likelihood.compare_perplexity({"base": BASE}, groups={"new": [1, 2, 3, 4]})
    other = {**BASE, "old": losses_of([3.0, 6.0], [3, 4])}
    with pytest.raises(LessonError, match="Split 'old': 'base' and 'tuned' were not measured on the same"):
        likelihood.compare_perplexity({"base": BASE, "tuned": other})
    with pytest.raises(LessonError, match="There are 4 answers but 2 groups"):
        likelihood.perplexity_of(BASE["new"], groups=["a", "b"])
    with pytest.raises(LessonError, match="no answer to measure"):
        likelihood.perplexity_of(losses_of([0.0], [0]))


def test_importing_evaluation_loads_nothing_heavy():
    import subprocess

    heavy = "torch", "transformers", "pandas", "numpy", "datasets"
    code = f"import sys, lessonlib.evaluation; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
