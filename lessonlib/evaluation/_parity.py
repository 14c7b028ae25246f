"""Are two models the same? Compares what they say by token ids, logits and greedy answers; and whether one
model says the same about a row that stands alone and among others.

It knows nothing of files: it takes loaded models. Lessons meet `parity` through `lessonlib.evaluation`.
"""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lessonlib.evaluation._answers import continuations, inference, prompt_ids
from lessonlib.runtime._language import LessonError, tr

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Parity:
    """How far two models agree; `ok` is the verdict, `table()` the numbers to read.

    `greedy_broken` counts continuations that part where the first model's best token led by more than twice
    the tolerance: rounding within the tolerance cannot do that. The others part at a near tie.
    """

    prompts: int
    positions: int
    same_token_ids: bool
    max_difference: float
    mean_difference: float
    top1: float
    greedy_equal: int
    greedy_broken: int
    tolerance: float

    @property
    def ok(self) -> bool:
        """Same token ids, no logit further apart than the tolerance, no continuation broken."""
        return self.same_token_ids and self.max_difference <= self.tolerance and self.greedy_broken == 0

    def table(self) -> "pd.DataFrame":
        """One row for each thing compared."""
        import pandas as pd

        yes, no = tr("yes"), tr("no")
        rows = {
            tr("same token ids"): yes if self.same_token_ids else no,
            tr("largest logit difference"): f"{self.max_difference:.1e}",
            tr("tolerance"): f"{self.tolerance:.1e}",
            tr("mean logit difference"): f"{self.mean_difference:.1e}",
            tr("same top-1 token"): f"{self.top1:.2%} / {self.positions}",
            tr("equal greedy answer"): (f"{self.greedy_equal} / {self.prompts}"),
            tr("in parity"): yes if self.ok else no,
        }
        return pd.DataFrame({tr("result"): rows})

    def __str__(self) -> str:
        return self.table().to_string()

    def _repr_html_(self) -> str:
        return self.table().to_html()


def parity(
    first: "PreTrainedModel",
    second: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    *,
    tolerance: float,
    second_tokenizer: "PreTrainedTokenizerBase | None" = None,
    max_new_tokens: int = 32,
) -> Parity:
    """Compare two models that should be the same, such as the adapter on its base and the merged model.

    Both read each prompt followed by the first model's greedy answer, and their logits are compared at every
    position. Equal answers alone prove little: a small error in the weights often leaves them as they are.

    Args:
        first, second: the models; training flags and settings are as before afterwards.
        tokenizer: the tokenizer of the first.
        prompts: what to ask; those of the held-out rows, as they end in tuned behaviour.
        tolerance: the largest |logit difference| that counts as rounding. Merged against adapter on the BLOOM
            twin it came to 2e-6 in float32, 4e-3 in float16, 3e-2 in bfloat16; larger logits round more.
        second_tokenizer: the tokenizer that was saved with the second; None: the same.
        max_new_tokens: length of the greedy answers.

    Returns:
        A `Parity`: its `ok`, the largest and mean |logit difference|, the share of positions with the same
        best token, and how many greedy answers are equal.

    Raises:
        LessonError: the same object twice, no prompts, other vocabularies; and those of `answers`.
    """
    import torch

    if first is second:
        raise LessonError(
            "Both models are the same object, so comparing them proves nothing. Load the saved model with "
            "from_pretrained and compare that.",
        )
    if not prompts:
        raise LessonError("At least one prompt is needed to compare the models.")
    other = second_tokenizer or tokenizer
    asked = prompt_ids(tokenizer, prompts)
    said = continuations(first, tokenizer, prompts, max_new_tokens=max_new_tokens)
    said_too = continuations(second, other, prompts, max_new_tokens=max_new_tokens)
    largest, total, numbers, agreed, positions, broken = 0.0, 0.0, 0, 0, 0, 0
    for prompt, answer, answer_too in zip(asked, said, said_too, strict=True):
        ones, others = (_logits(model, prompt + answer) for model in (first, second))  # (tokens, vocabulary)
        if ones.shape != others.shape:
            raise LessonError(
                "The vocabularies differ in size: {shape} and {shape2}. The models do not have the same "
                "base, or the embedding was resized. Load the right base.",
                shape=ones.shape[1], shape2=others.shape[1],
            )
        apart = (ones - others).abs()
        worst = apart.max().item()
        largest = max(largest, math.inf if math.isnan(worst) else worst)
        total += apart.double().sum().item()
        numbers += apart.numel()
        agreed += int((ones.argmax(-1) == others.argmax(-1)).sum())
        positions += len(ones)
        if answer != answer_too:
            at = next(
                (i for i, (a, b) in enumerate(zip(answer, answer_too, strict=False)) if a != b),
                min(len(answer), len(answer_too)),
            )
            best, second_best = torch.topk(ones[len(prompt) + at - 1], 2).values.tolist()
            broken += best - second_best > 2 * tolerance
    return Parity(
        prompts=len(asked),
        positions=positions,
        same_token_ids=asked == prompt_ids(other, prompts),
        max_difference=largest,
        mean_difference=total / numbers,
        top1=agreed / positions,
        greedy_equal=sum(a == b for a, b in zip(said, said_too, strict=True)),
        greedy_broken=broken,
        tolerance=tolerance,
    )


def _logits(model: Any, ids: list[int]) -> "torch.Tensor":
    """Logits at every position of one text, in float32 on the CPU: shape (tokens, vocabulary)."""
    import torch

    with inference(model):
        return model(torch.tensor([ids], device=model.device), use_cache=False).logits[0].float().cpu()


def packing_leak(model: "PreTrainedModel", rows: Iterable[Mapping[str, Any]]) -> float:
    """How much rows that are packed into one sequence read of each other: 0 but for rounding, if nothing.

    The rows are put one behind the other as trl's collator does it: position ids that start again at 0 with
    each row, no attention mask, no key-value cache. A model that takes position ids tells by them where a row
    begins; BLOOM takes none, so each of its rows sees those before it.

    Args:
        model: a causal language model, or a PeftModel around one.
        rows: at least two mappings with `input_ids`, such as an encoded Dataset.

    Returns:
        The largest |logit difference| at any position between a row in the pack and the row alone. Compare it
        with the spread of the logits: rounding in float32 comes to about a millionth of it.

    Raises:
        LessonError: fewer than two rows.
    """
    import torch

    ids = [list(row["input_ids"]) for row in rows]
    if len(ids) < 2:
        raise LessonError("It takes at least two rows to pack them together and compare.")
    inner: Any = getattr(model, "get_base_model", lambda: model)()
    packed: dict[str, list[int]] = {"input_ids": [token for row in ids for token in row]}
    if "position_ids" in inspect.signature(type(inner).forward).parameters:  # trl replaces the instance's
        packed["position_ids"] = [place for row in ids for place in range(len(row))]
    inputs: Any = {name: torch.tensor([column], device=model.device) for name, column in packed.items()}
    with inference(model):
        together = model(**inputs, use_cache=False).logits[0].float().cpu()
    alone = torch.cat([_logits(model, row) for row in ids])  # both (tokens of all rows, vocabulary)
    return (together - alone).abs().max().item()
