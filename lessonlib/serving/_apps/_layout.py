"""A chat template taken apart into what stands around each message, and put together for other programs.

Most chat templates do one thing: they put fixed text before and after each message, by its role. Where that
is so, found out by trying, the same can be said in any template language.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from lessonlib.runtime._language import LessonError
from lessonlib.serving._llama import ChatFormat, Message

_SYSTEM, _USER, _ANSWER, _NEXT = (
    f"lessonlib {word} lessonlib" for word in ("system", "user", "answer", "next")
)
# Braces, quotes and white space as people write them: a template must let them through as they are.
_TRIALS = (
    ("Hỏi?",),
    ("Q {{ .Content }} {% x %}", 'A "quoted" answer\n\nwith a paragraph', "Next?"),
    ("1", "2", "3", "4", "5"),
)


@dataclass(frozen=True)
class Layout:
    """Fixed text around the messages.

    Args:
        bos: opens every conversation; programs that put it themselves leave it out.
        before_system, after_system: around the system message.
        before_user, after_user: around each message of the user.
        before_answer, after_answer: around each answer that has been given.
        opening: after the last question, where the next answer begins.
        always_system: the two texts around the system message are there without one, too.
        dated: a date stands in these texts, and the template would write another one on another day.
    """

    bos: str
    before_system: str
    after_system: str
    before_user: str
    after_user: str
    before_answer: str
    after_answer: str
    opening: str
    always_system: bool
    dated: bool

    def join(self, messages: Sequence[Message]) -> str:
        """The conversation as text, up to where the answer begins."""
        parts = [self.bos]
        if self.always_system and messages[0]["role"] != "system":
            parts.append(self.before_system + self.after_system)
        around = {
            "system": (self.before_system, self.after_system),
            "user": (self.before_user, self.after_user),
            "assistant": (self.before_answer, self.after_answer),
        }
        for message in messages:
            before, after = around[message["role"]]
            parts.append(before + message["content"].strip() + after)
        return "".join([*parts, self.opening])

    def go(self) -> str:
        """As a template for Ollama, which puts BOS itself.

        There is no white space in it that is not in the prompt. Ollama hands over `.System` (all system
        messages) and `.Messages` (all messages, those of the system among them).
        https://github.com/ollama/ollama/blob/main/docs/template.mdx
        """
        system = f"{_go(self.before_system)}{{{{ .System }}}}{_go(self.after_system)}"
        if not self.always_system:
            system = f"{{{{ if .System }}}}{system}{{{{ end }}}}"
        user = f"{_go(self.before_user)}{{{{ .Content }}}}{_go(self.after_user)}"
        answer = f"{_go(self.before_answer)}{{{{ .Content }}}}{_go(self.after_answer)}"
        return (
            f'{system}{{{{ range .Messages }}}}{{{{ if eq .Role "user" }}}}{user}'
            f'{{{{ else if eq .Role "assistant" }}}}{answer}{{{{ end }}}}{{{{ end }}}}{_go(self.opening)}'
        )

    def jinja(self) -> str:
        """As a Jinja template for GPT4All, in the little Jinja that it understands.

        Its Jinja cannot assign to `messages`, as Llama 3.2's own template does
        (https://github.com/nomic-ai/gpt4all/issues/3309).
        """
        system = f"{_jinja(self.before_system)} + messages[0]['content'] | trim + {_jinja(self.after_system)}"
        without = f"{{{{- {_jinja(self.before_system + self.after_system)} }}}}" if self.always_system else ""
        lines = [
            "{{- bos_token }}" if self.bos else "",
            "{%- if messages[0]['role'] == 'system' %}",
            f"    {{{{- {system} }}}}",
            *(["{%- else %}", f"    {without}"] if without else []),
            "{%- endif %}",
            "{%- for message in messages %}",
        ]
        for word, role, before, after in (
            ("if", "user", self.before_user, self.after_user),
            ("elif", "assistant", self.before_answer, self.after_answer),
        ):
            lines += [
                f"    {{%- {word} message['role'] == '{role}' %}}",
                f"        {{{{- {_jinja(before)} + message['content'] | trim + {_jinja(after)} }}}}",
            ]
        lines += [
            "    {%- endif %}",
            "{%- endfor %}",
            "{%- if add_generation_prompt %}",
            f"    {{{{- {_jinja(self.opening)} }}}}",
            "{%- endif %}",
        ]
        return "\n".join(line for line in lines if line)


def layout(form: ChatFormat) -> Layout:
    """Take a chat template apart, and make sure that the parts say all of it.

    A date that the template would write anew each day becomes fixed: today's.

    Args:
        form: what `_llama.chat_format` read from the file.

    Raises:
        LessonError: the template does more than to put fixed text around messages, or has no system role.
    """
    fixed = {"date_string": datetime.now().strftime("%d %b %Y")}

    def write(*contents: str, system: str | None = None, ask: bool = True) -> str:
        return form.render(_conversation(contents, system), ask=ask, options=fixed).removeprefix(form.bos)

    try:
        whole = write(_USER, _ANSWER, _NEXT, system=_SYSTEM)
        before_system, rest = whole.split(_SYSTEM)
        _, rest = rest.split(_USER)
        _, rest = rest.split(_ANSWER)
        _, last = rest.split(_NEXT)
        after_system = write(system=_SYSTEM, ask=False).split(_SYSTEM)[1]
        before_user = whole.split(_SYSTEM)[1].split(_USER)[0].removeprefix(after_system)
        after_user = write(_USER, system=_SYSTEM, ask=False).split(_USER)[1]
        after_answer = write(_USER, _ANSWER, system=_SYSTEM, ask=False).split(_ANSWER)[1]
        before_answer = whole.split(_USER)[1].split(_ANSWER)[0].removeprefix(after_user)
        opening = last.removeprefix(after_user)
        alone = write(_USER)
    except (ValueError, IndexError) as error:  # a part occurs twice, or not at all
        raise _irregular(str(error)) from error
    bos = form.bos if form.render(_conversation((_USER,), None), options=fixed).startswith(form.bos) else ""
    other_day = form.render(_conversation((_USER,), None), options={"date_string": "01 Feb 2003"})
    found = Layout(
        bos, before_system, after_system, before_user, after_user, before_answer, after_answer, opening,
        always_system=alone.startswith(before_system + after_system + before_user),
        dated=other_day.removeprefix(form.bos) != alone,
    )  # fmt: skip
    simple = replace(form, template=found.jinja())
    for contents in _TRIALS:
        for system in (None, "Bạn là trợ lý {{ .System }}."):
            messages = _conversation(contents, system)
            wanted = form.render(messages, options=fixed)
            if found.join(messages) != wanted or simple.render(messages) != wanted:
                raise _irregular(contents[0])
    return found


def _conversation(contents: Sequence[str], system: str | None) -> list[dict[str, str]]:
    """The contents as turns of user and assistant, after a system message if there is one."""
    turns = [
        {"role": ("user", "assistant")[number % 2], "content": content}
        for number, content in enumerate(contents)
    ]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


def _go(text: str) -> str:
    return text.replace("{{", '{{ "{{" }}')


def _jinja(text: str) -> str:
    """A string literal; JSON's escapes are Jinja's too."""
    return json.dumps(text, ensure_ascii=False)


def _irregular(where: str) -> LessonError:
    return LessonError(
        "This file's chat template does more than to put fixed text around each message, so it cannot be "
        "turned into a template for Ollama or GPT4All ({where!r} shows it). Write one by their "
        "documentation.",
        where=where,
    )
