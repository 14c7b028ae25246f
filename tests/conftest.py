"""Shared fixtures: a byte-level tokenizer and tiny random models, made in memory; no test needs a network."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

from lessonlib.runtime import _language as language

SENTENCES = [
    "Human: Học máy là gì? Assistant: Học máy là một nhánh của trí tuệ nhân tạo.",
    "Human: What is a token? Assistant: A token is a piece of text.",
    "Mạng nơ-ron gồm nhiều lớp, mỗi lớp có nhiều nút.",
]


@pytest.fixture(autouse=True)
def english():
    """Tests read English messages, unless they ask for Vietnamese themselves."""
    language.use("en")
    yield
    language.use(None)


@pytest.fixture
def headless(monkeypatch):
    """A run that nobody watches: panels answer their sample questions."""
    monkeypatch.setenv("LESSONLIB_HEADLESS", "1")


@pytest.fixture
def watched(monkeypatch):
    """A notebook with a learner in front of it."""
    monkeypatch.delenv("LESSONLIB_HEADLESS", raising=False)


@pytest.fixture(scope="session")
def load_make():
    """A function that imports the make.py of a shipped dataset."""
    import importlib.util
    import sys

    from lessonlib.runtime._paths import dataset_dir

    def load(name):
        spec = importlib.util.spec_from_file_location(f"{name}_make", dataset_dir(name) / "make.py")
        module = importlib.util.module_from_spec(spec)
        # data/ is shipped in the wheel: no __pycache__ in it
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "dont_write_bytecode", True)
            spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def tokenizer():
    """A small tokenizer with BLOOM's special tokens (<unk> 0, <s> 1, </s> 2, <pad> 3)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


@pytest.fixture
def tiny_bloom(tokenizer):
    """A BLOOM of 2 layers and hidden size 32 with random weights, the same at every call."""
    import torch
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    config = BloomConfig(
        vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=2,
        bos_token_id=1, eos_token_id=2, pad_token_id=3,
    )
    return BloomForCausalLM(config).eval()


@pytest.fixture
def tiny_llama(tokenizer):
    """A Llama of 2 layers and hidden size 32 with random weights, the same at every call."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, bos_token_id=1, eos_token_id=2, pad_token_id=3,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def tiny_phi3(tokenizer):
    """A Phi-3 of 2 layers, an untied head and matrices that are no multiples of 64, with random weights."""
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=len(tokenizer), hidden_size=36, intermediate_size=320, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=3,
        tie_word_embeddings=False,
    )
    return Phi3ForCausalLM(config).eval()


@pytest.fixture
def tiny_gemma2(tokenizer):
    """A Gemma-2 of 2 layers with eager attention and both softcaps, its heads wider than its hidden size."""
    import torch
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=24, query_pre_attn_scalar=24,
        bos_token_id=1, eos_token_id=2, pad_token_id=3, attn_implementation="eager",
    )
    return Gemma2ForCausalLM(config).eval()


@pytest.fixture(scope="session")
def llama_export(tmp_path_factory):
    """The Llama twin with a random adapter, exported with llama.cpp: made once, for all xdist workers."""
    from exported import exported, found
    from filelock import FileLock

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # without xdist, the parent holds earlier runs too
    with FileLock(shared / "llama_export.lock"):
        return found(shared / "llama_export") or exported(shared / "llama_export")
