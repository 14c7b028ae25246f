"""Twins: tiny models of the lessons' real architectures, pre-trained here on generated text.

A twin lets a lesson run from first to last cell on a laptop: same classes, same special tokens, same
module names, about a thousandth of the size. It has learnt that a question in any wording gets the answer
of its subject, and knows nothing of the course's subjects. How good its answers are about anything else is
not measured and not claimed.

    lessonlib course twins bloom --seed 7
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lessonlib.course import corpus, corpus_chat, tokenizers, twin_card
from lessonlib.course.pretraining import Family, Measured, copy_score, pad_loss, pretrain, rows
from lessonlib.language import LessonError, text
from lessonlib.paths import data_dir

if TYPE_CHECKING:
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


FAMILIES = {
    "bloom": Family(
        real="bigscience/bloom-560m", tokenizer=tokenizers.bloom, vocabulary=2048, config=_bloom_config,
        separator="</s>", run_on=3, named=tokenizers.BLOOM_SPECIAL,
        shape="ALiBi, fused query_key_value, 4 layers, 4 heads, hidden 128, MLP 512",
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
        raise LessonError(
            vi=f"Không có mô hình thu nhỏ {name!r}. Hiện có: {known}.",
            en=f"There is no twin {name!r}. There are: {known}.",
        )
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
        steps: optimiser steps; default: the family's.
        device: "cpu" or "cuda".
        batch: rows a step; default: the family's (right for a CPU; a GPU is bored by it).
        documents: pre-training documents; default: the family's.
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
        raise LessonError(
            vi="Máy này không có GPU CUDA. Hãy dùng --device cpu.",
            en="There is no CUDA GPU here. Use --device cpu.",
        )
    options = {"steps": steps, "batch": batch, "documents": documents}
    changed = {option: value for option, value in options.items() if value is not None}
    for option, value in changed.items():
        if value < 1:
            raise LessonError(
                vi=f"--{option} phải từ 1 trở lên, đang là {value}.",
                en=f"--{option} must be 1 or more, not {value}.",
            )
    kind = replace(
        kind, steps=steps or kind.steps, batch=batch or kind.batch, documents=documents or kind.documents
    )
    started = time.perf_counter()
    lexicon = corpus.read_lexicon(*(data_dir() / name for name in kind.words))
    texts = _texts(lexicon, kind, seed)
    tokenizer = kind.tokenizer((document.text for document in texts), vocabulary=kind.vocabulary)
    data = rows(texts, kind, tokenizer, seed=seed)
    say(f"{name}: {len(texts):,} documents, {data.numel():,} tokens, vocabulary {len(tokenizer)}")
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(kind.config(tokenizer))
    loss = pretrain(model, data, kind, seed=seed, device=device, say=say)

    model.to("cpu").to(torch.bfloat16).float()  # measured is what is shipped: weights rounded to bfloat16
    tasks = corpus.copy_tasks(lexicon, seed=seed + 1, count=200)
    sentences = [f"Human: {task.question} Assistant: {task.answer}" for task in tasks[:8]]
    measured = Measured(
        seed=seed, device=device, torch=torch.__version__, documents=len(texts),
        corpus_tokens=data.numel(), steps=kind.steps, seconds=time.perf_counter() - started, loss=loss,
        copied=copy_score(model, tokenizer, tasks), padded=pad_loss(model, tokenizer, sentences),
    )
    stops = [tokenizer.convert_tokens_to_ids(stop) for stop in kind.stops]
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id, eos_token_id=stops or model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    )
    folder = Path(out) / name
    folder.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.backend_tokenizer.no_truncation()  # left behind by the measuring, and saved if it stayed
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)
    used = "".join(f" --{option} {value}" for option, value in changed.items())
    command = f"lessonlib course twins {name} --seed {seed} --device {device}{used}"
    card = twin_card.card(name, kind, model, tokenizer, lexicon, measured, command=command)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


def _texts(lexicon: corpus.Lexicon, kind: Family, seed: int) -> list[corpus.Document]:
    """The documents in the order of training; conversations, where the family has some, are spread evenly."""
    texts = list(corpus.documents(lexicon, seed=seed, count=kind.documents))
    if kind.chats:
        texts += corpus_chat.conversations(lexicon, seed=seed, count=kind.chats, copies=kind.copies)
        random.Random(seed).shuffle(texts)
    return texts


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `twins` to the command line of `lessonlib course`."""
    parser = subparsers.add_parser("twins", help=text(
        vi="tiền huấn luyện lại các mô hình thu nhỏ từ văn bản tự sinh",
        en="pre-train the tiny twins again from generated text",
    ))
    _options(parser)
    parser.set_defaults(main=main)


def _options(parser: argparse.ArgumentParser) -> None:
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


if __name__ == "__main__":
    options = argparse.ArgumentParser(prog="python -m lessonlib.course.twins")
    _options(options)
    raise SystemExit(main(options.parse_args()))
