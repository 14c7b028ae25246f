"""special_tokens: what new rows hold, what is refused, and that rows survive saving, merging, resuming."""

import copy
import json

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from lessonlib.evaluation import _parity as parity
from lessonlib.export import _saving as export
from lessonlib.lora import _config as lora
from lessonlib.lora import _tokens as special_tokens
from lessonlib.models import _loading as models
from lessonlib.runtime import _detect as runtime
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError
from lessonlib.training import _trainer as training

TAGS = ["<tool_call>", "</tool_call>", "<think>", "</think>"]
PROMPTS = ["Human: <think>Học máy</think> là gì?", "<tool_call>", "A token"]


@pytest.fixture
def words(tokenizer):
    """A tokenizer that a test may add to; the fixture it is copied from is shared."""
    return copy.deepcopy(tokenizer)


@pytest.fixture
def plain(tmp_path):
    return runtime.detect(family="gemma2", gpu=None, work=tmp_path)


@pytest.fixture
def base(tiny_gemma2, tmp_path):
    """A base on disk, as a lesson's is."""
    tiny_gemma2.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def load(folder, **options):
    return AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, attn_implementation="eager", **options
    )


def tuned_on(folder, words, plain, **options):
    """Base, tokens and LoRA put together as a lesson does; B and the rows moved as by training."""
    model = load(folder, **options)
    ids = special_tokens.add(model, words, TAGS)
    tuned = lora.attach(model, lora.lora_config(model, r=4, new_tokens=ids), plain)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name or "trainable_tokens" in name:
                weight += torch.randn_like(weight) * 0.1
    return tuned


# ---------------------------------------------------------------- add


def test_each_token_gets_the_mean_row_of_its_pieces_and_no_other_row_changes(tiny_gemma2, tokenizer, words):
    before = tiny_gemma2.get_input_embeddings().weight.clone()
    ids = special_tokens.add(tiny_gemma2, words, TAGS)
    after = tiny_gemma2.get_input_embeddings().weight
    assert ids == list(range(len(tokenizer), len(tokenizer) + 4))
    assert after.shape == (len(tokenizer) + 4, 32) and tiny_gemma2.config.vocab_size == len(tokenizer) + 4
    assert torch.equal(after[: len(tokenizer)], before)
    for tag, row in zip(TAGS, ids, strict=True):
        pieces = tokenizer(tag, add_special_tokens=False).input_ids
        assert len(pieces) > 2
        torch.testing.assert_close(after[row], before[pieces].mean(dim=0))
    assert tiny_gemma2.get_output_embeddings().weight is after


def test_the_tokens_stay_in_what_is_decoded(tiny_gemma2, words):
    ids = special_tokens.add(tiny_gemma2, words, TAGS)
    written = "<think>Học máy</think><tool_call>{}</tool_call>"
    encoded = words(written, add_special_tokens=False).input_ids
    assert set(ids) <= set(encoded)
    assert words.decode(encoded, skip_special_tokens=True) == written


def test_a_head_of_its_own_gets_its_own_rows(tiny_phi3, tokenizer, words):
    rows = len(tokenizer)
    head = tiny_phi3.get_output_embeddings().weight.clone()
    ids = special_tokens.add(tiny_phi3, words, TAGS)
    pieces = tokenizer("<think>", add_special_tokens=False).input_ids
    now = tiny_phi3.get_output_embeddings().weight
    assert now.shape[0] == rows + 4 and torch.equal(now[:rows], head)
    torch.testing.assert_close(now[ids[2]], head[pieces].mean(dim=0))
    assert not torch.equal(now[ids[2]], tiny_phi3.get_input_embeddings().weight[ids[2]])


def test_rows_that_the_model_has_beyond_its_tokenizer_are_used(tiny_phi3, tokenizer, words):
    rows = len(tokenizer) + 10
    tiny_phi3.resize_token_embeddings(rows, mean_resizing=False)
    before = tiny_phi3.get_output_embeddings().weight.clone()
    ids = special_tokens.add(tiny_phi3, words, TAGS)
    after = tiny_phi3.get_output_embeddings().weight
    assert after.shape[0] == rows and ids[-1] < rows
    changed = [row for row in range(rows) if not torch.equal(before[row], after[row])]
    assert changed == ids


def test_a_second_call_changes_nothing_and_says_so(tiny_gemma2, words, capsys):
    ids = special_tokens.add(tiny_gemma2, words, TAGS)
    assert capsys.readouterr().out == ""
    with torch.no_grad():
        tiny_gemma2.get_input_embeddings().weight[ids] = 1.0  # as if trained
    before, size = tiny_gemma2.get_input_embeddings().weight.clone(), len(words)
    assert special_tokens.add(tiny_gemma2, words, TAGS) == ids
    assert torch.equal(tiny_gemma2.get_input_embeddings().weight, before) and len(words) == size
    said = capsys.readouterr().out
    assert said == "There already, left alone: <tool_call>, </tool_call>, <think>, </think>.\n"
    language.use("vi")
    special_tokens.add(tiny_gemma2, words, TAGS[:2])
    assert capsys.readouterr().out == "Đã có sẵn, giữ nguyên: <tool_call>, </tool_call>.\n"


def test_a_tokenizer_that_knows_the_tokens_gives_a_fresh_base_the_same_rows(base, words):
    first, second, third = load(base), load(base), load(base)
    special_tokens.add(first, words, TAGS)
    special_tokens.add(second, words, TAGS)
    assert torch.equal(first.get_input_embeddings().weight, second.get_input_embeddings().weight)
    old = third.get_input_embeddings().weight.clone()
    special_tokens.add(third, words, TAGS[2:])  # rows of the others are missing too: they get the mean of all
    rows = third.get_input_embeddings().weight
    assert torch.equal(rows[-2:], first.get_input_embeddings().weight[-2:])
    torch.testing.assert_close(rows[-4:-2], old.mean(dim=0).expand(2, -1))


def test_half_precision_rows_are_means_computed_in_fp32(base, tokenizer, words):
    model = load(base, dtype=torch.float16)
    old = model.get_input_embeddings().weight.clone()
    row = special_tokens.add(model, words, TAGS)[0]
    pieces = tokenizer("<tool_call>", add_special_tokens=False).input_ids
    assert torch.equal(model.get_input_embeddings().weight[row], old[pieces].float().mean(dim=0).half())


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([], "at least one token is needed"),
        ([*TAGS, ""], "none may be empty"),
        (["<think>"], "<think> comes without </think>.*better written <.think.>"),
        (["</think>"], "</think> comes without <think>"),
        (
            ["<tool_response>", "</tool_response>", "<tool_reponse>", "</tool_reponse>"],
            "<tool_response> and <tool_reponse> differ very little",
        ),
        (["<tool_reponse>", "</tool_response>"], "<tool_reponse> and </tool_response> differ"),
        (["<tool_respnose>", "<tool_response>"], "misspelt"),
        (["<Think>", "<think>"], "<Think> and <think> differ"),
        (["<tool-call>", "<tool_call>"], "<tool-call> and <tool_call> differ"),
    ],
)  # fmt: skip
def test_what_is_refused_leaves_tokenizer_and_model_alone(tiny_gemma2, words, tokens, said):
    with pytest.raises(LessonError, match=said):
        special_tokens.add(tiny_gemma2, words, tokens)
    assert len(words) == tiny_gemma2.get_input_embeddings().num_embeddings == tiny_gemma2.config.vocab_size


def test_a_misspelling_of_a_token_that_is_there_already_is_refused(tiny_gemma2, words):
    special_tokens.add(tiny_gemma2, words, TAGS)
    with pytest.raises(LessonError, match="<tool_cal> and .*tool_call> differ very little"):
        special_tokens.add(tiny_gemma2, words, ["<tool_cal>", "</tool_cal>"])
    language.use("vi")
    with pytest.raises(LessonError, match="chỉ khác nhau chút ít"):
        special_tokens.add(tiny_gemma2, words, ["<tool_cal>", "</tool_cal>"])


def test_names_that_are_merely_related_are_taken(tiny_gemma2, words):
    mixed = ["<tools>", "</tools>", "<tool>", "</tool>", "<tool_response>", "</tool_response>", "<|sep|>"]
    mixed += TAGS
    assert len(set(special_tokens.add(tiny_gemma2, words, mixed))) == len(mixed)


def test_a_model_with_adapters_is_refused(base, words, plain):
    tuned = tuned_on(base, words, plain)
    with pytest.raises(LessonError, match="has adapters already.*Call lora.add_tokens on the base"):
        special_tokens.add(tuned, words, ["<tools>", "</tools>"])


def test_a_misspelt_token_leaves_the_right_one_in_pieces(tiny_gemma2, words):
    special_tokens.add(tiny_gemma2, words, [*TAGS, "<tool_reponse>", "</tool_reponse>"])  # the source's list
    texts = ["<think>a</think><tool_response>1</tool_response>", "<tool_response>2</tool_response> 1 < 2 > 0"]
    table = special_tokens.unregistered(words, texts)
    assert table[["tag", "times"]].values.tolist() == [["<tool_response>", 2], ["</tool_response>", 2]]
    assert "".join(table["pieces"][0]) == "<tool_response>"
    assert special_tokens.unregistered(words, texts[:1] * 0).empty


# ---------------------------------------------------------------- size


def test_the_sizes_of_adapters_for_the_real_gemma():
    """The source's adapter of 2.48 GB, and 20.79 million trainable numbers; on the meta device."""
    real = models.skeleton("gemma-2-2b")
    linears = list(models.CATALOGUE["gemma-2-2b"].lora_targets)
    source = LoraConfig(r=16, target_modules=[*linears, "lm_head", "embed_tokens"], task_type="CAUSAL_LM")
    ids = list(range(10))  # the source registers ten tokens
    rows = lora.lora_config(real, r=16, new_tokens=ids)
    size = special_tokens.adapter_size(real, source, dtype=torch.bfloat16)
    blocks = 26 * 16 * (2 * (2304 + 2048) + 2 * (2304 + 1024) + 3 * (2304 + 9216))
    assert size == {
        "trainable": blocks + 2 * 16 * (256_000 + 2304),
        "lora": 4 * (blocks + 2 * 16 * (256_000 + 2304)),
        "token_rows": 0,
        "embeddings": 2 * 2 * 256_000 * 2304,  # saved twice, although the head is tied
        "total": 2_475_425_792,
    }
    size = special_tokens.adapter_size(real, rows, dtype=torch.bfloat16)
    assert size == {
        "trainable": blocks + 10 * 2304, "lora": 4 * blocks, "token_rows": 4 * 10 * 2304, "embeddings": 0,
        "total": 83_159_040,
    }  # fmt: skip
    assert blocks + 10 * 2304 == 20_789_760
    assert type(real).__name__ == "Gemma2ForCausalLM" and not hasattr(real, "peft_config")


def test_the_size_is_that_of_the_saved_file(base, words, plain, tmp_path):
    tuned = tuned_on(base, words, plain)
    folder = export.save_adapter(tuned, words, tmp_path / "adapter")
    config = tuned.active_peft_config
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        stored = sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    assert special_tokens.adapter_size(tuned.get_base_model(), config)["total"] == stored


# ---------------------------------------------------------------- saving and merging


def test_a_saved_adapter_is_small_and_fits_a_fresh_base(base, tokenizer, words, plain, tmp_path):
    tuned = tuned_on(base, words, plain)
    del tuned.save_pretrained  # what lora.attach put there: a model from peft.get_peft_model lacks it
    folder = export.save_adapter(tuned, words, tmp_path / "adapter")
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    rows = [name for name in shapes if "lora_" not in name]
    assert rows == ["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"]
    assert shapes[rows[0]] == [4, 32]
    saved = AutoTokenizer.from_pretrained(folder)
    for its_words in (copy.deepcopy(tokenizer), saved):  # the base's own tokenizer, or the one saved here
        fresh = load(base)
        special_tokens.add(fresh, its_words, TAGS)
        again = PeftModel.from_pretrained(fresh, folder)
        assert parity.parity(tuned, again, words, PROMPTS, second_tokenizer=its_words).ok


@pytest.mark.parametrize("four_bits", [False, True])
@pytest.mark.parametrize("name", ["tiny_gemma2", "tiny_phi3"])
def test_the_merged_model_read_back_says_the_same(request, name, four_bits, words, plain, tmp_path):
    """With a tied and an untied head; 4-bit weights are compared after widening, which is what is saved."""
    request.getfixturevalue(name).save_pretrained(tmp_path / "base")
    options = {}
    if four_bits:
        four = runtime.detect(family="gemma2", gpu=None, quantisation="nf4", work=tmp_path)
        models._keep_cpu_weights_in_place()
        options = {"quantization_config": models._nf4(four), "device_map": {"": "cpu"}}
    tuned = tuned_on(tmp_path / "base", words, plain, **options)
    ids = words.convert_tokens_to_ids(TAGS)
    trained = {path: rows.clone() for path, rows in lora.trained_rows(tuned).items()}
    old = {path: tuned.get_submodule(path).token_adapter.get_base_layer().weight.clone() for path in trained}
    export.merge(tuned, words, tmp_path / "merged")
    merged, saved = load(tmp_path / "merged"), AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert len(saved) == len(words) and saved.convert_tokens_to_ids(TAGS) == ids
    assert merged.config.vocab_size == len(words)
    assert len(trained) == (1 if name == "tiny_gemma2" else 2)
    for path, rows in trained.items():
        weight = merged.get_submodule(path.removeprefix("base_model.model.")).weight
        assert torch.equal(weight[ids], rows) and torch.equal(weight[: ids[0]], old[path][: ids[0]])
        base_rows = tuned.get_submodule(path).token_adapter.get_base_layer().weight
        assert torch.equal(base_rows, old[path])  # the learner's model is left alone
    assert parity.parity(tuned, merged, words, PROMPTS, second_tokenizer=saved).ok


def test_rows_count_as_an_effect_only_where_they_moved(base, words, plain, tmp_path):
    model = load(base)
    ids = special_tokens.add(model, words, TAGS)
    tuned = lora.attach(model, lora.lora_config(model, r=4, new_tokens=ids), plain)
    with pytest.raises(LessonError, match="adapter has no effect"):
        export.save_adapter(tuned, words, tmp_path / "adapter")
    rows = next(iter(lora.trained_rows(tuned).values()))
    with torch.no_grad():
        rows[0, 0] += 0.5
    assert export.save_adapter(tuned, words, tmp_path / "adapter").is_dir()
    with torch.no_grad():
        rows[1, 1] = float("nan")
    with pytest.raises(LessonError, match="holds NaN or infinity, first in .*trainable_tokens_delta"):
        export.merge(tuned, words, tmp_path / "merged")


# ---------------------------------------------------------------- training


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt


def run(base, tokenizer, plain, *callbacks):
    """One start, from the files on disk to `fit`; the trainer."""
    model, words = load(base), copy.deepcopy(tokenizer)
    ids = special_tokens.add(model, words, TAGS)
    tuned = lora.attach(model, lora.lora_config(model, r=4, dropout=0.1, new_tokens=ids), plain)
    answers = ("một", "lớp", "token", "a")
    texts = [f"<think>{word}</think><tool_call>{word}</tool_call></s>" for word in answers]
    rows = [{"input_ids": ids, "labels": ids} for ids in words(texts, add_special_tokens=False).input_ids]
    config = training.sft_config(
        plain, "run", max_steps=4, per_device_train_batch_size=2, learning_rate=1e-2, save_steps=2,
        logging_steps=2, disable_tqdm=True,
    )  # fmt: skip
    trainer = training.trainer(tuned, words, Dataset.from_list(rows), config=config, callbacks=callbacks)
    training.fit(trainer)
    return trainer


def trained_weights(trainer):
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()
            if weight.requires_grad}  # fmt: skip


def test_a_run_that_was_interrupted_ends_with_the_same_rows(base, tokenizer, tmp_path, capsys):
    def at(name):
        return runtime.detect(family="gemma2", gpu=None, work=tmp_path / name)

    unbroken = trained_weights(run(base, tokenizer, at("unbroken")))
    rows = next(name for name in unbroken if "trainable_tokens" in name)
    with pytest.raises(KeyboardInterrupt):
        run(base, tokenizer, at("broken"), Stop())
    resumed = run(base, tokenizer, at("broken"))
    assert "Going on from step 2 of 4." in capsys.readouterr().out
    for name, weight in trained_weights(resumed).items():
        assert torch.equal(weight, unbroken[name]), name
    base_rows = resumed.model.get_submodule(rows.split(".token_adapter")[0]).token_adapter.base_layer.weight
    moved = (unbroken[rows] - base_rows[-4:]).abs().amax(dim=1)
    assert (moved > 1e-3).all()  # every new row was trained
    with safe_open(tmp_path / "broken" / "run" / "checkpoint-4" / "adapter_model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "base_layer" in name]  # noqa: SIM118
    settings = json.loads(
        (tmp_path / "broken" / "run" / "checkpoint-4" / "adapter_config.json").read_text(encoding="utf-8")
    )
    assert settings["trainable_token_indices"] == list(range(len(tokenizer), len(tokenizer) + 4))


def test_the_trainers_loss_reaches_the_rows_as_the_plain_one_does(base, tokenizer, plain):
    """trl computes the loss past the head, from its weight: the rows must be in it, and get its gradient."""
    model, words = load(base), copy.deepcopy(tokenizer)
    ids = special_tokens.add(model, words, TAGS)
    tuned = lora.attach(model, lora.lora_config(model, r=4, new_tokens=ids), plain)
    rows = next(iter(lora.trained_rows(tuned).values()))
    batch = torch.tensor([[5, ids[2], 6, ids[3], ids[0], 7, ids[1], 2]])

    def gradient():
        tuned.zero_grad()
        tuned.eval()(input_ids=batch, labels=batch).loss.backward()
        return rows.grad.clone()

    by_hand = gradient()
    data = Dataset.from_list([{"input_ids": batch[0].tolist(), "labels": batch[0].tolist()}])
    training.trainer(tuned, words, data, config=training.sft_config(plain, "run", disable_tqdm=True))
    assert "chunked_ce" in tuned.get_base_model().forward.__qualname__
    torch.testing.assert_close(gradient(), by_hand, rtol=1e-4, atol=1e-6)
    assert (by_hand.abs().amax(dim=1) > 0).all()
