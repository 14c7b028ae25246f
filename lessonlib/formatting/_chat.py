"""From conversations to token ids and labels, through the chat template of any model family.

A row is a list `messages` of {"role", "content"}; the roles are system, user and assistant. What the model
learns is what the assistant says, with the token that ends its turn. Where that stands in a row is found by
rendering the conversation up to each turn, so a template needs no `{% generation %}` marks. One question with
one answer, without a template, is the business of `lessonlib.formatting`.
"""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from lessonlib.formatting._rows import each_split, first_few
from lessonlib.formatting._text_column import IGNORED, opening
from lessonlib.runtime._language import LessonError, Translated, tr

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerBase

Data = TypeVar("Data", "Dataset", "DatasetDict")
Message = dict[str, str]
_ROLES = ("system", "user", "assistant")


def encode(
    dataset: "Data",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    train_on: str = "assistant",
    long: str = "refuse",
    template_options: Mapping[str, Any] | None = None,
) -> "Data":
    """Turns conversations into `input_ids` and `labels`, one unpadded row each.

    The ids are those of the whole conversation as the chat template writes it (with BOS once, where template
    or tokenizer puts one). Labels are -100 but for the assistant's turns: from the first token after the
    header ("<|assistant|>" and the like) to the last before the next message, the end-of-turn token included.
    After the last turn all that the template still writes is learnt, such as Phi-3's <|endoftext|>. This is
    the mask that trl makes with its training templates of Phi-3, Llama 3 and Gemma.

    For each learnt turn it is checked that the history alone, as generation will see it, has exactly the ids
    that stand before the turn in the row.

    Args:
        dataset: a Dataset (or DatasetDict) with the column `messages`.
        tokenizer: the model's tokenizer, with its chat template.
        max_length: the longest row allowed, in tokens.
        train_on: "assistant" (each of its turns), "last" (its last turn only) or "all" (every token).
        long: what becomes of longer rows: "refuse" (an error names them), "drop", or "cut_turns" (turns are
            taken off the end until the row fits and ends with a whole assistant turn; where not even the
            first exchange fits, the row is dropped). A warning says how many rows were dropped and cut.
        template_options: further variables of the chat template, such as {"date_string": "26 Jul 2024"}.

    Returns:
        the same kind of object with exactly two columns of integer lists, `input_ids` and `labels`; within a
        row both have the same length.

    Raises:
        LessonError: an unknown train_on or long, no chat template, no rows, rows that are too long; and with
            row and turn, both counted from 0: a conversation that is not system (or none), user, assistant,
            user, ..., assistant; a message without text, or with one of the template's special tokens in its
            text; a template that refuses or drops a message, changes earlier turns, or marks no end.
    """
    if isinstance(dataset, dict):
        options = {"max_length": max_length, "train_on": train_on, "long": long}
        return each_split(dataset, encode, tokenizer=tokenizer, template_options=template_options, **options)
    _check_choice("train_on", train_on, ("assistant", "last", "all"))
    _check_choice("long", long, ("refuse", "drop", "cut_turns"))
    template = _Template(tokenizer, template_options)
    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    dropped, cut, longest, total = [], [], 0, 0
    for number, messages in _conversations(dataset):
        kept = template.checked(messages, number)
        ids, spans = template.tokens(kept, number, only_last=train_on == "last")
        total, longest = total + 1, max(longest, len(ids))
        shortest = 3 if kept[0]["role"] == "system" else 2
        if long == "cut_turns" and len(ids) > max_length and len(kept) > shortest:
            while len(ids) > max_length and len(kept) > shortest:
                kept = kept[:-2]
                ids, spans = template.tokens(kept, number, only_last=train_on == "last")
            if len(ids) <= max_length:
                cut.append(number)
        if len(ids) > max_length:
            dropped.append(number)
            continue
        labels = list(ids) if train_on == "all" else [IGNORED] * len(ids)
        for start, end in spans:
            labels[start:end] = ids[start:end]
        rows["input_ids"].append(ids)
        rows["labels"].append(labels)
    if dropped and (long == "refuse" or not rows["labels"]):
        raise _too_long(dropped, total, max_length, longest)
    if dropped or cut:
        _warn_long(dropped, cut, total, max_length)

    from datasets import Dataset

    return Dataset.from_dict(rows)


def prompts(
    dataset: "Dataset",
    tokenizer: "PreTrainedTokenizerBase",
    turn: str = "last",
    *,
    template_options: Mapping[str, Any] | None = None,
) -> tuple[list[str], list[str]]:
    """What to ask a model, and what the assistant said there: for `evaluation.answers` and its scores.

    Args:
        dataset: conversations in the column `messages`.
        tokenizer: the model's tokenizer, with its chat template.
        turn: "last" (one question for each conversation: its last assistant turn) or "all" (one for each
            assistant turn, each with the true history before it).
        template_options: as in `encode`; the same as in training.

    Returns:
        (prompts, references): the history as the template renders it, up to where the assistant begins to
        speak, and the text that it said. Prompts end as the template opens an answer, for Phi-3 with
        "<|assistant|>" and a line break, which `evaluation.answers` lets pass.

    Raises:
        LessonError: as `encode`.
    """
    _check_choice("turn", turn, ("last", "all"))
    template = _Template(tokenizer, template_options)
    asked: list[str] = []
    said: list[str] = []
    for number, messages in _conversations(dataset):
        kept = template.checked(messages, number)
        template.tokens(kept, number, only_last=turn == "last")
        for at in _assistant_turns(kept, only_last=turn == "last"):
            asked.append(template.text(kept[:at], number, ask=True))
            said.append(kept[at]["content"])
    return asked, said


def usable(
    dataset: "Dataset",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    template_options: Mapping[str, Any] | None = None,
) -> "tuple[Dataset, pd.DataFrame]":
    """The conversations that `encode` takes, and those that it would refuse, with the reason.

    For data that nobody has looked through. Length is not looked at: that is `encode`'s `long`.

    Args:
        dataset, tokenizer, template_options: as in `encode`.

    Returns:
        (rows, problems): the rows without a problem, with all their columns and in their order; a DataFrame
        with the columns row (counted from 0) and reason of the others.

    Raises:
        LessonError: no chat template, no column `messages`, no rows, or none without a problem.
    """
    import pandas as pd

    template = _Template(tokenizer, template_options)
    good: list[int] = []
    problems: list[tuple[int, str]] = []
    for number, messages in _conversations(dataset):
        try:
            template.tokens(template.checked(messages, number), number)
        except LessonError as problem:
            problems.append((number, str(problem)))
        else:
            good.append(number)
    if not good:
        raise LessonError("Not one row can be used. The first problem: {problems}", problems=problems[0][1])
    return dataset.select(good), pd.DataFrame(problems, columns=["row", "reason"])


def fold_system(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same conversation without a system message: its text stands in front of the first user turn.

    For templates that know no system role, such as Gemma-2's:
    `dataset.map(lambda row: {"messages": formatting.fold_system(row["messages"])})`.

    Args:
        messages: one conversation; it is not changed.

    Returns:
        A new list. System text and question are parted by an empty line.

    Raises:
        LessonError: where a system message is not followed by a user turn.
    """
    if not messages or messages[0]["role"] != "system":
        return [dict(message) for message in messages]
    if len(messages) < 2 or messages[1]["role"] != "user":
        raise LessonError(
            "No user turn follows the system message, so there is nothing to fold it into. Look at this "
            "conversation again.",
        )
    system, user, *rest = [dict(message) for message in messages]
    return [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *rest]


def answer_opening(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The end of a prompt by which the chat template opens an answer; "" where there is no template.

    For Llama 3 "<|start_header_id|>assistant<|end_header_id|>" and two line breaks. It is what a question
    with add_generation_prompt has more than one without, so a beginning that both share is left out.
    """
    if not tokenizer.chat_template:
        return ""
    question = [{"role": "user", "content": "a"}]
    without, opened = (
        str(tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=ask))
        for ask in (False, True)
    )
    return opened[len(os.path.commonprefix([without, opened])) :]


class _Template:
    """One tokenizer's chat template with its options: checks, renders and tokenises conversations."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", options: Mapping[str, Any] | None) -> None:
        if not tokenizer.chat_template:
            raise LessonError(
                "The tokenizer has no chat template: it belongs to a base model. Use an instruct model, or "
                "formatting.to_prompt_completion with a template of your own.",
            )
        self.tokenizer = tokenizer
        self.options = dict(options or {})
        self.start = opening(tokenizer)
        source = tokenizer.get_chat_template()
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        ends = {tokenizer.bos_token, tokenizer.eos_token}
        self.marks = [token for token in special if token in source or token in ends]

    def checked(self, messages: Any, number: int) -> list[Message]:
        """Role and text of each message; whatever else a row has there never reaches the template."""
        if not messages or not isinstance(messages, list) or not isinstance(messages[0], Mapping):
            raise LessonError(
                "Row {number}: the conversation is empty, or it is no list of {{role, content}}. Drop or "
                "mend this row.",
                number=number,
            )
        start = 1 if messages[0].get("role") == "system" else 0
        for turn, message in enumerate(messages):
            role, content = message.get("role"), message.get("content")
            wanted = "system" if turn < start else ("user", "assistant")[(turn - start) % 2]
            if role not in _ROLES:
                raise LessonError(
                    "Row {number}, turn {turn}: there is no role {role!r}, only {roles}.",
                    number=number, turn=turn, role=role, roles=", ".join(_ROLES),
                )
            if role != wanted:
                raise LessonError(
                    "Row {number}, turn {turn}: {role!r} stands where {wanted!r} has to. The order is "
                    "system (or none), user, assistant, user, assistant, ...",
                    number=number, turn=turn, role=role, wanted=wanted,
                )
            if not isinstance(content, str) or not content.strip():
                raise LessonError(
                    "Row {number}, turn {turn} ({role}): there is no text (the value is {content!r}).",
                    number=number, turn=turn, role=role, content=content,
                )
            mark = next((mark for mark in self.marks if mark in content), None)
            if mark is not None:
                raise LessonError(
                    "Row {number}, turn {turn} ({role}): the text holds {mark!r}, a special token of the "
                    "chat template, which the model would read as the border of a turn. Take it out.",
                    number=number, turn=turn, role=role, mark=mark,
                )
        if messages[-1]["role"] != "assistant":
            raise LessonError(
                "Row {number}: the last turn ({count}) is {messages!r}, not 'assistant', so there is no "
                "answer to learn. Leave that turn out.",
                number=number, count=len(messages) - 1, messages=messages[-1]["role"],
            )
        return [{"role": message["role"], "content": message["content"]} for message in messages]

    def text(self, messages: list[Message], number: int, *, ask: bool = False) -> str:
        """The conversation as the template writes it; with `ask` up to where the assistant begins."""
        from jinja2 import TemplateError

        try:
            return self._rendered(messages, ask)
        except TemplateError as error:
            cure = _FOLD if self._takes_folded(messages, ask) else ""
            raise LessonError(
                "Row {number}: the chat template refuses this conversation ({error}).{cure}",
                number=number, error=error, cure=cure,
            ) from error

    def _rendered(self, messages: list[Message], ask: bool) -> str:
        return str(self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=ask, **self.options
        ))

    def _takes_folded(self, messages: list[Message], ask: bool) -> bool:
        from jinja2 import TemplateError

        if messages[0]["role"] != "system":
            return False
        try:
            return bool(self._rendered(fold_system(messages), ask))
        except TemplateError:
            return False

    def ids(self, text: str) -> list[int]:
        """Token ids with BOS once: from the template, or else as this tokenizer begins every text."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found if found[: len(self.start)] == self.start else self.start + found

    def tokens(
        self, messages: list[Message], number: int, *, only_last: bool = False
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of the whole conversation, and (start, end) of each assistant turn among them."""
        whole_text = self.text(messages, number)
        for turn, message in enumerate(messages):
            if message["content"].strip() not in whole_text:
                cure = _FOLD if message["role"] == "system" else ""
                raise LessonError(
                    "Row {number}, turn {turn} ({role}): the chat template leaves this text out without a "
                    "word.{cure}",
                    number=number, turn=turn, role=message["role"], cure=cure,
                )
        whole = self.ids(whole_text)
        spans = []
        for turn in _assistant_turns(messages, only_last):
            before_text = self.text(messages[:turn], number, ask=True)
            before = self.ids(before_text)
            if not whole_text.startswith(before_text) or whole[: len(before)] != before:
                raise LessonError(
                    "Row {number}, turn {turn}: the ids of the prompt (the history and what opens the "
                    "answer) are not those that the row begins with, so in answering the model would see "
                    "tokens that it never learnt from. The chat template changes earlier turns, or ends in "
                    "a space; try train_on='last', or mend the template.",
                    number=number, turn=turn,
                )
            last = turn == len(messages) - 1
            closed_text = whole_text if last else self.text(messages[: turn + 1], number)
            said = _message_end(closed_text, messages[turn]["content"], len(before_text))
            end = len(whole) if last else _agree(self.ids(closed_text), whole)
            if said is None or end <= _agree(self.ids(closed_text[:said]), whole):
                raise LessonError(
                    "Row {number}, turn {turn}: the chat template puts no end mark after this turn, or "
                    "writes the turn differently when the conversation goes on, so the model would never "
                    "learn when to stop. Try train_on='last', or mend the template.",
                    number=number, turn=turn,
                )
            spans.append((len(before), end))
        return whole, spans


_FOLD = Translated(
    " It has no system role: put the system text into the first user turn with formatting.fold_system.",
)


def _message_end(rendered: str, content: str, start: int) -> int | None:
    """Where a message's text ends in a rendered conversation, looked for from `start` on."""
    said = content.strip()
    at = rendered.find(said, start)
    return None if at < 0 else at + len(said)


def _assistant_turns(messages: Sequence[Message], only_last: bool) -> list[int]:
    turns = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
    return turns[-1:] if only_last else turns


def _agree(ids: list[int], others: list[int]) -> int:
    """How many ids both begin with."""
    return len(os.path.commonprefix([ids, others]))


def _conversations(dataset: "Dataset") -> Iterator[tuple[int, Any]]:
    if "messages" not in dataset.column_names:
        there = ", ".join(dataset.column_names)
        raise LessonError(
            "Column 'messages' (lists of role and content) is missing; the data has: {there}.", there=there,
        )
    if len(dataset) == 0:
        raise LessonError("There are no conversations. Look again at how the data was read and cleaned.")
    return enumerate(dataset["messages"])


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise LessonError(
            "There is no {name}={value!r}. Choose one of: {known}.",
            name=name, value=value, known=", ".join(map(repr, known)),
        )


def _too_long(rows: list[int], total: int, max_length: int, longest: int) -> LessonError:
    return LessonError(
        "{count} of {total} conversations are longer than max_length={max_length} tokens (rows {rows}). "
        "Raise max_length to {longest}, or choose long='cut_turns' (leave out the last turns) or "
        "long='drop' (leave out the rows).",
        count=len(rows), total=total, max_length=max_length, rows=first_few(rows), longest=longest,
    )


def _warn_long(dropped: list[int], cut: list[int], total: int, max_length: int) -> None:
    warnings.warn(
        tr(
            "max_length={max_length}: of {total} conversations {count} were dropped (rows {dropped}), "
            "{count2} lost last turns (rows {cut}).",
            max_length=max_length, total=total, count=len(dropped), dropped=first_few(dropped) or "-",
            count2=len(cut), cut=first_few(cut) or "-",
        ),
        stacklevel=3,
    )
