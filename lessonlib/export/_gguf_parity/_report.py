"""What `verify` found: one row for each exported artifact, the verdict and its reasons."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lessonlib.evaluation._parity import OUTLIER, beyond_rounding
from lessonlib.runtime._language import LessonError, Translated, joined, tr

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 12  # token ids of a text that a message shows


@dataclass(frozen=True)
class Row:
    """One artifact against the trained model (the adapter on its base).

    Args:
        name: "merged", or the kind of a GGUF file ("f32", "f16", "q8_0", "q4_k_m").
        megabytes: size of the weights on disk.
        unreadable: why it could not be loaded or compared; the numbers below then mean nothing.
        texts, wrong_texts: how many texts were tokenised, and how many got other token ids.
        first_wrong: the first such text, its ids in training and its ids here.
        left_out, no_token: how many texts were not tokenised, as they need bytes that the trained model's
            own vocabulary has no token for; and those bytes.
        conversations, wrong_conversations: how many were rendered, and how many came out otherwise.
        first_rendered: for the first such one, what stands here and what stood in training, from shortly
            before they part; None for a conversation that was refused.
        stops, wanted_stops: token ids at which an answer ends, here and in the trained model.
        eos, wanted_eos: the end-of-sequence token that the artifact names, and the tokenizer's.
        positions: how many places in texts the logits were compared at.
        tolerance: the |logit difference| that counts as rounding; None for a quantised file, whose logits
            have no bound.
        usual_difference: the largest |logit difference| at a position, over the vocabulary, which 99% of the
            positions stay under. This is what the tolerance is for; the worst of a thousand positions is a
            matter of luck, and only ten times the tolerance is too much there.
        max_difference, mean_difference: the largest |logit difference| of all, and the mean.
        spread: standard deviation of the trained model's logits, to read the differences against.
        top1: share of the positions with the same likeliest token.
        kl: mean Kullback-Leibler divergence, in nats, of this artifact's next-token distribution from the
            trained model's: sum over tokens of p (log p - log q).
        kl_base: the same from the distribution of the base without the adapter.
        prompts, greedy_equal: how many answers were compared, and how many are equal.
        greedy_broken: answers that part where the trained model's best token led by more than twice ten times
            the tolerance, which no rounding does; 0 where there is no tolerance.
    """

    name: str
    megabytes: float
    unreadable: LessonError | None = None
    texts: int = 0
    wrong_texts: int = 0
    first_wrong: tuple[str, list[int], list[int]] | None = None
    left_out: int = 0
    no_token: frozenset[int] = frozenset()
    conversations: int = 0
    wrong_conversations: int = 0
    first_rendered: tuple[str | None, str | None] | None = None
    stops: frozenset[int] = frozenset()
    wanted_stops: frozenset[int] = frozenset()
    eos: int | None = None
    wanted_eos: int | None = None
    positions: int = 0
    tolerance: float | None = None
    usual_difference: float = 0.0
    max_difference: float = 0.0
    mean_difference: float = 0.0
    spread: float = 0.0
    top1: float = 0.0
    kl: float = 0.0
    kl_base: float = 0.0
    prompts: int = 0
    greedy_equal: int = 0
    greedy_broken: int = 0

    @property
    def label(self) -> str:
        """The artifact's name as people read it."""
        return tr("merged") if self.name == "merged" else f"GGUF {self.name}"

    @property
    def failed(self) -> list[str]:
        """The checks that failed: of "loads", "token_ids", "template", "stops", "effect", "logits", "greedy".

        A comparison with a number that is no number (NaN) fails.
        """
        if self.unreadable is not None:
            return ["loads"]
        passed = {
            "token_ids": self.wrong_texts == 0 and (self.texts > 0 or not self.left_out),
            "template": self.wrong_conversations == 0,
            "stops": self.stops == self.wanted_stops and self.eos == self.wanted_eos,
            "effect": self.kl < self.kl_base,
            "logits": self.tolerance is None
            or (self.usual_difference <= self.tolerance and self.max_difference <= OUTLIER * self.tolerance),
            "greedy": self.greedy_broken == 0,
        }
        return [check for check, good in passed.items() if not good]

    @property
    def ok(self) -> bool:
        """Every check passed."""
        return not self.failed

    @property
    def broken(self) -> list[str]:
        """The failed checks that no rounding explains: all, but for logits that differ by less than ten times
        the tolerance. Those are reported; the deeper a model, the more it rounds."""
        near = self.tolerance is not None and not beyond_rounding(
            self.usual_difference, self.max_difference, self.tolerance, self.spread
        )
        return [check for check in self.failed if check != "logits" or not near]

    @property
    def reasons(self) -> list[Translated]:
        """One sentence for each failed check: what is wrong."""
        return [self.reason(check) for check in self.failed]

    def said(self, reason: Translated) -> Translated:
        """A reason with the artifact's name before it."""
        return Translated("{label}: {reason}", label=self.label, reason=reason)

    def reason(self, check: str) -> Translated:
        """The sentence for one of `failed`."""
        if check == "loads":
            assert self.unreadable is not None
            return self.unreadable.message
        if check == "token_ids" and not self.texts:
            return Translated(
                "no text's token ids could be compared: all {left_out:,} need bytes that the vocabulary has "
                "no token for. Pass texts=... that this tokenizer can spell.",
                left_out=self.left_out,
            )
        if check == "token_ids":
            said, wanted, found = self.first_wrong or ("", [], [])
            first = f"{said[:60]!r}: {found[:SHOWN]} / {wanted[:SHOWN]}"
            return Translated(
                "{wrong_texts:,} of {texts:,} texts get other token ids than in training, first {first}. "
                "The vocabulary or the pre-tokenizer is not this model's.",
                wrong_texts=self.wrong_texts, texts=self.texts, first=first,
            )
        if check == "template":
            parts = self.first_rendered or (None, None)
            here, there = ("-" if part is None else repr(part[:40]) for part in parts)
            return Translated(
                "the chat template writes {wrong_conversations} of {conversations} conversations otherwise "
                "than in training: {here} instead of {there}.",
                wrong_conversations=self.wrong_conversations, conversations=self.conversations, here=here,
                there=there,
            )
        if check == "stops":
            ends = (
                f"{sorted(self.stops)} (EOS {self.eos})",
                f"{sorted(self.wanted_stops)} (EOS {self.wanted_eos})",
            )
            return Translated(
                "an answer ends at the tokens {ends}, that of the trained model at {ends2}: it will run on, "
                "or stop early.",
                ends=ends[0], ends2=ends[1],
            )
        if check == "effect":
            return Translated(
                "nearer to the base (KL {kl_base:.1e}) than to the trained model (KL {kl:.1e}): it seems "
                "that the base was exported without the adapter.",
                kl_base=self.kl_base, kl=self.kl,
            )
        if check == "logits" and "logits" not in self.broken:
            return Translated(
                "logits commonly differ by up to {usual_difference:.1e} (at most {max_difference:.1e}), and "
                "rounding explains {tolerance:.0e}: more than it should be, less than a wrong weight makes. "
                "Top-1 ({top1:.2%}) and KL ({kl:.1e}) say how much it matters.",
                usual_difference=self.usual_difference, max_difference=self.max_difference,
                tolerance=self.tolerance, top1=self.top1, kl=self.kl,
            )
        if check == "logits":
            return Translated(
                "logits commonly differ by up to {usual_difference:.1e} (at most {max_difference:.1e}), and "
                "rounding explains {tolerance:.0e}: weights or settings (RoPE, norm) are not those of the "
                "trained model.",
                usual_difference=self.usual_difference, max_difference=self.max_difference,
                tolerance=self.tolerance,
            )
        return Translated(
            "{greedy_broken} of {prompts} greedy answers part from the trained model's where that was in no "
            "doubt.",
            greedy_broken=self.greedy_broken, prompts=self.prompts,
        )


@dataclass(frozen=True)
class Verified:
    """Whether what was exported is what was trained: `ok` is the verdict, `problems` its reasons.

    Args:
        rows: one for each artifact.
        missing: names of the artifacts that were not there to be compared.
        effect: mean KL divergence, in nats, of the base's next-token distributions from the trained model's:
            how much the adapter changes.
        spread: standard deviation of the trained model's logits, to read the differences against.
    """

    rows: tuple[Row, ...]
    missing: tuple[str, ...]
    effect: float
    spread: float

    @property
    def ok(self) -> bool:
        """Every artifact that was there passed every check."""
        return all(row.ok for row in self.rows)

    @property
    def problems(self) -> list[str]:
        """One sentence for each failed check of each artifact."""
        return [str(problem) for problem in self._problems()]

    @property
    def not_compared(self) -> str:
        """Sentences that name the artifacts that were not there and count the texts that llama.cpp was not
        given; "" where all were."""
        said = []
        if names := ", ".join(self.missing):
            said.append(tr("Not there to compare: {names}.", names=names))
        # The same of every file: it is a matter of the trained model's tokenizer.
        for row in [row for row in self.rows if row.left_out and row.unreadable is None][:1]:
            left, of = f"{row.left_out:,}", f"{row.left_out + row.texts:,}"
            lacking = " ".join(f"0x{byte:02X}" for byte in sorted(row.no_token)[:SHOWN])
            lacking += " ..." * (len(row.no_token) > SHOWN)
            said.append(
                tr(
                    "Not given to llama.cpp: {left} of {of} texts, as this model's own vocabulary has no "
                    "token for the bytes {lacking}; that is no fault of the export.",
                    left=left, of=of, lacking=lacking,
                )
            )
        return " ".join(said)

    def raise_if_broken(self) -> None:
        """Raises LessonError with what no rounding explains, if there is any (`Row.broken`). The rest is in
        the table and in `problems`, and stops nothing."""
        if broken := [row.said(row.reason(check)) for row in self.rows for check in row.broken]:
            raise LessonError(joined("\n", broken))

    def table(self) -> "pd.DataFrame":
        """One row for each artifact, with what was measured and the verdict."""
        import pandas as pd

        return pd.DataFrame([_cells(row) for row in self.rows]).set_index(tr("artifact"))

    def __str__(self) -> str:
        return "\n".join([self.table().T.to_string(), *self._notes()])

    def _repr_html_(self) -> str:
        from html import escape

        return self.table().T.to_html() + "".join(f"<p>{escape(note)}</p>" for note in self._notes())

    def _problems(self) -> list[Translated]:
        return [row.said(reason) for row in self.rows for reason in row.reasons]

    def _notes(self) -> list[str]:
        return [*self.problems, *filter(None, [self.not_compared])]


def _cells(row: Row) -> dict[str, str]:
    yes, no = tr("yes"), tr("no")
    compared = row.unreadable is None
    bound = "-" if row.tolerance is None else f"{row.tolerance:.0e}"
    measured = {
        tr("wrong token ids"): f"{row.wrong_texts:,} / {row.texts:,}",
        tr("equal chat template"): (
            f"{row.conversations - row.wrong_conversations} / {row.conversations}"
        ),
        tr("same stop tokens"): no if "stops" in row.failed else yes,
        tr("logit difference, 99%"): f"{row.usual_difference:.1e}",
        tr("tolerance"): bound,
        tr("largest logit difference"): f"{row.max_difference:.1e}",
        tr("mean logit difference"): f"{row.mean_difference:.1e}",
        tr("same top-1 token"): f"{row.top1:.2%}",
        tr("KL from the trained"): f"{row.kl:.1e}",
        tr("KL from the base"): f"{row.kl_base:.1e}",
        tr("equal greedy answer"): (
            f"{row.greedy_equal} / {row.prompts}"
        ),
    }
    return {
        tr("artifact"): row.label,
        "MB": f"{row.megabytes:,.1f}",
        **{name: value if compared else "-" for name, value in measured.items()},
        tr("in parity"): yes if row.ok else no,
    }
