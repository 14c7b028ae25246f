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
from lessonlib.runtime._language import LessonError, Translated, joined, tr

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


# The |logit difference| that rounding explains, as a share of the logits' standard deviation, by the number
# format of the weights: models with larger logits round more. On the Llama twin (standard deviation 4.2) 99%
# of the positions stayed under 1.2e-5 of it (float32) and 3.4e-3 (float16).
ROUNDING = {"float32": 3e-5, "float16": 5e-3, "bfloat16": 4e-2}
# Computing in 16 bits rounds every sum of every layer: 0.6% (float16) and 6% (bfloat16) there; a random Llama
# of 28 layers had 0.9% and 7%.
COMPUTED = 3
USUAL = 0.99  # share of the positions that rounding is for: the worst of a thousand is a matter of luck
OUTLIER = 10  # times what rounding explains: the worst position may reach it; what is usual may not
# ... and no number format is so coarse that rounding brings logits further apart than this share of their
# standard deviation: the Llama twin without its small adapter came to 0.67, rounded to bfloat16 to 0.07.
WHOLE = 0.4


@dataclass(frozen=True)
class Parity:
    """How far two models agree; `ok` is the verdict, `table()` the numbers to read.

    Args:
        prompts, positions: how many texts were compared, and at how many places in them.
        same_token_ids: whether both tokenizers read the prompts alike.
        tolerance: the |logit difference| that counts as rounding.
        usual_difference: the largest |logit difference| at a position, which 99% of the positions stay under;
            this is what the tolerance is for.
        max_difference, mean_difference: the largest |logit difference| of all, and the mean.
        spread: standard deviation of the first model's logits, to read the differences against.
        top1: share of the positions with the same likeliest token.
        kl: mean Kullback-Leibler divergence, in nats, of the second's next-token distribution from the
            first's.
        greedy_equal: how many answers are equal.
        greedy_broken: answers that part where the first model's best token led by more than twice ten times
            the tolerance, which no rounding does. The others part at a near tie.
    """

    prompts: int
    positions: int
    same_token_ids: bool
    tolerance: float
    usual_difference: float
    max_difference: float
    mean_difference: float
    spread: float
    top1: float
    kl: float
    greedy_equal: int
    greedy_broken: int

    @property
    def ok(self) -> bool:
        """Same token ids, logits that differ by rounding, no continuation broken."""
        close = self.usual_difference <= self.tolerance and self.max_difference <= OUTLIER * self.tolerance
        return close and not self._broken()

    def raise_if_broken(self) -> None:
        """Stop where these are two models. Logits a little further apart than rounding explains do not stop:
        the table says that they are not in parity.

        Raises:
            LessonError: other token ids, logits commonly ten times as far apart as rounding explains, or no
                numbers, or a continuation that no rounding explains.
        """
        if broken := self._broken():
            first = Translated("The two models are not the same.")  # nested deeper, babel would not find it
            raise LessonError(joined(" ", [first, *broken]))

    def _broken(self) -> list[Translated]:
        found = []
        if not self.same_token_ids:
            found.append(Translated("Their tokenizers give other token ids for the same prompts."))
        if beyond_rounding(self.usual_difference, self.max_difference, self.tolerance, self.spread):
            found.append(
                Translated(
                    "Their logits commonly differ by up to {usual:.1e} (their standard deviation: "
                    "{spread:.1e}), and rounding explains {tolerance:.1e}. Save or merge again, on the base "
                    "of the training.",
                    usual=self.usual_difference, spread=self.spread, tolerance=self.tolerance,
                )
            )
        if self.greedy_broken:
            found.append(
                Translated(
                    "{broken} of {prompts} greedy answers part where the first model was in no doubt.",
                    broken=self.greedy_broken, prompts=self.prompts,
                )
            )
        return found

    def table(self) -> "pd.DataFrame":
        """One row for each thing compared."""
        import pandas as pd

        yes, no = tr("yes"), tr("no")
        rows = {
            tr("same token ids"): yes if self.same_token_ids else no,
            tr("logit difference, 99%"): f"{self.usual_difference:.1e}",
            tr("tolerance"): f"{self.tolerance:.1e}",
            tr("largest logit difference"): f"{self.max_difference:.1e}",
            tr("mean logit difference"): f"{self.mean_difference:.1e}",
            tr("standard deviation of the logits"): f"{self.spread:.1e}",
            tr("same top-1 token"): f"{self.top1:.2%} / {self.positions}",
            tr("KL from the first"): f"{self.kl:.1e}",
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
    second_tokenizer: "PreTrainedTokenizerBase | None" = None,
    max_new_tokens: int = 32,
) -> Parity:
    """Compare two models that should be the same, such as the adapter on its base and the merged model.

    Both read each prompt followed by the first model's greedy answer, and their logits are compared at every
    position. Equal answers alone prove little: a small error in the weights often leaves them as they are.
    What counts as rounding is a share of the standard deviation of the first model's logits, by the coarser
    number format of the two: 3e-5 in float32, 1.5e-2 in float16, 0.12 in bfloat16.

    Args:
        first, second: the models; training flags and settings are as before afterwards.
        tokenizer: the tokenizer of the first.
        prompts: what to ask; those of the held-out rows, as they end in tuned behaviour.
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
    worst, spreads, divergences, agreed, total, numbers = [], [], [], [], 0.0, 0
    leads = []  # of the first model's best token, where answers part
    for prompt, answer, answer_too in zip(asked, said, said_too, strict=True):
        ones, others = (_logits(model, prompt + answer) for model in (first, second))  # (tokens, vocabulary)
        if ones.shape != others.shape:
            raise LessonError(
                "The vocabularies differ in size: {shape} and {shape2}. The models do not have the same "
                "base, or the embedding was resized. Load the right base.",
                shape=ones.shape[1], shape2=others.shape[1],
            )
        apart = (ones - others).abs()
        worst.append(apart.max(-1).values)
        spreads.append(ones.std(-1))
        divergences.append(divergence(ones, others))
        agreed.append((ones.argmax(-1) == others.argmax(-1)).double())
        total += apart.double().sum().item()
        numbers += apart.numel()
        if answer != answer_too:
            at = next(
                (i for i, (a, b) in enumerate(zip(answer, answer_too, strict=False)) if a != b),
                min(len(answer), len(answer_too)),
            )
            best, second_best = torch.topk(ones[len(prompt) + at - 1], 2).values.tolist()
            leads.append(best - second_best)
    spread, by_position = torch.cat(spreads).mean().item(), torch.cat(worst)
    bound = max(map(rounding, (first, second))) * spread
    return Parity(
        prompts=len(asked),
        positions=len(by_position),
        same_token_ids=asked == prompt_ids(other, prompts),
        tolerance=bound,
        usual_difference=by_position.quantile(USUAL).item(),
        max_difference=by_position.max().item(),
        mean_difference=total / numbers,
        spread=spread,
        top1=torch.cat(agreed).mean().item(),
        kl=torch.cat(divergences).mean().item(),
        greedy_equal=sum(a == b for a, b in zip(said, said_too, strict=True)),
        greedy_broken=sum(lead > 2 * OUTLIER * bound for lead in leads),
    )


def rounding(model: Any) -> float:
    """What rounding explains where this model computes, as a share of its logits' standard deviation."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    name = str(inner.dtype).removeprefix("torch.")
    return ROUNDING[name] * (1 if name == "float32" else COMPUTED)


def beyond_rounding(usual: float, largest: float, tolerance: float, spread: float) -> bool:
    """Whether logits are further apart than rounding can bring them, or are no numbers."""
    return not (usual <= min(OUTLIER * tolerance, WHOLE * spread) and math.isfinite(largest))


def divergence(ours: "torch.Tensor", theirs: "torch.Tensor") -> "torch.Tensor":
    """KL divergence, in nats, of the second's next-token distribution from the first's, at each position."""
    p, q = (logits.double().log_softmax(-1) for logits in (ours, theirs))
    return (p.exp() * (p - q)).sum(-1)


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
