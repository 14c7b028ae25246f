"""Lesson 03's exercises 6 and 7: what a wrong chat template does to a prompt, and an Ollama Modelfile."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lessonlib.exercises._exercise import Exercise, Wrong, unwritten
from lessonlib.runtime import _paths as paths


def llama_tokenizer() -> Any:
    """The Llama twin's tokenizer; a new one at each call, as learners may change theirs."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(paths.twin_dir("llama32"))


# 6. Break-it lab: the wrong template ----------------------------------------------------------------------

PROMPTS = (  # Llama's own, ChatML, Phi-3's, and one without any marker
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
_COUNTS: tuple[tuple[Callable[[Any, str, str], int], str, str], ...] = (
    (
        lambda tokenizer, prompt, marker: len(tokenizer(marker)["input_ids"]),
        "Thừa một ở mọi chỗ: tokenizer(marker) tự thêm BOS. Hãy đặt add_special_tokens=False.",
        "One too many everywhere: tokenizer(marker) adds BOS. Pass add_special_tokens=False.",
    ),
    (
        lambda tokenizer, prompt, marker: len(tokenizer(marker)),
        "len(tokenizer(...)) đếm các trường của từ điển, luôn là 2. Hãy đếm [\"input_ids\"].",
        "len(tokenizer(...)) counts the fields of a dictionary, always 2. Count [\"input_ids\"].",
    ),
    (
        lambda tokenizer, prompt, marker: prompt.count(marker),
        "Bạn đếm số lần dấu đó xuất hiện. Đề hỏi một dấu bị tách thành bao nhiêu token.",
        "You count how often a marker occurs. The question is how many tokens one marker becomes.",
    ),
    (
        lambda tokenizer, prompt, marker: len(marker),
        "Bạn đếm ký tự. Mô hình đọc token: hãy hỏi tokenizer.",
        "You count characters. The model reads tokens: ask the tokenizer.",
    ),
)


def _judge_markers(markers: Callable[[Any, str], Any]) -> None:
    tokenizer = llama_tokenizer()
    wanted = [(prompt, solve_markers(tokenizer, prompt)) for prompt in PROMPTS]
    mistaken = [  # before the learner's function can change the tokenizer
        [{marker: count(tokenizer, prompt, marker) for marker in want} for prompt, want in wanted]
        for count, _, _ in _COUNTS
    ]
    answers = [markers(tokenizer, prompt) for prompt in PROMPTS]
    if not all(isinstance(answer, Mapping) for answer in answers):
        raise Wrong(
            vi=f"Hãy trả về một dict {{dấu: số token}}, bạn trả về {type(answers[0]).__name__}.",
            en=f"Return a dict {{marker: number of tokens}}, you returned {type(answers[0]).__name__}.",
        )
    for (prompt, want), got in zip(wanted, answers, strict=True):
        _judge_names(prompt, got, want)
    if any(type(number) is not int for got in answers for number in got.values()):
        raise Wrong(
            vi="Giá trị phải là số token của dấu đó, không phải True/False hay danh sách id.",
            en="The values are numbers of tokens: not True or False, and no lists of ids.",
        )
    for counted, (_, vi, en) in zip(mistaken, _COUNTS, strict=True):
        if answers == counted:
            raise Wrong(vi=vi, en=en)
    for (_, want), got in zip(wanted, answers, strict=True):
        for marker, number in want.items():
            if got[marker] != number:
                raise Wrong(
                    vi=f"Với tokenizer của Llama, {marker} là {number} token; bạn trả về {got[marker]}.",
                    en=f"With Llama's tokenizer {marker} is {number} tokens; you gave {got[marker]}.",
                )


def _judge_names(prompt: str, got: Mapping[str, Any], want: Mapping[str, int]) -> None:
    if any(str(name).count("|>") > 1 for name in got):
        raise Wrong(
            vi="Một dấu của bạn nuốt luôn các dấu sau nó: `.*` lấy càng dài càng tốt. Dùng `.*?`.",
            en="One of your markers swallows those after it: `.*` takes as much as it can. Use `.*?`.",
        )
    missing, extra = [name for name in want if name not in got], [name for name in got if name not in want]
    if missing:
        raise Wrong(
            vi=f"Thiếu {missing[0]}. Hãy tìm mọi dấu trong chính prompt: all_special_tokens không có đủ.",
            en=f"{missing[0]} is missing. Look for markers in the prompt: all_special_tokens lacks some.",
        )
    if extra:
        raise Wrong(
            vi=f"{extra[0]!r} không phải là dấu dạng <|...|> trong {prompt!r}.",
            en=f"{extra[0]!r} is no marker of the form <|...|> in {prompt!r}.",
        )


markers = Exercise(
    title={
        "vi": "Bài tập 7 (phá hỏng rồi sửa). Mỗi dấu <|...|> trong prompt bị tách thành bao nhiêu token?",
        "en": "Exercise 7 (break it, mend it). How many tokens does each marker <|...|> of a prompt become?",
    },
    judge=_judge_markers,
    hints=(
        {
            "vi": "`re.findall(r'<\\|.*?\\|>', prompt)` tìm các dấu.",
            "en": "`re.findall(r'<\\|.*?\\|>', prompt)` finds the markers.",
        },
        {
            "vi": "Số token của một dấu: `len(tokenizer(marker, add_special_tokens=False)['input_ids'])`.",
            "en": "Tokens of one marker: `len(tokenizer(marker, add_special_tokens=False)['input_ids'])`.",
        },
    ),
    solve=solve_markers,
    praise={
        "vi": "Mỗi dấu của Llama là 1 token. Dấu của ChatML vỡ thành những mẩu chữ không báo gì cho mô hình, "
        "và nó cũng chưa từng học dừng bằng <|im_end|>. Cách chữa: ghi đúng chat template lúc huấn luyện vào "
        "tệp.",
        "en": "Each of Llama's markers is 1 token. ChatML's break into pieces that tell the model nothing, "
        "nor did it ever learn to end with <|im_end|>. The cure: the training's chat template in the file.",
    },
    start=unwritten,
)


# 7. An Ollama Modelfile -----------------------------------------------------------------------------------


def solve_modelfile(template: str, stops: Sequence[str], gguf: str) -> str:
    """A Modelfile: where the weights are, how a prompt is written, where an answer ends."""
    lines = [f"FROM {gguf}", f'TEMPLATE """{template}"""']  # three quotes: the template has many lines
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    return "\n".join(lines) + "\n"


LLAMA_TEMPLATE = """{{ if .System }}<|start_header_id|>system<|end_header_id|>

{{ .System }}<|eot_id|>{{ end }}<|start_header_id|>user<|end_header_id|>

{{ .Prompt }}<|eot_id|><|start_header_id|>assistant<|end_header_id|>

"""
COMMANDS = ("from", "template", "parameter", "system", "license", "message", "adapter", "requires")


def _judge_modelfile(modelfile: Callable[[str, list[str], str], Any]) -> None:
    for template, stops, gguf in (
        (LLAMA_TEMPLATE, ["<|eot_id|>", "<|eom_id|>"], "./llama-q4_k_m.gguf"),
        ("{{ .System }}\nKhách: {{ .Prompt }}\nNhân viên:", ["Khách: "], "./gguf/shop-q8_0.gguf"),
    ):
        written = modelfile(template, list(stops), gguf)
        if not isinstance(written, str):
            raise Wrong(
                vi=f"Hãy trả về một chuỗi, bạn trả về {type(written).__name__}.",
                en=f"Return a string, you returned {type(written).__name__}.",
            )
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
        if name.lower() not in COMMANDS:
            raise Wrong(
                vi=f"Ollama dừng ở dòng {number}: {line.strip()!r} không bắt đầu bằng lệnh nào. Nếu đó là "
                'một dòng của template thì phải đặt cả template trong """.',
                en=f"Ollama stops at line {number}: {line.strip()!r} begins with no command. If it is a line "
                'of the template, the whole template has to stand in """.',
            )
        if name.lower() == "parameter":
            key, _, value = value.lstrip().partition(" ")
            name = f"{name} {key}"
            if not re.fullmatch(r"\w+", key) or not value:
                raise Wrong(
                    vi=f"Ollama không đọc được dòng {number}: sau PARAMETER là tên, dấu cách, rồi giá trị.",
                    en=f"Ollama cannot read line {number}: after PARAMETER come a name, a space, a value.",
                )
        while (bare := _unquoted(value.strip())) is None:
            _, more = next(lines, (0, None))
            if more is None:
                raise Wrong(
                    vi=f"Dấu nháy mở ở dòng {number} không được đóng lại.",
                    en=f"The quotes that line {number} opens are never closed.",
                )
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
        raise Wrong(
            vi="Thiếu dòng FROM: Ollama không biết trọng số nằm ở tệp nào.",
            en="There is no FROM line: Ollama does not know which file holds the weights.",
        )
    if models != [gguf]:
        raise Wrong(
            vi=f"FROM phải trỏ tới {gguf}, bạn viết {', '.join(models)}.",
            en=f"FROM has to name {gguf}, you wrote {', '.join(models)}.",
        )


def _judge_template(found: list[str], template: str) -> None:
    if not found:
        raise Wrong(
            vi="Thiếu TEMPLATE: Ollama sẽ đoán khuôn, và đoán sai thì mô hình nói lảm nhảm.",
            en="There is no TEMPLATE: Ollama would guess one, and guessed wrong the model talks nonsense.",
        )
    got = found[-1]
    if got == template:
        return
    if got.strip() == template.strip():
        raise Wrong(
            vi=f"TEMPLATE thừa hoặc thiếu xuống dòng: phải kết thúc bằng {template[-8:]!r}, của bạn bắt đầu "
            f"bằng {got[:8]!r} và kết thúc bằng {got[-8:]!r}. Đó là những token khác.",
            en=f"TEMPLATE has a line end too many or too few: it ends in {template[-8:]!r}, yours begins "
            f"with {got[:8]!r} and ends in {got[-8:]!r}. Those are other tokens.",
        )
    if "{{" in template and "{{" not in got:
        raise Wrong(
            vi=f"Ngoặc nhọn đôi trong TEMPLATE bị mất: {got[:40]!r}. Ollama chỉ điền vào {{{{ .Prompt }}}}.",
            en=f"The double braces in TEMPLATE are lost: {got[:40]!r}. Ollama fills in {{{{ .Prompt }}}}.",
        )
    raise Wrong(
        vi=f"Ollama đọc được TEMPLATE là {got!r}, khác với khuôn được cho.",
        en=f"Ollama reads the TEMPLATE as {got!r}, which is not the one given.",
    )


def _judge_stops(got: list[str], stops: list[str]) -> None:
    if set(got) == set(stops):
        return
    missing = [stop for stop in stops if stop not in got]
    if not got:
        raise Wrong(
            vi="Không có PARAMETER stop: chỉ còn trông vào EOS ghi trong GGUF. EOS đó sai thì nói mãi.",
            en="There is no PARAMETER stop: all hangs on the EOS in the GGUF. If that is wrong, no end.",
        )
    if any(value.strip("'") in stops and value not in stops for value in got):
        raise Wrong(
            vi=f"Ollama chỉ bỏ dấu nháy kép: {got[0]} có nháy đơn thì nháy đơn thành một phần của stop.",
            en=f"Ollama takes off double quotes only: in {got[0]} the single quotes are part of the stop.",
        )
    if any(value in [stop.strip() for stop in stops] and value not in stops for value in got):
        raise Wrong(
            vi=f"Dấu cách ở đầu hoặc cuối của {missing[0]!r} bị mất, vì giá trị không có nháy kép.",
            en=f"The space at an end of {missing[0]!r} is lost, because the value has no double quotes.",
        )
    if any(sum(stop in value for stop in stops) > 1 for value in got):
        raise Wrong(
            vi="Mỗi stop một dòng: Ollama đọc cả danh sách thành một stop dài không bao giờ gặp.",
            en="One line for each stop: Ollama reads the list as one long stop that never occurs.",
        )
    if missing and set(got) < set(stops):
        raise Wrong(
            vi=f"Thiếu stop {missing[0]}. Mỗi stop cần một dòng PARAMETER stop.",
            en=f"The stop {missing[0]} is missing. Each one needs its own line PARAMETER stop.",
        )
    raise Wrong(vi=f"Các stop phải là {stops}, Ollama đọc được {got}.", en=f"Stops: {stops}, not {got}.")


modelfile = Exercise(
    title={
        "vi": "Bài tập 6. Viết Modelfile tối thiểu cho Ollama: trọng số, khuôn, các stop.",
        "en": "Exercise 6. Write a minimal Modelfile for Ollama: weights, template, stops.",
    },
    judge=_judge_modelfile,
    hints=(
        {
            "vi": 'Ba lệnh: `FROM tệp`, `TEMPLATE """khuôn"""`, và mỗi stop một dòng `PARAMETER stop "..."`.',
            "en": 'Three commands: `FROM file`, `TEMPLATE """template"""`, and for each stop a line '
            '`PARAMETER stop "..."`.',
        },
        {
            "vi": 'Đặt khuôn sát vào hai bộ ba nháy: xuống dòng thêm ở đó cũng vào prompt.',
            "en": 'Put the template right against both triple quotes: a line end added there is in the '
            'prompt too.',
        },
    ),
    solve=solve_modelfile,
    praise={
        "vi": "Khuôn và stop quyết định một tệp GGUF trả lời rồi dừng, hay nói mãi không thôi.",
        "en": "Template and stops decide whether a GGUF answers and ends, or talks on and on.",
    },
    start=unwritten,
)
