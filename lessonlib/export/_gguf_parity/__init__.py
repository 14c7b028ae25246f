"""Is what was exported what was trained? The merged model and the GGUF files against the adapter on its base.

Compared are token ids over thousands of texts, rendered conversations, stop tokens, logits and greedy
answers. None of them proves much alone: with a wrong pre-tokenizer the logits are right, and without RoPE's
frequency factors the answers are. Of a quantised file no logit and no text is promised: how far it is from
the trained model is reported, and that it is nearer to it than to the base.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonlib.evaluation._answers import continuations, stop_ids
from lessonlib.evaluation._parity import ROUNDING, rounding
from lessonlib.export._gguf import KINDS
from lessonlib.export._gguf_parity import _compare as compare
from lessonlib.export._gguf_parity._child import GgufModel
from lessonlib.export._gguf_parity._report import Row, Verified
from lessonlib.export._gguf_parity._texts import conversations, strings, unspelled
from lessonlib.runtime import _llama_cpp as llama_cpp_tools
from lessonlib.runtime._language import LessonError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

__all__ = ["KINDS", "GgufModel", "Row", "Verified", "conversations", "strings", "verify"]

FORMATS = {"f32": "float32", "f16": "float16"}  # of the kinds that keep every weight


def verify(
    trained: "PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    prompts: Sequence[str],
    merged: str | os.PathLike | None = None,
    gguf: Mapping[str, str | os.PathLike] | None = None,
    texts: Sequence[str] | None = None,
    template_options: Mapping[str, Any] | None = None,
    max_new_tokens: int = 32,
) -> Verified:
    """Compare every exported artifact with the trained model.

    Each check stands for itself: logits and answers are taken from the trained model's token ids, so that a
    tokenizer gone wrong shows in the token ids and nowhere else. llama.cpp reads each file in a process of
    its own, as it may die of one; texts that the trained model's own vocabulary cannot spell it is not given.

    Args:
        trained: the adapter on its base, as trained; it is not changed.
        tokenizer: the one it was trained with.
        prompts: what to ask, rendered (`formatting.chat_prompts`); half a dozen will do.
        merged: folder of the merged model.
        gguf: kind ("f32", "f16", "q8_0", "q4_k_m") -> file.
        texts: to compare token ids on; None: `strings()`, 10,000 of them. Prompts and rendered conversations
            are tokenised as well.
        template_options: further variables of the chat template, such as {"date_string": "26 Jul 2024"};
            with GGUF files values of JSON.
        max_new_tokens: length of the greedy answers.

    Returns:
        A `Verified`: `ok`, `problems`, `table()`. What is wrong with an artifact raises nothing, it is there.

    Raises:
        LessonError: no PeftModel; an adapter without effect, which could not be told from the base; no
            prompts; nothing to compare; an unknown kind; a file, a folder or llama-cpp-python that is not
            there; template options that are not JSON; and those of `evaluation.answers`.
    """
    files = {kind: Path(path) for kind, path in (gguf or {}).items()}
    _check_arguments(trained, prompts, merged, files, template_options)
    said = compare.ask_trained(
        trained, tokenizer, prompts, texts=strings() if texts is None else texts,
        options=template_options or {}, max_new_tokens=max_new_tokens,
    )  # fmt: skip
    share = rounding(trained)
    rows = []
    if merged is not None:
        from transformers import AutoConfig

        # Files made of 16-bit weights, too, cannot be nearer to the trained model than those are.
        stored = _format(AutoConfig.from_pretrained(merged, local_files_only=True).dtype)
        share = max(share, ROUNDING[stored])
        rows.append(_merged_row(said, trained, Path(merged), share * said.spread, max_new_tokens))
    lacking = unspelled(tokenizer, [*said.texts, *said.chats]) if files else {}
    for kind in sorted(files, key=KINDS.index):
        bound = max(share, ROUNDING[FORMATS[kind]]) * said.spread if kind in FORMATS else None
        rows.append(_gguf_row(said, kind, files[kind], bound, lacking, max_new_tokens))
    there = {row.name for row in rows}
    missing = tuple(name for name in ("merged", *KINDS) if name not in there)
    return Verified(tuple(rows), missing, effect=said.effect, spread=said.spread)


def _check_arguments(
    trained: Any, prompts: Sequence[str], merged: str | os.PathLike | None, files: Mapping[str, Path],
    options: Mapping[str, Any] | None,
) -> None:  # fmt: skip
    from peft import PeftModel

    if not isinstance(trained, PeftModel):
        raise LessonError(
            "{name} is no PeftModel. Pass the model that was trained (the adapter on its base): everything "
            "that was exported is compared with it.",
            name=type(trained).__name__,
        )
    if not prompts:
        raise LessonError("At least one prompt is needed to compare what was exported.")
    if merged is None and not files:
        raise LessonError("There is nothing to compare: pass merged=... or gguf={...}.")
    if merged is not None and not (Path(merged) / "config.json").is_file():
        raise LessonError(
            "{merged} is not the folder of a merged model (config.json is missing). Call export.merge first.",
            merged=merged,
        )
    if unknown := sorted(set(files) - set(KINDS)):
        raise LessonError(
            "There is no GGUF kind {unknown!r} here. The kinds are {kinds}.",
            unknown=unknown[0], kinds=", ".join(KINDS),
        )
    for file in files.values():
        if not file.is_file():
            raise LessonError(
                "There is no file {file}. Make the GGUF files first (export.make_gguf).", file=file
            )
    if files:
        llama_cpp_tools.check_packages()
        try:
            json.dumps(dict(options or {}))  # they go to another process
        except (TypeError, ValueError) as error:
            raise LessonError(
                "template_options have to be values of JSON (strings, numbers, lists, dicts): {error}.",
                error=error,
            ) from error


def _merged_row(
    said: compare.Trained, trained: Any, folder: Path, tolerance: float, max_new_tokens: int
) -> Row:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = folder.glob("*.safetensors")
    row = Row("merged", sum(file.stat().st_size for file in weights) / 1e6, tolerance=tolerance)
    on_disk: Any = {"local_files_only": True}
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=trained.get_base_model().dtype, use_safetensors=True, **on_disk
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **on_disk)
    except Exception as problem:  # no weights, a cut file, no tokenizer: each is said in its own way
        error = LessonError(
            "{folder} cannot be loaded: {problem} Merge again.", folder=folder, problem=problem,
        )
        return replace(row, unreadable=error)
    if other := _other_vocabulary(said, model.config.vocab_size):
        return replace(row, unreadable=other)
    model.to(trained.device)
    try:
        answers = continuations(model, said.tokenizer, said.prompts, max_new_tokens=max_new_tokens)
    except LessonError as problem:  # its logits are no numbers
        return replace(row, unreadable=problem)
    heard = compare.Heard(
        ids=compare.token_ids(tokenizer, said.texts, said.chats),
        rendered=compare.render(tokenizer, said.options),
        stops=frozenset(stop_ids(model.generation_config, tokenizer)),
        eos=tokenizer.eos_token_id,
        answers=answers,
        logits=compare.logits_of(model, said.read, said.kept),
    )
    return compare.compared(row, said, heard)


def _gguf_row(
    said: compare.Trained, kind: str, file: Path, tolerance: float | None, lacking: Mapping[int, set[int]],
    max_new_tokens: int,
) -> Row:  # fmt: skip
    import torch

    row = Row(
        kind, file.stat().st_size / 1e6, tolerance=tolerance, left_out=len(lacking),
        no_token=frozenset().union(*lacking.values()),
    )  # fmt: skip
    longest = max(map(len, said.encoded)) + max_new_tokens
    texts = ["" if at in lacking else text for at, text in enumerate([*said.texts, *said.chats])]
    bos = said.tokenizer.bos_token
    answers, logits = [], []
    try:
        with GgufModel(file, context=longest, threads=torch.get_num_threads()) as model:
            if other := _other_vocabulary(said, model.vocabulary):
                return replace(row, unreadable=other)
            for prompt, answer in zip(said.encoded, said.answers, strict=True):
                own, numbers = model.follow(prompt, answer, max_new_tokens=max_new_tokens)
                answers.append(own)
                logits.append(torch.from_numpy(numbers[-said.kept :]))
            ids = model.token_ids(texts[: len(said.texts)])
            for chat in texts[len(said.texts) :]:
                ids += model.token_ids([chat], whole=not (bos and chat.startswith(bos)))
            heard = compare.Heard(
                ids=[None if at in lacking else each for at, each in enumerate(ids)],
                rendered=[model.render(messages, ask, said.options) for messages, ask in conversations()],
                stops=frozenset(model.stops),
                eos=model.eos,
                answers=answers,
                logits=logits,
            )
    except LessonError as problem:  # it cannot be opened, or llama.cpp died of it
        return replace(row, unreadable=problem)
    return compare.compared(row, said, heard)


def _other_vocabulary(said: compare.Trained, size: int) -> LessonError | None:
    if size == said.vocabulary:
        return None
    return LessonError(
        "its vocabulary has {size} tokens, the trained model's {vocabulary}: this is the export of another "
        "model.",
        size=size, vocabulary=said.vocabulary,
    )


def _format(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
