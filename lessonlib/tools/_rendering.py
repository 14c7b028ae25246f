"""Conversations with tools, written for a chat template: calls and results as text in plain turns.

What goes in is transformers' tool-use convention (see `lessonlib.tools.conversations`). What comes out
depends on the family. Gemma 2's template knows user and assistant only and drops tools without a word, so
everything is written into those two:

    user       [system text]  <tools>[...]</tools>  the request
    assistant  <think>...</think><tool_call>{"name":...,"arguments":{...}}</tool_call>
    user       <tool_response>{"name":...,"content":...}</tool_response>
    assistant  <think>...</think>the reply

The tags are those of the Hermes format (https://github.com/NousResearch/Hermes-Function-Calling). That
results come in a turn of the user, JSON without spaces, and the short form of the tools are the course's own
decisions. What others wrote (user, tool, a tool's description) can neither open nor close a turn or a call:
see `harmless`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from lessonlib.formatting._chat import fold_system
from lessonlib.formatting._rows import each_split
from lessonlib.runtime._language import LANGUAGES, LessonError, Translated
from lessonlib.tools._conversations import Message, checked, rows
from lessonlib.tools._marks import Place, Safe, warn
from lessonlib.tools._offers import offered_text
from lessonlib.tools._schemas import Tool
from lessonlib.tools._schemas import schemas as checked_schemas

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerBase

Data = TypeVar("Data", "Dataset", "DatasetDict")


_FAMILIES = ("gemma2", "phi3", "llama")
_STYLES = ("full", "compact")


def render(
    messages: Sequence[Mapping[str, Any]],
    schemas: Sequence[Tool],
    *,
    family: str = "gemma2",
    style: str = "full",
    language: str = "en",
) -> list[Message]:
    """One conversation and the tools on offer, as messages that the family's chat template takes.

    Args:
        messages: in transformers' tool-use convention; "thinking" of an assistant's message is its thought.
            They may end with any role: up to user or tool it is a prompt, up to assistant a training row.
        schemas: the tools on offer, as `tools.schemas` takes them; with none, nothing is written about tools.
        family: "gemma2" (user and assistant in turn; a system text is folded into the first user turn),
            "phi3" (the same, with a system message), or "llama" (Llama 3.2's native messages: calls stay
            "tool_calls", results role "tool", the tools stand in the system message; thoughts are left out,
            since its template has no place for them).
        style: "full" (for gemma2 and phi3 a short instruction, and whole JSON Schemas) or "compact"
            (`signature`s and nothing else: for small models trained on it).
        language: of the instruction, "vi" or "en".

    Returns:
        New messages, {"role", "content"} each; for llama some with "tool_calls" or "name".

    Raises:
        LessonError: an unknown family, style or language; what `_conversations.checked` or `tools.schemas`
            refuses; for llama more than one call in a turn, which its template cannot write.

    Warns:
        UserWarning: where a tag or control token in a text was made harmless, with the turn.
    """
    _check_choices(family, style, language)
    made, found = _render(messages, checked_schemas(schemas), family, style, language, None)
    warn(found)
    return made


def chats(dataset: "Data", *, family: str = "gemma2", style: str = "full") -> "Data":
    """Training rows for `formatting.encode_chats`: each conversation rendered, in its own language.

    Args:
        dataset: a Dataset (or DatasetDict) with the columns `tools` and `messages` (JSON texts); id, kind and
            language are kept where they are there. Instructions are English where language is not.
        family: "gemma2" or "phi3".
        style: as in `render`.

    Returns:
        The same kind of object with the column `messages`, lists of {"role", "content"}.

    Raises:
        LessonError: as `render`, with the row; family "llama", whose messages do not fit into a column.
    """
    if isinstance(dataset, dict):
        return each_split(dataset, chats, family=family, style=style)
    _check_choices(family, style, "en")
    if family == "llama":
        raise LessonError(
            "Llama's native messages hold tool_calls with ever other arguments, which do not fit into a "
            "Dataset's column. Use family='gemma2' or 'phi3', or call render row by row.",
        )
    conversations, found = [], []
    for number, row, tools, messages in rows(dataset):
        language = row.get("language") or "en"
        _check_choices(family, style, language)
        made, changed = _render(messages, checked_schemas(tools), family, style, language, number)
        conversations.append(made)
        found += changed
    warn(found)

    from datasets import Dataset

    kept = {name: list(dataset[name]) for name in ("id", "kind", "language") if name in dataset.column_names}
    return Dataset.from_dict({**kept, "messages": conversations})


def prompts(
    turns: Sequence[Mapping[str, Any]],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    family: str = "gemma2",
    style: str = "full",
) -> list[str]:
    """What to ask a model for each turn: its history as the chat template writes it, up to the answer.

    Args:
        turns: from `turns`.
        tokenizer: the model's, with its chat template.
        family, style: as in `render`, and as in training.

    Returns:
        Texts that begin with BOS where the template writes it: `evaluation.answers` adds no second one.

    Raises:
        LessonError: as `render`; no chat template, or one that refuses these messages or leaves some out.
    """
    _check_choices(family, style, "en")
    if not tokenizer.chat_template:
        raise LessonError("The tokenizer has no chat template. Use the tokenizer of an instruct model.")
    made, found = [], []
    for turn in turns:
        language = turn.get("language") or "en"
        _check_choices(family, style, language)
        messages, changed = _render(
            turn["history"], checked_schemas(turn["tools"]), family, style, language, turn.get("row")
        )
        made.append(_asked(messages, tokenizer, family))
        found += changed
    warn(found)
    return made


def _check_choices(family: str, style: str, language: str) -> None:
    for name, value, known in (
        ("family", family, _FAMILIES), ("style", style, _STYLES), ("language", language, LANGUAGES)
    ):
        if value not in known:
            raise LessonError(
                "There is no {name}={value!r}. Choose one of: {known}.",
                name=name, value=value, known=", ".join(map(repr, known)),
            )


def _render(
    messages: Sequence[Mapping[str, Any]],
    tools: list[dict[str, Any]],
    family: str,
    style: str,
    language: str,
    row: int | None,
) -> tuple[list[Message], list[Place]]:
    """The rendered messages, and (row, turn, role) of those made harmless; turn None is the tools
    themselves."""
    given = checked(messages, row)
    found: list[Place] = []
    safe = Safe()
    offered = offered_text(tools, family, style, language, safe)
    if safe.changed:
        found.append((row, None, "tools"))
    made: list[Message] = []
    system = ""
    for turn, message in enumerate(given):
        safe = Safe()
        if message["role"] == "system":
            system = safe.text(message["content"])
        elif family == "llama":
            made.append(_native(message, safe, turn, row))
        else:
            _add(made, message, safe)
        if safe.changed:
            found.append((row, turn, message["role"]))
    parts = [offered, system] if family == "llama" else [system, offered]
    opening = "".join(parts) if family == "llama" else "\n\n".join(filter(None, parts))
    if opening:
        made.insert(0, {"role": "system", "content": opening})
    return (fold_system(made) if family == "gemma2" else made), found


def _add(made: list[Message], message: Message, safe: Safe) -> None:
    """Writes one message as text; results, and what the user says right after them, share one user turn."""
    if message["role"] == "assistant":
        thought = f"<think>{safe.text(message['thinking'])}</think>" if message["thinking"] else ""
        calls = "".join(f"<tool_call>{safe.json(call)}</tool_call>" for call in message["calls"])
        made.append({"role": "assistant", "content": thought + safe.text(message["content"]) + calls})
        return
    said = (
        f"<tool_response>{safe.json({key: message[key] for key in ('name', 'content')})}</tool_response>"
        if message["role"] == "tool" else safe.text(message["content"])
    )
    if made and made[-1]["role"] == "user":
        between = "" if message["role"] == "tool" else "\n\n"
        made[-1]["content"] += between + said
    else:
        made.append({"role": "user", "content": said})


def _native(message: Message, safe: Safe, turn: int, row: int | None) -> Message:
    """One message as Llama 3.2's template takes it."""
    if message["role"] == "tool":
        return {"role": "tool", "name": message["name"], "content": safe.value(message["content"])}
    if message["role"] == "user" or not message["calls"]:
        return {"role": message["role"], "content": safe.text(message["content"])}
    if len(message["calls"]) > 1:
        place = Translated("turn {turn}", turn=turn)
        if row is not None:
            place = Translated("Row {row}, turn {turn}", row=row, turn=turn)
        raise LessonError(
            "{place}: Llama 3.2's template writes one call a turn, and here are {count}. Make turns of them "
            "(call, result, call, result), or leave the row out.",
            place=place, count=len(message["calls"]),
        )
    calls = [{"type": "function", "function": safe.value(call)} for call in message["calls"]]
    return {"role": "assistant", "tool_calls": calls}


def _asked(messages: list[Message], tokenizer: "PreTrainedTokenizerBase", family: str) -> str:
    from jinja2 import TemplateError

    try:
        asked = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except TemplateError as error:
        raise LessonError(
            "The chat template refuses messages written for family={family!r} ({error}). Choose the model's "
            "own family.",
            family=family, error=error,
        ) from error
    if not _in_order(messages, asked):
        raise LessonError(
            "The chat template leaves out some of the messages written for family={family!r} without a "
            "word. Choose the model's own family.",
            family=family,
        )
    return asked


def _in_order(messages: list[Message], asked: str) -> bool:
    """Whether every text and every call stands in the prompt, one after the other."""
    at = 0
    for message in messages:
        parts = [call["function"]["name"] for call in message.get("tool_calls", ())]
        if isinstance(message.get("content"), str):
            parts.append(message["content"].strip())
        for part in parts:
            at = asked.find(part, at)
            if at < 0:
                return False
            at += len(part)
    return True
