"""The exercises of lesson 03 (Llama 3.2 with Unsloth): one BOS, labels by hand, placeholders, and the export.

Each judge raises `Wrong` with a message for the mistake that learners really make; each `solve_*` is what the
lesson shows as the solution and what the tests run. Exercises 4 and 5 are in `lesson03_parity`, 6 and 7 in
`lesson03_template`; the lesson finds all of them here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lessonlib.exercises._exercise import Exercise, Wrong, unwritten
from lessonlib.exercises._label_mistakes import check_count, check_mask, check_shift
from lessonlib.exercises.lesson03._parity import kl, q8_bytes
from lessonlib.exercises.lesson03._template import llama_tokenizer, markers, modelfile


def _flat(given: Any) -> list[int]:
    """What the learner returned, if it is one list of whole numbers."""
    if isinstance(given, Mapping):
        raise Wrong(
            vi='tokenizer(...) trả về một từ điển. Hãy lấy ["input_ids"] của nó.',
            en='tokenizer(...) gives a dictionary. Take its ["input_ids"].',
        )
    numbers = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(numbers, str) or not isinstance(numbers, Sequence):
        raise Wrong(
            vi=f"Hãy trả về một danh sách số, bạn trả về {type(given).__name__}.",
            en=f"Return a list of numbers, you returned {type(given).__name__}.",
        )
    if any(isinstance(number, list | tuple) for number in numbers):
        raise Wrong(
            vi="Đó là danh sách lồng nhau. Cần một danh sách phẳng, mỗi token một số.",
            en="That is a list of lists. One flat list is wanted, with one number a token.",
        )
    if any(isinstance(number, str) for number in numbers):
        raise Wrong(
            vi="Đó là các mẩu chữ (token). Cần id của chúng: các số nguyên.",
            en="Those are pieces of text (tokens). Their ids are wanted: whole numbers.",
        )
    return list(numbers)


def _first_difference(got: Sequence[int], want: Sequence[int]) -> int:
    """The first position where two lists differ."""
    pairs = zip(got, want, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(got), len(want)))


# 1. Exactly one BOS ---------------------------------------------------------------------------------------

CONVERSATION = (
    {"role": "user", "content": "Đơn DH-2041 đang ở đâu?"},
    {"role": "assistant", "content": "Đơn DH-2041 sẽ đến ngày 12/3."},
)


def solve_one_bos(tokenizer: Any, text: str) -> list[int]:
    """The ids of a rendered conversation, with one BOS in front."""
    bare = text.replace(tokenizer.bos_token, "")  # whoever wrote it, and however often
    return [tokenizer.bos_token_id, *tokenizer(bare, add_special_tokens=False)["input_ids"]]


def _judge_one_bos(one_bos: Callable[[Any, str], Any]) -> None:
    tokenizer = llama_tokenizer()
    bos = tokenizer.bos_token
    rendered = tokenizer.apply_chat_template(list(CONVERSATION), tokenize=False, date_string="26 Jul 2024")
    bare = rendered.removeprefix(bos)
    want, eaten = solve_one_bos(tokenizer, bare), solve_one_bos(tokenizer, bare.lstrip(bos))
    for times in (1, 0, 2):
        got = _flat(one_bos(tokenizer, bos * times + bare))
        if got == want:
            continue
        if got == eaten or got == eaten[1:]:
            raise Wrong(
                vi="lstrip xóa từng ký tự nằm trong chuỗi đó, nên ăn mất cả `<|` của <|start_header_id|>. "
                "Hãy dùng removeprefix hoặc replace.",
                en="lstrip takes off single characters of that string, so it ate the `<|` of "
                "<|start_header_id|> too. Use removeprefix or replace.",
            )
        _judge_count_of_bos(got, want[0], times)
        if got[0] != want[0]:
            raise Wrong(
                vi=f"BOS nằm ở vị trí {got.index(want[0])}. Nó phải là token đầu tiên.",
                en=f"BOS is at position {got.index(want[0])}. It has to be the first token.",
            )
        if want[-1] not in got:
            raise Wrong(
                vi="<|eot_id|> mất rồi: bạn đã bỏ mọi token đặc biệt. Chỉ BOS thừa mới phải bỏ.",
                en="<|eot_id|> is gone: you took out every special token. Only a surplus BOS has to go.",
            )
        if got[: len(want)] == want:
            raise Wrong(
                vi=f"Thừa {got[len(want) :]} ở cuối: văn bản đã tự kết thúc bằng <|eot_id|>.",
                en=f"There is {got[len(want) :]} too much at the end: the text ends in its own <|eot_id|>.",
            )
        at = _first_difference(got, want)
        raise Wrong(
            vi=f"BOS đúng, nhưng từ vị trí {at} các token khác với văn bản. Chỉ được đụng đến BOS.",
            en=f"BOS is right, but from position {at} the tokens are not the text's. Change BOS only.",
        )


def _judge_count_of_bos(got: list[int], bos: int, times: int) -> None:
    found = got.count(bos)
    if found > 1 and times < 2:
        raise Wrong(
            vi=f"Có {found} BOS: chat template đã viết một, tokenizer(text) lại tự thêm một.",
            en=f"There are {found} BOS: the chat template wrote one, and tokenizer(text) added another.",
        )
    if found > 1:
        raise Wrong(
            vi=f"Văn bản này có sẵn 2 BOS và kết quả vẫn còn {found}. removeprefix chỉ bỏ một: dùng replace.",
            en=f"This text came with 2 BOS, and {found} are left. removeprefix takes off one: use replace.",
        )
    if found == 0:
        raise Wrong(
            vi=f"Với văn bản có sẵn {times} BOS, kết quả không có BOS nào. Hãy tự đặt nó lên đầu.",
            en=f"For a text that came with {times} BOS the result has none. Put it in front yourself.",
        )


one_bos = Exercise(
    title={
        "vi": "Bài tập 2. Tách token một văn bản đã dựng sẵn sao cho có đúng một BOS, không 0, không 2.",
        "en": "Exercise 2. Tokenise a rendered text so that it has exactly one BOS: not none, not two.",
    },
    judge=_judge_one_bos,
    hints=(
        {
            "vi": "`tokenizer(text, add_special_tokens=False)` không thêm gì. Khi đó BOS do ai viết?",
            "en": "`tokenizer(text, add_special_tokens=False)` adds nothing. Who writes BOS then?",
        },
        {
            "vi": "Bỏ mọi `tokenizer.bos_token` khỏi văn bản, rồi tự đặt `tokenizer.bos_token_id` lên đầu.",
            "en": "Take every `tokenizer.bos_token` out of the text, then put `tokenizer.bos_token_id` in "
            "front yourself.",
        },
    ),
    solve=solve_one_bos,
    praise={
        "vi": "Một BOS, dù văn bản từ đâu tới. Với `messages` thì không phải làm việc này: chat template và "
        "tokenizer không còn tranh nhau viết BOS.",
        "en": "One BOS, wherever the text came from. With `messages` none of this is needed: template and "
        "tokenizer no longer compete for it.",
    },
    start=unwritten,
)


# 2. Labels by hand ----------------------------------------------------------------------------------------


def solve_responses(ids: Sequence[int], header: Sequence[int], end: int) -> list[int]:
    """-100 but for what comes after an assistant header, up to and with the end of the turn."""
    labels, speaking = [], False
    for at, token in enumerate(ids):
        if ids[at - len(header) : at] == header:  # the header is complete just before this token
            speaking = True
        labels.append(token if speaking else -100)
        if token == end:
            speaking = False
    return labels


def _rows() -> list[tuple[list[int], list[int], int]]:
    """(ids, header, end): a question, two of them, and two with the longer header of another tokenizer."""
    bos, start, over, gap, eot = 128000, 128006, 128007, 271, 128009  # Llama 3.2's own
    header = [start, 78191, over, gap]
    system, user = [start, 9125, over, gap, 31, 32, eot], [start, 882, over, gap]
    first = [*user, 41, 78191, 42, eot, *header, 51, 52, 53, eot]  # 78191, "assistant", said by the user
    second = [*user, 43, eot, *header, 54, 55, eot]
    long = [6, 64, 65, 66, 7, 8, 8]
    other = [0, 6, 67, 7, 8, 8, 21, 9, *long, 22, 9, 6, 67, 7, 8, 8, 23, 9, *long, 24, 25, 9]
    return [
        ([bos, *system, *first], header, eot),
        ([bos, *system, *first, *second], header, eot),
        (other, long, 9),
    ]


def _judge_responses(responses: Callable[[list[int], list[int], int], Any]) -> None:
    for ids, header, end in _rows():
        got, want = _flat(responses(list(ids), list(header), end)), solve_responses(ids, header, end)
        if got == want:
            continue
        check_count(got, len(ids))
        check_mask(got)
        _judge_spans(ids, got, want, header, end)
        at = _first_difference(got, want)
        raise Wrong(
            vi=f"Ở vị trí {at} (token {ids[at]}) nhãn phải là {want[at]}, bạn trả về {got[at]}.",
            en=f"At position {at} (token {ids[at]}) the label should be {want[at]}, you gave {got[at]}.",
        )


def _judge_spans(
    ids: list[int], got: list[int], want: list[int], header: list[int], end: int
) -> None:
    """The mistakes that a row shows as a whole; `spans` are the answers, from first token to end token."""
    starts = [at for at in range(len(ids)) if ids[at - len(header) : at] == header]
    spans = [(start, ids.index(end, start) + 1) for start in starts]
    if got == ids:
        raise Wrong(
            vi="Mọi token đều tính loss, cả lời khách: mô hình sẽ học cách hỏi chứ không chỉ cách đáp.",
            en="Every token carries loss, the user's too: the model would learn to ask and not only to "
            "answer.",
        )
    if set(got) == {-100}:
        raise Wrong(
            vi="Không token nào tính loss: không tìm thấy header. Hãy so từng đoạn dài len(header).",
            en="No token carries loss: the header was not found. Compare slices of the length len(header).",
        )
    check_shift(got, want)
    for which, (vi, en) in ((0, ("đầu tiên", "first")), (-1, ("cuối cùng", "last"))):
        start, stop = spans[which]
        if len(spans) > 1 and got == [-100] * start + ids[start:stop] + [-100] * (len(ids) - stop):
            raise Wrong(
                vi=f"Chỉ lượt {vi} của trợ lý được tính loss. Mọi lượt của trợ lý đều phải được học.",
                en=f"Only the assistant's {en} turn carries loss. Each of its turns is to be learnt.",
            )
    outside = [at for at, label in enumerate(got) if label != -100 and want[at] == -100]
    if outside and outside[0] >= spans[0][1]:
        raise Wrong(
            vi=f"Từ vị trí {outside[0]} lời khách cũng tính loss. Sau <|eot_id|> là hết lượt của trợ lý.",
            en=f"From position {outside[0]} the user's words carry loss too. <|eot_id|> ends the turn.",
        )
    for start, stop in spans:
        if got[start - 1] != -100 and got[start] != -100:
            raise Wrong(
                vi=f"Header (vị trí {start - len(header)} đến {start - 1}) có tính loss. Prompt khi hỏi đã "
                "có sẵn nó: không phải học.",
                en=f"The header (positions {start - len(header)} to {start - 1}) carries loss. A prompt ends "
                "in it: nothing to learn.",
            )
        if got[stop - 1] == -100 and got[start] != -100:
            raise Wrong(
                vi=f"<|eot_id|> của trợ lý (vị trí {stop - 1}) bị che: mô hình sẽ không học được lúc nào "
                "phải dừng.",
                en=f"The assistant's <|eot_id|> (position {stop - 1}) is masked: the model will never learn "
                "when to stop.",
            )
    if outside:
        raise Wrong(
            vi=f"Vị trí {outside[0]} tính loss nhưng đứng trước lời trợ lý. Hãy so khớp cả header, không chỉ "
            "một token của nó.",
            en=f"Position {outside[0]} carries loss, but comes before the assistant speaks. Match the whole "
            "header and not one token of it.",
        )


responses = Exercise(
    title={
        "vi": "Bài tập 3. Viết nhãn bằng tay: chỉ tính loss trên mọi lượt của trợ lý và <|eot_id|> của nó.",
        "en": "Exercise 3. Labels by hand: loss on every turn of the assistant and its <|eot_id|>, no more.",
    },
    judge=_judge_responses,
    hints=(
        {
            "vi": "Đi từ trái sang phải và nhớ một điều: trợ lý có đang nói hay không?",
            "en": "Go from left to right and remember one thing: is the assistant speaking?",
        },
        {
            "vi": "Bắt đầu khi `ids[at - len(header) : at] == header`; thôi sau khi đã ghi nhãn cho `end`.",
            "en": "Begin when `ids[at - len(header) : at] == header`; stop after the label of `end` is "
            "written.",
        },
    ),
    solve=solve_responses,
    praise={
        "vi": "Đây là việc mà train_on_responses_only của Unsloth làm. Bây giờ bạn kiểm tra được nó.",
        "en": "This is what Unsloth's train_on_responses_only does. Now you can check it.",
    },
    start=unwritten,
)


# 3. Placeholders ------------------------------------------------------------------------------------------


def solve_fill(row: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str] | None:
    """The row with its placeholders filled in, or None where a value is missing."""
    filled = dict(row)
    for column in ("question", "answer"):
        for name, value in values.items():
            filled[column] = filled[column].replace("{{" + name + "}}", value)
        if "{{" in filled[column]:
            return None  # better no row than one that teaches the model to print {{...}}
    return filled


VALUES = {"Order Number": "DH-2041", "Website URL": "shop.example", "Person Name": "An"}
ORDERS: tuple[dict[str, str], ...] = (
    {
        "question": "Where is my order {{Order Number}}?",
        "answer": "See {{Website URL}}. {{Order Number}} is on its way; quote {{Order Number}} if you call.",
        "intent": "track_order",
    },
    {"question": "Are you open?", "answer": "Every day.", "intent": "store_hours"},
    {
        "question": "Cancel {{Order Number}}.",
        "answer": "Done. {{Refund Amount}} will be paid back.",
        "intent": "cancel_order",
    },
    {
        "question": "Upgrade my {{Account Type}} account.",
        "answer": "Please go to {{Website URL}}.",
        "intent": "account",
    },
)


def _judge_fill(fill: Callable[[dict[str, str], dict[str, str]], Any]) -> None:
    for row in ORDERS:
        got, want = fill(dict(row), dict(VALUES)), solve_fill(row, VALUES)
        if got == want:
            continue
        if got is not None and not isinstance(got, Mapping):
            raise Wrong(
                vi=f"Hãy trả về một dòng (dict) hoặc None, bạn trả về {type(got).__name__}.",
                en=f"Return a row (a dict) or None, you returned {type(got).__name__}.",
            )
        if got is None:
            raise Wrong(
                vi=f"Dòng {row['intent']!r} không thiếu giá trị nào, nên phải được giữ lại, không phải None.",
                en=f"The row {row['intent']!r} lacks no value, so it has to be kept: no None here.",
            )
        if want is None:
            _judge_unfilled(row, got)
        else:
            _judge_filled(row, got, want)


def _judge_unfilled(row: dict[str, str], got: Mapping[str, str]) -> None:
    left = [name for name in ("question", "answer") if "{{" in str(got.get(name))]
    if left:
        raise Wrong(
            vi=f"Cột {left[0]!r} của dòng {row['intent']!r} còn placeholder không có giá trị. Dòng như vậy "
            "phải là None, nếu không mô hình sẽ học cách in {{...}}.",
            en=f"The {left[0]!r} of the row {row['intent']!r} still holds a placeholder without a value. "
            "Such a row has to be None, or the model learns to print {{...}}.",
        )
    raise Wrong(
        vi=f"Ở dòng {row['intent']!r} bạn xóa hoặc bịa một placeholder không có giá trị: câu sẽ hỏng nghĩa. "
        "Hãy trả về None.",
        en=f"In the row {row['intent']!r} you removed or made up what has no value: the sentence loses its "
        "sense. Return None.",
    )


def _judge_filled(row: dict[str, str], got: Mapping[str, str], want: Mapping[str, str]) -> None:
    if missing := sorted(set(want) - set(got)):
        raise Wrong(
            vi=f"Thiếu cột {', '.join(missing)}: các cột khác phải giữ nguyên.",
            en=f"The column {', '.join(missing)} is missing: the other columns stay as they are.",
        )
    for name in ("question", "answer"):
        other = "answer" if name == "question" else "question"
        if got[name] == row[name] != want[name] and got[other] == want[other]:
            raise Wrong(
                vi=f"Bạn chưa thay gì trong {name!r}. Cả câu hỏi lẫn câu trả lời đều có placeholder.",
                en=f"Nothing was replaced in {name!r}. Question and answer both hold placeholders.",
            )
    both = f"{got['question']} {got['answer']}"
    if any("{" + value in both for value in VALUES.values()):
        raise Wrong(
            vi="Giá trị còn nằm trong ngoặc nhọn. Trong f-string, {{ chỉ in ra một ngoặc: hãy viết "
            "'{{' + name + '}}'.",
            en="A value is still in braces. In an f-string {{ prints only one brace: write '{{' + name + "
            "'}}'.",
        )
    if got["answer"].count("{{Order Number}}") == 1:  # of two
        raise Wrong(
            vi="Một placeholder đứng hai lần trong câu trả lời mà chỉ được thay một lần. Hãy thay mọi chỗ.",
            en="A placeholder stands in the answer twice and was replaced once. Replace every one.",
        )
    raise Wrong(
        vi=f"Dòng phải thành {dict(want)}, bạn trả về {dict(got)}.",
        en=f"The row should become {dict(want)}, you gave {dict(got)}.",
    )


fill = Exercise(
    title={
        "vi": "Bài tập 1. Thay placeholder như {{Order Number}} ở cả câu hỏi lẫn câu trả lời, hoặc bỏ dòng.",
        "en": "Exercise 1. Fill placeholders such as {{Order Number}} in question and answer, or drop the "
        "row.",
    },
    judge=_judge_fill,
    hints=(
        {
            "vi": "`str.replace` thay mọi chỗ. Chuỗi cần tìm là `'{{' + name + '}}'`.",
            "en": "`str.replace` replaces every place. The string to look for is `'{{' + name + '}}'`.",
        },
        {
            "vi": "Thay xong mà văn bản còn `{{` thì thiếu giá trị: trả về None. Hãy làm trên `dict(row)`.",
            "en": "If `{{` is left after that, a value is missing: return None. Work on `dict(row)`.",
        },
    ),
    solve=solve_fill,
    praise={
        "vi": "Cùng một giá trị ở hai phía: mô hình học cách chép mã đơn từ câu hỏi, không học in {{...}}.",
        "en": "The same value on both sides: the model learns to copy the order number from the question, "
        "not to print {{...}}.",
    },
    start=unwritten,
)

ALL = (fill, one_bos, responses, q8_bytes, kl, modelfile, markers)
