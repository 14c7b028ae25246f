import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from lessonlib.models import _loading as models
from lessonlib.models._hub_errors import explained
from lessonlib.models._loading import CATALOGUE
from lessonlib.runtime import _detect as runtime
from lessonlib.runtime import _language as language
from lessonlib.runtime import _paths as paths
from lessonlib.runtime._language import LessonError

T4 = runtime.Gpu("Tesla T4", (7, 5), 14.7)
HUB = "https://huggingface.co"


@pytest.fixture
def rehearsal(tmp_path):
    return runtime.detect(gpu=None, work=tmp_path / "work")


@pytest.fixture
def twin(monkeypatch, tmp_path, tokenizer):
    """Puts a model in the place of every twin; gives back the function that does it."""

    def put(model):
        model.save_pretrained(tmp_path / "twin")
        tokenizer.save_pretrained(tmp_path / "twin")
        monkeypatch.setattr(paths, "twin_dir", lambda name: tmp_path / "twin")
        return tmp_path / "twin"

    return put


# The catalogue


@pytest.mark.parametrize("model", CATALOGUE.values(), ids=CATALOGUE)
def test_each_entry_is_whole(model):
    assert CATALOGUE[model.key] is model
    assert model.family in runtime.FAMILIES
    for revision in filter(None, (model.revision, model.mirror_revision)):
        assert len(revision) == 40 and set(revision) <= set("0123456789abcdef")
    assert (model.mirror is None) == (model.mirror_revision is None)
    assert model.pad_token not in model.stop_tokens


@pytest.mark.parametrize(
    ("key", "parameters"),
    [
        ("bloom-560m", 559_214_592),
        ("phi-3-mini", 3_821_079_552),
        ("llama-3.2-3b", 3_212_749_824),
        ("gemma-2-2b", 2_614_341_888),
    ],  # as the model pages on the Hub count them
)
def test_the_real_configuration_has_the_published_number_of_parameters(key, parameters):
    skeleton = models.skeleton(key)
    assert sum(weight.numel() for weight in skeleton.parameters()) == parameters
    assert {weight.device.type for weight in skeleton.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("key", "rank", "targets", "trainable"),
    [
        ("bloom-560m", 8, ["query_key_value"], 786_432),  # the source article's own figure
        ("phi-3-mini", 16, None, 25_165_824),
        ("phi-3-mini", 16, [*CATALOGUE["llama-3.2-3b"].lora_targets], 8_912_896),  # two layers of four
        ("llama-3.2-3b", 16, None, 24_313_856),  # the stored output of Unsloth's Llama 3.2 notebook
        ("gemma-2-2b", 16, None, 20_766_720),  # the same in Unsloth's Gemma 2 (2B) notebook
    ],
)
def test_lora_on_the_skeleton_has_the_published_size(key, rank, targets, trainable):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, target_modules=targets or list(CATALOGUE[key].lora_targets), task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(models.skeleton(key), config)
    assert adapted.get_nb_trainable_parameters()[0] == trainable


@pytest.mark.parametrize("key", CATALOGUE)
def test_lora_targets_are_all_linear_layers_of_a_block(key):
    from torch.nn import Linear

    names = {name for name, module in models.skeleton(key).named_modules() if isinstance(module, Linear)}
    assert {name.rpartition(".")[2] for name in names} - {"lm_head"} == set(CATALOGUE[key].lora_targets)


def test_bloom_numbers():
    config = models.config("bloom-560m")
    assert (config.hidden_size, config.n_layer, config.n_head, config.vocab_size) == (1024, 24, 16, 250880)


@pytest.mark.parametrize("call", [models.config, models.skeleton])
def test_an_unknown_key_lists_the_known_ones(call):
    with pytest.raises(LessonError, match="no model 'gpt'.*bloom-560m, phi-3-mini, llama-3.2-3b, gemma-2-2b"):
        call("gpt")


# Where a model comes from


def test_rehearsal_takes_the_twin(monkeypatch, rehearsal):
    monkeypatch.setattr(paths, "twin_dir", lambda name: Path("twins") / name)
    assert models.source("bloom-560m", rehearsal) == (str(Path("twins/bloom")), None)
    assert models.source("llama-3.2-3b", rehearsal) == (str(Path("twins/llama32")), None)


def test_a_gpu_takes_the_hub_at_a_pinned_commit_and_the_mirror_where_there_is_a_gate(tmp_path):
    t4 = runtime.detect(gpu=T4, work=tmp_path)
    llama = CATALOGUE["llama-3.2-3b"]
    assert models.source("bloom-560m", t4) == (
        "bigscience/bloom-560m", "ac2ae5fab2ce3f9f40dc79b5ca9f637430d24971",
    )  # fmt: skip
    assert models.source(llama.key, t4) == ("unsloth/Llama-3.2-3B-Instruct", llama.mirror_revision)
    assert models.source(llama.key, t4, original=True) == ("meta-llama/Llama-3.2-3B-Instruct", llama.revision)


# Loading the twin


def test_the_twin_is_loaded_in_fp32_with_a_tokenizer_for_training(twin, tiny_bloom, tmp_path):
    import torch

    twin(tiny_bloom.to(torch.bfloat16))
    bloom_rt = runtime.detect(family="bloom", gpu=None, work=tmp_path)
    model, tokenizer = models.load("bloom-560m", bloom_rt)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert not model.training
    assert model.config._attn_implementation == "eager"
    assert (tokenizer.padding_side, tokenizer.pad_token) == ("right", "<pad>")
    assert (
        models.load_tokenizer("bloom-560m", bloom_rt)("Học máy").input_ids == tokenizer("Học máy").input_ids
    )


@pytest.mark.parametrize("said", [None, "</s>"])
def test_padding_is_never_the_end_of_sequence(said, rehearsal, twin, tiny_llama, tokenizer, monkeypatch):
    folder = twin(tiny_llama)
    saved = json.loads((folder / "tokenizer_config.json").read_text())
    saved["pad_token"] = said
    (folder / "tokenizer_config.json").write_text(json.dumps(saved))
    monkeypatch.setitem(vars(CATALOGUE["llama-3.2-3b"]), "pad_token", "<pad>")
    loaded = models.load_tokenizer("llama-3.2-3b", rehearsal)
    assert (loaded.pad_token, loaded.eos_token) == ("<pad>", "</s>")


def test_four_bits_on_a_cpu_keep_their_weights_in_place(monkeypatch, twin, tiny_llama, tmp_path):
    import torch
    from bitsandbytes.nn import Linear4bit, modules

    monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)  # a CPU on which 0.50.2 would repack them
    twin(tiny_llama)
    model, _ = models.load("llama-3.2-3b", runtime.detect(gpu=None, quantisation="nf4", work=tmp_path))
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 2 * 7
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    assert {layer.weight.quant_type for layer in layers} == {"nf4"}
    assert all(layer.weight.quant_state.nested for layer in layers)  # double quantisation
    assert model(torch.arange(4)[None]).logits.dtype == torch.float32


def test_a_damaged_twin_says_how_to_restore_it(rehearsal, twin, tiny_llama):
    folder = twin(tiny_llama)
    os.truncate(folder / "model.safetensors", 5000)
    with pytest.raises(LessonError, match="damaged or cut short.*restore data/ from git") as caught:
        models.load("llama-3.2-3b", rehearsal)
    assert str(folder) in str(caught.value) and caught.value.__cause__ is not None


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=CATALOGUE)
def test_the_shipped_twin_is_what_the_catalogue_says(entry, tmp_path):
    found = runtime.detect(family=entry.family, gpu=None, work=tmp_path)
    model, tokenizer = models.load(entry.key, found)
    assert model.config.model_type == models.config(entry.key).model_type
    assert model.get_input_embeddings().num_embeddings >= len(tokenizer)
    vocabulary = tokenizer.get_vocab()
    assert {*entry.stop_tokens, entry.pad_token} <= set(vocabulary)
    assert tokenizer.pad_token == entry.pad_token
    modules = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    assert set(entry.lora_targets) <= modules


def test_overrides_reach_from_pretrained_and_a_learners_mistake_stays_itself(twin, tiny_llama, rehearsal):
    twin(tiny_llama)
    model, _ = models.load("llama-3.2-3b", rehearsal, attn_implementation="eager")
    assert model.config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="flash"):
        models.load("llama-3.2-3b", rehearsal, attn_implementation="flash")


# What a GPU would be asked to load (nothing is loaded)


def arguments_for(monkeypatch, key, found):
    from transformers import AutoModelForCausalLM

    passed = {}
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda where, **rest: passed.update(rest))
    monkeypatch.setattr(models, "load_tokenizer", lambda *_, **__: None)
    models.load(key, found)
    return passed


def test_a_t4_gets_fp16_nf4_and_nothing_of_bfloat16_or_flash_attention(monkeypatch, tmp_path):
    import torch

    t4 = runtime.detect(gpu=T4, work=tmp_path, backend="transformers")
    passed = arguments_for(monkeypatch, "llama-3.2-3b", t4)
    four_bits = passed.pop("quantization_config")
    assert passed == {
        "dtype": torch.float16,
        "attn_implementation": "sdpa",
        "use_safetensors": True,
        "device_map": {"": 0},
        "revision": CATALOGUE["llama-3.2-3b"].mirror_revision,
        "adapter_kwargs": {"revision": CATALOGUE["llama-3.2-3b"].mirror_revision},
    }
    assert four_bits.load_in_4bit and four_bits.bnb_4bit_use_double_quant
    assert four_bits.bnb_4bit_quant_type == "nf4"
    assert four_bits.bnb_4bit_compute_dtype == torch.float16


def test_gemma_keeps_its_softcapping_on_every_gpu(monkeypatch, tmp_path):
    """Under sdpa transformers leaves Gemma-2's cap on the attention's scores out."""
    config = models.config("gemma-2-2b")
    assert (config.attn_logit_softcapping, config.final_logit_softcapping) == (50.0, 30.0)
    assert (config.sliding_window, config.query_pre_attn_scalar) == (4096, 256)
    for gpu, dtype in ((T4, "float16"), (runtime.Gpu("NVIDIA L4", (8, 9), 22.0), "bfloat16")):
        found = runtime.detect(family="gemma2", gpu=gpu, work=tmp_path, backend="transformers")
        passed = arguments_for(monkeypatch, "gemma-2-2b", found)
        assert (passed["attn_implementation"], found.dtype) == ("eager", dtype)
        assert passed["revision"] == CATALOGUE["gemma-2-2b"].mirror_revision
        assert ("quantization_config" in passed) == (gpu is T4)


def test_a_t4_gets_bloom_in_fp16_without_quantisation(monkeypatch, tmp_path):
    import torch

    passed = arguments_for(monkeypatch, "bloom-560m", runtime.detect(family="bloom", gpu=T4, work=tmp_path))
    assert "quantization_config" not in passed
    assert (passed["dtype"], passed["attn_implementation"]) == (torch.float16, "eager")
    assert passed["revision"] == "ac2ae5fab2ce3f9f40dc79b5ca9f637430d24971"


def test_a_large_gpu_gets_bfloat16(monkeypatch, tmp_path):
    import torch

    large = runtime.detect(gpu=runtime.Gpu("NVIDIA L4", (8, 9), 22.0), work=tmp_path, backend="transformers")
    passed = arguments_for(monkeypatch, "llama-3.2-3b", large)
    assert passed["dtype"] == torch.bfloat16 and "quantization_config" not in passed


def test_the_token_goes_only_to_the_publishers_repository(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    assert "token" not in models._access("f" * 40, original=False)
    assert models._access("f" * 40, original=True)["token"] == "hf_abc"
    monkeypatch.delenv("HF_TOKEN")
    assert "token" not in models._access("f" * 40, original=True)


@pytest.fixture
def unsloth(monkeypatch, tiny_llama, tokenizer):
    """In the place of Unsloth: gives back what `from_pretrained` was asked for; its tokenizer is spoilt."""
    from transformers import AutoConfig

    passed = {}
    spoilt = SimpleNamespace(padding_side="left", pad_token="<|eot_id|>", eos_token="<|eot_id|>")

    def from_pretrained(**arguments):
        passed.update(arguments)
        return tiny_llama.train(), spoilt

    module = ModuleType("unsloth")
    module.FastLanguageModel = SimpleNamespace(from_pretrained=from_pretrained)
    monkeypatch.setitem(sys.modules, "unsloth", module)
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda where, **_: None)
    monkeypatch.setattr(models, "load_tokenizer", lambda *_, **__: tokenizer)
    return passed


def test_unsloth_is_given_the_exact_repository_and_commit(unsloth, tiny_llama, tokenizer, tmp_path):
    import torch

    t4 = runtime.detect(gpu=T4, work=tmp_path, backend="unsloth")
    model, its_tokenizer = models.load("llama-3.2-3b", t4, max_seq_length=512)
    assert unsloth == {
        "model_name": "unsloth/Llama-3.2-3B-Instruct",
        "revision": CATALOGUE["llama-3.2-3b"].mirror_revision,
        "use_exact_model_name": True,
        "use_safetensors": True,
        "max_seq_length": 512,
        "load_in_4bit": True,
        "dtype": torch.float16,
    }
    assert model is tiny_llama and not model.training
    assert its_tokenizer is tokenizer  # the one that both backends load


def test_unsloth_in_rehearsal_gets_the_twin_from_this_disk(unsloth, monkeypatch, tmp_path):
    import torch

    monkeypatch.setattr(paths, "twin_dir", lambda name: Path("twins") / name)
    found = replace(runtime.detect(gpu=None, work=tmp_path), backend="unsloth")
    models.load("llama-3.2-3b", found)
    assert unsloth == {
        "model_name": str(Path("twins/llama32")),
        "local_files_only": True,
        "use_exact_model_name": True,
        "use_safetensors": True,
        "max_seq_length": 2048,
        "load_in_4bit": False,
        "dtype": torch.float32,
        "attn_implementation": "sdpa",
    }


# Against a small Hub, through the real client


@pytest.fixture(scope="module")
def told(tmp_path_factory, tokenizer):
    """What a learner's process saw and what the server was asked, step by step (tests/load_from_hub.py)."""
    import torch
    from transformers import BloomConfig, BloomForCausalLM

    folder = tmp_path_factory.mktemp("repository")
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=2)
    model = BloomForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "LESSONLIB_"))
    }
    script, cache = Path(__file__).parents[1] / "load_from_hub.py", tmp_path_factory.mktemp("cache")
    done = subprocess.run(
        [sys.executable, script, folder, cache],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    steps = json.loads(done.stdout.splitlines()[-1])
    for name, dtype in (("sum", torch.float16), ("sum in fp32", torch.float32)):
        steps[name] = float(sum(weight.detach().to(dtype).double().sum() for weight in model.parameters()))
    return steps


def test_a_good_repository_is_loaded_whole_on_a_simulated_t4(told):
    loaded = told["broken once"]
    assert loaded["dtypes"] == ["torch.float16"]
    assert loaded["attention"] == "eager"
    assert loaded["padding"] == ["right", "<pad>"]
    assert loaded["sum"] == pytest.approx(told["sum"], rel=1e-9)


def test_the_server_is_asked_for_the_pinned_commit_and_no_other(told):
    asked = [request["path"] for request in told["broken once"]["requests"]]
    assert any(path.endswith("/model.safetensors") for path in asked)
    revision = CATALOGUE["bloom-560m"].revision
    assert [path for path in asked if f"/{revision}/" not in f"{path}/"] == []


def test_only_safetensors_are_asked_for(told):
    asked = {request["path"].rpartition("/")[2] for step in told.values() if isinstance(step, dict)
             for request in step["requests"]}  # fmt: skip
    assert not [name for name in asked if name.endswith((".bin", ".pt", ".py", ".pkl"))]


def test_a_download_that_broke_once_is_tried_again(told):
    assert [request["method"] for request in told["broken once"]["requests"]
            if request["path"].endswith("model.safetensors")].count("GET") == 2  # fmt: skip


def test_a_download_that_stays_broken_says_so_and_leaves_nothing_half_written(told):
    broken = told["broken for good"]
    assert "broke off" in broken["en"] and "Run this cell again" in broken["en"]
    assert "đứt giữa chừng" in broken["vi"]
    assert [name for name in broken["files"] if "safetensors" in name or name.endswith(".incomplete")] == []


def test_what_is_in_the_cache_needs_no_network(told):
    assert told["no network, in the cache"]["requests"] == []
    assert told["no network, in the cache"]["sum"] == told["broken once"]["sum"]


def test_a_missing_repository_names_its_page(told):
    assert f"{HUB}/unsloth/Llama-3.2-3B-Instruct" in told["missing"]["en"]
    assert "no unsloth/Llama-3.2-3B-Instruct on the Hub" in told["missing"]["en"]
    assert "Không thấy" in told["missing"]["vi"]
    assert told["missing"]["cause"] == "OSError"


def test_a_gated_repository_names_the_page_and_offers_the_mirror(told):
    gated = told["gated"]
    assert f"Visit {HUB}/meta-llama/Llama-3.2-3B-Instruct" in gated["en"] and "HF_TOKEN" in gated["en"]
    assert "unsloth/Llama-3.2-3B-Instruct" in gated["en"]
    assert "chấp nhận giấy phép" in gated["vi"]
    assert {request["token"] for request in gated["requests"]} == {"hf_of_a_learner"}


def test_a_refusal_names_the_argument_that_cures_it(told):
    assert told["gated"]["en"].endswith("leave out original=True, or add mirror_if_refused=True.")
    assert told["gated"]["vi"].endswith("bỏ original=True, hay thêm mirror_if_refused=True.")


def test_a_mirror_without_the_pinned_commit_gives_way_to_the_publisher(told):
    llama, loaded = CATALOGUE["llama-3.2-3b"], told["mirror lost its commit"]
    assert loaded["said"] == (
        f"The mirror {llama.mirror} no longer has the commit that the course pins. The lesson loads the "
        f"publisher's own, {llama.hub_id}, which may ask for a token.\n"
    )
    assert loaded["sum"] == pytest.approx(told["sum"], rel=1e-9)


@pytest.mark.parametrize("step", ["mirror if gated", "mirror if the token is wrong", "mirror by unsloth"])
def test_a_learner_who_agrees_gets_the_mirror_and_one_line(told, step):
    llama, loaded = CATALOGUE["llama-3.2-3b"], told[step]
    (line,) = [line for line in loaded["said"].splitlines() if "Unsloth" not in line]
    assert line == (
        f"{llama.hub_id} refuses access (visit {HUB}/{llama.hub_id} to accept the licence, and put a token "
        f"into the secret HF_TOKEN). The lesson goes on with the mirror {llama.mirror}."
    )
    assert ("Unsloth (CPU)" in loaded["said"]) == (step == "mirror by unsloth")
    right = told["sum in fp32" if "unsloth" in step else "sum"]
    assert loaded["sum"] == pytest.approx(right, rel=1e-9)
    assert loaded["padding"] == ["right", "<pad>"]
    asked = [request["path"] for request in loaded["requests"] if llama.hub_id not in request["path"]]
    assert any(path.endswith("/tokenizer.json") for path in asked)
    assert [path for path in asked if llama.mirror not in path] == []  # nobody's statistics, for one
    assert [path for path in asked if f"/{llama.mirror_revision}/" not in f"{path}/"] == []


def test_who_does_not_agree_is_told_what_is_wrong_with_the_token(told):
    wrong = told["wrong token"]
    assert "refuses your token (error 401)" in wrong["en"] and "mirror_if_refused=True" in wrong["en"]
    assert f"{HUB}/settings/tokens" in wrong["en"] and "Hub từ chối token của bạn" in wrong["vi"]


def test_only_a_refusal_leads_to_the_mirror(told):
    assert "error 503" in told["outage is no refusal"]["en"]
    assert "refuses" not in told["outage is no refusal"]["said"]


def test_a_pinned_commit_that_is_gone(told):
    assert "no longer has the commit" in told["commit gone"]["en"]


def test_an_outage_names_the_status(told):
    assert "error 503" in told["outage"]["en"]


def test_no_network_points_to_the_rehearsal(told):
    assert "cannot be reached" in told["no network"]["en"]
    assert "profile='rehearsal'" in told["no network"]["en"]


def test_a_damaged_download_names_the_folder_to_delete(told):
    damaged = told["damaged"]
    assert "damaged or cut short" in damaged["en"]
    assert f"hub{os.sep}models--bigscience--bloom-560m and run this cell again" in damaged["en"]


def test_offline_mode_is_said(monkeypatch, tmp_path):
    """conftest sets HF_HUB_OFFLINE=1 for this process."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    bloom_rt = runtime.detect(family="bloom", gpu=T4, work=tmp_path)
    with pytest.raises(LessonError, match="HF_HUB_OFFLINE"):
        models.load("bloom-560m", bloom_rt, device_map="cpu", cache_dir=tmp_path)
    with pytest.raises(LessonError, match="HF_HUB_OFFLINE"):
        models.load_tokenizer("bloom-560m", bloom_rt)


def test_a_full_disk_says_what_to_free():
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = OSError("Can't load the model")
    wrapped.__context__ = full
    with pytest.raises(LessonError, match="disk is full while downloading a/b.*HF_HOME"):
        raise explained(wrapped, "a/b") from wrapped
    language.use("vi")
    with pytest.raises(LessonError, match="Hết chỗ trên ổ đĩa"):
        raise explained(full, "a/b") from full


def test_an_unknown_problem_is_left_as_it_is():
    assert explained(ValueError("something else"), "a/b") is None
