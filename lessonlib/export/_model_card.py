"""The page that tells what a published model is: base, data, recipe, scores, licence, use and limits.

It gives huggingface_hub's own `ModelCard`; it knows nothing of uploading. Of the licences of base models it
knows what Llama's asks of who publishes a model made from it.

Llama 3.2 Community License Agreement, https://www.llama.com/llama3_2/license, wants
    1.b.i    a copy of the agreement beside the model (LICENSE.txt in the base model's repository), "Built
             with Llama" in a prominent place, and a model name that begins with "Llama"
    1.b.iii  a sentence of attribution in a text file called Notice
It holds for whoever distributes the model or makes it available. This is no legal advice.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lessonlib.evaluation._scoring import table
from lessonlib.runtime._language import LessonError, tr

if TYPE_CHECKING:
    import pandas as pd
    from huggingface_hub import EvalResult, ModelCard

# What is in the repository -> (the Hub's word for how it came from its base, the library that loads it)
_KINDS = {
    "merged": ("finetune", "transformers"),
    "adapter": ("adapter", "peft"),
    "gguf": ("quantized", "gguf"),
}
_LLAMA = "llama"  # how the Hub's identifiers of Meta's licences begin: llama3.2
BUILT_WITH = "Built with Llama"
NOTICE_FILE = "NOTICE"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(
    *,
    repo_id: str,
    kind: str,
    base: str,
    licence: str,
    data: Sequence[str],
    recipe: Mapping[str, Any],
    scores: "Mapping[str, pd.DataFrame]",
    dataset: str,
    base_revision: str | None = None,
    gguf: str | None = None,
    modelfile: str | None = None,
    counseling: bool = False,
) -> "ModelCard":
    """A model card with everything a stranger needs to use the model, or to leave it alone.

    Of what a Llama licence asks (see above), the card says "Built with Llama", this function checks the
    name, and `save` writes the notice.

    Args:
        repo_id: where it will be, "owner/name".
        kind: what is in the repository's root: "merged", "adapter" or "gguf".
        base: the base model's Hub id; of a folder only the last name is shown.
        licence: the Hub's identifier of the base model's licence, such as "llama3.2".
        data: sentences on what it was trained on, one for each source, with licence.
        recipe: hyperparameter -> value, in the order to be shown.
        scores: metric -> what `evaluation.compare` gave for it, intervals included.
        dataset: what the scores were measured on.
        base_revision: the commit of the base model.
        gguf: a .gguf file of the repository: its path there, for the command of llama.cpp.
        modelfile: the Modelfile of the repository: its path there, for the commands of Ollama.
        counseling: add a safety note, for a model trained on conversations about people's troubles.

    Returns:
        A `ModelCard` in the current language; its scores also stand in the metadata (`EvalResult`), where the
        Hub reads them.

    Raises:
        LessonError: an unknown kind; no scores; a name that a Llama licence does not allow.
    """
    from huggingface_hub import ModelCard, ModelCardData

    if kind not in _KINDS:
        raise LessonError(
            "There is no kind={kind!r}. Choose one of: {kinds}.", kind=kind, kinds=", ".join(_KINDS),
        )
    if not scores:
        raise LessonError(
            "There are no scores. Evaluate base and tuned model with evaluation.compare and pass "
            "scores={'exact_match': ...}.",
        )
    check_name(repo_id, licence)
    relation, library = _KINDS[kind]
    name = repo_id.rpartition("/")[2]
    metadata = ModelCardData(
        language=["vi", "en"], license=licence, library_name=library, pipeline_tag="text-generation",
        tags=["lora", "sft", *(["gguf"] if gguf and kind != "gguf" else [])],
        base_model=base if _HUB_ID.fullmatch(base) else None,
        base_model_relation=relation if _HUB_ID.fullmatch(base) else None,
        model_name=name, eval_results=_results(scores, dataset),
    )  # fmt: skip
    parts = [
        f"# {name}",
        BUILT_WITH if is_llama(licence) else "",
        _safety() if counseling else "",
        _origin(kind, base, base_revision),
        "## " + tr("Data"),
        _list(data),
        "## " + tr("Recipe"),
        _grid(["", tr("value")], [[key, value] for key, value in recipe.items()]),
        "## " + tr("Scores"),
        _scores(scores, dataset),
        "## " + tr("How to use"),
        _use(repo_id, kind, base, base_revision),
        _use_gguf(repo_id, gguf, modelfile) if gguf else "",
        "## " + tr("Limits"),
        _list(_limits()),
        "## " + tr("Licence"),
        _terms(licence),
    ]
    body = "\n\n".join(part for part in parts if part)
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}\n")


def save(card: "ModelCard", folder: str | Path) -> list[Path]:
    """Write a card into the folder that will be pushed: README.md, and for a Llama licence the notice.

    Args:
        card: from `model_card`.
        folder: an existing folder; a README.md there (peft writes an empty form) is replaced.

    Returns:
        The files written.
    """
    readme = Path(folder) / "README.md"
    card.save(readme)
    licence = str(card.data.to_dict().get("license", ""))
    if not is_llama(licence):
        return [readme]
    notice = Path(folder) / NOTICE_FILE
    notice.write_text(llama_notice(licence) + "\n", encoding="utf-8")
    return [readme, notice]


def is_llama(licence: str) -> bool:
    """Whether this is one of Meta's, by the Hub's identifier."""
    return licence.startswith(_LLAMA)


def llama_notice(licence: str) -> str:
    """The sentence that the licence (1.b.iii) wants in a text file beside every copy."""
    version = licence.removeprefix(_LLAMA)
    return (
        f"Llama {version} is licensed under the Llama {version} Community License, "
        "Copyright © Meta Platforms, Inc. All Rights Reserved."
    )


def check_name(repo_id: str, licence: str) -> None:
    """See that a model's name is one its base's licence allows.

    Raises:
        LessonError: a Llama licence, and a name that does not begin with "Llama" (1.b.i).
    """
    name = repo_id.rpartition("/")[2]
    if is_llama(licence) and not name.startswith("Llama"):
        raise LessonError(
            "The licence {licence} (1.b.i) demands a model name that begins with 'Llama'; {name!r} does "
            "not. Call it 'Llama-3.2-{name}', say.",
            licence=licence, name=name,
        )


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _grid(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _origin(kind: str, base: str, revision: str | None) -> str:
    shown = f"`{_shown(base)}`" + (f" (commit `{revision}`)" if revision else "")
    what = {
        "merged": tr("Base model with a LoRA adapter merged in"),
        "adapter": tr("LoRA adapter"),
        "gguf": tr("GGUF files for llama.cpp"),
    }[kind]
    return f"{what}. " + tr("Base model: {shown}.", shown=shown)


def _shown(base: str) -> str:
    """Never a path of the machine it was trained on."""
    return base if _HUB_ID.fullmatch(base) else Path(base).name


def _tuned(comparison: "pd.DataFrame") -> str:
    """The model in question: the last one that is no difference between two."""
    names = list(dict.fromkeys(comparison.columns.get_level_values(0)))
    return names[-2] if len(names) > 2 and names[-1] == f"{names[-2]} - {names[0]}" else names[-1]


def _results(scores: "Mapping[str, pd.DataFrame]", dataset: str) -> "list[EvalResult]":
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-generation",
            dataset_type="custom",
            dataset_name=dataset,
            dataset_split=str(split),
            metric_type=metric,
            metric_value=_rounded(row["mean"]),
            metric_args={"low": _rounded(row["low"]), "high": _rounded(row["high"]), "n": int(row["n"])},
        )
        for metric, comparison in scores.items()
        for split, row in comparison[_tuned(comparison)].iterrows()
    ]


def _rounded(value: Any) -> float:
    return round(float(value), 4)  # a number of numpy's own would become Python code in the YAML


def _scores(scores: "Mapping[str, pd.DataFrame]", dataset: str) -> str:
    said = tr("Measured on {dataset}; in brackets the 95% interval.", dataset=dataset)
    parts = [said]
    for metric, comparison in scores.items():
        readable = table(comparison)
        cells = zip(readable.index, readable.values.tolist(), strict=True)
        rows = [[split, *row] for split, row in cells]
        parts.append(_grid([metric, *readable.columns], rows))
    return "\n\n".join(parts)


def _use(repo_id: str, kind: str, base: str, revision: str | None) -> str:
    if kind == "gguf":
        return ""
    load = f'model = AutoModelForCausalLM.from_pretrained("{repo_id}")'
    imports = "from transformers import AutoModelForCausalLM, AutoTokenizer"
    if kind == "adapter":
        pinned = f', revision="{revision}"' if revision else ""
        imports += "\nfrom peft import PeftModel"
        load = (
            f'base = AutoModelForCausalLM.from_pretrained("{_shown(base)}"{pinned})\n'
            f'model = PeftModel.from_pretrained(base, "{repo_id}")'
        )
    return f"""**transformers**

```python
{imports}

tokenizer = AutoTokenizer.from_pretrained("{repo_id}")
{load}
messages = [{{"role": "user", "content": "..."}}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
answer = model.generate(**inputs, max_new_tokens=200, do_sample=False)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```"""


def _use_gguf(repo_id: str, gguf: str, modelfile: str | None) -> str:
    said = f"""**llama.cpp**

```bash
hf download {repo_id} {gguf} --local-dir .
llama-cli -m {gguf} -cnv
```"""
    if modelfile is None:
        return said
    name = repo_id.rpartition("/")[2].lower()
    return f"""{said}

**Ollama**

```bash
hf download {repo_id} {gguf} {modelfile} --local-dir .
ollama create {name} -f {modelfile}
ollama run {name}
```"""


def _limits() -> list[str]:
    return [
        tr("It can be wrong and fluent at once: check what it says before you rely on it."),
        tr("The scores hold for the kind of questions they were measured on; nothing else was evaluated."),
    ]


def _safety() -> str:
    return tr(
        "> **Safety.** This model was made to learn a technique; it is no counselling tool, and must not be "
        "used to advise, to diagnose or to talk with people in distress. It may miss a crisis or write a "
        "wrong number. If you or somebody near you is in danger in Vietnam: call 115 (ambulance), 113 "
        "(police) or 111 (national child protection helpline), and tell somebody near you at once.",
    )


def _terms(licence: str) -> str:
    """What a model card says of the licence, in the current language."""
    if not is_llama(licence):
        return tr("{licence}, as the base model.", licence=licence)
    place = f"https://www.llama.com/{licence.replace('.', '_')}"
    return f"{llama_notice(licence)}\n\n" + tr(
        "Use and redistribution under Meta's [licence agreement]({place}/license) and [acceptable use "
        "policy]({place}/use-policy).",
        place=place,
    )
