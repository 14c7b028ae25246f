"""Which texts a vocabulary cannot spell: a byte that has no token is dropped, or llama.cpp aborts at it.

A vocabulary falls back on single bytes for what it has no token for. Some have less than 256 of them (that of
SmolLM2), and then what happens to the others is nothing that an export could keep or lose: transformers and
llama.cpp each do something of their own.
"""

from collections.abc import Container, Sequence
from typing import Any

from lessonlib.formatting._rows import byte_letters

SPACE = "▁"  # what SentencePiece writes for a space


def unspelled(tokenizer: Any, texts: Sequence[str]) -> dict[int, set[int]]:
    """The texts that need a byte for which the vocabulary has no token.

    Args:
        tokenizer: of transformers; byte-level BPE, or SentencePiece with its byte fallback.
        texts: what is to be tokenised.

    Returns:
        Place of the text in `texts` -> the bytes that are missing for it. Empty for a whole vocabulary.
    """
    vocabulary = tokenizer.get_vocab()
    sentencepiece = SPACE in vocabulary  # no byte letter: byte-level BPE spells it with three
    names = {f"<0x{byte:02X}>": byte for byte in range(256)} if sentencepiece else byte_letters()
    missing = {byte for name, byte in names.items() if name not in vocabulary}
    if not missing:
        return {}
    known: Container[str] = vocabulary if sentencepiece else ()
    found = {}
    for at, text in enumerate(texts):
        if sentencepiece:  # a character with a token of its own needs no bytes
            text = text.replace(" ", SPACE)
        spelled = {byte for letter in set(text) if letter not in known for byte in letter.encode()}
        if lacking := spelled & missing:
            found[at] = lacking
    return found
