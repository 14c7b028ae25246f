"""From a question and an answer to the token ids and labels that training sees, with nothing left to guess.

A row goes through two forms: `prompt` and `completion` (text), then `input_ids` and `labels` (numbers). The
label -100 is what PyTorch's cross-entropy ignores, so a label says at once what the model learns to say.

This module does not know about batches: padding is the collator's work, and TRL's own collator takes rows of
`input_ids` and `labels` as they come from `encode`, padding the labels with -100. It knows one turn of plain
text; conversations and chat templates are the work of `_chat`, and conversations rendered into a
column `text` that of `lessonlib.text_column`, which is reached from here too.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from string import Formatter
from typing import TYPE_CHECKING, Any, TypeVar

from lessonlib.formatting._text_column import IGNORED, as_text, check_text, opening, text_loss
from lessonlib.runtime._language import LessonError, text

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerBase

Data = TypeVar("Data", "Dataset", "DatasetDict")

__all__ = [
    "IGNORED", "as_text", "byte_letters", "check_text", "each_split", "encode", "first_few", "loss_share",
    "opening", "text_loss", "to_prompt_completion", "token_table",
]  # fmt: skip


def to_prompt_completion(
    dataset: "Data", *, template: str = "Human: {question} Assistant:", answer: str = " {answer}"
) -> "Data":
    """Adds the columns `prompt` and `completion`, made from the row's other columns, which all stay.

    The space between the two belongs to the completion. Byte-level tokenizers keep a space together with
    the word after it (" AI" is one token), so a prompt that ends in a space makes a token that training
    never saw.

    Args:
        dataset: a Dataset, or a DatasetDict whose every split is treated alike.
        template: the prompt; names in braces are columns.
        answer: the completion, in the same way; it is what follows the prompt, its space included.

    Returns:
        the same kind of object with two more text columns.

    Raises:
        LessonError: where a template has an unpaired brace or names a column that is not there, where a
            prompt ends in a space, and where a row has no text in a column that a template needs (with the
            row's number, counted from 0).
    """
    if isinstance(dataset, dict):
        return each_split(dataset, to_prompt_completion, template=template, answer=answer)
    if template != template.rstrip(" \t"):
        raise LessonError(
            vi=f"Mẫu prompt {template!r} kết thúc bằng dấu cách. Tokenizer gắn dấu cách vào từ đứng sau, "
            "nên prompt này sinh ra một token mà lúc huấn luyện không có. Hãy bỏ dấu cách ở cuối prompt "
            "và đặt nó ở đầu câu trả lời: answer=' {answer}'.",
            en=f"The prompt template {template!r} ends in a space. The tokenizer keeps a space with the "
            "word after it, so this prompt makes a token that training never sees. Take the space off the "
            "prompt's end and put it at the answer's start: answer=' {answer}'.",
        )
    wanted: dict[str, list[str]] = {
        "prompt": _columns_named(template, dataset), "completion": _columns_named(answer, dataset)
    }
    made: dict[str, list[str]] = {"prompt": [], "completion": []}
    for number, row in enumerate(dataset):
        for column in {*wanted["prompt"], *wanted["completion"]}:
            if not isinstance(row[column], str) or not row[column].strip():
                raise LessonError(
                    vi=f"Dòng {number}: cột {column!r} không có văn bản (giá trị là {row[column]!r}). Hãy "
                    "sửa dòng này hoặc làm sạch dữ liệu bằng lessonlib.data.clean trước.",
                    en=f"Row {number}: column {column!r} holds no text (its value is {row[column]!r}). "
                    "Mend the row, or clean the data with lessonlib.data.clean first.",
                )
        prompt = template.format(**{column: row[column] for column in wanted["prompt"]})
        if prompt != prompt.rstrip(" \t"):
            raise LessonError(
                vi=f"Dòng {number}: prompt kết thúc bằng dấu cách ({prompt[-20:]!r}). Hãy bỏ dấu cách thừa "
                "ở cuối cột.",
                en=f"Row {number}: the prompt ends in a space ({prompt[-20:]!r}). Strip the column's "
                "trailing spaces.",
            )
        made["prompt"].append(prompt)
        made["completion"].append(answer.format(**{column: row[column] for column in wanted["completion"]}))
    kept = dataset.remove_columns([name for name in made if name in dataset.column_names])
    return kept.add_column("prompt", made["prompt"]).add_column("completion", made["completion"])


def each_split(splits: "DatasetDict", function: Callable, **options: Any) -> "DatasetDict":
    """`function(split, **options)` for each split of a DatasetDict."""
    return type(splits)({name: function(part, **options) for name, part in splits.items()})


def _columns_named(form: str, dataset: "Dataset") -> list[str]:
    """The columns that a template names in braces, all of them present in the dataset."""
    try:
        names = [name for _, name, _, _ in Formatter().parse(form) if name is not None]
    except ValueError as error:
        raise LessonError(
            vi=f"Không đọc được mẫu {form!r} ({error}). Dấu ngoặc nhọn thật phải viết đôi: {{{{ và }}}}.",
            en=f"The template {form!r} cannot be read ({error}). Write a literal brace twice: {{{{ and }}}}.",
        ) from None
    for name in names:
        if name not in dataset.column_names:
            there = ", ".join(dataset.column_names)
            raise LessonError(
                vi=f"Mẫu {form!r} cần cột {name!r}, nhưng dữ liệu chỉ có: {there}. Hãy sửa tên trong ngoặc "
                "nhọn.",
                en=f"The template {form!r} needs a column {name!r}, but the data has: {there}. "
                "Correct the name in braces.",
            )
    return names


def encode(
    dataset: "Data",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    train_on: str = "completion",
    eos: bool = True,
) -> "Data":
    """Turns `prompt` and `completion` into `input_ids` and `labels`, one unpadded row each.

    input_ids = [BOS, if this tokenizer adds one] + prompt + completion + [EOS]
    labels    =  -100 ...                           -100     completion + [EOS]     (train_on="completion")

    The prompt's ids come out exactly as the prompt alone is tokenised, because that is what the model will be
    given when it answers. Where a tokenizer would merge the prompt's last letters with the completion's first
    ones, the two are tokenised apart (with a warning): otherwise training would show a context that never
    occurs again.

    Args:
        dataset: a Dataset (or DatasetDict) with the text columns `prompt` and `completion`.
        tokenizer: the model's tokenizer. Whether it opens a text with BOS is found out by trying.
        max_length: the longest row allowed, in tokens, EOS included. Longer rows are refused, never cut: a
            cut answer loses its EOS, and the model learns that answers end in the middle.
        train_on: "completion" (labels of the prompt are -100) or "all" (the prompt is learnt too).
        eos: whether each row ends with a trained end-of-sequence token. False is there for showing what
            happens without it: generation never learns to stop.

    Returns:
        the same kind of object with exactly two columns of integer lists, `input_ids` and `labels`; within a
        row both have the same length.

    Raises:
        LessonError: a missing column, no rows, a tokenizer without EOS, a second BOS, a row in which nothing
            is trained, rows longer than max_length, an unknown train_on.
    """
    if isinstance(dataset, dict):
        options = {"tokenizer": tokenizer, "max_length": max_length, "train_on": train_on, "eos": eos}
        return each_split(dataset, encode, **options)
    _check_arguments(dataset, tokenizer, train_on, eos)
    start = opening(tokenizer)
    prompts, completions = list(dataset["prompt"]), list(dataset["completion"])

    def ids_of(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, add_special_tokens=False)["input_ids"]

    prompt_ids = ids_of(prompts)
    whole_ids = ids_of([prompt + completion for prompt, completion in zip(prompts, completions, strict=True)])
    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    merged = []
    for number, (before, whole) in enumerate(zip(prompt_ids, whole_ids, strict=True)):
        if whole[: len(before)] != before:
            merged.append(number)
            whole = before + ids_of([completions[number]])[0]
        ids: list[int] = start + whole
        _check_one_bos(ids, tokenizer, number)
        if eos and (len(whole) == len(before) or ids[-1] != tokenizer.eos_token_id):
            ids = [*ids, tokenizer.eos_token_id]
        masked = len(start) + len(before) if train_on == "completion" else 0
        rows["input_ids"].append(ids)
        rows["labels"].append([IGNORED] * masked + ids[masked:])
    _check_rows(rows, max_length)
    if merged:
        _warn_merged(merged, len(rows["input_ids"]))

    from datasets import Dataset

    return Dataset.from_dict(rows)


def _check_arguments(
    dataset: "Dataset", tokenizer: "PreTrainedTokenizerBase", train_on: str, eos: bool
) -> None:
    for name in ("prompt", "completion"):
        if name not in dataset.column_names:
            there = ", ".join(dataset.column_names)
            raise LessonError(
                vi=f"Thiếu cột {name!r}; dữ liệu có: {there}. Hãy gọi to_prompt_completion trước.",
                en=f"Column {name!r} is missing; the data has: {there}. Call to_prompt_completion first.",
            )
    if len(dataset) == 0:
        raise LessonError(
            vi="Không có dòng nào để mã hóa. Hãy xem lại các bước đọc và làm sạch dữ liệu.",
            en="There are no rows to encode. Look again at how the data was read and cleaned.",
        )
    if train_on not in ("completion", "all"):
        raise LessonError(
            vi=f"train_on={train_on!r} không hợp lệ. Hãy chọn 'completion' hoặc 'all'.",
            en=f"There is no train_on={train_on!r}. Choose 'completion' or 'all'.",
        )
    if not eos:
        return
    if tokenizer.eos_token_id is None:
        raise LessonError(
            vi="Tokenizer không có token kết thúc (EOS), nên mô hình sẽ không học được lúc nào phải dừng. "
            "Hãy đặt tokenizer.eos_token theo cấu hình của mô hình gốc.",
            en="The tokenizer has no end-of-sequence token (EOS), so the model could never learn when to "
            "stop. Set tokenizer.eos_token as the base model's configuration has it.",
        )
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        warnings.warn(
            text(
                vi="pad_token trùng với eos_token: collator nào che nhãn theo id của pad (như "
                "DataCollatorForLanguageModeling) sẽ che luôn EOS, và mô hình không học cách dừng. Hãy "
                "dùng một token khác làm pad, hoặc một collator giữ nguyên nhãn có sẵn.",
                en="pad_token is the same as eos_token: a collator that masks labels by the pad id (such "
                "as DataCollatorForLanguageModeling) masks EOS with it, and the model does not learn to "
                "stop. Use another token as pad, or a collator that keeps the labels given here.",
            ),
            stacklevel=3,
        )


def _check_one_bos(ids: list[int], tokenizer: "PreTrainedTokenizerBase", number: int) -> None:
    bos = tokenizer.bos_token_id
    if bos is None or ids.count(bos) < 2 or bos == tokenizer.eos_token_id:
        return
    raise LessonError(
        vi=f"Dòng {number} có {ids.count(bos)} token mở đầu {tokenizer.bos_token!r}; chỉ được có một. "
        "Thường do văn bản đã có sẵn token này mà tokenizer lại thêm lần nữa: hãy xóa nó khỏi văn bản.",
        en=f"Row {number} has {ids.count(bos)} opening tokens {tokenizer.bos_token!r}; there may be one. "
        "Most often the text holds it already and the tokenizer adds it again: take it out of the text.",
    )


def _check_rows(rows: dict[str, list[list[int]]], max_length: int) -> None:
    # The model predicts label t from the ids before t, so the first label of a row never counts.
    silent = [number for number, labels in enumerate(rows["labels"]) if set(labels[1:]) <= {IGNORED}]
    if silent:
        raise LessonError(
            vi=f"{len(silent)} dòng không có token nào được tính loss (dòng {first_few(silent)}): completion "
            "trống. Hãy bỏ các dòng này hoặc điền câu trả lời.",
            en=f"{len(silent)} rows have no token with loss (rows {first_few(silent)}): the completion is "
            "empty. Remove these rows or give them an answer.",
        )
    lengths = [len(ids) for ids in rows["input_ids"]]
    long = [number for number, length in enumerate(lengths) if length > max_length]
    if long:
        raise LessonError(
            vi=f"{len(long)} trên {len(lengths)} dòng dài hơn max_length={max_length} token (dòng "
            f"{first_few(long)}). Hãy tăng max_length lên {max(lengths)}, hoặc rút ngắn hay bỏ các dòng đó. "
            "Không tự cắt: câu trả lời bị cắt sẽ mất EOS.",
            en=f"{len(long)} of {len(lengths)} rows are longer than max_length={max_length} tokens (rows "
            f"{first_few(long)}). Raise max_length to {max(lengths)}, or shorten or remove those rows. They "
            "are not cut for you: a cut answer loses its EOS.",
        )


def _warn_merged(merged: list[int], total: int) -> None:
    warnings.warn(
        text(
            vi=f"Ở {len(merged)} trên {total} dòng (dòng {first_few(merged)}), tokenizer sẽ gộp cuối prompt "
            "với đầu câu trả lời thành một token. Hai phần đã được tách token riêng, vì lúc trả lời mô "
            "hình chỉ thấy token của prompt. Cho câu trả lời bắt đầu bằng dấu cách thì không còn cảnh báo "
            "này.",
            en=f"In {len(merged)} of {total} rows (rows {first_few(merged)}) the tokenizer would merge the "
            "prompt's end with the completion's start into one token. The two were tokenised apart, "
            "because the model will see the prompt's tokens alone when it answers. A completion that "
            "starts with a space ends this warning.",
        ),
        stacklevel=3,
    )


def first_few(numbers: list[int], most: int = 5) -> str:
    """Row numbers for a message: "3, 8, 9", and dots where there are more than `most`."""
    return ", ".join(map(str, numbers[:most])) + (", ..." if len(numbers) > most else "")


def token_table(row: Mapping[str, Any], tokenizer: "PreTrainedTokenizerBase") -> "pd.DataFrame":
    """One row of `encode`, token by token.

    Args:
        row: a mapping with `input_ids` and `labels` of the same length.
        tokenizer: the tokenizer that made it.

    Returns:
        a DataFrame with the columns position, token (its text; a piece of a character that is no text by
        itself is shown as its bytes, such as <E1 BB>), id, label, loss (whether the label counts).

    Raises:
        LessonError: where `input_ids` or `labels` is missing.
    """
    import pandas as pd

    ids, labels = _column(row, "input_ids"), _column(row, "labels")
    return pd.DataFrame({
        "position": range(len(ids)),
        "token": [_shown(token_id, tokenizer) for token_id in ids],
        "id": ids,
        "label": labels,
        "loss": [label != IGNORED for label in labels],
    })


def _shown(token_id: int, tokenizer: "PreTrainedTokenizerBase") -> str:
    shown = str(tokenizer.decode([token_id]))
    if "\ufffd" not in shown:
        return shown
    byte_of = byte_letters()
    piece = tokenizer.convert_ids_to_tokens(token_id)
    return "<" + " ".join(f"{byte_of[letter]:02X}" if letter in byte_of else letter for letter in piece) + ">"


def byte_letters() -> dict[str, int]:
    """Byte-level BPE writes each byte as a printable letter (GPT-2's alphabet); this is the way back."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: byte for byte, letter in bytes_to_unicode().items()}


def loss_share(
    data: "Mapping[str, Any] | Iterable[Mapping[str, Any]]", *, pad_token_id: int | None = None
) -> dict[str, float]:
    """Counts what a batch or a dataset is made of: content, padding, and what the loss is taken over.

    Args:
        data: rows (a Dataset or a list of mappings), or one padded batch: a mapping of tensors or lists of
            shape (batch, length) under `input_ids`, `labels` and, if there, `attention_mask`.
        pad_token_id: what marks padding where there is no `attention_mask`; without either, nothing counts as
            padding.

    Returns:
        a dict: tokens (all that is computed), content (tokens that are no padding), padding, with_loss
        (labels other than -100; the model shifts labels by one, so the first of each row is counted but never
        predicted), padding_with_loss (padding that is trained on: should be 0), share (with_loss / tokens).

    Raises:
        LessonError: where `input_ids` or `labels` is missing, or there are no tokens.
    """
    if isinstance(data, Mapping):
        columns = {name: _column(data, name) for name in ("input_ids", "labels", "attention_mask")
                   if name in data or name != "attention_mask"}
        rows: Iterable[Mapping[str, Any]] = (
            dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
        )
    else:
        rows = data
    tokens = padding = with_loss = padding_with_loss = 0
    for row in rows:
        ids, labels = _column(row, "input_ids"), _column(row, "labels")
        padded = [not seen for seen in _column(row, "attention_mask")] if "attention_mask" in row else [
            pad_token_id is not None and token_id == pad_token_id for token_id in ids
        ]
        tokens += len(ids)
        padding += sum(padded)
        with_loss += sum(label != IGNORED for label in labels)
        padding_with_loss += sum(
            pad and label != IGNORED for pad, label in zip(padded, labels, strict=True)
        )
    if tokens == 0:
        raise LessonError(
            vi="Không có token nào để đếm: dữ liệu trống.",
            en="There are no tokens to count: the data is empty.",
        )
    return {
        "tokens": tokens, "content": tokens - padding, "padding": padding, "with_loss": with_loss,
        "padding_with_loss": padding_with_loss, "share": with_loss / tokens,
    }


def _column(row: Mapping[str, Any], name: str) -> list:
    """One column of a row or batch as plain lists, whatever it was before (list, array, tensor)."""
    if name not in row:
        there = ", ".join(map(str, row))
        raise LessonError(
            vi=f"Thiếu {name!r}; ở đây chỉ có: {there}. Hãy dùng dòng do "
            "formatting.encode tạo ra.",
            en=f"{name!r} is missing; there is: {there}. Use rows made by "
            "formatting.encode.",
        )
    return row[name].tolist() if hasattr(row[name], "tolist") else list(row[name])
