"""What `verify` found: one row for each exported artifact, the verdict and its reasons."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lessonlib.runtime._language import LessonError, text

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 12  # token ids of a text that a message shows
OUTLIER = 10  # times the tolerance


@dataclass(frozen=True)
class Row:
    """One artifact against the trained model (the adapter on its base).

    Args:
        name: "merged", or the kind of a GGUF file ("f32", "f16", "q8_0", "q4_k_m").
        megabytes: size of the weights on disk.
        unreadable: why it could not be loaded or compared; the numbers below then mean nothing.
        texts, wrong_texts: how many texts were tokenised, and how many got other token ids.
        first_wrong: the first such text, its ids in training and its ids here.
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
        top1: share of the positions with the same likeliest token.
        kl: mean Kullback-Leibler divergence, in nats, of this artifact's next-token distribution from the
            trained model's: sum over tokens of p (log p - log q).
        kl_base: the same from the distribution of the base without the adapter.
        prompts, greedy_equal: how many answers were compared, and how many are equal.
        greedy_broken: answers that part where the trained model's best token led by more than twice the
            tolerance, which rounding cannot do; 0 where there is no tolerance.
    """

    name: str
    megabytes: float
    unreadable: LessonError | None = None
    texts: int = 0
    wrong_texts: int = 0
    first_wrong: tuple[str, list[int], list[int]] | None = None
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
    top1: float = 0.0
    kl: float = 0.0
    kl_base: float = 0.0
    prompts: int = 0
    greedy_equal: int = 0
    greedy_broken: int = 0

    @property
    def label(self) -> str:
        """The artifact's name as people read it."""
        return text(vi="merge", en="merged") if self.name == "merged" else f"GGUF {self.name}"

    @property
    def failed(self) -> list[str]:
        """The checks that failed: of "loads", "token_ids", "template", "stops", "effect", "logits", "greedy".

        A comparison with a number that is no number (NaN) fails.
        """
        if self.unreadable is not None:
            return ["loads"]
        passed = {
            "token_ids": self.wrong_texts == 0,
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
    def reasons(self) -> list[tuple[str, str]]:
        """One sentence for each failed check: what is wrong, in Vietnamese and in English."""
        return [self._reason(check) for check in self.failed]

    def _reason(self, check: str) -> tuple[str, str]:
        if check == "loads":
            assert self.unreadable is not None
            return self.unreadable.vi, self.unreadable.en
        if check == "token_ids":
            said, wanted, found = self.first_wrong or ("", [], [])
            first = f"{said[:60]!r}: {found[:SHOWN]} / {wanted[:SHOWN]}"
            return (
                f"{self.wrong_texts:,} trên {self.texts:,} chuỗi cho token id khác lúc huấn luyện, đầu tiên "
                f"{first}. Từ vựng hoặc pre-tokenizer không phải của mô hình này.",
                f"{self.wrong_texts:,} of {self.texts:,} texts get other token ids than in training, first "
                f"{first}. The vocabulary or the pre-tokenizer is not this model's.",
            )
        if check == "template":
            parts = self.first_rendered or (None, None)
            here, there = ("-" if part is None else repr(part[:40]) for part in parts)
            return (
                f"chat template viết {self.wrong_conversations} trên {self.conversations} hội thoại khác lúc "
                f"huấn luyện: {here} thay vì {there}.",
                f"the chat template writes {self.wrong_conversations} of {self.conversations} conversations "
                f"otherwise than in training: {here} instead of {there}.",
            )
        if check == "stops":
            ends = (
                f"{sorted(self.stops)} (EOS {self.eos})",
                f"{sorted(self.wanted_stops)} (EOS {self.wanted_eos})",
            )
            return (
                f"câu trả lời dừng ở token {ends[0]}, còn mô hình đã huấn luyện dừng ở {ends[1]}: nó sẽ "
                "nói mãi không thôi, hoặc dừng sớm.",
                f"an answer ends at the tokens {ends[0]}, that of the trained model at {ends[1]}: it will "
                "run on, or stop early.",
            )
        if check == "effect":
            return (
                f"gần mô hình gốc (KL {self.kl_base:.1e}) hơn mô hình đã huấn luyện (KL {self.kl:.1e}): có "
                "vẻ mô hình gốc đã được xuất mà không có adapter.",
                f"nearer to the base (KL {self.kl_base:.1e}) than to the trained model (KL {self.kl:.1e}): "
                "it seems that the base was exported without the adapter.",
            )
        if check == "logits":
            return (
                f"logit thường lệch tới {self.usual_difference:.1e} (nhiều nhất {self.max_difference:.1e}), "
                f"còn làm tròn chỉ gây ra {self.tolerance:.0e}: trọng số hoặc cấu hình (RoPE, norm) không "
                "phải của mô hình đã huấn luyện.",
                f"logits commonly differ by up to {self.usual_difference:.1e} (at most "
                f"{self.max_difference:.1e}), and rounding explains {self.tolerance:.0e}: weights or "
                "settings (RoPE, norm) are not those of the trained model.",
            )
        return (
            f"{self.greedy_broken} trên {self.prompts} câu trả lời greedy rẽ sang hướng khác ở chỗ mô hình "
            "đã huấn luyện không hề phân vân.",
            f"{self.greedy_broken} of {self.prompts} greedy answers part from the trained model's where "
            "that was in no doubt.",
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
        return [text(vi=vi, en=en) for vi, en in self._problems()]

    @property
    def not_compared(self) -> str:
        """A sentence that names the artifacts that were not there; "" where all were."""
        names = ", ".join(self.missing)
        return names and text(vi=f"Không có để so sánh: {names}.", en=f"Not there to compare: {names}.")

    def row(self, name: str) -> Row:
        """The row of one artifact, such as "merged" or "q8_0".

        Raises:
            LessonError: it was not compared.
        """
        for row in self.rows:
            if row.name == name:
                return row
        there = ", ".join(row.name for row in self.rows)
        raise LessonError(
            vi=f"Không có {name!r} trong những gì đã so sánh: {there}.",
            en=f"There is no {name!r} among what was compared: {there}.",
        )

    def raise_if_broken(self) -> None:
        """Raises LessonError with all problems, if there are any."""
        if not self.ok:
            both = self._problems()
            raise LessonError(vi="\n".join(vi for vi, _ in both), en="\n".join(en for _, en in both))

    def table(self) -> "pd.DataFrame":
        """One row for each artifact, with what was measured and the verdict."""
        import pandas as pd

        return pd.DataFrame([_cells(row) for row in self.rows]).set_index(text(vi="bản xuất", en="artifact"))

    def __str__(self) -> str:
        return "\n".join([self.table().T.to_string(), *self._notes()])

    def _repr_html_(self) -> str:
        from html import escape

        return self.table().T.to_html() + "".join(f"<p>{escape(note)}</p>" for note in self._notes())

    def _problems(self) -> list[tuple[str, str]]:
        return [(f"{row.label}: {vi}", f"{row.label}: {en}") for row in self.rows for vi, en in row.reasons]

    def _notes(self) -> list[str]:
        return [*self.problems, *([self.not_compared] if self.missing else [])]


def _cells(row: Row) -> dict[str, str]:
    yes, no = text(vi="có", en="yes"), text(vi="không", en="no")
    compared = row.unreadable is None
    bound = "-" if row.tolerance is None else f"{row.tolerance:.0e}"
    measured = {
        text(vi="token id sai", en="wrong token ids"): f"{row.wrong_texts:,} / {row.texts:,}",
        text(vi="chat template giống hệt", en="equal chat template"): (
            f"{row.conversations - row.wrong_conversations} / {row.conversations}"
        ),
        text(vi="cùng token dừng", en="same stop tokens"): no if "stops" in row.failed else yes,
        text(vi="chênh lệch logit ở 99% vị trí", en="logit difference, 99%"): f"{row.usual_difference:.1e}",
        text(vi="ngưỡng cho phép", en="tolerance"): bound,
        text(vi="chênh lệch logit lớn nhất", en="largest logit difference"): f"{row.max_difference:.1e}",
        text(vi="chênh lệch logit trung bình", en="mean logit difference"): f"{row.mean_difference:.1e}",
        text(vi="cùng token đứng đầu", en="same top-1 token"): f"{row.top1:.2%}",
        text(vi="KL so với đã huấn luyện", en="KL from the trained"): f"{row.kl:.1e}",
        text(vi="KL so với mô hình gốc", en="KL from the base"): f"{row.kl_base:.1e}",
        text(vi="câu trả lời greedy giống hệt", en="equal greedy answer"): (
            f"{row.greedy_equal} / {row.prompts}"
        ),
    }
    return {
        text(vi="bản xuất", en="artifact"): row.label,
        "MB": f"{row.megabytes:,.1f}",
        **{name: value if compared else "-" for name, value in measured.items()},
        text(vi="khớp nhau", en="in parity"): yes if row.ok else no,
    }
