"""What a model writes when it may call tools: with its tags, and only as far as its own turn goes."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lessonlib.runtime._language import current
from lessonlib.tools._marks import END_MARKS, TAGS
from lessonlib.tools._rendering import prompts as rendered_prompts
from lessonlib.tools._schemas import schemas as checked_schemas

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase



def generator(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    schemas: Sequence[Mapping[str, Any]],
    *,
    family: str = "gemma2",
    style: str = "full",
    language: str | None = None,
    max_new_tokens: int = 128,
) -> Callable[[list[dict[str, Any]]], str]:
    """A model as `tools.converse` wants it: renders the messages, then writes what is likeliest (greedily).

    Args:
        model: a causal language model, or a PeftModel around one.
        tokenizer: its tokenizer, with chat template and tags.
        schemas: the tools on offer.
        family, style: as in `tools.render`, and as in training.
        language: of the instruction, "vi" or "en"; by default the notebook's.
        max_new_tokens: of one turn.

    Returns:
        A function from messages to text.
    """
    tools = checked_schemas(list(schemas))

    def write(messages: list[dict[str, Any]]) -> str:
        turn = {"history": messages, "tools": tools, "language": language or current()}
        asked = rendered_prompts([turn], tokenizer, family=family, style=style)
        return replies(model, tokenizer, asked, max_new_tokens=max_new_tokens, batch_size=1)[0]

    return write


def replies(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 128,
    batch_size: int = 32,
) -> list[str]:
    """`evaluation.answers` for calls: the tags are kept, and a turn ends where the model hands over.

    Generation stops at the end-of-turn and end-of-sequence tokens, and where the model begins to make up a
    result (<tool_response>), as far as each of these is one token of the tokenizer: so the end of a call is
    the end of the turn, not the longest guess at one.

    Args:
        model, tokenizer, prompts, max_new_tokens, batch_size: as in `evaluation.continuations`; prompts from
            `tools.prompts`.

    Returns:
        One text for each prompt, for `parse`: with tags, without other special tokens.

    Raises:
        LessonError: as `evaluation.answers`.
    """
    from lessonlib.evaluation import _answers as evaluation

    inner: Any = getattr(model, "get_base_model", lambda: model)()
    settings = inner.generation_config
    before = settings.eos_token_id
    # `continuations` stops at the tokens of the model's own settings: they are lent the tags, and given back.
    settings.eos_token_id = [*evaluation.stop_ids(settings, tokenizer), *_marks(tokenizer)]
    try:
        written = evaluation.continuations(
            model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size
        )
    finally:
        settings.eos_token_id = before
    added = tokenizer.added_tokens_decoder.items()
    dropped = {number for number, token in added if token.special and token.content not in TAGS}
    kept = [[number for number in row if number not in dropped] for row in written]
    options: dict[str, Any] = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    return [str(tokenizer.decode(row, **options)).strip() for row in kept]


def _marks(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The ids of those marks that are one token here: where a turn ends, and where a result would begin."""
    found = []
    for mark in (*END_MARKS, "<tool_response>"):
        ids = tokenizer(mark, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            found.append(ids[0])
    return found
