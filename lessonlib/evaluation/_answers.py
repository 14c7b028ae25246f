"""Asks a model and measures its loss; the scores of its answers come from `_scoring`.

It knows nothing of how a model was trained, nor of where the questions come from: it takes a transformers (or
PEFT) model with lists of strings or an encoded dataset, and gives back strings and numbers.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from lessonlib.formatting._chat import answer_opening
from lessonlib.formatting._text_column import IGNORED
from lessonlib.models._masks import keep_masks_finite
from lessonlib.runtime._language import LessonError

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset
    from transformers import LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase


@contextmanager
def inference(model: "PreTrainedModel") -> Iterator[None]:
    """Evaluation mode without gradients inside the block; afterwards every module's training flag is as
    before.

    In evaluation mode transformers' gradient checkpointing is passed over and the key/value cache is allowed,
    so neither has to be switched off and on again.
    """
    import torch

    keep_masks_finite()  # for a model that `models.load` did not load, such as a merged one in a new kernel
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training


def answers(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 32,
) -> list[str]:
    """What the model says after each prompt, always taking the likeliest token (greedy decoding).

    Args:
        model: a causal language model, or a PeftModel around one.
        tokenizer: its tokenizer; neither its padding side nor its pad token matters or is changed.
        prompts: the texts to continue, without white space at their end unless a chat template wrote it
            (`formatting.chat_prompts`).
        max_new_tokens: where an answer is cut if no end-of-sequence token came before.
        batch_size: prompts in one forward pass; lower it when memory runs out.

    Returns:
        One text for each prompt, in the order of the prompts: without the prompt, without special tokens,
        stripped of white space at both ends.

    Raises:
        LessonError: a single string for a list; an empty prompt or one that ends in white space; a tokenizer
            without an end-of-sequence token; logits that are NaN or infinite.
    """
    ids = continuations(model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
    as_it_is: dict[str, Any] = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    return [str(tokenizer.decode(row, **as_it_is)).strip() for row in ids]


def continuations(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 32,
) -> list[list[int]]:
    """The token ids behind `answers`: what follows each prompt, up to but without the end-of-sequence token.

    Arguments and errors are those of `answers`. The model's own generation settings (sampling, temperature,
    repetition penalty) are set aside while it runs, except for its end-of-sequence tokens.
    """
    import torch
    from tqdm.auto import tqdm
    from transformers import GenerationConfig

    from lessonlib.runtime._detect import headless

    encoded = prompt_ids(tokenizer, prompts)
    inner: Any = getattr(model, "get_base_model", lambda: model)()
    own, generate = inner.generation_config, cast("Any", model).generate
    stops = stop_ids(own, tokenizer)
    pad = stops[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    greedy = GenerationConfig(
        do_sample=False, use_cache=True, max_new_tokens=max_new_tokens, eos_token_id=stops, pad_token_id=pad
    )
    # Longest first: rows of a batch have about the same length, and a batch too large fails at once.
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]), reverse=True)
    found: list[list[int]] = [[] for _ in encoded]
    # generate() would fill what is unset from the model's own settings, repetition penalty included
    inner.generation_config = greedy
    try:
        with inference(model), tqdm(total=len(encoded), disable=headless(), leave=False) as bar:
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                width = len(encoded[rows[0]])
                # (batch, width): padding on the left, so that each prompt's last token is the batch's last
                tokens = [[pad] * (width - len(encoded[row])) + encoded[row] for row in rows]
                mask = [[0] * (width - len(encoded[row])) + [1] * len(encoded[row]) for row in rows]
                output = generate(
                    input_ids=torch.tensor(tokens, device=model.device),
                    attention_mask=torch.tensor(mask, device=model.device),
                    generation_config=greedy,
                    logits_processor=finite_logits(),
                )  # (batch, width + new)
                for row, new in zip(rows, output[:, width:].tolist(), strict=True):
                    end = next((at for at, token in enumerate(new) if token in stops), len(new))
                    found[row] = new[:end]
                bar.update(len(rows))
    finally:
        inner.generation_config = own
    return found


def finite_logits() -> "LogitsProcessorList":
    """For `generate`: stops at logits that are no numbers, where it would go on and write some token.

    Raises, when `generate` calls it:
        LessonError: a row whose largest logit is NaN or infinite. (-inf beside others is what sampling makes
            of tokens that it rules out.)
    """
    from transformers import LogitsProcessor, LogitsProcessorList

    class FiniteLogits(LogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any) -> Any:  # (batch, so far), (batch, vocabulary)
            if not scores.max(dim=-1).values.isfinite().all():
                raise LessonError(
                    "The model's logits are NaN or infinite, so its answers would mean nothing. If training "
                    "did that, load the last good checkpoint and lower the learning rate. If the model was "
                    "like this before, float16 overflows in it: compute in float32 "
                    "(runtime.detect(..., dtype='float32')).",
                )
            return scores

    return LogitsProcessorList([FiniteLogits()])


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[str]) -> list[list[int]]:
    """The token ids of each prompt, as the model is to see them (with the tokenizer's own BOS, once).

    White space at a prompt's end is allowed only where the tokenizer's chat template puts it (Phi-3's does so
    after "<|assistant|>"): there it stood in training, too.

    Raises:
        LessonError: as `answers`.
    """
    if isinstance(prompts, str):
        raise LessonError("`prompts` must be a list of texts, not one text. Write [prompt].")
    header = answer_opening(tokenizer) if any(prompt != prompt.rstrip() for prompt in prompts) else ""
    for row, prompt in enumerate(prompts):
        if not prompt.strip():
            raise LessonError(
                "The prompt in row {row} is empty. Drop the row or fill in the question.", row=row,
            )
        if prompt != prompt.rstrip() and not (header and prompt.endswith(header)):
            raise LessonError(
                "The prompt in row {row} ends in white space: {prompt!r}. In training that space was part "
                "of the answer's first token; left here it gives tokens that the model never saw at this "
                "place. Use prompt.rstrip().",
                row=row, prompt=prompt[-20:],
            )
    bos = tokenizer.bos_token
    # A chat template has written the BOS already: adding it again would show the model two.
    return [
        tokenizer(prompt, add_special_tokens=not (bos and prompt.startswith(bos)))["input_ids"]
        for prompt in prompts
    ]


def stop_ids(own: Any, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The tokenizer's end-of-sequence token first, then those of the model's generation settings."""
    of_model = own.eos_token_id
    listed = of_model if isinstance(of_model, list) else [of_model]
    stops = [token for token in dict.fromkeys([tokenizer.eos_token_id, *listed]) if token is not None]
    if not stops:
        raise LessonError(
            "The tokenizer has no end-of-sequence token, so an answer could not end. Set "
            "tokenizer.eos_token as the model's card says.",
        )
    return stops


def answer_loss(model: "PreTrainedModel", encoded_dataset: "Dataset", *, batch_size: int = 16) -> float:
    """Mean cross-entropy, in nats, over all tokens that carry loss: their sum / their number.

    A mean over batches would weigh a token in a short answer more than one in a long answer; this does not.
    `math.exp` of it is the perplexity; a uniform guess over V tokens has ln(V).

    Args:
        model, encoded_dataset, batch_size: as in `answer_losses`.

    Returns:
        The loss as a float.

    Raises:
        LessonError: as `answer_losses`.
    """
    losses = answer_losses(model, encoded_dataset, batch_size=batch_size)
    return float(losses["nats"].sum() / losses["tokens"].sum())


def answer_losses(
    model: "PreTrainedModel", encoded_dataset: "Dataset", *, batch_size: int = 16
) -> "pd.DataFrame":
    """The cross-entropy of each row, summed over its tokens that carry loss.

    nats = sum over these tokens t of -ln p(token t | the tokens before it)

    Args:
        model: a causal language model, or a PeftModel around one.
        encoded_dataset: rows with `input_ids` and `labels` of equal length; label -100 carries no loss, and
            the first token never does, as nothing precedes it. An `attention_mask` column is respected.
        batch_size: rows in one forward pass. The logits of a batch take rows x tokens x vocabulary numbers.

    Returns:
        A DataFrame with a row for each row of the dataset, in its order: nats, and tokens (how many carry
        loss; 0 where none does).

    Raises:
        LessonError: an empty dataset, one in which no token carries loss, or a loss that is not a number.
    """
    import pandas as pd
    import torch

    rows = list(encoded_dataset)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]["input_ids"]), reverse=True)
    nats, tokens = [0.0] * len(rows), [0] * len(rows)
    with inference(model):
        for start in range(0, len(rows), batch_size):
            taken = order[start : start + batch_size]
            width = len(rows[taken[0]]["input_ids"])
            shape = (len(taken), width)
            ids = torch.zeros(shape, dtype=torch.long)  # what stands under padding is masked and never read
            labels = torch.full(shape, IGNORED)
            mask = torch.zeros(shape, dtype=torch.long)
            for at, row in enumerate(rows[number] for number in taken):
                length = len(row["input_ids"])
                ids[at, :length] = torch.tensor(row["input_ids"])
                labels[at, :length] = torch.tensor(row["labels"])
                mask[at, :length] = torch.tensor(row.get("attention_mask") or [1] * length)
            device = model.device
            logits = model(
                input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
            ).logits  # (batch, width, vocabulary)
            targets = labels[:, 1:].to(device)  # position t predicts token t + 1
            carries = targets != IGNORED  # (batch, width - 1)
            # Only the rows of logits that carry loss are widened to float32: (tokens with loss, vocabulary)
            losses = torch.nn.functional.cross_entropy(
                logits[:, :-1][carries].float(), targets[carries], reduction="none"
            )  # (tokens with loss,), row after row
            counts = carries.sum(dim=1).tolist()
            for number, part in zip(taken, losses.cpu().double().split(counts), strict=True):
                nats[number], tokens[number] = part.sum().item(), len(part)
    if not any(tokens):
        raise LessonError(
            "No token carries loss: the dataset is empty or every label is -100. Look again at the encoding "
            "(formatting.encode) and at max_length.",
        )
    if not all(map(math.isfinite, nats)):
        raise LessonError(
            "The loss is NaN or infinite: the weights are broken, or fp16 overflowed. Load the last good "
            "checkpoint, lower the learning rate, or compute in float32.",
        )
    return pd.DataFrame({"nats": nats, "tokens": tokens})
