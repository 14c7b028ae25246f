"""Lesson 03's exercises 6 and 7: what a wrong chat template does to a prompt, and an Ollama Modelfile."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lessonlib.exercises._exercise import Exercise, Wrong, unwritten
from lessonlib.runtime import _paths as paths
from lessonlib.runtime._language import Translated


def llama_tokenizer() -> Any:
    """The Llama twin's tokenizer; a new one at each call, as learners may change theirs."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(paths.twin_dir("llama32"))


# 6. Break-it lab: the wrong template ----------------------------------------------------------------------

_PROMPTS = (  # Llama's own, ChatML, Phi-3's, and one without any marker
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nXin chào<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "<|im_start|>user\nXin chào<|im_end|>\n<|im_start|>assistant\n",
    "<|user|>\nXin chào <|end|> <|assistant|>\n",
    "Xin chào: 1 < 2 | 3 > 2",
)


def solve_markers(tokenizer: Any, prompt: str) -> dict[str, int]:
    """How many tokens each marker <|...|> of the prompt becomes."""
    found = re.findall(r"<\|.*?\|>", prompt)  # the ? ends a marker at its own |>, not at the line's last
    return {marker: len(tokenizer(marker, add_special_tokens=False)["input_ids"]) for marker in found}


# What another count of a marker gives: count(tokenizer, prompt, marker), and what to say to it.
_COUNTS: tuple[tuple[Callable[[Any, str, str], int], Translated], ...] = (
    (
        lambda tokenizer, prompt, marker: len(tokenizer(marker)["input_ids"]),
        Translated("One too many everywhere: tokenizer(marker) adds BOS. Pass add_special_tokens=False."),
    ),
    (
        lambda tokenizer, prompt, marker: len(tokenizer(marker)),
        Translated('len(tokenizer(...)) counts the fields of a dictionary, always 2. Count ["input_ids"].'),
    ),
    (
        lambda tokenizer, prompt, marker: prompt.count(marker),
        Translated(
            "You count how often a marker occurs. The question is how many tokens one marker becomes.",
        ),
    ),
    (
        lambda tokenizer, prompt, marker: len(marker),
        Translated("You count characters. The model reads tokens: ask the tokenizer."),
    ),
)


def _judge_markers(markers: Callable[[Any, str], Any]) -> None:
    tokenizer = llama_tokenizer()
    wanted = [(prompt, solve_markers(tokenizer, prompt)) for prompt in _PROMPTS]
    mistaken = [  # before the learner's function can change the tokenizer
        [{marker: count(tokenizer, prompt, marker) for marker in want} for prompt, want in wanted]
        for count, _ in _COUNTS
    ]
    answers = [markers(tokenizer, prompt) for prompt in _PROMPTS]
    if not all(isinstance(answer, Mapping) for answer in answers):
        raise Wrong(
            "Return a dict {{marker: number of tokens}}, you returned {name}.",
            name=type(answers[0]).__name__,
        )
    for (prompt, want), got in zip(wanted, answers, strict=True):
        _judge_names(prompt, got, want)
    if any(type(number) is not int for got in answers for number in got.values()):
        raise Wrong("The values are numbers of tokens: not True or False, and no lists of ids.")
    for counted, (_, message) in zip(mistaken, _COUNTS, strict=True):
        if answers == counted:
            raise Wrong(message)
    for (_, want), got in zip(wanted, answers, strict=True):
        for marker, number in want.items():
            if got[marker] != number:
                raise Wrong(
                    "With Llama's tokenizer {marker} is {number} tokens; you gave {got}.",
                    marker=marker, number=number, got=got[marker],
                )


def _judge_names(prompt: str, got: Mapping[str, Any], want: Mapping[str, int]) -> None:
    if any(str(name).count("|>") > 1 for name in got):
        raise Wrong("One of your markers swallows those after it: `.*` takes as much as it can. Use `.*?`.")
    missing, extra = [name for name in want if name not in got], [name for name in got if name not in want]
    if missing:
        raise Wrong(
            "{missing} is missing. Look for markers in the prompt: all_special_tokens lacks some.",
            missing=missing[0],
        )
    if extra:
        raise Wrong(
            "{extra!r} is no marker of the form <|...|> in {prompt!r}.", extra=extra[0], prompt=prompt,
        )


markers = Exercise(
    title=Translated(
        "Exercise 7 (break it, mend it). How many tokens does each marker <|...|> of a prompt become?",
    ),
    judge=_judge_markers,
    hints=(
        Translated("`re.findall(r'<\\|.*?\\|>', prompt)` finds the markers."),
        Translated("Tokens of one marker: `len(tokenizer(marker, add_special_tokens=False)['input_ids'])`."),
    ),
    solve=solve_markers,
    praise=Translated(
        "Each of Llama's markers is 1 token. ChatML's break into pieces that tell the model nothing, nor "
        "did it ever learn to end with <|im_end|>. The cure: the training's chat template in the file.",
    ),
    start=unwritten,
)


# 7. An Ollama Modelfile -----------------------------------------------------------------------------------


def solve_modelfile(template: str, stops: Sequence[str], gguf: str) -> str:
    """A Modelfile: where the weights are, how a prompt is written, where an answer ends."""
    lines = [f"FROM {gguf}", f'TEMPLATE """{template}"""']  # three quotes: the template has many lines
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    return "\n".join(lines) + "\n"


_LLAMA_TEMPLATE = """{{ if .System }}<|start_header_id|>system<|end_header_id|>

{{ .System }}<|eot_id|>{{ end }}<|start_header_id|>user<|end_header_id|>

{{ .Prompt }}<|eot_id|><|start_header_id|>assistant<|end_header_id|>

"""
_COMMANDS = ("from", "template", "parameter", "system", "license", "message", "adapter", "requires")


def _judge_modelfile(modelfile: Callable[[str, list[str], str], Any]) -> None:
    for template, stops, gguf in (
        (_LLAMA_TEMPLATE, ["<|eot_id|>", "<|eom_id|>"], "./llama-q4_k_m.gguf"),
        ("{{ .System }}\nKhách: {{ .Prompt }}\nNhân viên:", ["Khách: "], "./gguf/shop-q8_0.gguf"),
    ):
        written = modelfile(template, list(stops), gguf)
        if not isinstance(written, str):
            raise Wrong("Return a string, you returned {name}.", name=type(written).__name__)
        read = read_modelfile(written)
        _judge_from(read, gguf)
        _judge_template([value for name, value in read if name == "template"], template)
        _judge_stops([value for name, value in read if name == "parameter stop"], stops)


def read_modelfile(written: str) -> list[tuple[str, str]]:
    """(command, value) as Ollama reads them: a value ends at the first line end where its quotes are closed.

    Raises:
        Wrong: a line that is no command, a parameter without a value, quotes that nothing closes.
    """
    read, lines = [], iter(enumerate(written.split("\n"), start=1))
    for number, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, value = line.lstrip().partition(" ")
        if name.lower() not in _COMMANDS:
            raise Wrong(
                "Ollama stops at line {number}: {line!r} begins with no command. If it is a line of the "
                'template, the whole template has to stand in """.',
                number=number, line=line.strip(),
            )
        if name.lower() == "parameter":
            key, _, value = value.lstrip().partition(" ")
            name = f"{name} {key}"
            if not re.fullmatch(r"\w+", key) or not value:
                raise Wrong(
                    "Ollama cannot read line {number}: after PARAMETER come a name, a space, a value.",
                    number=number,
                )
        while (bare := _unquoted(value.strip())) is None:
            _, more = next(lines, (0, None))
            if more is None:
                raise Wrong("The quotes that line {number} opens are never closed.", number=number)
            value += "\n" + more
        read.append((name.lower(), bare))
    return read


def _unquoted(value: str) -> str | None:
    """The value without its double quotes, or None while they are still open."""
    for quotes in ('"""', '"'):
        if value.startswith(quotes):
            closed = len(value) >= 2 * len(quotes) and value.endswith(quotes)
            return value[len(quotes) : -len(quotes)] if closed else None
    return value


def _judge_from(read: list[tuple[str, str]], gguf: str) -> None:
    models = [value for name, value in read if name == "from"]
    if not models:
        raise Wrong("There is no FROM line: Ollama does not know which file holds the weights.")
    if models != [gguf]:
        raise Wrong("FROM has to name {gguf}, you wrote {models}.", gguf=gguf, models=", ".join(models))


def _judge_template(found: list[str], template: str) -> None:
    if not found:
        raise Wrong(
            "There is no TEMPLATE: Ollama would guess one, and guessed wrong the model talks nonsense.",
        )
    got = found[-1]
    if got == template:
        return
    if got.strip() == template.strip():
        raise Wrong(
            "TEMPLATE has a line end too many or too few: it ends in {template!r}, yours begins with "
            "{got!r} and ends in {got2!r}. Those are other tokens.",
            template=template[-8:], got=got[:8], got2=got[-8:],
        )
    if "{{" in template and "{{" not in got:
        raise Wrong(
            "The double braces in TEMPLATE are lost: {got!r}. Ollama fills in {{{{ .Prompt }}}}.",
            got=got[:40],
        )
    raise Wrong("Ollama reads the TEMPLATE as {got!r}, which is not the one given.", got=got)


def _judge_stops(got: list[str], stops: list[str]) -> None:
    if set(got) == set(stops):
        return
    missing = [stop for stop in stops if stop not in got]
    if not got:
        raise Wrong("There is no PARAMETER stop: all hangs on the EOS in the GGUF. If that is wrong, no end.")
    if any(value.strip("'") in stops and value not in stops for value in got):
        raise Wrong(
            "Ollama takes off double quotes only: in {got} the single quotes are part of the stop.",
            got=got[0],
        )
    if any(value in [stop.strip() for stop in stops] and value not in stops for value in got):
        raise Wrong(
            "The space at an end of {missing!r} is lost, because the value has no double quotes.",
            missing=missing[0],
        )
    if any(sum(stop in value for stop in stops) > 1 for value in got):
        raise Wrong("One line for each stop: Ollama reads the list as one long stop that never occurs.")
    if missing and set(got) < set(stops):
        raise Wrong(
            "The stop {missing} is missing. Each one needs its own line PARAMETER stop.", missing=missing[0],
        )
    raise Wrong("Stops: {stops}, not {got}.", stops=stops, got=got)


modelfile = Exercise(
    title=Translated("Exercise 6. Write a minimal Modelfile for Ollama: weights, template, stops."),
    judge=_judge_modelfile,
    hints=(
        Translated(
            'Three commands: `FROM file`, `TEMPLATE """template"""`, and for each stop a line `PARAMETER '
            'stop "..."`.',
        ),
        Translated(
            "Put the template right against both triple quotes: a line end added there is in the prompt too.",
        ),
    ),
    solve=solve_modelfile,
    praise=Translated("Template and stops decide whether a GGUF answers and ends, or talks on and on."),
    start=unwritten,
)
