"""Lesson 03's exercises 4 and 5, on the exported files: how far two models are apart, how large q8_0 is."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lessonlib.exercises._exercise import Exercise, Wrong, unwritten

if TYPE_CHECKING:
    from torch import Tensor


# 4. How far two models are apart --------------------------------------------------------------------------


def solve_kl(first_logits: "Tensor", second_logits: "Tensor") -> float:
    """Mean over the positions of KL(p || q), in nats."""
    log_p = first_logits.float().log_softmax(dim=-1)  # log_softmax never exponentiates a large number
    log_q = second_logits.float().log_softmax(dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean().item()


def _judge_kl(kl: Callable[["Tensor", "Tensor"], Any]) -> None:
    import torch

    draw = torch.Generator().manual_seed(3)
    first, second = (2 * torch.randn(5, 7, generator=draw) for _ in range(2))
    got, want = _number(kl(first.clone(), second.clone()), first), solve_kl(first, second)
    if not _close(got, want):
        _judge_value(first, second, got, want)
    gap = torch.tensor([[0.0, 200.0, -200.0], [150.0, 0.0, 10.0]])
    for one, other in ((first + 1000, second + 1000), (gap, -gap)):
        got, want = _number(kl(one.clone(), other.clone()), one), solve_kl(one, other)
        if not math.isfinite(got):
            raise Wrong(
                vi=f"Với logit lớn, hàm trả về {got}: exp bị tràn, hoặc log(0). Hãy dùng log_softmax.",
                en=f"With large logits the function gives {got}: exp overflows, or log(0). Use log_softmax.",
            )
        if not _close(got, want):
            raise Wrong(
                vi=f"Với logit lớn, KL là {want:.4g} mà bạn có {got:.4g}. Cộng epsilon hay cắt bớt trong log "
                "làm mất phần lớn nhất: hãy dùng log_softmax.",
                en=f"With large logits KL is {want:.4g}, you have {got:.4g}. An epsilon or a clamp in the "
                "logarithm loses the largest part: use log_softmax.",
            )


def _number(given: Any, logits: "Tensor") -> float:
    """The learner's answer as one number."""
    import torch

    shape = tuple(given.shape) if isinstance(given, torch.Tensor) else ()
    if math.prod(shape) == 1:
        return float(given)
    if shape == tuple(logits.shape[:1]):
        raise Wrong(
            vi="Đó là KL của từng vị trí. Hãy lấy trung bình: .mean().",
            en="That is KL position by position. Take the average: .mean().",
        )
    raise Wrong(
        vi=f"Cần một số, bạn trả về tensor {shape}. Cộng theo từ vựng (dim=-1), rồi lấy trung bình.",
        en=f"One number is wanted, you returned a tensor {shape}. Sum over the vocabulary (dim=-1), then "
        "take the mean.",
    )


def _judge_value(first: "Tensor", second: "Tensor", got: float, want: float) -> None:
    log_p, log_q = first.log_softmax(dim=-1), second.log_softmax(dim=-1)
    p, q = log_p.exp(), log_q.exp()
    column_p, column_q = first.log_softmax(dim=0), second.log_softmax(dim=0)
    positions, vocabulary = first.shape
    columns = (column_p.exp() * (column_p - column_q)).sum()

    def mean(each: "Tensor") -> float:
        return each.sum(dim=-1).mean().item()

    mistakes: tuple[tuple[tuple[float, ...], str, str], ...] = (
        (
            (solve_kl(second, first),),
            "Bạn tính KL(q||p), ngược chiều. Phải lấy trung bình theo p, phân bố của mô hình thứ nhất.",
            "That is KL(q||p), the other way round. Average by p, the first model's distribution.",
        ),
        (
            (want * positions,),
            "Đó là tổng qua các vị trí. Lấy trung bình thì hai đoạn dài ngắn khác nhau mới so được.",
            "That is the sum over positions. Only the mean lets you compare texts of different length.",
        ),
        (
            (want / vocabulary,),
            "Bạn chia cả cho kích thước từ vựng (reduction='mean' của kl_div làm vậy). Chỉ chia cho số vị "
            "trí: 'batchmean'.",
            "You divided by the vocabulary too (kl_div's reduction='mean' does). Divide by the positions "
            "only: 'batchmean'.",
        ),
        (
            (want / math.log(2),),
            "Kết quả tính bằng bit (log2). Đề hỏi nat: logarit tự nhiên.",
            "The result is in bits (log2). Nats are asked for: natural logarithms.",
        ),
        ((-want,), "Sai dấu: KL không bao giờ âm. log p trừ log q.", "Wrong sign: KL is never negative."),
        (
            (mean(-p * log_q),),
            "Đó là cross-entropy. KL là cross-entropy trừ entropy của p: dùng log p - log q.",
            "That is the cross-entropy. KL is it minus the entropy of p: use log p - log q.",
        ),
        (
            (mean(first.exp() * (first - second)), mean(p * (first - second))),
            "Logit chưa phải log xác suất: thiếu softmax. Hãy qua log_softmax trước.",
            "Logits are not log-probabilities: a softmax is missing. Pass them through log_softmax.",
        ),
        (
            (mean(p * (log_p - q)),),
            "Đối số đầu của kl_div phải là log xác suất: dùng log_softmax, không phải softmax.",
            "kl_div's first argument has to be log-probabilities: log_softmax and not softmax.",
        ),
        (
            (columns.item() / positions, columns.item() / vocabulary),
            "softmax phải chạy trên từ vựng: dim=-1, không phải dim=0.",
            "The softmax runs over the vocabulary: dim=-1 and not dim=0.",
        ),
    )
    for values, vi, en in mistakes:
        if any(_close(got, value) for value in values):
            raise Wrong(vi=vi, en=en)
    if not math.isfinite(got):
        raise Wrong(
            vi=f"Hàm trả về {got}: logit có thể âm nên không lấy log được. Thiếu softmax.",
            en=f"The function gives {got}: logits may be negative and have no log. A softmax is missing.",
        )
    raise Wrong(
        vi=f"Trên logit thử, KL là {want:.4f}, bạn trả về {got:.4f}.",
        en=f"On the logits of the test KL is {want:.4f}, you gave {got:.4f}.",
    )


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-6)


kl = Exercise(
    title={
        "vi": "Bài tập 5. KL(p||q) trung bình giữa hai mô hình, từ logit, không bị tràn số.",
        "en": "Exercise 5. The mean KL(p||q) between two models, from logits, without overflow.",
    },
    judge=_judge_kl,
    hints=(
        {
            "vi": "`KL(p||q) = sum p * (log p - log q)` trên từ vựng, rồi trung bình qua các vị trí.",
            "en": "`KL(p||q) = sum p * (log p - log q)` over the vocabulary, then the mean over positions.",
        },
        {
            "vi": "`torch.log_softmax(logits, dim=-1)` cho log p mà không tính exp của số lớn; p là exp của "
            "nó.",
            "en": "`torch.log_softmax(logits, dim=-1)` gives log p with no exp of a large number; p is its "
            "exp.",
        },
    ),
    solve=solve_kl,
    praise={
        "vi": "Top-1 chỉ hỏi token nào đứng đầu; KL hỏi cả phân bố đã xê dịch bao nhiêu.",
        "en": "Top-1 only asks which token is first; KL asks how far the whole distribution has moved.",
    },
    start=unwritten,
)


# 5. The size of a q8_0 tensor -----------------------------------------------------------------------------


def solve_q8_bytes(rows: int, columns: int) -> int:
    """Bytes of a matrix in q8_0."""
    blocks = rows * columns // 32
    return blocks * (32 * 1 + 2)  # 32 int8 and one fp16 scale


_Q8_MISTAKES: tuple[tuple[Callable[[int, int], float], str, str], ...] = (
    (
        lambda rows, columns: rows * columns,
        "Đó là các số int8 thôi. Mỗi khối 32 trọng số còn một thang đo fp16: thêm 2 byte.",
        "That is the int8 numbers alone. Each block of 32 has an fp16 scale too: 2 bytes more.",
    ),
    (
        lambda rows, columns: rows * columns // 32 * 36,
        "Thang đo của q8_0 là fp16 (2 byte), không phải fp32.",
        "The scale of q8_0 is fp16 (2 bytes) and not fp32.",
    ),
    (
        lambda rows, columns: rows * columns // 32 * 33,
        "Thang đo fp16 chiếm 2 byte, không phải 1.",
        "An fp16 scale takes 2 bytes and not 1.",
    ),
    (
        lambda rows, columns: rows * columns + 2 * rows,
        "Bạn tính một thang đo cho mỗi hàng. q8_0 có một thang đo cho mỗi khối 32 trọng số.",
        "You count one scale a row. q8_0 has one for each block of 32 weights.",
    ),
    (
        lambda rows, columns: rows * columns // 32 * 34 * 8,
        "Đó là số bit. Đề hỏi số byte: chia cho 8.",
        "Those are bits. The question is in bytes: divide by 8.",
    ),
    (
        lambda rows, columns: rows * columns * 2,
        "2 byte mỗi trọng số là f16. q8_0 giữ mỗi trọng số trong 1 byte, cộng thang đo của khối.",
        "2 bytes a weight is f16. q8_0 keeps a weight in 1 byte, plus the scale of its block.",
    ),
    (
        lambda rows, columns: rows * columns // 32,
        "Đó là số khối. Mỗi khối chiếm bao nhiêu byte?",
        "That is the number of blocks. How many bytes does each take?",
    ),
)


def _judge_q8_bytes(q8_bytes: Callable[[int, int], float]) -> None:
    shapes = ((3072, 3072), (1, 32), (256, 2048))
    answers = [q8_bytes(*shape) for shape in shapes]
    if answers == [solve_q8_bytes(*shape) for shape in shapes]:
        return
    for mistake, vi, en in _Q8_MISTAKES:
        if answers == [mistake(*shape) for shape in shapes]:
            raise Wrong(vi=vi, en=en)
    for (rows, columns), got in zip(shapes, answers, strict=True):
        if got != (want := solve_q8_bytes(rows, columns)):
            raise Wrong(
                vi=f"{rows} x {columns} là {rows * columns // 32} lần 32 trọng số, chiếm {want} byte; bạn "
                f"trả về {got}.",
                en=f"{rows} x {columns} is {rows * columns // 32} times 32 weights and takes {want} bytes; "
                f"you gave {got}.",
            )


q8_bytes = Exercise(
    title={
        "vi": "Bài tập 4. Một ma trận rows x columns ở q8_0 chiếm bao nhiêu byte?",
        "en": "Exercise 4. How many bytes does a matrix of rows x columns take in q8_0?",
    },
    judge=_judge_q8_bytes,
    hints=(
        {
            "vi": "Một khối là 32 trọng số: 32 số int8 và một thang đo fp16 dùng chung.",
            "en": "A block is 32 weights: 32 numbers of int8 and one fp16 scale that they share.",
        },
        {
            "vi": "int8 là 1 byte, fp16 là 2 byte: 34 byte một khối. Có bao nhiêu khối?",
            "en": "int8 is 1 byte, fp16 is 2: 34 bytes a block. How many blocks are there?",
        },
    ),
    solve=solve_q8_bytes,
    praise={
        "vi": "34 byte cho 32 trọng số là 8,5 bit, không phải 8. q4_k: 144 byte cho 256 trọng số, tức 4,5 "
        "bit, không phải 4.",
        "en": "34 bytes for 32 weights are 8.5 bits and not 8. q4_k: 144 bytes for 256 weights, 4.5 bits "
        "and not 4.",
    },
    start=unwritten,
)
