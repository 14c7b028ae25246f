"""Tokenizers of the twins: trained on the twin's own text, but cut, named and closed like the real family's.

What is the family's: the special tokens by name and order, the pre-tokenizer's regular expression,
byte-level BPE, what is added on encoding, the padding side, and the text that the chat template renders.
What is not: the vocabulary, which is small and learnt from generated text.

Sources: the `tokenizer.json` of bigscience/bloom-560m and of Llama 3.2, and renderings of the latter's
template that were published with transformers 5.17; the template below was written anew and is held to
them by tests.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Normalizer
    from transformers import PreTrainedTokenizerFast

BLOOM_SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
BLOOM_PATTERN = r" ?[^(\s|[.,!?…。，、।۔،])]+"

# 256 names; in the real vocabulary they are the ids from 128000 on, here likewise the last 256.
LLAMA3_SPECIAL = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
    *(f"<|reserved_special_token_{number}|>" for number in range(3, 248)),
)
# The real ids: 0 to 2, and from 32000 on; here the last 11. All but <unk>, <s> and <|endoftext|> swallow the
# white space behind them (rstrip), such as the line break of the chat template.
PHI3_FIRST = ("<unk>", "<s>", "</s>")
PHI3_LAST = (
    "<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|placeholder2|>", "<|placeholder3|>",
    "<|placeholder4|>", "<|system|>", "<|end|>", "<|placeholder5|>", "<|placeholder6|>", "<|user|>",
)
PHI3_WORD = r"▁[^▁]*|[^▁]+"  # no token goes on over a space,
PHI3_PIECE = r"▁?\p{L}+|▁?\p{N}|▁?[^▁\p{L}\p{N}]+|▁"  # nor from letters to digits or punctuation
PHI3_TEMPLATE = """\
{%- for message in messages %}
{%- if message['role'] in ('system', 'user', 'assistant') %}
{{- '<|' ~ message['role'] ~ '|>\n' ~ message['content'] ~ '<|end|>\n' }}
{%- endif %}
{%- endfor %}
{{- '<|assistant|>\n' if add_generation_prompt else eos_token }}"""

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)

# Whoever wants the same text every day passes date_string="26 Jul 2024"; without it the real template, too,
# writes today's date wherever the renderer offers `strftime_now`, as transformers does.
LLAMA32_TEMPLATE = """\
{%- macro turn(role, body, end='<|eot_id|>') -%}
{{ '<|start_header_id|>' ~ role ~ '<|end_header_id|>\n\n' ~ body ~ end }}
{%- endmacro -%}
{%- macro schemas(list) -%}
{{ 'Respond in the format {"name": function name, "parameters": dictionary of argument name ' -}}
{{ 'and its value}.Do not use variables.\n\n' }}
{%- for schema in list %}{{ schema | tojson(indent=4) ~ '\n\n' }}{% endfor %}
{%- endmacro -%}
{%- if custom_tools is defined %}{% set offered = custom_tools %}
{%- elif tools is defined %}{% set offered = tools %}
{%- else %}{% set offered = none %}{% endif %}
{%- set ask_in_user = tools_in_user_message if tools_in_user_message is defined else true %}
{%- if date_string is defined %}{% set today = date_string %}
{%- elif strftime_now is defined %}{% set today = strftime_now('%d %b %Y') %}
{%- else %}{% set today = '26 Jul 2024' %}{% endif %}
{%- set first = messages[0] %}
{%- set rest = messages[1:] if first['role'] == 'system' else messages %}
{%- set system = first['content'] | trim if first['role'] == 'system' else '' %}
{%- set intro -%}
{{ 'Environment: ipython\n' if offered is not none else '' }}
{{- 'Cutting Knowledge Date: December 2023\nToday Date: ' ~ today ~ '\n\n' }}
{%- if offered is not none and not ask_in_user %}
{{- 'You have access to the following functions. To call a function, please respond with JSON ' -}}
{{ 'for a function call.' ~ schemas(offered) }}
{%- endif %}
{%- endset %}
{{- bos_token ~ turn('system', intro ~ system) }}
{%- if offered is not none and ask_in_user %}
{%- if not rest %}{{ raise_exception('Tools go into the first user message: there is none.') }}{% endif %}
{%- set told -%}
{{ 'Given the following functions, please respond with a JSON for a function call with its proper ' -}}
{{ 'arguments that best answers the given prompt.\n\n' ~ schemas(offered) }}
{%- endset %}
{{- turn('user', told ~ rest[0]['content'] | trim) }}
{%- set rest = rest[1:] %}
{%- endif %}
{%- for message in rest %}
{%- if 'tool_calls' in message %}
{%- if message.tool_calls | length != 1 %}{{ raise_exception('One tool call at a time.') }}{% endif %}
{%- set call = message.tool_calls[0].function %}
{%- if builtin_tools is defined and call.name in builtin_tools %}
{%- set named %}{% for key, value in call.arguments | items %}
{{- key ~ '="' ~ value ~ '"' ~ ('' if loop.last else ', ') }}{% endfor %}{% endset %}
{%- set body = '<|python_tag|>' ~ call.name ~ '.call(' ~ named ~ ')' %}
{%- else %}
{%- set body = '{"name": "' ~ call.name ~ '", "parameters": ' ~ (call.arguments | tojson) ~ '}' %}
{%- endif %}
{{- turn('assistant', body, '<|eom_id|>' if builtin_tools is defined else '<|eot_id|>') }}
{%- elif message.role in ('tool', 'ipython') %}
{%- set plain = message.content is not mapping and message.content is not iterable %}
{{- turn('ipython', message.content if plain else message.content | tojson) }}
{%- else %}
{{- turn(message['role'], message['content'] | trim) }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ turn('assistant', '', '') }}{% endif %}"""


def bloom(texts: Iterable[str], *, vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer like BLOOM's: special tokens first (0 to 3), nothing added on encoding, no chat template.

    Args:
        texts: what the vocabulary is learnt from; only the twin's pre-training text.
        vocabulary: number of tokens, special ones counted in.
    """
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    core = _byte_level_bpe(texts, BLOOM_PATTERN, vocabulary, BLOOM_SPECIAL)
    core.post_processor = processors.ByteLevel(add_prefix_space=True, trim_offsets=False, use_regex=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        padding_side="left", clean_up_tokenization_spaces=False,
    )


def llama32(texts: Iterable[str], *, vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer like Llama 3.2 Instruct's: 256 special tokens last, BOS added on encoding, chat template.

    Args:
        texts: what the vocabulary is learnt from; only the twin's pre-training text.
        vocabulary: number of tokens, special ones counted in.
    """
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    core = _byte_level_bpe(texts, LLAMA3_PATTERN, vocabulary - len(LLAMA3_SPECIAL), (), ignore_merges=True)
    core.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in LLAMA3_SPECIAL])
    bos = LLAMA3_SPECIAL[0]
    core.post_processor = processors.Sequence([
        processors.ByteLevel(add_prefix_space=True, trim_offsets=False, use_regex=True),
        processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1", special_tokens=[(bos, core.token_to_id(bos))]
        ),
    ])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=bos, eos_token="<|eot_id|>", pad_token="<|finetune_right_pad_id|>",
        padding_side="left", model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = LLAMA32_TEMPLATE
    return tokenizer


def phi3(texts: Iterable[str], *, vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer like Phi-3's: SentencePiece's BPE, bytes for unknown letters, special tokens at both ends.

    Every space is written as ▁, and each stretch of text between special tokens gets one in front.

    Args:
        texts: what the vocabulary is learnt from; only the twin's pre-training text.
        vocabulary: number of tokens, special ones and the 256 bytes counted in.
    """
    from tokenizers import AddedToken, decoders, normalizers
    from transformers import PreTrainedTokenizerFast

    spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core = byte_fallback_bpe(texts, spaces, PHI3_PIECE, PHI3_FIRST, vocabulary - len(PHI3_LAST))
    core.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)
    ])
    leave_spaces = ("<unk>", "<s>", "<|endoftext|>")
    core.add_special_tokens([
        AddedToken(name, rstrip=name not in leave_spaces, normalized=False, special=True)
        for name in (*PHI3_FIRST[:2], *PHI3_LAST)
    ])
    core.add_tokens([AddedToken("</s>", rstrip=True, normalized=False, special=False)])  # as in the real one
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="<|endoftext|>",
        pad_token="<|endoftext|>", padding_side="left", model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = PHI3_TEMPLATE
    return tokenizer


def byte_fallback_bpe(
    texts: Iterable[str], spaces: Normalizer, piece: str, first: tuple[str, ...], size: int
) -> Tokenizer:
    """SentencePiece's BPE: `first`, then the 256 bytes, then tokens learnt inside of what `piece` matches.

    Args:
        texts: what the vocabulary is learnt from.
        spaces: the normaliser that writes spaces as ▁.
        piece: a regular expression; no token goes over the border of what it matches.
        first: special tokens that take the first ids, "<unk>" among them.
        size: number of tokens, all of these counted in.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.normalizer = spaces
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(piece), behavior="isolated")
    fixed = [*first, *(f"<0x{byte:02X}>" for byte in range(256))]
    learner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size - len(fixed), show_progress=False)
    )
    learnt = json.loads(learner.to_str())["model"]
    ids = {token: number for number, token in enumerate(fixed)}
    ids |= {token: len(fixed) + number for token, number in learnt["vocab"].items()}
    core = Tokenizer(models.BPE(
        vocab=ids, merges=[tuple(pair) for pair in learnt["merges"]], unk_token="<unk>", fuse_unk=True,
        byte_fallback=True,
    ))
    core.normalizer = spaces
    return core


def _byte_level_bpe(
    texts: Iterable[str], pattern: str, size: int, special: tuple[str, ...], ignore_merges: bool = False
) -> Tokenizer:
    """Byte-level BPE of exactly `size` tokens behind a split by `pattern`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    core.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    ))
    return core


def encode_with_dropout(
    tokenizer: PreTrainedTokenizerFast, texts: Iterable[str], *, dropout: float, seed: int, variants: int = 8
) -> Iterator[list[int]]:
    """Token ids of each text with some merges left out at random, so that short tokens, too, get trained.

    Special tokens in a text are recognised, none is added; the tokenizer stays as it is. The `tokenizers`
    library has this built in, but its random choices cannot be seeded. To be quick, each distinct word gets
    a few random cuts once, and each of its places takes one of them. BPE-dropout is of Provilkov et al. 2020
    (https://aclanthology.org/2020.acl-main.170).

    Args:
        tokenizer: a byte-level BPE tokenizer.
        texts: the documents.
        dropout: chance of each possible merge to be left out at each step, 0 to 1.
        seed: of the choices.
        variants: how many random cuts a word gets.
    """
    rng = random.Random(seed)
    core = tokenizer.backend_tokenizer
    model = json.loads(core.to_str())["model"]
    ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
    vocabulary = core.get_vocab(with_added_tokens=True)
    special = _special_pattern(tokenizer)
    cuts: dict[str, list[list[int]]] = {}
    for text in texts:
        ids: list[int] = []
        for part in special.split(text):
            if special.fullmatch(part):
                ids.append(vocabulary[part.rstrip()])
                continue
            for word in _words(core, part):
                if word not in cuts:
                    ways = (_merge(word, ranks, dropout, rng) for _ in range(variants))
                    cuts[word] = [[vocabulary[token] for token in way] for way in ways]
                ids += rng.choice(cuts[word])
        yield ids


def _special_pattern(tokenizer: PreTrainedTokenizerFast) -> re.Pattern[str]:
    """Matches one special token, with the white space that it swallows."""
    added = tokenizer.added_tokens_decoder.values()
    names = (re.escape(token.content) + (r"\s*" if token.rstrip else "") for token in added if token.special)
    return re.compile("(" + "|".join(names) + ")")


def _words(core: Tokenizer, text: str) -> list[str]:
    """The stretches of a text between which no two tokens are joined."""
    if core.pre_tokenizer is not None:
        return [word for word, _ in core.pre_tokenizer.pre_tokenize_str(text)]
    return re.findall(PHI3_WORD, core.normalizer.normalize_str(text)) if text else []


def _merge(word: str, ranks: dict[tuple[str, ...], int], dropout: float, rng: random.Random) -> list[str]:
    """The tokens of one word: the best-ranked pair is joined until none is left, some passed over."""
    tokens = list(word)
    while len(tokens) > 1:
        found = [
            (rank, place) for place, pair in enumerate(zip(tokens, tokens[1:], strict=False))
            if (rank := ranks.get(pair)) is not None and rng.random() >= dropout
        ]
        if not found:
            break
        _, place = min(found)
        tokens[place : place + 2] = [tokens[place] + tokens[place + 1]]
    return tokens
