"""Faulty exports for tests: a GGUF file with one thing changed, everything else copied as it is."""

import sys
from pathlib import Path
from typing import Any


def gguf_py():
    """llama.cpp's own `gguf` package, in the version whose converter made the files."""
    from lessonlib.runtime import _llama_cpp as llama_cpp_tools

    folder = str(llama_cpp_tools.find().converter.with_name("gguf-py"))
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import gguf

    return gguf


def rewritten(
    source: Path, target: Path, fields: dict[str, Any] | None = None, *, drop: str | None = None
) -> Path:
    """A copy of a GGUF file with other metadata values (None: the key is left out) or without one tensor.

    A key or a tensor that is not there is an error, so that no test plants a fault that is none.
    """
    gguf = gguf_py()
    reader = gguf.GGUFReader(source)
    changed = dict(fields or {})
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue  # the writer writes these itself
        value = changed.pop(field.name, field.contents())
        if value is not None:
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, value, field.types[0], sub_type=inner)
    assert not changed, f"no such metadata: {list(changed)}"
    tensors = [tensor for tensor in reader.tensors if tensor.name != drop]
    assert drop is None or len(tensors) < len(reader.tensors), f"no such tensor: {drop}"
    for tensor in tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
