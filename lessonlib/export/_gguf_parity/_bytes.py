"""Which texts a vocabulary cannot spell: a byte that has no token is dropped, or llama.cpp aborts at it.

A vocabulary falls back on single bytes for what it has no token for. Some have less than 256 of them (that of
SmolLM2), and then what happens to the others is nothing that an export could keep or lose: transformers and
llama.cpp each do something of their own.
"""

from collections.abc import Container, Sequence
from typing import Any

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
    names = [f"<0x{byte:02X}>" for byte in range(256)] if sentencepiece else _letters()
    missing = {byte for byte, name in enumerate(names) if name not in vocabulary}
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


def _letters() -> list[str]:
    """The letters that stand for the bytes 0 to 255 in a byte-level vocabulary, as GPT-2 chose them."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # they stand for themselves
    others = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain} | {byte: chr(256 + at) for at, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]
