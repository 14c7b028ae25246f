"""`lessonlib export verify`: proves, from the files alone, that what was exported is what was trained."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LANGUAGES, LessonError, tr

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

_DATE = "26 Jul 2024"  # Llama 3 writes today's date into a prompt, unless it is given one
_DATASET = "customer_support_vi"
_EVERY = 8  # in each language, each eighth of the 32 test conversations is asked


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `export` to the command line of `lessonlib`."""
    export = subparsers.add_parser("export", help="look at what a lesson exported")
    parts = export.add_subparsers(required=True, metavar="PART")
    verify = parts.add_parser("verify", help="compare merged model and GGUF files with the adapter")
    verify.add_argument("folder", type=Path, metavar="FOLDER", help="with adapter/, merged/ and gguf/*.gguf")
    verify.add_argument(
        "--prompts", type=Path, metavar="FILE",
        help="conversations in JSON Lines, each line with `messages`; asked is the last assistant turn "
        f"(default: from {_DATASET})",
    )
    verify.add_argument("--base", metavar="MODEL", help="folder or Hub id (default: what the adapter names)")
    verify.add_argument(
        "--quantisation", choices=("none", "nf4"), help="of the base, as in training (default: the profile's)"
    )
    verify.add_argument("--lang", choices=LANGUAGES, help="default: LESSONLIB_LANG, else vi")
    verify.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Prints the table; the status is 1 and the problems are on stderr where an artifact is not in parity."""
    if options.lang:
        language.use(options.lang)
    merged, files, strange = _artifacts(options.folder)
    model, tokenizer = _trained(options.folder / "adapter", options.base, options.quantisation)

    from lessonlib.export import _gguf_parity as gguf_parity
    from lessonlib.formatting import _chat as chat

    settings = {"date_string": _DATE}
    prompts, _ = chat.prompts(_conversations(options.prompts), tokenizer, template_options=settings)
    found = gguf_parity.verify(
        model, tokenizer, prompts=prompts, merged=merged, gguf=files, template_options=settings
    )
    print(found.table().T.to_string())
    for note in (found.not_compared, strange):
        if note:
            print(note)
    for problem in found.problems:
        print(problem, file=sys.stderr)
    if found.ok:
        print(tr("Everything that was compared is in parity."))
    return 0 if found.ok else 1


def _artifacts(folder: Path) -> tuple[Path | None, dict[str, Path], str]:
    """The merged model's folder, the GGUF files by kind, and a sentence about files of an unknown kind."""
    from lessonlib.export._gguf_parity import KINDS

    if not (folder / "adapter" / "adapter_config.json").is_file():
        raise LessonError(
            "{folder} has no adapter/adapter_config.json: everything is compared with the adapter on its "
            "base. Give the lesson's export folder, which holds adapter/, merged/ and gguf/.",
            folder=folder,
        )
    merged = folder / "merged"
    files: dict[str, Path] = {}
    strange = []
    for file in sorted((folder / "gguf").glob("*.gguf")):
        kind = file.stem.rpartition("-")[2]
        if kind not in KINDS:
            strange.append(file.name)
        elif kind in files:
            raise LessonError(
                "There are two GGUF files of the kind {kind}: {name} and {name2}. Leave one of them there.",
                kind=kind, name=files[kind].name, name2=file.name,
            )
        else:
            files[kind] = file
    if not (merged.is_dir() or files):
        raise LessonError(
            "{folder} holds the adapter alone: there is no merged/ and no gguf/*.gguf to compare.",
            folder=folder,
        )
    names = ", ".join(strange)
    note = names and tr("Of an unknown kind, left out: {names}.", names=names)
    return merged if merged.is_dir() else None, files, note


def _trained(
    adapter: Path, base: str | None, quantisation: str | None
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The adapter on its base, as in training, and the tokenizer that was saved with it."""
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from lessonlib.models._hub_errors import explained
    from lessonlib.runtime import _detect as runtime

    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    where, revision = base or settings["base_model_name_or_path"], None if base else settings.get("revision")
    if Path(where).is_absolute() and not Path(where).is_dir():
        raise LessonError(
            "The adapter's base model is no longer at {where}. Say where it is with --base.", where=where,
        )
    source: dict[str, Any] = {"local_files_only": True} if Path(where).is_dir() else {"revision": revision}
    try:
        family = AutoConfig.from_pretrained(where, **source).model_type
        place = runtime.detect(
            family=family if family in runtime.FAMILIES else "llama", quantisation=quantisation,
            backend="transformers", work=adapter.parent,
        )  # fmt: skip
        arguments: dict[str, Any] = {"dtype": place.torch_dtype, "attn_implementation": place.attention}
        if place.quantisation == "nf4":
            from transformers import BitsAndBytesConfig

            arguments["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=place.torch_dtype,
            )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(
            where, device_map={"": place.device}, use_safetensors=True, **arguments, **source
        )
    except Exception as problem:
        if known := explained(problem, where):
            raise known from problem
        raise
    tuned = PeftModel.from_pretrained(model, str(adapter), local_files_only=True).eval()
    return tuned, AutoTokenizer.from_pretrained(adapter, local_files_only=True)


def _conversations(file: Path | None) -> Any:
    """The conversations to ask, as a Dataset with the column `messages`."""
    from datasets import Dataset

    from lessonlib.data import _splits as data

    if file is None:
        rows = data.load_chats(_DATASET)["test"]
        spoken = [[at for at, row in enumerate(rows) if row["language"] == which] for which in LANGUAGES]
        return rows.select([at for places in spoken for at in places[::_EVERY]])
    if not file.is_file():
        raise LessonError("There is no file {file}.", file=file)
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            found.append({"messages": json.loads(line)["messages"]})
        except (ValueError, KeyError, TypeError) as problem:
            raise LessonError(
                "{file}, line {number}: needs a JSON object with 'messages' ({problem!r}).",
                file=file, number=number, problem=problem,
            ) from problem
    return Dataset.from_dict({"messages": [row["messages"] for row in found]})
