"""What people would rather look at than read: the loss mask, answers side by side, an ask box.

Each view shows as HTML in a notebook and as plain text elsewhere, needs no colour to be understood, reads on
light and dark backgrounds, and carries nothing that changes from run to run. It computes no score of its own.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from lessonlib.formatting._rows import byte_letters
from lessonlib.formatting._text_column import IGNORED
from lessonlib.runtime._detect import headless
from lessonlib.runtime._language import LessonError, Translated, tr

_FOLD = 8  # a longer run of one and the same token is shown once, with its count

# Half-transparent tints over whatever the theme's background is; the lines differ too, so colour is not
# needed.
_STYLES = {
    "loss": "background:rgba(46,160,67,.30);border-bottom:3px solid rgb(46,160,67)",
    "no loss": "background:rgba(128,128,128,.16);border-bottom:3px solid transparent",
    "padding": "background:rgba(128,128,128,.05);border-bottom:3px dotted rgb(128,128,128)",
    "padding with loss": "background:rgba(218,54,51,.30);border-bottom:3px double rgb(218,54,51)",
}
_NAMES = {
    "loss": Translated("with loss"),
    "no loss": Translated("without loss"),
    "padding": Translated("padding"),
    "padding with loss": Translated("padding with loss (a mistake!)"),
}
_TOKEN = "padding:1px 2px;margin:1px;border-radius:3px;white-space:pre;display:inline-block"
_INDEX = '<sub style="font-size:60%;line-height:0;opacity:.7">'


@dataclass(frozen=True, repr=False)
class Page:
    """Something to look at: `html` where the notebook can show it, `plain` elsewhere."""

    plain: str
    html: str

    @classmethod
    def of(cls, said: str) -> "Page":
        """A page with one sentence."""
        return cls(said, f"<p>{html.escape(said)}</p>")

    def __str__(self) -> str:
        return self.plain

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.html


@dataclass(frozen=True)
class _Piece:
    """What is drawn as one box: neighbouring tokens that are shown together."""

    shown: str
    state: str
    tokens: int
    repeats: int = 1


def token_mask(rows: Any, tokenizer: Any) -> Page:
    """Show which tokens carry loss, token by token.

    A token carries loss where its label is not -100. Padding is where `attention_mask` is 0; without a mask,
    where the token is the tokenizer's pad token or named `<pad>`, and not its EOS. A space shows as `·`, a
    line break as `↵`. Tokens that only together make up a character (byte-level BPE does that to Vietnamese)
    are shown joined, with their number as a small index; if they cannot be joined, their bytes are shown.
    Long runs of one token are shown once, `×n`.

    Args:
        rows: one row {"input_ids", "labels"[, "attention_mask"]}, a list or Dataset of rows, or a collated
            batch of tensors of shape (batch, length).
        tokenizer: what made the ids.

    Returns:
        Page: coloured boxes and a legend with counts; in plain text, tokens with loss stand in [brackets].

    Raises:
        LessonError: a row lacks input_ids or labels, or they differ in length.
    """
    listed = _rows(rows)
    states: dict[str, int] = dict.fromkeys(_STYLES, 0)
    blocks, lines = [], []
    for number, row in enumerate(listed, start=1):
        pieces = _pieces(row, tokenizer, number)
        for piece in pieces:
            states[piece.state] += piece.tokens * piece.repeats
        head = tr("Row {number}", number=number) if len(listed) > 1 else ""
        blocks.append((f"<div><b>{head}</b></div>" if head else "") + "".join(map(_box, pieces)))
        lines.append((f"{head}: " if head else "") + "".join(map(_bracketed, pieces)))

    used = {state: f"{_NAMES[state]}: {count}" for state, count in states.items() if count}
    marks = [f'<span style="{_TOKEN};{_STYLES[state]}">{said}</span>' for state, said in used.items()]
    legend = " ".join(marks)
    plain_legend = ", ".join(used.values())
    joined = tr("ế{index}2</sub>: 1 letter made of 2 tokens", index=_INDEX)
    if _INDEX in "".join(blocks):
        legend += f' <span style="{_TOKEN}">{joined}</span>'
    brackets = tr("[...] = with loss")
    body = "".join(f'<div style="line-height:2.1;margin:.4em 0">{block}</div>' for block in blocks)
    return Page("\n".join([*lines, f"({plain_legend}; {brackets})"]), f"<div>{body}<div>{legend}</div></div>")


def _rows(rows: Any) -> list[dict[str, list[int]]]:
    """One row, many rows or a collated batch, as a list of rows of plain lists."""
    if hasattr(rows, "keys"):  # a dict, or transformers' BatchEncoding
        names = [name for name in ("input_ids", "labels", "attention_mask") if name in rows]
        batch = {name: _plain(rows[name]) for name in names}
        ids = batch.get("input_ids", [])
        nested = bool(ids) and isinstance(ids[0], list)
        count = len(ids) if nested else 1
        return [{n: (batch[n][i] if nested else batch[n]) for n in names} for i in range(count)]
    return [row for several in rows for row in _rows(several)]


def _plain(values: Any) -> list:
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _pieces(row: dict[str, list[int]], tokenizer: Any, number: int) -> list[_Piece]:
    """The row's tokens as boxes, in order."""
    ids, labels = row.get("input_ids"), row.get("labels")
    if not ids or labels is None or len(ids) != len(labels):
        sizes = f"input_ids: {len(ids or [])}, labels: {len(labels or [])}"
        raise LessonError(
            "Row {number} cannot be drawn ({sizes}). Each row needs input_ids and labels of equal length; "
            "use formatting.encode, or take a batch from the data collator.",
            number=number, sizes=sizes,
        )
    # Where EOS serves as pad token, the ids alone do not tell the two apart: then only a mask can.
    pads = {tokenizer.pad_token, "<pad>"} - {tokenizer.eos_token}
    mask = row.get("attention_mask") or [name not in pads for name in tokenizer.convert_ids_to_tokens(ids)]
    states = [_state(label != IGNORED, bool(seen)) for label, seen in zip(labels, mask, strict=True)]

    pieces: list[_Piece] = []
    start = 0
    while start < len(ids):
        end = _whole_character(ids, states, start, tokenizer)
        shown = _visible(_decoded(ids[start:end], tokenizer)) if end else _bytes(ids[start], tokenizer)
        end = end or start + 1
        pieces.append(_Piece(shown, states[start], end - start))
        start = end
    return _folded(pieces)


def _state(loss: bool, seen: bool) -> str:
    if seen:
        return "loss" if loss else "no loss"
    return "padding with loss" if loss else "padding"


def _whole_character(ids: list[int], states: list[str], start: int, tokenizer: Any) -> int:
    """Where the shortest run from `start` ends that decodes to whole characters and shares one state; else 0.

    A UTF-8 character has at most 4 bytes, but the last token may begin the next character, so look a bit on.
    """
    for end in range(start + 1, min(start + 7, len(ids) + 1)):
        if states[end - 1] != states[start]:
            break
        if "�" not in _decoded(ids[start:end], tokenizer):
            return end
    return 0


def _decoded(ids: list[int], tokenizer: Any) -> str:
    said = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    first = str(tokenizer.convert_ids_to_tokens(ids[0]))
    # Some decoders take the space off the first word; SentencePiece marks that space with U+2581.
    return " " + said if first.startswith("▁") and not said.startswith(" ") else said


def _bytes(token: int, tokenizer: Any) -> str:
    """A token that is no whole character, as its bytes in hexadecimal: ⟨E1 BB⟩."""
    name = str(tokenizer.convert_ids_to_tokens(token))
    letters = byte_letters()
    values = [letters.get(letter) for letter in name]
    known = [f"{value:02X}" for value in values if value is not None]
    return f"⟨{' '.join(known)}⟩" if len(known) == len(name) else name


def _visible(said: str) -> str:
    return said.replace(" ", "·").replace("\n", "↵").replace("\t", "→")


def _folded(pieces: list[_Piece]) -> list[_Piece]:
    """Long runs of equal boxes as one box with a count."""
    folded: list[_Piece] = []
    for piece, run in groupby(pieces):
        count = len(list(run))
        folded += [piece] * count if count <= _FOLD else [replace(piece, repeats=count)]
    return folded


def _box(piece: _Piece) -> str:
    index = f"{_INDEX}{piece.tokens}</sub>" if piece.tokens > 1 else ""
    times = f" ×{piece.repeats}" if piece.repeats > 1 else ""
    return f'<span style="{_TOKEN};{_STYLES[piece.state]}">{html.escape(piece.shown)}{index}{times}</span>'


def _bracketed(piece: _Piece) -> str:
    times = f"×{piece.repeats}" if piece.repeats > 1 else ""
    return (f"[{piece.shown}]" if piece.state in ("loss", "padding with loss") else piece.shown) + times


def before_after(
    questions: Sequence[str], results: Mapping[str, Sequence[str]], *, reference: Sequence[str] | None = None
) -> Page:
    """Answers of several models to the same questions, side by side; right ones marked ✓, wrong ones ✗.

    Args:
        questions: what was asked.
        results: for each model's name, its answers in the order of the questions.
        reference: the right answers; without them nothing is marked. Right means `evaluation.exact_match`.

    Returns:
        Page with one row a question and, with a reference, a last row with the number of right answers.

    Raises:
        LessonError: a list is not as long as the questions.
    """
    columns = {**results, **({tr("reference"): reference} if reference is not None else {})}
    for name, said in columns.items():
        if len(said) != len(questions):
            raise LessonError(
                "{name!r} has {count} answers for {count2} questions. Pass lists of equal length, in the "
                "same order.",
                name=name, count=len(said), count2=len(questions),
            )
    marks: dict[str, Sequence[str]] = dict.fromkeys(columns, [""] * len(questions))
    totals: list[str] = []
    if reference is not None:
        from lessonlib.evaluation._metrics import exact_match

        for name, said in results.items():
            right = exact_match(list(said), list(reference))
            marks[name] = ["✓ " if hit else "✗ " for hit in right]
            totals.append(f"{int(sum(right))}/{len(right)}")
    body = [
        [question, *(marks[name][n] + (said[n].strip() or tr("(empty)")) for name, said in columns.items())]
        for n, question in enumerate(questions)
    ]
    if totals:
        body.append([tr("right answers"), *totals, ""])
    return _table([tr("question"), *columns], body)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> Page:
    """A table as HTML (escaped) and as text, one line a cell."""
    cell = 'style="text-align:left;vertical-align:top;padding:.3em .6em"'
    top = "".join(f"<th {cell}>{html.escape(name)}</th>" for name in head)
    lines = []
    for row in body:
        cells = ""
        for said in row:
            tint = {"✓": "46,160,67", "✗": "218,54,51"}.get(said[:1])
            colour = f';background:rgba({tint},.16)"' if tint else '"'
            cells += f"<td {cell[:-1]}{colour}>{html.escape(said)}</td>"
        lines.append(f"<tr>{cells}</tr>")
    plain = "\n\n".join(
        "\n".join(f"{name}: {said}" for name, said in zip(head, row, strict=True) if said) for row in body
    )
    return Page(plain, f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>")


def ask(
    model: Any,
    tokenizer: Any,
    *,
    template: str = "Human: {question} Assistant:",
    questions: Sequence[str] = (),
    max_new_tokens: int = 64,
) -> Any:
    """A box to ask the model a question; without widgets, a table of its answers to the sample questions.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        template: the prompt, with `{question}` where the question goes; the same as in training.
        questions: samples that are answered at once where no widget can be shown (ipywidgets is missing, or
            LESSONLIB_HEADLESS=1); in the box, the first one is filled in.
        max_new_tokens: the longest answer, in tokens; the box starts at this value.

    Returns:
        An ipywidgets box, or a Page.

    Raises:
        LessonError: the template has no `{question}`.
    """
    if "{question}" not in template:
        raise LessonError(
            "template={template!r} has no place for the question. Write {{question}} where it stood in "
            "training.",
            template=template,
        )

    def answer(question: str, temperature: float, longest: int) -> str:
        return _answer(model, tokenizer, template.replace("{question}", question), temperature, longest)

    if widgets := shown_widgets():
        return _ask_box(widgets, answer, questions[0] if questions else "", max_new_tokens)
    if not questions:
        return Page.of(
            tr("The ask box cannot be shown here. Pass questions=[...] to see the answers as a table.")
        )
    head = [tr("question"), tr("the model's answer")]
    return _table(head, [[question, answer(question, 0.0, max_new_tokens)] for question in questions])


def shown_widgets() -> Any:
    """The module ipywidgets; None where no widget can be shown."""
    if headless():
        return None
    try:
        import ipywidgets
    except ImportError:
        return None
    return ipywidgets


def in_words(error: Exception) -> str:
    """What a box says of an error: the sentence of a LessonError, the kind as well of any other."""
    return str(error) if isinstance(error, LessonError) else f"{type(error).__name__}: {error}"


def _answer(model: Any, tokenizer: Any, prompt: str, temperature: float, longest: int) -> str:
    """Greedy at temperature 0 (as in the evaluation), else sampled."""
    from lessonlib.evaluation._answers import answers, finite_logits, inference, prompt_ids, stop_ids

    if temperature == 0:
        return answers(model, tokenizer, [prompt], max_new_tokens=longest)[0]
    import torch

    ids = torch.tensor(prompt_ids(tokenizer, [prompt]), device=model.device)  # (1, length)
    stops = stop_ids(model.generation_config, tokenizer)
    with inference(model):
        output = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=longest, do_sample=True,
            temperature=temperature, eos_token_id=stops, pad_token_id=stops[0],
            logits_processor=finite_logits(),
        )  # (1, length + new)
    return tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip()


def _ask_box(widgets: Any, answer: Any, question: str, longest: int) -> Any:
    """The widgets: a question, a button, two sliders, and the answer or the error below."""
    wide = widgets.Layout(width="95%")
    asked = widgets.Text(value=question, description=tr("Question"), layout=wide)
    tokens = widgets.IntSlider(value=longest, min=1, max=max(256, longest), description="max_new_tokens")
    heat = widgets.FloatSlider(value=0.0, min=0.0, max=1.5, step=0.1, description="temperature")
    for slider in (tokens, heat):
        slider.style.description_width = "initial"
    button = widgets.Button(description=tr("Ask"), button_style="primary")
    shown = widgets.HTML()

    def on_click(_: Any) -> None:
        button.disabled = True  # one question at a time
        shown.value = tr("Generating…")
        try:
            said = answer(asked.value, heat.value, tokens.value) or tr("(empty)")
            shown.value = f"<div>{html.escape(said)}</div>"
        except Exception as error:  # a stack trace under a widget is lost or frightens; say it in the box
            shown.value = f'<div style="color:rgb(218,54,51)">✗ {html.escape(in_words(error))}</div>'
        finally:
            button.disabled = False

    button.on_click(on_click)
    return widgets.VBox([asked, widgets.HBox([tokens, heat, button]), shown])
