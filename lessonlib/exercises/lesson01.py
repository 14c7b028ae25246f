"""The exercises of lesson 01 (BLOOM-560m): LoRA's factor and size, a bad loss, padding, prompt, epochs.

Each judge raises `Wrong` with a message for the mistake that learners really make; each `solve_*` is what the
lesson shows as the solution and what the tests run.
"""

import math
from collections.abc import Callable, Sequence

from lessonlib.exercises._exercise import Exercise, Wrong, unwritten

# 1. The factor alpha / r ----------------------------------------------------------------------------------


def solve_scale() -> float:
    """The alpha that keeps alpha / r."""
    factor = 32 / 8  # the article: alpha / r = 4
    return factor * 16  # the same factor at r = 16


def _judge_scale(alpha: float) -> None:
    if alpha == 32:
        raise Wrong(
            vi="Giữ alpha = 32 thì ở r = 16 hệ số chỉ còn 32/16 = 2. Đề bài muốn giữ nguyên hệ số của bài "
            "gốc.",
            en="With alpha still 32 the factor at r = 16 is only 32/16 = 2. The task is to keep the "
            "article's factor.",
        )
    if alpha in (4, 2):
        raise Wrong(
            vi=f"{alpha} là hệ số alpha/r, còn đề hỏi alpha.",
            en=f"{alpha} is the factor alpha/r; the question asks for alpha.",
        )
    if not math.isclose(alpha, solve_scale()):
        raise Wrong(
            vi=f"alpha = {alpha} cho hệ số {alpha / 16:g} ở r = 16; bài gốc có 32/8 = 4.",
            en=f"alpha = {alpha} gives a factor of {alpha / 16:g} at r = 16; the article has 32/8 = 4.",
        )


scale = Exercise(
    title={
        "vi": "Bài tập 1. Chọn alpha ở r = 16 sao cho B·A vẫn được nhân với hệ số như của bài gốc.",
        "en": "Exercise 1. Choose alpha at r = 16 so that B·A is still multiplied by the article's factor.",
    },
    judge=_judge_scale,
    hints=(
        {"vi": "LoRA nhân `B·A` với `alpha / r`.", "en": "LoRA multiplies `B·A` by `alpha / r`."},
        {
            "vi": "Bài gốc: 32 / 8 = 4. Số nào chia 16 cũng bằng 4?",
            "en": "The article: 32 / 8 = 4. What divided by 16 is 4 as well?",
        },
    ),
    solve=solve_scale,
    praise={
        "vi": "Mỗi lần đổi r, hãy tính lại alpha/r: nó tác động như một learning rate thứ hai.",
        "en": "Whenever you change r, compute alpha/r again: it acts like a second learning rate.",
    },
)


# 2. How many parameters LoRA adds -------------------------------------------------------------------------


def solve_count(inputs: int, outputs: int, r: int) -> int:
    """Parameters of the two matrices that LoRA adds."""
    return r * inputs + outputs * r  # A is (r, inputs), B is (outputs, r)


def _judge_count(count: Callable[[int, int, int], int]) -> None:
    for inputs, outputs, r in ((1024, 3072, 8), (16, 16, 4), (1000, 10, 1)):
        got, want = count(inputs, outputs, r), solve_count(inputs, outputs, r)
        if got == want:
            continue
        if got == inputs * outputs:
            raise Wrong(
                vi=f"{got:,} là số phần tử của W. LoRA không thêm một ma trận to như W mà thêm hai ma trận "
                "hẹp.",
                en=f"{got:,} is the size of W. LoRA adds two narrow matrices, not another one as large as W.",
            )
        if got in (r * inputs, r * outputs):
            raise Wrong(
                vi="Bạn mới đếm một trong hai ma trận A và B.",
                en="You have counted only one of the two matrices A and B.",
            )
        raise Wrong(
            vi=f"Với inputs={inputs}, outputs={outputs}, r={r}, hàm của bạn trả về {got}; phải là {want:,}.",
            en=f"For inputs={inputs}, outputs={outputs}, r={r} your function gives {got}; it should be "
            f"{want:,}.",
        )


count = Exercise(
    title={
        "vi": "Bài tập 2. LoRA hạng r thêm bao nhiêu tham số vào một lớp tuyến tính inputs -> outputs?",
        "en": "Exercise 2. How many parameters does LoRA of rank r add to a linear layer inputs -> outputs?",
    },
    judge=_judge_count,
    hints=(
        {
            "vi": "A có hình dạng `(r, inputs)`, B có hình dạng `(outputs, r)`.",
            "en": "A has the shape `(r, inputs)`, B the shape `(outputs, r)`.",
        },
    ),
    solve=solve_count,
    praise={
        "vi": "query_key_value của BLOOM-560m là 1024 -> 3072: 32.768 tham số mỗi lớp, 24 lớp là 786.432.",
        "en": "query_key_value of BLOOM-560m is 1024 -> 3072: 32,768 parameters a layer, 786,432 in 24.",
    },
    start=unwritten,
)


# 3. Worse than a uniform guess ----------------------------------------------------------------------------


def solve_uniform(first_loss: float, vocabulary: int) -> bool:
    """Whether a loss is above that of a uniform guess."""
    return first_loss > math.log(vocabulary)


def _judge_uniform(suspicious: Callable[[float, int], bool]) -> None:
    cases = (
        (12.9, 128_256), (13.34, 250_880), (3.1, 250_880), (7.5, 1024),
        (6.5, 1024), (11.0, 128_256), (18.0, 128_256),
    )
    answers = [bool(suspicious(*case)) for case in cases]
    if answers == [solve_uniform(*case) for case in cases]:
        return
    for log, name in ((math.log2, "log2"), (math.log10, "log10")):
        if answers == [loss > log(vocabulary) for loss, vocabulary in cases]:
            raise Wrong(
                vi=f"Bạn dùng {name}. Cross-entropy của PyTorch tính bằng logarit tự nhiên: math.log.",
                en=f"You used {name}. PyTorch's cross-entropy is in natural logarithms: math.log.",
            )
    for (loss, vocabulary), answer in zip(cases, answers, strict=True):
        if answer != solve_uniform(loss, vocabulary):
            raise Wrong(
                vi=f"Sai ở loss={loss}, từ vựng {vocabulary:,}: đoán bừa cho loss "
                f"{math.log(vocabulary):.2f}.",
                en=f"Wrong at loss={loss}, vocabulary {vocabulary:,}: "
                f"a uniform guess has a loss of {math.log(vocabulary):.2f}.",
            )


uniform = Exercise(
    title={
        "vi": "Bài tập 3. Viết điều kiện báo động: loss bước đầu còn tệ hơn đoán bừa.",
        "en": "Exercise 3. Write the alarm: the first loss is worse than a uniform guess.",
    },
    judge=_judge_uniform,
    hints=(
        {
            "vi": "Đoán bừa cho mỗi token xác suất 1/V. Loss của nó là `-ln(1/V)`.",
            "en": "A uniform guess gives each token the probability 1/V. Its loss is `-ln(1/V)`.",
        },
        {"vi": "`-ln(1/V) = ln(V)`, tức `math.log(V)`.", "en": "`-ln(1/V) = ln(V)`, that is `math.log(V)`."},
    ),
    solve=solve_uniform,
    praise={
        "vi": "Đây là phép kiểm tra rẻ nhất trong nghề: một dòng, chạy ngay sau bước đầu tiên.",
        "en": "This is the cheapest check of the trade: one line, right after the first step.",
    },
    start=unwritten,
)


# 4. The padding mistake -----------------------------------------------------------------------------------


def solve_padding(ids: list[int], length: int) -> list[int]:
    """Labels of one padded row."""
    return ids[:length] + [-100] * (len(ids) - length)  # by position, not by value: filling may be </s>


def _judge_padding(labels_for: Callable[[list[int], int], Sequence[int]]) -> None:
    rows = (
        ([7, 8, 9, 2, 3, 3, 3], 4),  # filled with <pad>
        ([7, 8, 9, 2, 2, 2, 2], 4),  # filled with </s>: pad_token = eos_token
        ([7, 2, 9, 2], 4),  # nothing to fill
    )
    for ids, length in rows:
        got = list(labels_for(list(ids), length))
        if got == solve_padding(ids, length):
            continue
        if len(got) != len(ids):
            raise Wrong(
                vi=f"Số nhãn phải bằng số token của dòng: cần {len(ids)}, hàm của bạn trả về {len(got)}.",
                en=f"Labels are as long as the row: {len(ids)} items, your function gave {len(got)}.",
            )
        if any(label != -100 for label in got[length:]):
            raise Wrong(
                vi=f"Với {ids}, phần đệm (từ vị trí {length}) vẫn còn tính loss: đúng lỗi của bài gốc.",
                en=f"For {ids} the filling (from position {length}) still carries loss: the article's own "
                "mistake.",
            )
        if got[length - 1] == -100 and ids[length - 1] == 2:
            raise Wrong(
                vi=f"Với {ids}, token </s> thật ở vị trí {length - 1} bị che mất: mô hình sẽ không học được "
                "cách dừng.",
                en=f"For {ids} the real </s> at position {length - 1} is masked: the model will never learn "
                "to stop.",
            )
        raise Wrong(
            vi=f"Với {ids} và length={length}, nhãn phải là {solve_padding(ids, length)}, bạn trả về {got}.",
            en=f"For {ids} and length={length} the labels should be {solve_padding(ids, length)}, you gave "
            f"{got}.",
        )


padding = Exercise(
    title={
        "vi": "Bài tập 4 (phá hỏng rồi sửa). Che phần đệm, giữ </s> thật, dù phần đệm cũng là </s>.",
        "en": "Exercise 4 (break it, mend it). Mask the filling, keep the real </s>, even if the filling "
        "is </s> too.",
    },
    judge=_judge_padding,
    hints=(
        {
            "vi": "Che theo giá trị (`id == pad_id`) thì không phân biệt được </s> thật với </s> dùng để "
            "đệm.",
            "en": "Masking by value (`id == pad_id`) cannot tell the real </s> from one used as filling.",
        },
        {
            "vi": "Che theo vị trí: `length` token đầu là thật, phần còn lại là đệm.",
            "en": "Mask by position: the first `length` tokens are real, the rest is filling.",
        },
    ),
    solve=solve_padding,
    praise={
        "vi": "Che theo vị trí thì chọn token đệm nào cũng không làm hỏng nhãn.",
        "en": "Masked by position, no choice of padding token can spoil the labels.",
    },
    start=unwritten,
)


# 5. The prompt for asking ---------------------------------------------------------------------------------


def solve_prompt(question: str) -> str:
    """The text that the model is given."""
    return f"Human: {question} Assistant:"  # no space at the end: it belongs to the answer's first token


def _judge_prompt(asking_prompt: Callable[[str], str]) -> None:
    question = "Token là gì?"
    got, want = asking_prompt(question), solve_prompt(question)
    if not isinstance(got, str):
        raise Wrong(
            vi=f"Hàm phải trả về một chuỗi, bạn trả về {type(got).__name__}.",
            en=f"The function should return a string, you returned {type(got).__name__}.",
        )
    if got == want:
        return
    if got.rstrip() == want:
        raise Wrong(
            vi="Thừa dấu cách ở cuối: nó thành một token riêng, khác với lúc huấn luyện. Đúng lỗi của bài "
            "gốc.",
            en="There is a space at the end: it becomes a token of its own, unlike in training. The "
            "article's mistake.",
        )
    if question not in got:
        raise Wrong(
            vi=f"Trong {got!r} không thấy câu hỏi. Bạn có quên chữ f trước dấu nháy không?",
            en=f"The question is missing in {got!r}. Did you forget the f in front of the quotes?",
        )
    raise Wrong(
        vi=f"Bạn trả về {got!r}; văn bản huấn luyện bắt đầu bằng {want!r}.",
        en=f"You returned {got!r}; the training text starts with {want!r}.",
    )


prompt = Exercise(
    title={
        "vi": "Bài tập 5. Viết prompt để hỏi, khớp từng token với lúc huấn luyện.",
        "en": "Exercise 5. Write the prompt for asking so that it matches the training text token by token.",
    },
    judge=_judge_prompt,
    hints=(
        {
            "vi": "Văn bản huấn luyện: `Human: {question} Assistant: {answer}</s>`. Dấu cách trước câu trả "
            "lời thuộc về ai?",
            "en": "The training text: `Human: {question} Assistant: {answer}</s>`. Whose is the space "
            "before the answer?",
        },
    ),
    solve=solve_prompt,
    praise={
        "vi": "Prompt dừng ngay ở dấu hai chấm; dấu cách là việc của mô hình.",
        "en": "The prompt ends at the colon; the space is the model's job.",
    },
    start=unwritten,
)


# 6. Steps and epochs --------------------------------------------------------------------------------------


def solve_epoch(rows: int, batch: int, accumulation: int, max_steps: int) -> tuple[int, float]:
    """Updates in an epoch, and the epoch after max_steps of them."""
    updates = math.ceil(math.ceil(rows / batch) / accumulation)  # the last update of an epoch may be smaller
    return updates, max_steps * batch * accumulation / rows


def _judge_epoch(epoch_reached: Callable[[int, int, int, int], tuple[int, float]]) -> None:
    for case in ((216, 2, 8, 10), (216, 8, 1, 540), (100, 4, 8, 2)):
        got = epoch_reached(*case)
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Wrong(
                vi="Hãy trả về hai số: (số lần cập nhật mỗi epoch, epoch đạt được).",
                en="Return two numbers: (updates per epoch, epoch reached).",
            )
        want = solve_epoch(*case)
        if got[0] == math.ceil(case[0] / case[1]) != want[0]:
            raise Wrong(
                vi=f"{got[0]} là số batch mỗi epoch. Cứ {case[2]} batch mới cập nhật một lần.",
                en=f"{got[0]} is the number of batches per epoch. One update comes after {case[2]} of them.",
            )
        if got[0] != want[0]:
            raise Wrong(
                vi=f"Với {case}, mỗi epoch có {want[0]} lần cập nhật (làm tròn lên), bạn trả về {got[0]}.",
                en=f"For {case} one epoch takes {want[0]} updates (rounded up), you gave {got[0]}.",
            )
        if not math.isclose(got[1], want[1], abs_tol=0.01):
            raise Wrong(
                vi=f"Với {case}, dừng ở epoch {want[1]:.2f}, bạn trả về {got[1]}.",
                en=f"For {case} the run stops at epoch {want[1]:.2f}, you gave {got[1]}.",
            )


epoch = Exercise(
    title={
        "vi": "Bài tập 6. Trả về (số lần cập nhật mỗi epoch, epoch đạt được khi hết max_steps).",
        "en": "Exercise 6. Return (updates per epoch, the epoch reached when max_steps is over).",
    },
    judge=_judge_epoch,
    hints=(
        {
            "vi": "Mỗi lần cập nhật dùng `batch * accumulation` dòng.",
            "en": "One update uses `batch * accumulation` rows.",
        },
        {
            "vi": "Epoch đạt được là số dòng đã dùng chia cho số dòng của tập: bài gốc là 160 / 216.",
            "en": "The epoch reached is rows used divided by rows in the set: 160 / 216 in the article.",
        },
    ),
    solve=solve_epoch,
    praise={
        "vi": "Bài gốc dừng ở epoch 0,74: hơn một phần tư dữ liệu chưa được nhìn tới lần nào.",
        "en": "The article stops at epoch 0.74: more than a quarter of the data was never seen.",
    },
    start=unwritten,
)

ALL = (scale, count, uniform, padding, prompt, epoch)
