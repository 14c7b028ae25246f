"""The Gemma-2 twin's tokenizer: Gemma's special tokens at their real ids, its BPE with bytes, its template.

What is the family's: the special tokens and their ids (0 to 107), the bytes as a last resort, spaces written
as ▁, single digits, <bos> put before every text, and the text that the chat template renders. What is not:
the vocabulary, which is small and learnt from generated text. A space is always a token of its own here, so
that a word has the same token in a request and between the quotes of a JSON value; in the real vocabulary
most words have one token with the space in front and another without.

Sources: the `tokenizer.json` of google/gemma-2-2b-it as described in transformers' and trl's documentation;
the template was written anew and is held to trl's copy by tests.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from twins.tokenizers import byte_fallback_bpe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = (
    "<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<2mass>", "[@BOS@]",
    *(f"<unused{number}>" for number in range(99)),
    "<start_of_turn>", "<end_of_turn>",
)
# Letters, with or without an underscore in front; a digit; a space; a line break; a run of other characters.
PIECE = r"_?\p{L}+|\p{N}|▁|\n|[^\p{L}\p{N}▁\n_]+|_"
TEMPLATE = """\
{{- bos_token }}
{%- if messages and messages[0].role == 'system' %}
{{- raise_exception('System role not supported') }}
{%- endif %}
{%- for message in messages %}
{%- if message.role != ('user', 'assistant')[loop.index0 % 2] %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}
{%- set speaker = 'model' if message.role == 'assistant' else message.role %}
{{- '<start_of_turn>' ~ speaker ~ '\n' ~ message.content | trim ~ '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""


def gemma2(texts: Iterable[str], *, vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer like Gemma 2's.

    Args:
        texts: what the vocabulary is learnt from; only the twin's pre-training text.
        vocabulary: number of tokens, special ones and the 256 bytes counted in.
    """
    from tokenizers import AddedToken, decoders, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    core = byte_fallback_bpe(texts, normalizers.Replace(" ", "▁"), PIECE, SPECIAL, vocabulary)
    core.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
    ])
    core.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in SPECIAL])
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B:1", special_tokens=[("<bos>", core.token_to_id("<bos>"))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>",
        padding_side="left", model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer
