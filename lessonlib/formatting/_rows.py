"""From a question and an answer to the token ids and labels that training sees, with nothing left to guess.

A row goes through two forms: `prompt` and `completion` (text), then `input_ids` and `labels` (numbers). The
label -100 is what PyTorch's cross-entropy ignores, so a label says at once what the model learns to say.

This module does not know about batches: padding is the collator's work, and TRL's own collator takes rows of
`input_ids` and `labels` as they come from `encode`, padding the labels with -100. It knows one turn of plain
text; conversations and chat templates are the work of `_chat`, and conversations rendered into a
column `text` that of `_text_column`.
"""

import warnings
from collections.abc import Callable
from string import Formatter
from typing import TYPE_CHECKING, Any, TypeVar

from lessonlib.formatting._text_column import IGNORED, opening
from lessonlib.runtime._language import LessonError, tr

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerBase

Data = TypeVar("Data", "Dataset", "DatasetDict")



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
            "The prompt template {template!r} ends in a space. The tokenizer keeps a space with the word "
            "after it, so this prompt makes a token that training never sees. Take the space off the "
            "prompt's end and put it at the answer's start: answer=' {{answer}}'.",
            template=template,
        )
    wanted: dict[str, list[str]] = {
        "prompt": _columns_named(template, dataset), "completion": _columns_named(answer, dataset)
    }
    made: dict[str, list[str]] = {"prompt": [], "completion": []}
    for number, row in enumerate(dataset):
        for column in {*wanted["prompt"], *wanted["completion"]}:
            if not isinstance(row[column], str) or not row[column].strip():
                raise LessonError(
                    "Row {number}: column {column!r} holds no text (its value is {row!r}). Mend the row, or "
                    "clean the data with lessonlib.data.clean first.",
                    number=number, column=column, row=row[column],
                )
        prompt = template.format(**{column: row[column] for column in wanted["prompt"]})
        if prompt != prompt.rstrip(" \t"):
            raise LessonError(
                "Row {number}: the prompt ends in a space ({prompt!r}). Strip the column's trailing spaces.",
                number=number, prompt=prompt[-20:],
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
            "The template {form!r} cannot be read ({error}). Write a literal brace twice: {{{{ and }}}}.",
            form=form, error=error,
        ) from None
    for name in names:
        if name not in dataset.column_names:
            there = ", ".join(dataset.column_names)
            raise LessonError(
                "The template {form!r} needs a column {name!r}, but the data has: {there}. Correct the name "
                "in braces.",
                form=form, name=name, there=there,
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
                "Column {name!r} is missing; the data has: {there}. Call to_prompt_completion first.",
                name=name, there=there,
            )
    if len(dataset) == 0:
        raise LessonError("There are no rows to encode. Look again at how the data was read and cleaned.")
    if train_on not in ("completion", "all"):
        raise LessonError(
            "There is no train_on={train_on!r}. Choose 'completion' or 'all'.", train_on=train_on,
        )
    if not eos:
        return
    if tokenizer.eos_token_id is None:
        raise LessonError(
            "The tokenizer has no end-of-sequence token (EOS), so the model could never learn when to stop. "
            "Set tokenizer.eos_token as the base model's configuration has it.",
        )
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        warnings.warn(
            tr(
                "pad_token is the same as eos_token: a collator that masks labels by the pad id (such as "
                "DataCollatorForLanguageModeling) masks EOS with it, and the model does not learn to stop. "
                "Use another token as pad, or a collator that keeps the labels given here.",
            ),
            stacklevel=3,
        )


def _check_one_bos(ids: list[int], tokenizer: "PreTrainedTokenizerBase", number: int) -> None:
    bos = tokenizer.bos_token_id
    if bos is None or ids.count(bos) < 2 or bos == tokenizer.eos_token_id:
        return
    raise LessonError(
        "Row {number} has {ids} opening tokens {bos_token!r}; there may be one. Most often the text holds "
        "it already and the tokenizer adds it again: take it out of the text.",
        number=number, ids=ids.count(bos), bos_token=tokenizer.bos_token,
    )


def _check_rows(rows: dict[str, list[list[int]]], max_length: int) -> None:
    # The model predicts label t from the ids before t, so the first label of a row never counts.
    silent = [number for number, labels in enumerate(rows["labels"]) if set(labels[1:]) <= {IGNORED}]
    if silent:
        raise LessonError(
            "{count} rows have no token with loss (rows {silent}): the completion is empty. Remove these "
            "rows or give them an answer.",
            count=len(silent), silent=first_few(silent),
        )
    lengths = [len(ids) for ids in rows["input_ids"]]
    long = [number for number, length in enumerate(lengths) if length > max_length]
    if long:
        raise LessonError(
            "{count} of {count2} rows are longer than max_length={max_length} tokens (rows {long}). Raise "
            "max_length to {lengths}, or shorten or remove those rows. They are not cut for you: a cut "
            "answer loses its EOS.",
            count=len(long), count2=len(lengths), max_length=max_length, long=first_few(long),
            lengths=max(lengths),
        )


def _warn_merged(merged: list[int], total: int) -> None:
    warnings.warn(
        tr(
            "In {count} of {total} rows (rows {merged}) the tokenizer would merge the prompt's end with the "
            "completion's start into one token. The two were tokenised apart, because the model will see "
            "the prompt's tokens alone when it answers. A completion that starts with a space ends this "
            "warning.",
            count=len(merged), total=total, merged=first_few(merged),
        ),
        stacklevel=3,
    )


def first_few(numbers: list[int], most: int = 5) -> str:
    """Row numbers for a message: "3, 8, 9", and dots where there are more than `most`."""
    return ", ".join(map(str, numbers[:most])) + (", ..." if len(numbers) > most else "")


def byte_letters() -> dict[str, int]:
    """Byte-level BPE writes each byte as a printable letter (GPT-2's alphabet); this is the way back."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: byte for byte, letter in bytes_to_unicode().items()}
