"""What runs in a process of its own: llama.cpp's converter, its quantiser, and its reader of GGUF files.

    python -P _gguf_convert.py convert TOOLS FOLDER NAME f16 FILE [f32 FILE]
    python -P _gguf_convert.py quantise SOURCE FILE q4_k_m
    python -P _gguf_convert.py describe TOOLS FILE

`_gguf` starts it. A process of its own keeps llama.cpp's `gguf` package apart from any other of that name,
and C++ code that gives up from taking a notebook's kernel along. So nothing of lessonlib is imported here
(-P keeps this folder off the path).
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

REFUSED = 3  # exit status: the tokenizer is none that we may call llama-bpe; stdout says why, as a JSON list
# llama.cpp's names: its enum llama_ftype, in include/llama.h.
QUANTISED = {"q8_0": 7, "q4_k_m": 15}
ROWS_AT_ONCE = 2**30  # bytes of a tensor in memory; llama.cpp's own setting is 8 GiB
# How Llama 3 cuts text before BPE: contractions, words with what stands before them, up to three digits,
# punctuation, line ends, spaces.
_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def llama3_differences(tokenizer: Mapping[str, Any]) -> list[str]:
    """What in a tokenizer.json is not as in Llama 3, of all that llama.cpp's `llama-bpe` takes for granted.

    Args:
        tokenizer: the parsed tokenizer.json. Vocabulary, merges and post-processor are free: they are written
            into the GGUF file.

    Returns:
        One entry "part: found instead of expected" for each difference; none for Llama 3's own tokenizer.
    """
    model = tokenizer.get("model") or {}
    pre = tokenizer.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers") or [pre]
    split = steps[0]
    to_bytes = steps[1] if len(steps) > 1 else {}
    checks: dict[str, tuple[Any, Any]] = {
        "normalizer": (tokenizer.get("normalizer"), None),
        "pre_tokenizer": ([step.get("type") for step in steps], ["Split", "ByteLevel"]),
        "Split.pattern": ((split.get("pattern") or {}).get("Regex"), _LLAMA3_PATTERN),
        "Split.behavior": (split.get("behavior"), "Isolated"),
        "Split.invert": (split.get("invert"), False),
        "ByteLevel.use_regex": (to_bytes.get("use_regex"), False),
        "ByteLevel.add_prefix_space": (to_bytes.get("add_prefix_space"), False),
        "model.type": (model.get("type"), "BPE"),
        "model.ignore_merges": (model.get("ignore_merges"), True),
        "model.byte_fallback": (model.get("byte_fallback"), False),
        "model.dropout": (model.get("dropout"), None),
        "model.unk_token": (model.get("unk_token"), None),
        "model.continuing_subword_prefix": (model.get("continuing_subword_prefix") or None, None),
        "model.end_of_word_suffix": (model.get("end_of_word_suffix") or None, None),
    }
    strange = [
        token["content"]
        for token in tokenizer.get("added_tokens") or []
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word")
    ]
    checks["added_tokens with lstrip, rstrip or single_word"] = (strange[:3], [])
    return [f"{part}: {found!r} instead of {due!r}" for part, (found, due) in checks.items() if found != due]


def _convert(tools: str, folder: str, name: str, *types_and_files: str) -> None:
    sys.path[:0] = [tools, str(Path(tools, "gguf-py"))]
    import convert_hf_to_gguf
    import numpy
    from conversion.base import TextModel

    numpy.seterr(over="raise")  # a weight beyond 65504 would become infinite in f16 without a word
    known = TextModel.get_vocab_base_pre

    def known_or_llama3(self: Any, tokenizer: Any) -> str:
        """The converter knows tokenizers by a hash of what they do with one text; ours has other ids."""
        try:
            return known(self, tokenizer)
        except NotImplementedError:
            file = Path(self.dir_model, "tokenizer.json")
            differences = llama3_differences(json.loads(file.read_text(encoding="utf-8")))
            if differences:
                print(json.dumps(differences))
                sys.exit(REFUSED)
            return "llama-bpe"

    TextModel.get_vocab_base_pre = known_or_llama3
    for outtype, out in zip(types_and_files[::2], types_and_files[1::2], strict=True):
        sys.argv = [
            "convert_hf_to_gguf.py", folder, "--outfile", out, "--outtype", outtype, "--model-name", name,
        ]  # fmt: skip
        convert_hf_to_gguf.main()


def _quantise(source: str, out: str, kind: str) -> None:
    import ctypes

    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = QUANTISED[kind]
    parameters.max_buf_size = ROWS_AT_ONCE
    if llama_cpp.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(parameters)):
        sys.exit(1)  # llama.cpp has said why, on stderr


def _describe(tools: str, file: str) -> None:
    sys.path.insert(0, str(Path(tools, "gguf-py")))
    import gguf
    import numpy

    class Reader(gguf.GGUFReader):
        """A real vocabulary is cut into a million slices, and those of a memmap take three times as long."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, numpy.asarray(value) if name == "data" else value)

    reader = Reader(file)

    def value(key: str, default: Any = None) -> Any:
        field = reader.get_field(key)
        found = default if field is None else field.contents()
        return float(str(numpy.float32(found))) if isinstance(found, float) else found  # 1e-05, as it was

    architecture = value("general.architecture")
    norm = f"{architecture}.attention.layer_norm"
    tokens = reader.get_field("tokenizer.ggml.tokens")
    names = [tensor.name for tensor in reader.tensors]
    kind = gguf.LlamaFileType(value("general.file_type")).name.partition("_")[2].lower()
    block = 256 if "_k" in kind else 32  # weights in a row that share scales: k-quants, the older types
    types: dict[str, int] = {}
    for tensor in reader.tensors:
        types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + 1
    description = {
        "name": value("general.name"),
        "architecture": architecture,
        "kind": kind,
        "parameters": sum(int(t.n_elements) for t in reader.tensors if not t.name.startswith("rope_")),
        "file_size": Path(file).stat().st_size,
        "tensor_types": types,
        # Rows that do not come out even in blocks: llama.cpp takes a type with smaller blocks and more bits.
        "fallbacks": {
            t.name: t.tensor_type.name for t in reader.tensors
            if kind not in ("f32", "f16", "bf16") and len(t.shape) > 1 and int(t.shape[0]) % block
        },
        "context_length": value(f"{architecture}.context_length"),
        "embedding_length": value(f"{architecture}.embedding_length"),
        "rope_base": value(f"{architecture}.rope.freq_base"),
        "rope_freqs": "rope_freqs.weight" in names,
        "norm_eps": value(f"{norm}_rms_epsilon", value(f"{norm}_epsilon")),
        "tied_embeddings": "output.weight" not in names,
        "tokenizer_model": value("tokenizer.ggml.model"),
        "tokenizer_pre": value("tokenizer.ggml.pre"),
        "vocabulary": len(tokens.data) if tokens is not None else 0,
        "bos_id": value("tokenizer.ggml.bos_token_id"),
        "eos_id": value("tokenizer.ggml.eos_token_id"),
        "eot_id": value("tokenizer.ggml.eot_token_id"),
        "pad_id": value("tokenizer.ggml.padding_token_id"),
        "add_bos": value("tokenizer.ggml.add_bos_token"),
        "chat_template": value("tokenizer.chat_template"),
    }  # fmt: skip
    print(json.dumps(description))


_STEPS: dict[str, Callable[..., None]] = {"convert": _convert, "quantise": _quantise, "describe": _describe}

if __name__ == "__main__":
    step, *rest = sys.argv[1:]
    _STEPS[step](*rest)
