"""What a model wrote, taken apart: its thought, its calls, and the text around them.

A program can rely on a call only if it knows why another could not be read, so nothing is guessed in silence:
what was tolerated stands in `repaired`, what could not be read in `problems`. Nothing is ever evaluated, and
the text is gone over once, so a hostile one costs no more time than any other of its length.
"""

import re
from dataclasses import dataclass
from typing import Any

from lessonlib.runtime._language import LessonError, Translated, tr
from lessonlib.tools._literals import NotRead, read
from lessonlib.tools._lookalikes import shown
from lessonlib.tools._marks import END_MARKS, TAGS
from lessonlib.tools._shapes import calls

_LENGTH = 20_000  # letters of one answer
_CALLS = 20  # calls of one answer

_SILENT = ("<bos>", "<pad>", "<|python_tag|>")
_TAG = re.compile("|".join(map(re.escape, (*TAGS, *END_MARKS, *_SILENT))))
_END = re.compile("|".join(map(re.escape, END_MARKS)))
_OPEN_FENCE = re.compile(r"\s*+```[ \t]*+(?:[a-z_]+(?=[\s{\[]))?\s*+")
_CLOSE_FENCE = re.compile(r"\s*+```")
_FENCED = re.compile(r"```[ \t]*+(?:[a-z_]+(?=[\s{\[]))?(.*?)```", re.DOTALL)
_NAME = re.compile(r"""["']name["']\s*+:""")
_ARGUMENTS = re.compile(r"""["'](?:arguments|parameters)["']\s*+:""")

_REPAIRED = {
    "single_quotes": Translated("single quotes in place of double ones"),
    "python_words": Translated("Python's True, False, None"),
    "python_escape": Translated("an escape of Python in a string"),
    "trailing_comma": Translated("a comma before a closing bracket"),
    "raw_control": Translated("a line break inside a string"),
    "code_fence": Translated("a code fence around the call"),
    "parameters": Translated("'parameters' in place of 'arguments'"),
    "arguments_text": Translated("arguments as JSON text"),
    "no_arguments": Translated("no 'arguments': none are taken"),
    "wrapped": Translated("the call inside 'function'"),
    "list": Translated("several calls in one tag"),
    "no_end_tag": Translated("</tool_call> is missing"),
    "no_tag": Translated("a call without <tool_call>"),
    "no_think_tag": Translated("<think> is missing"),
    "open_thought": Translated("</think> is missing"),
    "thought_call": Translated("a call inside <think> was passed over"),
    "made_up": Translated("the model made up a <tool_response>; all from there on was dropped"),
    "after_end": Translated("text after the end of the turn was dropped"),
}


@dataclass(frozen=True)
class Parsed:
    """One answer of a model, taken apart.

    Attributes:
        thinking: what stood in <think>, "" where that is empty; None without one.
        calls: the calls that could be read, in order, each {"name": str, "arguments": dict}. Whether they fit
            any tool is another question: `tools.check`.
        content: the text outside of thought and calls.
        problems: why something that looks like a call could not be read. Where there are calls too, whoever
            executes has to decide whether half an answer will do.
        repaired: what was tolerated or dropped. Problems and repairs are in the language of the notebook.
    """

    thinking: str | None
    calls: list[dict[str, Any]]
    content: str
    problems: list[str]
    repaired: list[str]


def parse(text: str) -> Parsed:
    """Takes a model's answer apart; see `Parsed`. An odd answer never raises.

    Tolerated and reported: code fences, single quotes and Python's True, False, None, trailing commas,
    "parameters" for "arguments", arguments as JSON text, a list of calls or several in one tag, a missing
    </tool_call>, and an answer without any tag that is nothing but the JSON of a call, or has it in a fence.
    A call inside <think> is a thought, not a call. From a <tool_response> that the model made up all is
    dropped, calls included.

    Refused, with the reason: more than _LENGTH letters or _CALLS calls (then none of them is returned), and
    what `_literals.read` refuses: deep nesting, duplicate keys, NaN, Infinity, expressions.

    Args:
        text: the answer, decoded with its tags (skip_special_tokens may stay on where they are no special
            tokens); from the first end-of-turn token on it is passed over.

    Raises:
        LessonError: where `text` is no text.
    """
    if not isinstance(text, str):
        raise LessonError(
            "parse takes text, not {name}. Decode the tokens with tokenizer.decode first.",
            name=type(text).__name__,
        )
    if len(text) > _LENGTH:
        problem = tr(
            "the answer has {count} letters, more than {length}: it was not read",
            count=len(text), length=_LENGTH,
        )
        return Parsed(None, [], text[:_LENGTH], [problem], [])
    return _Answer(text).parsed()


class _Answer:
    """The state of going over one answer from left to right."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.thoughts: list[str] = []
        self.content: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self.repaired: list[str] = []
        self.tagged = False
        self.too_many = False

    def parsed(self) -> Parsed:
        while self.step():
            pass
        content = "".join(self.content).strip()
        if not self.tagged:
            content = self.without_tags(content)
        if "thought_call" in self.repaired and not (self.calls or self.problems or content):
            self.problem(Translated("the only call stands inside <think>: that is a thought, not a call"))
        if self.too_many:
            self.calls = []
            self.problem(Translated(
                "more than {calls} calls in one answer: none of them is taken", calls=_CALLS,
            ))
        thinking = "\n".join(self.thoughts) if self.thoughts else None
        repaired = [str(_REPAIRED[code]) for code in dict.fromkeys(self.repaired)]
        return Parsed(thinking, self.calls, content, self.problems, repaired)

    def problem(self, problem: Translated) -> None:
        self.problems.append(str(problem))

    def step(self) -> bool:
        """Goes on to behind the next tag; False where the answer ends."""
        found = _TAG.search(self.text, self.at)
        self.content.append(self.text[self.at : found.start() if found else None])
        if found is None:
            return False
        tag, self.at = found[0], found.end()
        if tag == "<think>":
            self.think()
        elif tag == "</think>" and not self.thoughts and not self.tagged:
            self.thoughts.append("".join(self.content).strip())  # the prompt may have opened the thought
            self.content.clear()
            self.repaired.append("no_think_tag")
        elif tag == "<tool_call>":
            self.tagged = True
            self.call()
            self.too_many = len(self.calls) + len(self.problems) > _CALLS
            return not self.too_many
        elif tag == "<tool_response>":
            self.repaired.append("made_up")
            return False
        elif tag in END_MARKS:
            if _TAG.sub("", self.text[self.at :]).strip():
                self.repaired.append("after_end")
            return False
        return True

    def think(self) -> None:
        end = self.text.find("</think>", self.at)
        if end >= 0:
            thought, self.at = self.text[self.at : end], end + len("</think>")
            if "<tool_call>" in thought:
                self.repaired.append("thought_call")
        else:
            last = _END.search(self.text, self.at)
            end = last.start() if last else len(self.text)
            thought, self.at = self.text[self.at : end], end
            self.repaired.append("open_thought")
            if "<tool_call>" in thought:
                self.problem(Translated(
                    "a call inside a <think> that is never closed: it may be a thought or a call",
                ))
        self.thoughts.append(thought.strip())

    def call(self) -> None:
        """Reads what one <tool_call> holds: all of it becomes calls, or none."""
        found: list[dict[str, Any]] = []
        fence = _OPEN_FENCE.match(self.text, self.at)
        repaired = ["code_fence"] if fence else []
        self.at = fence.end() if fence else self.at
        try:
            while True:
                value, self.at, tolerated = read(self.text, self.at)
                found += calls(value, repaired)
                repaired += tolerated
                fence = _CLOSE_FENCE.match(self.text, self.at)
                self.at = fence.end() if fence else self.at
                if not self.text[self.at :].lstrip().startswith(("{", "[")) or len(found) > _CALLS:
                    break
                repaired.append("list")
            if len(found) <= _CALLS:
                self.close(repaired)
        except NotRead as reason:
            after = _TAG.search(self.text, self.at)
            while after and after[0] in _SILENT:
                after = _TAG.search(self.text, after.end())
            self.at = after.start() if after else len(self.text)
            number = len(self.calls) + len(self.problems) + 1
            self.problem(Translated("call {number}: {reason}", number=number, reason=reason.message))
            return
        self.calls += found
        self.repaired += repaired

    def close(self, repaired: list[str]) -> None:
        """Passes </tool_call>; without one, what follows is text or the next tag."""
        after = _TAG.search(self.text, self.at)
        between = self.text[self.at : after.start() if after else None]
        if not after or after[0] != "</tool_call>":
            repaired.append("no_end_tag")
        elif between.strip():
            raise NotRead(
                "after the call's JSON there is more: {between}", between=shown(between.strip()[:30]),
            )
        else:
            self.at = after.end()

    def without_tags(self, content: str) -> str:
        """Calls of an answer that has no <tool_call>; returns the text that is left."""
        whole = content.startswith(("{", "["))
        parts = [content] if whole else _FENCED.findall(content)
        found: list[dict[str, Any]] = []
        repaired: list[str] = []
        try:
            for part in parts:
                if not _looks_like_call(part):
                    continue
                value, end, tolerated = read(part)
                found += calls(value, repaired)
                repaired += [*tolerated, "no_tag", *([] if whole else ["code_fence"])]
                if part[end:].strip():
                    raise NotRead(
                        "after the call's JSON there is more: {part}", part=shown(part[end:].strip()[:30]),
                    )
        except NotRead as reason:
            self.problem(Translated("a call without its tag: {reason}", reason=reason.message))
            return content
        if not found:
            if _looks_like_call(content):
                self.problem(Translated(
                    "the JSON of a call stands in the midst of text, without <tool_call>",
                ))
            return content
        self.calls, self.too_many = found, len(found) > _CALLS
        self.repaired += repaired
        return "" if whole else _FENCED.sub(_unless_call, content).strip()


def _looks_like_call(text: str) -> bool:
    return bool(_NAME.search(text) and _ARGUMENTS.search(text))


def _unless_call(fenced: re.Match[str]) -> str:
    return "" if _looks_like_call(fenced[1]) else fenced[0]
