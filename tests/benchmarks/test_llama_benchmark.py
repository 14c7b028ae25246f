"""benchmarks/llama.py: what it counts, the model that it writes for a GPU, its runs in small, its report."""

import ast
import importlib
import json
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from lessonlib.lora import _config as lora
from lessonlib.models import _loading as models
from lessonlib.runtime import _detect as runtime
from lessonlib.runtime import _unsloth as unsloth_backend
from lessonlib.training import _trainer as training

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(FOLDER), *sys.path])
        importlib.import_module("random_model")  # the parts import it when they need it
        yield importlib.import_module("llama")


@pytest.fixture(scope="module")
def parts(benchmark):
    return benchmark.parts


@pytest.fixture(scope="module")
def random_model(benchmark):
    return sys.modules["random_model"]


@pytest.fixture
def rehearsal(tmp_path):
    settings = {"profile": "rehearsal", "quantisation": "nf4", "backend": "transformers"}
    return runtime.detect(family="llama", gpu=None, work=tmp_path, **settings)


def lengths_of(count, least, most):
    return [least + (37 * row) % (most - least + 1) for row in range(count)]


def encoded(lengths, eos=2):
    ids = [[5] * (length - 1) + [eos] for length in lengths]
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


# --- shares


def test_the_share_of_padded_batches_by_hand(parts):
    assert parts.padded_share([4, 2, 3, 1], 2) == 10 / (2 * 4 + 2 * 3)
    assert parts.padded_share([4, 2, 3], 2) == 9 / (2 * 4 + 3)  # the last batch is smaller
    assert parts.padded_share([4, 3, 2, 1], 2) == 10 / (2 * 4 + 2 * 2)


def test_the_shares_of_four_rows_by_hand(parts):
    found = parts.shares([2, 8, 4, 6], batch=2, accumulation=2, length=8)
    assert found["padded"] == 20 / 32
    # Of the three ways to make pairs one computes 24 tokens and two compute 28.
    assert 20 / 28 < found["dynamic"] < 20 / 24 and found["dynamic"] == pytest.approx(20 / (80 / 3), abs=0.03)
    assert found["grouped"] == pytest.approx(20 / 24)  # 8 with 6, 4 with 2
    assert found["packing"] == 1
    assert found["filled"] == 20 / 24  # 8; 6 and 2; 4


@pytest.mark.parametrize("batching", ["padded", "dynamic", "grouped", "packing"])
def test_the_shares_are_those_of_the_trainers_batches(parts, rehearsal, tiny_llama, tokenizer, batching):
    lengths = lengths_of(90, 125, 208)
    config = training.sft_config(
        rehearsal, "run", per_device_train_batch_size=2, gradient_accumulation_steps=4,
        **parts.BATCHINGS[batching],
    )
    made = training.trainer(tiny_llama, tokenizer, encoded(lengths), config=config)
    batches = list(made.get_train_dataloader())
    computed = sum(batch["input_ids"].numel() for batch in batches)
    expected = parts.shares(lengths, 2, 4, 2048)
    exact = batching in ("padded", "packing")
    assert sum(lengths) / computed == pytest.approx(expected[batching], abs=1e-9 if exact else 0.02)
    assert expected["padded"] < 0.1 < 0.9 < expected["dynamic"] < 0.97 < expected["grouped"]
    if batching == "packing":
        assert not any("attention_mask" in batch for batch in batches)
        assert len(made.train_dataset) == round(sum(lengths) / expected["filled"] / 2048)


def test_the_table_is_of_the_lessons_rows(parts):
    table = parts.table_of_shares()
    assert [table[name]["rows"] for name in (*parts.LESSON["data"], "together")] == [256, 166, 422]
    tokenizer = parts.twins_tokenizer()
    both = parts.rows(tokenizer, parts.LESSON["data"])
    assert table["together"]["tokens"] == sum(map(len, both["input_ids"]))
    assert "26 Jul 2024" in tokenizer.decode(both[0]["input_ids"])
    for name in table:
        share = table[name]
        assert share["padded"] < share["dynamic"] < share["grouped"] < share["packing"] == 1 > share["filled"]


# --- a run


@pytest.mark.parametrize("batching", ["dynamic", "packing"])
def test_a_run_measures_what_it_trained(parts, monkeypatch, batching):
    """Seven steps of 2 x 4 are one epoch of 56 short rows; of 20 packs there are more than one."""
    lengths = [10, 20] * 28

    def short(tokenizer, names):
        assert tuple(names) == parts.LESSON["data"]
        return encoded(lengths, tokenizer.eos_token_id)

    monkeypatch.setattr(parts, "rows", short)
    if batching == "packing":
        monkeypatch.setitem(parts.BATCHINGS["packing"], "max_length", 20)
    found = parts.train(f"plain/{batching}", 7)
    assert len(found["losses"]) == 7 and found["losses"][-1] < found["losses"][0]
    if batching == "dynamic":
        assert found["content"] == sum(lengths) < found["computed"] <= 56 * 20
    else:
        assert found["content"] == found["computed"] > sum(lengths)
    assert found[parts.SPEED] > 0 and found[parts.SECONDS] > 0
    assert found[parts.RSS] > found[parts.ABOVE] >= 0
    json.dumps(found)


def test_the_adapters_are_the_lessons(parts):
    """24,313,856 trainable parameters, says the output of Unsloth's own notebook."""
    model = models.skeleton(parts.KEY)
    config = lora.lora_config(model, **parts.LESSON["lora"])
    sizes = [layer.in_features + layer.out_features for path, layer in lora.block_linears(model).items()
             if path.endswith(tuple(config.target_modules))]  # fmt: skip
    assert config.r * sum(sizes) == 24_313_856
    batch = parts.LESSON["training"]
    assert (batch["per_device_train_batch_size"], batch["gradient_accumulation_steps"]) == (2, 4)


def test_speed_leaves_the_warm_up_out_and_seconds_do_not(parts):
    marks = [(1.0, 100.0, 0, 0), (5.0, 110.0, 600, 500), (7.0, 114.0, 1000, 900)]
    on_cpu = parts.measured(marks, [3.0, 2.0], {parts.RSS: 7.0}, gpu=False)
    assert on_cpu == {
        parts.SPEED: 200, parts.SECONDS: 14, parts.RSS: 7, "computed": 1000, "content": 900, "losses": [3, 2]
    }
    assert parts.measured(marks, [], {}, gpu=True)[parts.SPEED] == 100


def test_tokens_are_counted_in_training_only(parts, tiny_llama):
    tokens = parts.Tokens(tiny_llama)
    ids = torch.full((2, 6), 5)
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    tiny_llama(input_ids=ids)
    assert tokens.read() == (0, 0)
    tiny_llama.train()
    tiny_llama(input_ids=ids, attention_mask=mask)
    assert tokens.read() == (12, 10)
    tiny_llama(input_ids=ids)
    assert tokens.read() == (24, 22)


def test_a_backend_that_cannot_be_had_ends_the_run(parts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(unsloth_backend, "unfit", lambda device: f"not on {device}")
    with pytest.raises(SystemExit, match="The backend unsloth cannot be used here"):
        parts.runtime_for("unsloth", False, str(tmp_path))
    assert "not on cpu" in capsys.readouterr().out


def test_on_any_gpu_it_trains_as_on_a_t4(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "_first_gpu", lambda: runtime.Gpu("NVIDIA H100", (9, 0), 79.0))
    found = parts.runtime_for("transformers", True, str(tmp_path))
    assert (found.device, found.dtype, found.quantisation) == ("cuda", "float16", "nf4")
    assert (found.profile, found.attention) == ("t4", "sdpa")


@pytest.mark.parametrize(("whole", "fraction"), [(58.8, 0.25), (12.0, 1.0)])
def test_the_cap_is_a_share_of_the_cards_memory(parts, monkeypatch, whole, fraction):
    asked = []
    card = Namespace(total_memory=whole * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: asked.append((share, device))
    )
    parts.cap_memory(14.7)
    assert asked == [(pytest.approx(fraction), 0)]


# --- the random model


def test_the_real_size(parts, random_model):
    """3.21 billion weights, by hand; the head is the embeddings and is stored once."""
    sizes = random_model.shapes(models.config(parts.KEY))
    attention = 2 * 3072 * 3072 + 2 * 3072 * 8 * 128
    block = attention + 3 * 3072 * 8192 + 2 * 3072
    numbers = sum(torch.Size(shape).numel() for shape in sizes.values())
    assert numbers == 128_256 * 3072 + 28 * block + 3072 == 3_212_749_824
    assert "lm_head.weight" not in sizes


def test_weights_are_cut_into_shards(random_model):
    sizes = {"a": (4, 5), "b": (5,), "c": (100,), "d": (5,), "e": (20,)}  # 40, 10, 200, 10, 40 bytes
    assert random_model.shards(sizes, 50) == [["a", "b"], ["c"], ["d", "e"]]
    assert random_model.shards(sizes, 49) == [["a"], ["b"], ["c"], ["d"], ["e"]]


def test_a_full_disk_is_noticed_before_anything_is_written(
    random_model, tiny_llama, tokenizer, tmp_path, monkeypatch
):
    free = random_model.BESIDE + 2 * tiny_llama.num_parameters()
    monkeypatch.setattr(random_model.shutil, "disk_usage", lambda folder: Namespace(free=free - 1))
    with pytest.raises(SystemExit, match=r"takes 0\.1 GB in .* TMPDIR"):
        random_model.write(tiny_llama.config, tokenizer, tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(random_model.shutil, "disk_usage", lambda folder: Namespace(free=free))
    random_model.check_disk(tmp_path, random_model.shapes(tiny_llama.config))


def test_what_is_written_loads_in_4_bits_and_trains(
    random_model, parts, rehearsal, tiny_llama, tokenizer, tmp_path
):
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "model"
    folder.mkdir()
    config = tiny_llama.config
    config.vocab_size, config.bos_token_id = 500, 77  # more tokens than the tokenizer's, and another start
    # On a CPU bitsandbytes unpacks rows that are no multiple of its 64 numbers a block wrongly.
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 32
    written = random_model.write(config, tokenizer, folder, limit=20_000)
    assert written == sum(torch.Size(shape).numel() for shape in random_model.shapes(config).values())
    assert len(list(folder.glob("*.safetensors"))) > 2
    plain, said = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(said[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert {weight.dtype for weight in plain.parameters()} == {torch.float16}
    embeddings = plain.get_input_embeddings().weight
    assert embeddings is plain.get_output_embeddings().weight and embeddings.shape[0] == 500
    assert embeddings.float().std().item() == pytest.approx(config.initializer_range, rel=0.05)
    assert plain.model.norm.weight.eq(1).all()
    assert (plain.config.bos_token_id, plain.generation_config.eos_token_id) == (1, 2)

    with random_model.served_from(folder):
        model, its_tokenizer = models.load(parts.KEY, rehearsal)
    assert len(its_tokenizer) == len(tokenizer)
    assert models.source(parts.KEY, rehearsal)[0].endswith("llama32")  # only inside
    originals = dict(plain.named_modules())
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, Linear4bit)}
    assert len(layers) == 14
    for path, layer in layers.items():
        back = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
        apart = (back - originals[path].weight.float()).std().item()
        assert 0 < apart < 0.15 * config.initializer_range  # nf4 is off by about a tenth of the spread
    adapted = lora.attach(model, lora.lora_config(model, **parts.LESSON["lora"]), rehearsal)
    settings = training.sft_config(rehearsal, "run", max_steps=2, learning_rate=1e-2, logging_steps=1)
    made = training.trainer(adapted, its_tokenizer, encoded([12] * 16), config=settings)
    training.fit(made)
    losses = training.history(made)["loss"]
    assert losses[1] < losses[0] < 8


@pytest.fixture
def small_real(parts, monkeypatch):
    """The real model's configuration with one narrow layer; what was asked for is noted."""
    small = models.config(parts.KEY)
    small.hidden_size, small.intermediate_size, small.num_hidden_layers, small.vocab_size = 64, 128, 1, 2048
    small.head_dim, small.num_attention_heads, small.num_key_value_heads = 16, 4, 2
    asked = []
    monkeypatch.setattr(models, "config", lambda key: asked.append(key) or small)
    return asked


def test_a_gpu_run_trains_what_was_built(parts, small_real, rehearsal, tmp_path, monkeypatch):
    """All of it but the device: the 4-bit model lies on the CPU, and what CUDA would say is made up."""
    folder = tmp_path / "model"
    folder.mkdir()
    found = parts.build(str(folder), device="cpu")
    assert small_real == ["llama-3.2-3b"]
    assert found == {"weights": 2048 * 64 + 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 3 * 64}
    caps, peaks, configs = [], [(1.5, 1.0), (4.5, 4.0)], []
    make = training.sft_config
    monkeypatch.setattr(parts, "runtime_for", lambda backend, gpu, work: rehearsal)
    monkeypatch.setattr(parts, "cap_memory", caps.append)
    monkeypatch.setattr(parts, "peak_gpu", lambda: peaks.pop(0))
    monkeypatch.setattr(parts, "rows", lambda tokenizer, names: encoded([20] * 30, tokenizer.eos_token_id))
    face = importlib.import_module("lessonlib.training")  # whose name the benchmark takes
    monkeypatch.setattr(face, "sft_config", lambda *a, **b: configs.append(make(*a, **b)) or configs[-1])
    done = parts.train("plain/packing", 6, gpu=True, cap=9.0, folder=str(folder))
    assert caps == [9.0]
    assert {name: done[name] for name in (parts.LOADING, parts.RESERVED, parts.ALLOCATED)} == {
        parts.LOADING: 1.5, parts.RESERVED: 4.5, parts.ALLOCATED: 4.0
    }
    assert done["content"] == done["computed"] == 6 * 30 * 20  # one pack, so each step takes all
    assert done["losses"][-1] < done["losses"][0] < 8
    (config,) = configs
    assert (config.packing, config.packing_strategy, config.max_length) == (True, "bfd", 2048)
    assert (str(config.optim.value), config.max_steps, config.learning_rate) == ("adamw_8bit", 6, 2e-4)


# --- the report


def one(parts, speed, peak, losses=(3.0, 2.0), content=100, computed=125, name=None):
    name = name or parts.RSS
    return {
        parts.SPEED: speed, parts.SECONDS: 10.0, name: peak,
        "computed": computed, "content": content, "losses": list(losses),
    }


def test_the_report_shows_medians_and_their_ratio(benchmark, parts):
    plain = [one(parts, speed, 200.0) for speed in (100.0, 110.0, 400.0)]
    other = [one(parts, speed, 150.0, losses=(3.0, 2.25)) for speed in (90.0, 165.0, 170.0)]
    said, same = benchmark.report({"plain/dynamic": plain, "unsloth/dynamic": other}, gpu=False)
    lines = {line[:40].strip(): line[40:].split() for line in said.splitlines()}
    assert lines["content tokens per CPU second"] == ["110.0", "165.0", "1.500", "x"]
    assert lines["peak RSS, MB"] == ["200.0", "150.0", "0.750", "x"]
    assert "plain/dynamic 100 to 400, unsloth/dynamic 90 to 170" in said
    assert "plain/dynamic 80.0%, unsloth/dynamic 80.0%" in said
    assert "loss 3.000 at first, 2.000 at last, in no step more than 2.5e-01 apart" in said
    assert same
    assert "content tokens per second" in benchmark.report({"plain/dynamic": plain}, gpu=True)[0]


def test_runs_that_did_not_do_the_same_are_told_apart(benchmark, parts):
    said, same = benchmark.compared("dynamic", [one(parts, 1, 1), one(parts, 1, 1, content=99)])
    assert not same and "NOT THE SAME WORK, content tokens [99, 100]" in said
    lost = one(parts, 1, 1, losses=(3.0, float("nan")))
    said, same = benchmark.compared("dynamic", [one(parts, 1, 1), lost])
    assert not same and "NOT FINITE" in said
    packed = one(parts, 1, 1, content=900)  # other batches are other work
    results = {"plain/dynamic": [one(parts, 1, 1)], "plain/packing": [packed]}
    assert benchmark.report(results, gpu=False)[1]
    results["unsloth/packing"] = [one(parts, 1, 1)]
    assert not benchmark.report(results, gpu=False)[1]


@pytest.mark.parametrize(("peak", "no_more"), [(6.531, True), (6.532, False)])
def test_the_verdict_on_memory_is_on_the_lessons_setting(benchmark, parts, peak, no_more):
    results = {
        "plain/packing": [one(parts, 1, 9.0, name=parts.RESERVED)],
        "unsloth/packing": [one(parts, 1, it, name=parts.RESERVED) for it in (1.0, peak, 99.0)],
    }
    said, found = benchmark.against_theirs(results, "NVIDIA H100", 5)
    assert found is no_more
    assert f"unsloth/packing on this NVIDIA H100: {peak} GiB (1.00 x), 10.0 s for 5 steps of 25 " in said
    assert "peak reserved 6.531 GiB, 446.5 s for 60 steps" in said and "A NVIDIA H100 is no T4" in said
    assert "is no T4" not in benchmark.against_theirs(results, "Tesla T4", 5)[0]
    del results["unsloth/packing"]
    assert not benchmark.against_theirs(results, "Tesla T4", 5)[1]


# --- the command


def arguments(benchmark, *said):
    found = benchmark.options().parse_args(said)
    found.runs, found.steps = found.runs or ["plain/packing", "unsloth/packing"], found.steps or 60
    return found


def test_the_runs_take_turns(benchmark, monkeypatch):
    asked = []
    monkeypatch.setattr(benchmark, "part", lambda *said, gpu: asked.append((said, gpu)) or len(asked))
    found = benchmark.rounds(arguments(benchmark, "--gpu", "--cap", "9", "--rounds", "3"), "there")
    assert found == {"plain/packing": [1, 4, 5], "unsloth/packing": [2, 3, 6]}
    more = ("--steps", "60", "--folder", "there", "--cap", "9.0")
    assert asked[1] == (("--part", "unsloth/packing", *more), True)


def test_a_parts_result_is_read_from_among_what_it_prints(benchmark, monkeypatch, capsys):
    done = Namespace(returncode=0, stdout='Unsloth says hello\n{"weights": 3}\nand goodbye\n', stderr="")
    asked = []

    def run(command, env, **rest):
        asked.append((command[2:], env.get("OMP_NUM_THREADS")))
        return done

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(benchmark.subprocess, "run", run)
    assert benchmark.part("--part", "build", gpu=True) == {"weights": 3}
    assert benchmark.part("--part", "shares", gpu=False) == {"weights": 3}
    assert [(command[-1], threads) for command, threads in asked] == [("--gpu", None), ("shares", "1")]
    done.returncode, done.stderr = 1, "torch.OutOfMemoryError: CUDA out of memory"
    with pytest.raises(benchmark.Failed):
        benchmark.part("--part", "build", gpu=True)
    said = capsys.readouterr().out
    assert "--part build ended with 1" in said and "CUDA out of memory" in said


@pytest.fixture
def compared(benchmark, parts, monkeypatch):
    """compare() with these shares, peaks in GiB and content, all of it made up."""

    def compared(*said, grouped=1.0, reserved=6.0, content=100, cuda=True):
        column = dict.fromkeys(("padded", "dynamic", "packing", "filled"), 0.9)
        column |= {"rows": 3, "tokens": 30, "grouped": grouped}
        table = {"a": column, "together": column}
        done = one(parts, 1, reserved, content=content, computed=100, name=parts.RESERVED)
        made = []

        def part(*what, gpu):
            made.append(what)
            return table if "shares" in what else done

        card = Namespace(name="Tesla T4", total_memory=14.75 * 2**30, major=7, minor=5)
        monkeypatch.setattr(benchmark, "part", part)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
        monkeypatch.setattr(sys, "argv", ["llama.py", *said])
        return benchmark.main(), made

    return compared


def test_with_a_gpu_the_model_is_written_and_the_claims_are_judged(compared, capsys):
    code, made = compared("--gpu", "--rounds", "1")
    assert code == 0
    assert [what[1] for what in made] == ["shares", "build", "plain/packing", "unsloth/packing"]
    assert made[1][3] == made[2][5] and made[2][2:4] == ("--steps", "60")  # one folder for both
    said = capsys.readouterr().out
    assert "Tesla T4, 14.75 GiB, CUDA 7.5, capped at 14.70 GiB" in said and "no more memory" in said
    assert compared("--gpu", "--rounds", "1", reserved=6.6)[0] == 1
    assert "MORE memory" in capsys.readouterr().out
    assert compared("--gpu", "--rounds", "1", content=94)[0] == 1  # packed runs that waste 6%
    assert "6.0% are waste" in capsys.readouterr().out


def test_on_a_cpu_nothing_is_built(compared, capsys):
    code, made = compared("--rounds", "1", cuda=False)
    assert code == 0 and [what[1] for what in made] == ["shares", "plain/dynamic", "unsloth/dynamic"]
    assert made[1][2:4] == ("--steps", "15")
    assert "0.0% are waste" in capsys.readouterr().out
    assert compared("--rounds", "1", cuda=False, grouped=0.94)[0] == 1


def test_a_part_that_fails_ends_the_command_with_1(benchmark, compared, monkeypatch):
    def failing(chosen):
        raise benchmark.Failed

    monkeypatch.setattr(benchmark, "compare", failing)
    assert compared()[0] == 1


@pytest.mark.parametrize(("said", "answer"), [
    (("--gpu",), "No CUDA GPU here: on one, this would train the real-size Llama 3.2 3B"),
    (("--runs", "plain/packing", "unsloth/packing"), "On a CPU Unsloth switches packing off"),
    (("--steps", "5"), "It takes more than 5 --steps"),
    (("--rounds", "0"), "and 1 of --rounds"),
])  # fmt: skip
def test_what_cannot_run_is_said_in_a_line(compared, capsys, said, answer):
    code, made = compared(*said, cuda=False)
    printed = capsys.readouterr().out
    assert (code, made, printed.count("\n")) == (2, [], 1)
    assert answer in printed


def test_the_commands_own_process_stays_small():
    """A child's peak memory starts with its parent's, so the parent must not hold torch."""
    code = "import sys, llama; said = ['--steps', '9', '--runs', 'plain/dynamic']"
    check = (
        "assert not llama.refused(llama.options().parse_args(said)); "
        "sys.exit(bool({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", f"{code}; {check}"], cwd=FOLDER, check=False)
    assert done.returncode == 0


def test_the_settings_are_the_lessons(parts):
    """The lesson's on a T4, that is."""
    lesson = (Path(__file__).parents[2] / "lessons" / "03_llama32_unsloth.py").read_text(encoding="utf-8")
    lora, training = parts.LESSON["lora"], parts.LESSON["training"]
    assert f"r={lora['r']}, alpha={lora['alpha']}, dropout={lora['dropout']}" in lesson
    assert f"MAX_LENGTH = rt.pick(rehearsal=256, t4={parts.LESSON['length']})" in lesson
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "optim"):
        (on_t4,) = re.findall(rf"{name}=rt\.pick\(rehearsal=[^,]*, t4=([^)]*)\)", lesson)
        assert ast.literal_eval(on_t4) == training[name], name
    for name in ("warmup_steps", "weight_decay", "lr_scheduler_type"):
        (value,) = set(re.findall(rf"\b{name}=([^,\s]+),", lesson))
        assert ast.literal_eval(value) == training[name], name
    assert 'train_sampling_strategy=rt.pick(rehearsal="random", t4="group_by_length")' in lesson
