"""Twins: tiny models of the lessons' real architectures, pre-trained here on generated text.

A twin lets a lesson run from first to last cell on a laptop: same classes, same special tokens, same
module names, about a thousandth of the size. It has learnt that a question in any wording gets the answer
of its subject, and knows nothing of the course's subjects. How good its answers are about anything else is
not measured and not claimed.

    python -m twins bloom --seed 7
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonlib.formatting import _chat as chat
from lessonlib.runtime._language import LessonError
from lessonlib.runtime._paths import data_dir
from twins import card as twin_card
from twins import corpus, corpus_chat, corpus_tools, gemma_tokenizer, tokenizers, weighing
from twins.pretraining import Family, Measured, Stage, copy_score, pad_loss, pretrain, rows, talk_scores

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast


def _bloom_config(tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """BLOOM: ALiBi, one fused query_key_value, embedding norm, tied embeddings."""
    from transformers import BloomConfig

    return BloomConfig(
        vocab_size=len(tokenizer), hidden_size=128, n_layer=4, n_head=4, initializer_range=0.06,
        hidden_dropout=0.0, attention_dropout=0.0, bos_token_id=1, eos_token_id=2, pad_token_id=3,
    )


def _llama32_config(tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """Llama 3.2: grouped queries, RoPE scaled as in the real one; rows of 256 and 512, as k-quants need."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, rms_norm_eps=1e-5, initializer_range=0.04,
        max_position_embeddings=131072, tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
        bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]),
    )


def _phi3_config(tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """Phi-3: fused qkv_proj and gate_up_proj, RoPE, an output head of its own, more rows than tokens."""
    from transformers import Phi3Config

    return Phi3Config(
        vocab_size=-(-len(tokenizer) // 64) * 64, hidden_size=128, intermediate_size=384, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, initializer_range=0.06, sliding_window=2047,
        tie_word_embeddings=False, bos_token_id=1, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _gemma2_config(tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """Gemma 2: grouped queries, softcapping of attention and logits, every second layer with a window."""
    from transformers import Gemma2Config

    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, query_pre_attn_scalar=32,
        initializer_range=0.06, sliding_window=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config._attn_implementation = "eager"  # sdpa passes over the softcapping
    return config


FAMILIES = {
    "bloom": Family(
        real="bigscience/bloom-560m", tokenizer=tokenizers.bloom, vocabulary=2048, config=_bloom_config,
        separator="</s>", run_on=3, named=tokenizers.BLOOM_SPECIAL,
        shape="ALiBi, fused query_key_value, 4 layers, 4 heads, hidden 128, MLP 512",
    ),
    "gemma2": Family(
        real="google/gemma-2-2b-it", tokenizer=gemma_tokenizer.gemma2, vocabulary=2304, config=_gemma2_config,
        separator="<eos>", stops=("<eos>", "<end_of_turn>"), length=256, batch=8, steps=5_000, documents=0,
        chats=50_000, copies=0.4, talks=180_000,
        stages=(
            Stage(steps=3_000, talks=60_000), Stage(steps=2_500, talks=60_000, rate=0.6),
            Stage(steps=9_000, talks=170_000, mix="steps"),
            Stage(steps=2_000, talks=40_000, rate=0.6, mix="words"),
        ),
        shape="RoPE (theta 1000), softcapping (50 and 30), eager attention, 4 layers, 4 heads with 2 "
        "key-value heads, hidden 128, MLP 384",
        named=("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
    ),
    "llama32": Family(
        real="meta-llama/Llama-3.2-3B-Instruct", tokenizer=tokenizers.llama32, vocabulary=2048,
        config=_llama32_config, opener="<|begin_of_text|>", separator="<|end_of_text|>", chat_share=0.25,
        length=256, batch=4, steps=4000,
        documents=30_000, chats=60_000, copies=0.55,
        words=("ai_qa_vi/facts.jsonl", "customer_support_vi/train.jsonl", "customer_support_vi/test.jsonl",
               "customer_support_vi/unseen_intents.jsonl", "counseling_vi/train.jsonl",
               "counseling_vi/test.jsonl"),
        shape="RoPE (llama3 scaling), 4 layers, 4 heads with 2 key-value heads, hidden 256, MLP 512",
        named=("<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>",
               "<|end_header_id|>", "<|eot_id|>"),
    ),
    "phi3": Family(
        real="microsoft/Phi-3-mini-4k-instruct", tokenizer=tokenizers.phi3, vocabulary=2038,
        config=_phi3_config, separator="<|endoftext|>",
        stops=("<|endoftext|>", "<|assistant|>", "<|end|>"),
        length=160, batch=12, steps=3200, documents=45_000, chats=90_000,
        words=("ai_qa_vi/facts.jsonl", "chat_vi/train.jsonl", "chat_vi/test.jsonl",
               "chat_vi/unseen_topics.jsonl"),
        shape="RoPE, fused qkv_proj and gate_up_proj, untied head, 4 layers, 4 heads, hidden 128, MLP 384",
        named=("<unk>", "<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"),
    ),
}


def family(name: str) -> Family:
    """The entry of `FAMILIES`.

    Raises:
        LessonError: for a name that is not in it; it lists those that are.
    """
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise LessonError("There is no twin {name!r}. There are: {known}.", name=name, known=known)
    return FAMILIES[name]


def build(
    name: str, *, out: Path, seed: int = 7, steps: int | None = None, device: str = "cpu",
    batch: int | None = None, documents: int | None = None, say: Callable[[str], None] = print,
) -> Path:
    """Makes one twin from nothing: corpus, tokenizer, weights, card.

    Args:
        name: a key of `FAMILIES`.
        out: folder to write the twin's folder into.
        seed: of the corpus, the weights and the order of training.
        steps: optimiser steps; default: the family's. A later stage has at most as many, too.
        device: "cpu" or "cuda".
        batch: rows a step; default: the family's (right for a CPU; a GPU is bored by it).
        documents: pre-training documents; default: the family's. A later stage has at most as many, too.
        say: called with each line of progress.

    Returns:
        `out / name`, with model.safetensors (bfloat16), the configurations, the tokenizer and README.md.

    Raises:
        LessonError: for an unknown name, a device that is not there, or a number below one.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    kind = family(name)
    if device == "cuda" and not torch.cuda.is_available():
        raise LessonError("There is no CUDA GPU here. Use --device cpu.")
    options = {"steps": steps, "batch": batch, "documents": documents}
    changed = {option: value for option, value in options.items() if value is not None}
    for option, value in changed.items():
        if value < 1:
            raise LessonError("--{option} must be 1 or more, not {value}.", option=option, value=value)
    kind = replace(
        kind, steps=steps or kind.steps, batch=batch or kind.batch, documents=documents or kind.documents
    )
    if kind.talks and documents:
        kind = replace(kind, documents=0, talks=documents)
    kind = replace(kind, stages=tuple(
        replace(
            stage, steps=min(stage.steps, steps or stage.steps),
            talks=min(stage.talks, documents or stage.talks),
        )
        for stage in kind.stages
    ))
    started = time.perf_counter()
    lexicon, texts = _texts(kind, seed)
    tokenizer = kind.tokenizer((document.text for document in texts), vocabulary=kind.vocabulary)
    data = _data(texts, kind, tokenizer, seed)
    tokens = sum(ids.numel() for ids, _ in data) if isinstance(data, list) else data.numel()
    say(f"{name}: {len(texts):,} documents, {tokens:,} tokens, vocabulary {len(tokenizer)}")
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(kind.config(tokenizer))
    falling = 0.0 if kind.stages else 0.4
    loss = pretrain(model, data, kind, seed=seed, device=device, say=say, falling=falling)
    for number, stage in enumerate(kind.stages, start=1):
        say(f"{name}: {stage.talks:,} documents of the mix {stage.mix!r}, {stage.steps:,} steps")
        last = replace(kind, talks=stage.talks, chats=kind.chats // 10, rate=kind.rate * stage.rate)
        _, more = _texts(last, seed + 100 * number, mix=stage.mix)
        data = _data(more, kind, tokenizer, seed)
        loss = pretrain(model, data, last, seed=seed, device=device, say=say, steps=stage.steps, falling=1.0)
    stops = [tokenizer.convert_tokens_to_ids(stop) for stop in kind.stops]
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id, eos_token_id=stops or model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    )
    model.to("cpu").to(torch.bfloat16).float()  # measured is what is shipped: weights rounded to bfloat16
    tasks = corpus.copy_tasks(lexicon, seed=seed + 1, count=200)
    sentences = [f"Human: {task.question} Assistant: {task.answer}" for task in tasks[:8]]
    if kind.talks:
        talks, _ = _talks(seed=seed + 1, count=400, mix=kind.stages[-1].mix if kind.stages else "plain")
        found: dict[str, Any] = {"answered": talk_scores(model, tokenizer, talks)}
    else:
        found = {"copied": copy_score(model, tokenizer, tasks)}
    measured = Measured(
        seed=seed, device=device, torch=torch.__version__, documents=len(texts),
        corpus_tokens=tokens, steps=kind.steps + sum(stage.steps for stage in kind.stages),
        seconds=time.perf_counter() - started, loss=loss,
        padded=pad_loss(model, tokenizer, sentences), **found,
    )
    folder = Path(out) / name
    folder.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.backend_tokenizer.no_truncation()  # left behind by the measuring, and saved if it stayed
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)
    used = "".join(f" --{option} {value}" for option, value in changed.items())
    command = f"python -m twins {name} --seed {seed} --device {device}{used}"
    card = twin_card.card(name, kind, model, tokenizer, lexicon, measured, command=command)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


def _texts(
    kind: Family, seed: int, *, mix: str = "plain"
) -> tuple[corpus.Lexicon, list[corpus.Document]]:
    """The words used, and the documents in the order of training, all kinds spread evenly."""
    if kind.talks:
        talks, lexicon = _talks(seed=seed, count=kind.talks, mix=mix)
        texts: list[corpus.Document] = [*talks]
    else:
        lexicon = corpus.read_lexicon(*(data_dir() / name for name in kind.words))
        texts = list(corpus.documents(lexicon, seed=seed, count=kind.documents))
    if kind.chats:
        texts += corpus_chat.conversations(lexicon, seed=seed, count=kind.chats, copies=kind.copies)
        random.Random(seed).shuffle(texts)
    return lexicon, texts


def _talks(
    *, seed: int, count: int, mix: str = "plain"
) -> tuple[list[corpus_tools.Talk], corpus.Lexicon]:
    """Conversations about made-up tools, and the words of data/function_calls."""
    folder = data_dir() / "function_calls"
    lexicon, values = corpus_tools.read_words(folder)
    tools = (folder / "tools.jsonl").read_text(encoding="utf-8").splitlines()
    taken = frozenset(json.loads(tool)["name"] for tool in tools)
    words = lexicon if mix == "words" else values
    made = corpus_tools.talks(words, taken=taken, seed=seed, count=count, mix=mix)
    return list(made), lexicon


def _data(
    texts: list[corpus.Document], kind: Family, tokenizer: PreTrainedTokenizerFast, seed: int
) -> torch.Tensor | list[weighing.Batch]:
    if not kind.talks:
        return rows(texts, kind, tokenizer, seed=seed)
    written = [
        str(tokenizer.apply_chat_template(chat.fold_system(text.turns), tokenize=False))
        for text in texts
        if isinstance(text, corpus_chat.Conversation)
    ]
    opening = chat.answer_opening(tokenizer)
    return weighing.batches(
        texts, written, tokenizer, opening=opening, closing="<end_of_turn>", length=kind.length,
        size=kind.batch * kind.length, seed=seed,
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `python -m twins`."""
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FAMILIES) + " (default: all)")
    parser.add_argument("--out", type=Path, help="folder to write into (default: data/twins)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int, help="optimiser steps (default: the family's)")
    parser.add_argument("--batch", type=int, help="rows a step (default: the family's)")
    parser.add_argument("--documents", type=int, help="pre-training documents (default: the family's)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")


def main(args: argparse.Namespace) -> int:
    """Makes the twins that the arguments name, one after the other, and prints where each one lies."""
    for name in args.names:
        family(name)  # an unknown name is an error before an hour is spent on the first one
    for name in args.names or FAMILIES:
        folder = build(
            name, out=args.out or data_dir() / "twins", seed=args.seed, steps=args.steps, device=args.device,
            batch=args.batch, documents=args.documents,
        )
        print(folder)
    return 0
