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
from lessonlib.runtime._language import Translated


def _flat(given: Any) -> list[int]:
    """What the learner returned, if it is one list of whole numbers."""
    if isinstance(given, Mapping):
        raise Wrong('tokenizer(...) gives a dictionary. Take its ["input_ids"].')
    numbers = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(numbers, str) or not isinstance(numbers, Sequence):
        raise Wrong("Return a list of numbers, you returned {name}.", name=type(given).__name__)
    if any(isinstance(number, list | tuple) for number in numbers):
        raise Wrong("That is a list of lists. One flat list is wanted, with one number a token.")
    if any(isinstance(number, str) for number in numbers):
        raise Wrong("Those are pieces of text (tokens). Their ids are wanted: whole numbers.")
    return list(numbers)


def _first_difference(got: Sequence[int], want: Sequence[int]) -> int:
    """The first position where two lists differ."""
    pairs = zip(got, want, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(got), len(want)))


# 1. Exactly one BOS ---------------------------------------------------------------------------------------

_CONVERSATION = (
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
    rendered = tokenizer.apply_chat_template(list(_CONVERSATION), tokenize=False, date_string="26 Jul 2024")
    bare = rendered.removeprefix(bos)
    want, eaten = solve_one_bos(tokenizer, bare), solve_one_bos(tokenizer, bare.lstrip(bos))
    for times in (1, 0, 2):
        got = _flat(one_bos(tokenizer, bos * times + bare))
        if got == want:
            continue
        if got == eaten or got == eaten[1:]:
            raise Wrong(
                "lstrip takes off single characters of that string, so it ate the `<|` of "
                "<|start_header_id|> too. Use removeprefix or replace.",
            )
        _judge_count_of_bos(got, want[0], times)
        if got[0] != want[0]:
            raise Wrong("BOS is at position {got}. It has to be the first token.", got=got.index(want[0]))
        if want[-1] not in got:
            raise Wrong("<|eot_id|> is gone: you took out every special token. Only a surplus BOS has to go.")
        if got[: len(want)] == want:
            raise Wrong(
                "There is {got} too much at the end: the text ends in its own <|eot_id|>.",
                got=got[len(want):],
            )
        at = _first_difference(got, want)
        raise Wrong(
            "BOS is right, but from position {at} the tokens are not the text's. Change BOS only.", at=at,
        )


def _judge_count_of_bos(got: list[int], bos: int, times: int) -> None:
    found = got.count(bos)
    if found > 1 and times < 2:
        raise Wrong(
            "There are {found} BOS: the chat template wrote one, and tokenizer(text) added another.",
            found=found,
        )
    if found > 1:
        raise Wrong(
            "This text came with 2 BOS, and {found} are left. removeprefix takes off one: use replace.",
            found=found,
        )
    if found == 0:
        raise Wrong(
            "For a text that came with {times} BOS the result has none. Put it in front yourself.",
            times=times,
        )


one_bos = Exercise(
    title=Translated(
        "Exercise 2. Tokenise a rendered text so that it has exactly one BOS: not none, not two.",
    ),
    judge=_judge_one_bos,
    hints=(
        Translated("`tokenizer(text, add_special_tokens=False)` adds nothing. Who writes BOS then?"),
        Translated(
            "Take every `tokenizer.bos_token` out of the text, then put `tokenizer.bos_token_id` in front "
            "yourself.",
        ),
    ),
    solve=solve_one_bos,
    praise=Translated(
        "One BOS, wherever the text came from. With `messages` none of this is needed: template and "
        "tokenizer no longer compete for it.",
    ),
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
            "At position {at} (token {ids}) the label should be {want}, you gave {got}.",
            at=at, ids=ids[at], want=want[at], got=got[at],
        )


def _judge_spans(ids: list[int], got: list[int], want: list[int], header: list[int], end: int) -> None:
    """The mistakes that a row shows as a whole; `spans` are the answers, from first token to end token."""
    starts = [at for at in range(len(ids)) if ids[at - len(header) : at] == header]
    spans = [(start, ids.index(end, start) + 1) for start in starts]
    if got == ids:
        raise Wrong(
            "Every token carries loss, the user's too: the model would learn to ask and not only to answer.",
        )
    if set(got) == {-100}:
        raise Wrong(
            "No token carries loss: the header was not found. Compare slices of the length len(header).",
        )
    check_shift(got, want)
    for at, which in ((0, Translated("first")), (-1, Translated("last"))):
        start, stop = spans[at]
        if len(spans) > 1 and got == [-100] * start + ids[start:stop] + [-100] * (len(ids) - stop):
            raise Wrong(
                "Only the assistant's {which} turn carries loss. Each of its turns is to be learnt.",
                which=which,
            )
    outside = [at for at, label in enumerate(got) if label != -100 and want[at] == -100]
    if outside and outside[0] >= spans[0][1]:
        raise Wrong(
            "From position {outside} the user's words carry loss too. <|eot_id|> ends the turn.",
            outside=outside[0],
        )
    for start, stop in spans:
        if got[start - 1] != -100 and got[start] != -100:
            raise Wrong(
                "The header (positions {start} to {start2}) carries loss. A prompt ends in it: nothing to "
                "learn.",
                start=start - len(header), start2=start - 1,
            )
        if got[stop - 1] == -100 and got[start] != -100:
            raise Wrong(
                "The assistant's <|eot_id|> (position {stop}) is masked: the model will never learn when to "
                "stop.",
                stop=stop - 1,
            )
    if outside:
        raise Wrong(
            "Position {outside} carries loss, but comes before the assistant speaks. Match the whole header "
            "and not one token of it.",
            outside=outside[0],
        )


responses = Exercise(
    title=Translated(
        "Exercise 3. Labels by hand: loss on every turn of the assistant and its <|eot_id|>, no more.",
    ),
    judge=_judge_responses,
    hints=(
        Translated("Go from left to right and remember one thing: is the assistant speaking?"),
        Translated(
            "Begin when `ids[at - len(header) : at] == header`; stop after the label of `end` is written.",
        ),
    ),
    solve=solve_responses,
    praise=Translated("This is what Unsloth's train_on_responses_only does. Now you can check it."),
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
_ORDERS: tuple[dict[str, str], ...] = (
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
    for row in _ORDERS:
        got, want = fill(dict(row), dict(VALUES)), solve_fill(row, VALUES)
        if got == want:
            continue
        if got is not None and not isinstance(got, Mapping):
            raise Wrong("Return a row (a dict) or None, you returned {name}.", name=type(got).__name__)
        if got is None:
            raise Wrong(
                "The row {row!r} lacks no value, so it has to be kept: no None here.", row=row["intent"],
            )
        if want is None:
            _judge_unfilled(row, got)
        else:
            _judge_filled(row, got, want)


def _judge_unfilled(row: dict[str, str], got: Mapping[str, str]) -> None:
    left = [name for name in ("question", "answer") if "{{" in str(got.get(name))]
    if left:
        raise Wrong(
            "The {left!r} of the row {row!r} still holds a placeholder without a value. Such a row has to "
            "be None, or the model learns to print {{{{...}}}}.",
            left=left[0], row=row["intent"],
        )
    raise Wrong(
        "In the row {row!r} you removed or made up what has no value: the sentence loses its sense. Return "
        "None.",
        row=row["intent"],
    )


def _judge_filled(row: dict[str, str], got: Mapping[str, str], want: Mapping[str, str]) -> None:
    if missing := sorted(set(want) - set(got)):
        raise Wrong(
            "The column {missing} is missing: the other columns stay as they are.",
            missing=", ".join(missing),
        )
    for name in ("question", "answer"):
        other = "answer" if name == "question" else "question"
        if got[name] == row[name] != want[name] and got[other] == want[other]:
            raise Wrong(
                "Nothing was replaced in {name!r}. Question and answer both hold placeholders.", name=name,
            )
    both = f"{got['question']} {got['answer']}"
    if any("{" + value in both for value in VALUES.values()):
        raise Wrong(
            "A value is still in braces. In an f-string {{ prints only one brace: write '{{' + name + '}}'.",
        )
    if got["answer"].count("{{Order Number}}") == 1:  # of two
        raise Wrong("A placeholder stands in the answer twice and was replaced once. Replace every one.")
    raise Wrong("The row should become {want}, you gave {got}.", want=dict(want), got=dict(got))


fill = Exercise(
    title=Translated(
        "Exercise 1. Fill placeholders such as {{Order Number}} in question and answer, or drop the row.",
    ),
    judge=_judge_fill,
    hints=(
        Translated("`str.replace` replaces every place. The string to look for is `'{{' + name + '}}'`."),
        Translated("If `{{` is left after that, a value is missing: return None. Work on `dict(row)`."),
    ),
    solve=solve_fill,
    praise=Translated(
        "The same value on both sides: the model learns to copy the order number from the question, not to "
        "print {{...}}.",
    ),
    start=unwritten,
)

ALL = (fill, one_bos, responses, q8_bytes, kl, modelfile, markers)
