"""Conversations rendered into one string, the column `text`: how it is made, what goes wrong, what it trains.

Many recipes render a conversation with the chat template and leave the tokenising to the trainer. The
template has written the opening token (BOS) into the string, and the tokenizer, not knowing that, writes
another before it. The course trains on `messages` (`_chat`) instead; this module is there to show
why, and to check a `text` column that somebody else made. Lessons meet it through `lessonlib.formatting`.
"""

from typing import TYPE_CHECKING

from lessonlib.runtime._language import LessonError

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # torch.nn.CrossEntropyLoss's default ignore_index


def check_text(
    dataset: "Dataset",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    column: str = "text",
    add_special_tokens: bool = True,
) -> None:
    """Refuses rendered conversations that would not be tokenised as the model was pre-trained.

    Each row is tokenised as the trainer will do it. It has to begin with the opening token (BOS) once, if
    this tokenizer opens texts with one, and to end with the token that ends a turn or a text, once. Plain TRL
    adds the end-of-sequence token to a string that does not end with it, a line break after it included; that
    is reckoned with.

    Args:
        dataset: rows with a string in `column`.
        tokenizer: the model's tokenizer.
        column: the column of strings.
        add_special_tokens: what the trainer passes to the tokenizer. Plain TRL leaves it at True; Unsloth
            passes False where it finds BOS in the text or in the chat template.

    Raises:
        LessonError: no such column, no rows, a row that is no text; with row, token, count and cure: a second
            BOS, a missing BOS, a missing or a second end token.
    """
    texts = _texts(dataset, column)
    bos, opens = tokenizer.bos_token_id, bool(opening(tokenizer))
    bos = None if bos == tokenizer.eos_token_id else bos
    ends = _end_ids(tokenizer)
    plain = tokenizer(texts, add_special_tokens=add_special_tokens)["input_ids"]
    finished = tokenizer(_with_eos(texts, tokenizer), add_special_tokens=add_special_tokens)["input_ids"]
    for number, (ids, to_the_end) in enumerate(zip(plain, finished, strict=True)):
        count = ids.count(bos)
        if bos is not None and count > 1:
            raise LessonError(
                "Row {number} has {count} opening tokens {bos_token!r}: the chat template wrote one into "
                "the string and the tokenizer adds another. Give 'messages' to formatting.encode_chats, or "
                "tokenise with add_special_tokens=False.",
                number=number, count=count, bos_token=tokenizer.bos_token,
            )
        if bos is not None and opens and count == 0:
            raise LessonError(
                "Row {number} has no opening token {bos_token!r} (count 0), though the model has always met "
                "it at a text's start. Give 'messages' to formatting.encode_chats, or leave out "
                "add_special_tokens=False.",
                number=number, bos_token=tokenizer.bos_token,
            )
        if not ends:
            continue
        names = ", ".join(repr(tokenizer.convert_ids_to_tokens(end)) for end in sorted(ends))
        if not _trailing_ends(ids, ends, tokenizer):
            raise LessonError(
                "Row {number} does not end with an end token ({names}; count 0), so the model could not "
                "learn when to stop. Give 'messages' to formatting.encode_chats, or put the token at the "
                "string's end.",
                number=number, names=names,
            )
        trailing = _trailing_ends(to_the_end, ends, tokenizer)
        twice = next((end for end in trailing if trailing.count(end) > 1), None)
        if twice is not None:
            raise LessonError(
                "Row {number} ends with {trailing} tokens {tokenizer!r} in a row: the chat template wrote "
                "one, and your code (or the trainer, where a line break follows) adds another. Leave out '+ "
                "eos_token' and the line break at the end, or give 'messages' to formatting.encode_chats.",
                number=number, trailing=trailing.count(twice),
                tokenizer=tokenizer.convert_ids_to_tokens(twice),
            )


def text_loss(
    dataset: "Dataset",
    encoded: "Dataset",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    column: str = "text",
) -> "pd.DataFrame":
    """What plain TRL trains on given a `text` column, against the same conversations from `encode_chats`.

    Given `text`, TRL tokenises the string with a BOS in front and every token carries loss: the system
    message, the question and the headers are learnt like the answer.

    Args:
        dataset: the strings, one for each conversation.
        encoded: the same conversations, row by row, with `input_ids` and `labels` (`encode_chats`).
        tokenizer: the model's tokenizer.
        column: the column of strings.

    Returns:
        A DataFrame with the rows "text" and "messages" and the columns tokens, bos (the most opening tokens
        in a row), with_loss (tokens that carry loss), answer (those among them that `encoded` trains), prompt
        (the others), prompt_share (prompt / with_loss). First tokens of rows are counted, though nothing
        predicts them.

    Raises:
        LessonError: no such column, no rows, a row that is no text, or not as many rows in both.
    """
    import pandas as pd

    texts = _texts(dataset, column)
    if len(texts) != len(encoded):
        raise LessonError(
            "The column {column!r} has {count} rows but the encoded data has {count2}. Make both from the "
            "same conversations, without dropping any.",
            column=column, count=len(texts), count2=len(encoded),
        )
    bos = tokenizer.bos_token_id
    rendered = tokenizer(_with_eos(texts, tokenizer))["input_ids"]
    answer = sum(label != IGNORED for labels in encoded["labels"] for label in labels)
    tokens = [sum(map(len, rows)) for rows in (rendered, encoded["input_ids"])]
    with_loss = [tokens[0], answer]
    return pd.DataFrame(
        {
            "tokens": tokens,
            "bos": [max(ids.count(bos) for ids in rows) for rows in (rendered, encoded["input_ids"])],
            "with_loss": with_loss,
            "answer": answer,
            "prompt": [count - answer for count in with_loss],
            "prompt_share": [(count - answer) / count for count in with_loss],
        },
        index=["text", "messages"],
    )


def opening(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The ids that this tokenizer puts before every text: [BOS] for Llama, nothing for BLOOM."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    starts = [at for at in range(len(full)) if full[at : at + len(plain)] == plain]
    return full[: starts[0]] if starts else []


def _texts(dataset: "Dataset", column: str) -> list[str]:
    if column not in dataset.column_names:
        there = ", ".join(dataset.column_names)
        raise LessonError(
            "There is no column {column!r}; the data has: {there}. Train on 'messages' "
            "(formatting.encode_chats), or pass column=...",
            column=column, there=there,
        )
    texts = list(dataset[column])
    if not texts:
        raise LessonError("There are no rows. Look again at how the data was read and cleaned.")
    for number, said in enumerate(texts):
        if not isinstance(said, str) or not said.strip():
            raise LessonError(
                "Row {number}: column {column!r} holds no text (its value is {said!r}). Drop the row.",
                number=number, column=column, said=said,
            )
    return texts


def _with_eos(texts: list[str], tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """The strings as TRL completes them: with EOS at the very end."""
    eos = tokenizer.eos_token or ""
    return [said if said.endswith(eos) else said + eos for said in texts]


def _end_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """EOS, and the special tokens that the chat template writes after an answer, such as <|eot_id|>."""
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    ends = {tokenizer.eos_token_id} - {None}
    if tokenizer.chat_template:
        said = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
        rendered = str(tokenizer.apply_chat_template(said, tokenize=False))
        after = rendered.rpartition("answer")[2]
        ends |= special & set(tokenizer(after, add_special_tokens=False)["input_ids"])
    return ends


def _trailing_ends(ids: list[int], ends: set[int], tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The end tokens with which a row ends, in any number, blanks between and after them passed over."""
    found: list[int] = []
    for token in reversed(ids):
        if token in ends:
            found.append(token)
        elif str(tokenizer.decode([token])).strip():
            break
    return found
