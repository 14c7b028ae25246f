"""Reads the file in which W&B keeps a run, offline or online; wandb 0.31 ships no reader for it.

It is LevelDB's log format (https://github.com/google/leveldb/blob/main/doc/log_format.md) with another header
and a plain CRC-32: after 7 bytes, blocks of 32 KiB with pieces of records. A record is a protobuf message, of
a type that wandb ships.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lessonlib.runtime._language import LessonError

_HEADER = b":W&B" + struct.pack("<HB", 0xBEE1, 0)  # name, magic number, version
_BLOCK, _PIECE = 32768, struct.Struct("<IHB")  # of each piece: checksum, length, kind
_WHOLE, _FIRST, _LAST = 1, 2, 4


def logged(file: Path) -> Iterator[dict[str, Any]]:
    """What each call of wandb.log wrote, by name, in order.

    Args:
        file: a run's .wandb file. One that ends in the middle of a record (the run was killed, or is not
            finished) is read up to there.

    Raises:
        LessonError: the file is none of W&B's, or damaged.
    """
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2
    for record in _records(file):
        message = messages.Record.FromString(record)
        if message.WhichOneof("record_type") == "history":
            # a name is either a key or a nested key, which has one part where it is not nested
            items = message.history.item
            yield {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(file: Path) -> Iterator[bytes]:
    """Puts the pieces of each record together."""
    data = file.read_bytes()
    if data[: len(_HEADER)] != _HEADER:
        raise LessonError("{file} is no run file of W&B's.", file=file)
    place, record = len(_HEADER), b""
    while place + _PIECE.size <= len(data):
        if _BLOCK - place % _BLOCK < _PIECE.size:  # too little is left of the block for another piece
            place += _BLOCK - place % _BLOCK
            continue
        checksum, length, kind = _PIECE.unpack_from(data, place)
        start, place = place + _PIECE.size, place + _PIECE.size + length
        if place > len(data):  # the run was killed while it wrote this
            return
        piece = data[start:place]
        if zlib.crc32(bytes([kind]) + piece) != checksum:
            raise LessonError(
                "{file} is damaged at byte {start}. Train again with a new training.start_tracking.",
                file=file, start=start,
            )
        record = piece if kind in (_WHOLE, _FIRST) else record + piece
        if kind in (_WHOLE, _LAST):
            yield record
