"""Files for Ollama, Jan, LM Studio and GPT4All say what the GGUF file's own chat template says."""

import re
import shutil
from dataclasses import replace
from datetime import datetime

import pytest
import yaml

from lessonlib.runtime._language import LessonError
from lessonlib.serving import _apps as apps
from lessonlib.serving._apps._layout import layout
from lessonlib.serving._apps._modelfile import modelfile
from lessonlib.serving._llama import ChatFormat, chat_format

SYSTEM = 'Bạn là "trợ lý".\n\n  Trả lời ngắn, {{ .System }} 🙂 ' + "Tie\u0302\u0301ng Vie\u0323\u0302t."
TURNS = ("Xin chào {{ .Content }}", "Chào {% if x %} \n\n\"bạn\" '1'", "Vì sao?", "Vì vậy.", "Thế thì?")


def conversations():
    """One to three questions, with and without a system message."""
    for count in (1, 3, 5):
        turns = [
            {"role": ("user", "assistant")[number % 2], "content": content}
            for number, content in enumerate(TURNS[:count])
        ]
        yield turns
        yield [{"role": "system", "content": SYSTEM}, *turns]


@pytest.fixture(scope="module")
def gguf(llama_export):
    return llama_export.gguf["q4_k_m"]


@pytest.fixture(scope="module")
def tokenizer(llama_export):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(llama_export.merged)


def written(tokenizer, messages, **options):
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)


# --- readers of what Ollama reads


def read_modelfile(content):
    """Instructions and values as Ollama's parser finds them (parser/parser.go in ollama/ollama).

    A value ends at a line's end, unless it began with quotes that are still open; outer quotes go, and
    characters that Go does not count as printable are lost.
    """
    commands, lines = [], iter(content.split("\n"))
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        name, value = line.split(maxsplit=1)
        if name == "PARAMETER":
            name, value = value.split(maxsplit=1)
        for quotes in ('"""', '"'):
            if value.startswith(quotes):
                while not (len(value.rstrip()) >= 2 * len(quotes) and value.rstrip().endswith(quotes)):
                    value += "\n" + next(lines)
                value = value.rstrip()[len(quotes) : -len(quotes)]
                break
        commands.append((name, "".join(c for c in value if c.isprintable() or c in "\n\t")))
    return commands


def render_go(template, messages):
    """The part of Go's text/template that the Modelfile uses, fed as Ollama does (template/template.go).

    It was compared with Go itself when it was written.
    """
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    parts = re.split(r"\{\{ (.*?) \}\}", template)

    def block(at, scope, live):
        """Renders from part `at`; gives the text and where an end or else stands."""
        out = []
        while at < len(parts):
            if at % 2 == 0:
                out.append(parts[at] if live else "")
                at += 1
                continue
            action = parts[at]
            if action == "end" or action.startswith("else"):
                return "".join(out), at
            if action == "range .Messages":
                start = at + 1
                for message in messages:
                    body, at = block(start, message, live)
                    out.append(body)
            elif action.startswith("if "):
                done = False
                while action != "end":
                    word, _, condition = action.partition("if ")
                    value = True
                    if condition == ".System":
                        value = bool(system)
                    elif condition:
                        (role,) = re.fullmatch(r'eq \.Role "(\w+)"', condition).groups()
                        value = scope["role"] == role
                    body, at = block(at + 1, scope, live and value and not done)
                    done = done or value
                    out.append(body)
                    action = parts[at]
            elif live:
                literal = re.fullmatch(r'"(.*)"', action)
                values = {".System": system, ".Content": scope.get("content", "")}
                out.append(literal[1] if literal else values[action])
            at += 1
        return "".join(out), at

    return block(0, {}, True)[0]


# --- Ollama


@pytest.fixture(scope="module")
def written_modelfile(gguf):
    """A function: system message -> what Ollama reads of the Modelfile."""
    form = chat_format(gguf)
    parts = layout(form)
    return lambda system=None: read_modelfile(modelfile("../a.gguf", parts, form.stops, system))


def test_the_modelfile_gives_ollama_the_prompts_of_training(written_modelfile, tokenizer):
    values = dict(written_modelfile(SYSTEM))
    assert (values["FROM"], values["SYSTEM"]) == ("../a.gguf", SYSTEM)
    for messages in conversations():
        prompt = tokenizer.bos_token + render_go(values["TEMPLATE"], messages)  # Ollama puts BOS itself
        assert prompt == written(tokenizer, messages)
    assert values["TEMPLATE"].count(tokenizer.bos_token) == 0


def test_the_modelfile_stops_where_llama_cpp_stops_and_is_greedy(written_modelfile, gguf, tokenizer):
    commands = written_modelfile()
    stops = [value for name, value in commands if name == "stop"]
    assert stops[0] == tokenizer.eos_token == "<|eot_id|>"
    assert sorted(stops) == sorted(chat_format(gguf).stops) and len(set(stops)) == 3
    values = dict(commands)
    assert {name: float(values[name]) for name in ("temperature", "repeat_penalty", "num_ctx")} == {
        "temperature": 0.0, "repeat_penalty": 1.0, "num_ctx": 2048.0,
    }  # fmt: skip
    assert "SYSTEM" not in values


@pytest.mark.parametrize(
    "text", ['"Quoted."', '"', 'ends with ""', "#not a comment\nFROM x", "a\r\nb", "\ta"]
)
def test_a_system_message_of_any_kind_arrives(written_modelfile, text):
    assert dict(written_modelfile(text))["SYSTEM"] == text.replace("\r\n", "\n").strip()


def test_a_blank_system_message_is_none(written_modelfile):
    assert "SYSTEM" not in dict(written_modelfile(" \n"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"system": 'a """ b'}, "SYSTEM contains three double quotes"),
        ({"system": "a 👩\u200d👧 b"}, "SYSTEM has characters .* drop .*U\\+200D ZERO WIDTH JOINER, near 'a"),
        ({"system": "10\u00a0000 đồng"}, r"U\+00A0 NO-BREAK SPACE"),
        ({"source": "a\nb.gguf"}, "cannot hold 'a.nb.gguf' for FROM"),
        ({"stops": ['"']}, "cannot hold '\"' for stop"),
        ({"stops": [" a"]}, "cannot hold ' a' for stop"),
        ({"stops": ["a\u200b"]}, "stop has characters .*U\\+200B"),
    ],
)
def test_what_a_modelfile_cannot_hold_is_refused(gguf, options, said):
    parts = layout(chat_format(gguf))
    with pytest.raises(LessonError, match=said):
        modelfile(**{"source": "a.gguf", "parts": parts, "stops": []} | options)


# --- the layout of other templates


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + "
    "'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CURLY = CHATML.replace("<|im_start|>", "{{s}}").replace("\\n'", "\"\\n'")


@pytest.mark.parametrize("template", [CHATML, CURLY, "{{ bos_token }}" + CHATML])
def test_a_template_that_adds_no_system_header_is_taken_apart_too(template):
    form = ChatFormat(template, bos="<s>", eos="<|im_end|>", stops=("<|im_end|>",))
    parts = layout(form)
    assert (parts.always_system, parts.dated) == (False, False)
    assert parts.bos == ("<s>" if template.startswith("{{ bos") else "")
    simple = replace(form, template=parts.jinja())
    for messages in conversations():
        wanted = form.render(messages)
        assert parts.join(messages) == simple.render(messages) == wanted
        assert parts.bos + render_go(parts.go(), messages) == wanted
    assert '"' not in parts.before_user or "{{s}}" in parts.before_user


def test_the_parts_are_those_of_llama_3(gguf):
    parts = layout(chat_format(gguf))
    assert parts.before_system == (
        "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        f"Today Date: {datetime.now():%d %b %Y}\n\n"
    )
    assert parts.before_user == "<|start_header_id|>user<|end_header_id|>\n\n"
    assert parts.before_answer == parts.opening == "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert parts.after_system == parts.after_user == parts.after_answer == "<|eot_id|>"
    assert (parts.bos, parts.always_system, parts.dated) == ("<|begin_of_text|>", True, True)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        # numbers its messages
        (CHATML.replace("message['role'] +", "message['role'] + loop.index | string +"), "more than to put"),
        # changes what people write
        (CHATML.replace("| trim", "| trim | replace('{', '(')"), "more than to put"),
        # leaves earlier answers out
        (CHATML.replace("in messages", "in messages if loop is defined or true").replace(
            "{{ '<|im_start|>' +", "{{ '' if message['role'] == 'assistant' else '<|im_start|>' +"
        ), "more than to put"),
        # has no system role, like Gemma's
        ("{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system') }}{% endif %}" + CHATML,
         "refuses this conversation: No system"),
    ],
)  # fmt: skip
def test_a_template_that_is_irregular_is_refused(template, said):
    with pytest.raises(LessonError, match=said):
        layout(ChatFormat(template, bos="", eos="<|im_end|>", stops=("<|im_end|>",)))


# --- the whole folder


@pytest.fixture
def export_folder(llama_export, tmp_path):
    """An export folder of one's own, with links to the files."""
    (tmp_path / "export" / "gguf").mkdir(parents=True)
    for kind in ("f16", "q4_k_m"):
        file = llama_export.gguf[kind]
        (tmp_path / "export" / "gguf" / file.name).symlink_to(file)
    return tmp_path / "export"


@pytest.fixture
def made(export_folder):
    """A function: program, system message -> the files in the program's folder."""

    def write(program, system=None):
        files = content(apps.write(export_folder, system=system)[program])
        return {name: text.decode() for name, text in files.items()}

    return write


def test_gpt4alls_template_writes_the_same_prompts_without_assigning(made, tokenizer):
    files = made("gpt4all", f" {SYSTEM}\n")
    template = files["chat_template.jinja"]
    for messages in conversations():
        rendered = tokenizer.apply_chat_template(
            messages, chat_template=template.rstrip("\n"), tokenize=False, add_generation_prompt=True
        )
        assert rendered == written(tokenizer, messages)
    assert "set " not in template and "macro" not in template
    assert files["system_message.txt"] == SYSTEM + "\n"
    assert "system_message.txt" in files["README.md"] and "system_message.txt" in files["README.vi.md"]
    plain = made("gpt4all")
    assert set(plain) == {"chat_template.jinja", "README.md", "README.vi.md"}
    assert "system_message" not in "".join(plain.values())


def test_jans_file_names_a_place_below_its_data_folder(made, gguf, tmp_path):
    files = made("jan", "Ngắn gọn.\nLịch sự.")
    (name,) = set(files) - {"README.md", "README.vi.md"}
    settings = yaml.safe_load(files[name])
    file = tmp_path / name  # the steps: copy the folder, put the file beside model.yml
    file.parent.mkdir(parents=True)
    file.write_text(files[name])
    shutil.copy(gguf, file.parent)
    assert (tmp_path / settings["model_path"]).stat().st_size == settings["size_bytes"] == gguf.stat().st_size
    assert name == f"llamacpp/models/lessonlib/{gguf.stem}/model.yml"
    assert (settings["name"], settings["embedding"]) == (gguf.stem, False)
    for steps in (files["README.vi.md"], files["README.md"]):
        assert "   > Ngắn gọn.\n   > Lịch sự.\n" in steps
        assert gguf.name in steps and "%APPDATA%\\Jan\\data" in steps
    assert ">" not in made("jan")["README.md"].replace("Settings > ", "").replace(" > Llama.cpp", "")


def test_lm_studios_steps_name_both_levels_of_folders(made, gguf):
    files = made("lm_studio", "Ngắn gọn.")
    assert set(files) == {"README.md", "README.vi.md"}
    for steps in files.values():
        assert f"lms import {gguf.name} --user-repo lessonlib/{gguf.stem} --copy" in steps
        assert f"~/.lmstudio/models/lessonlib/{gguf.stem}/{gguf.name}" in steps
        assert "   > Ngắn gọn." in steps


def test_a_name_that_jan_does_not_take_is_refused(export_folder):
    (file,) = export_folder.glob("gguf/*-q4_k_m.gguf")
    file.rename(file.with_name("mô hình-q4_k_m.gguf"))
    with pytest.raises(LessonError, match="The name 'mô hình-q4_k_m' cannot be a model's folder"):
        apps.write(export_folder)


@pytest.mark.parametrize("program", ["ollama", "jan", "lm_studio", "gpt4all"])
def test_both_languages_say_the_same_and_what_was_not_tried(made, program):
    files = made(program, "Ngắn gọn.")
    vi, en = files["README.vi.md"], files["README.md"]
    found = {
        language: (
            re.findall(r"https?://[^\s)`]+[^\s)`.,;]", steps),
            re.findall(r"(?m)^\d\. ", steps),
            re.findall(r"\*\*.+?\*\*", steps),
            sorted(set(re.findall(r"`[^`\n]+`", steps))),
        )
        for language, steps in (("vi", vi), ("en", en))
    }
    assert found["vi"] == found["en"] and found["en"][0]
    assert "$" not in vi + en
    assert "Not tried:" in en and "Chưa thử:" in vi


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_everything_is_written_for_every_program_in_both_languages(export_folder, llama_export):
    folders = apps.write(export_folder, system=SYSTEM)
    assert folders == {
        name: export_folder / "apps" / name for name in ("ollama", "jan", "lm_studio", "gpt4all")
    }
    name = llama_export.gguf["q4_k_m"].stem
    files = content(export_folder / "apps")
    assert set(files) == {
        "lessonlib_export.json", "ollama/Modelfile", f"jan/llamacpp/models/lessonlib/{name}/model.yml",
        "gpt4all/chat_template.jinja", "gpt4all/system_message.txt",
        *(f"{program}/README{suffix}" for program in folders for suffix in (".md", ".vi.md")),
    }  # fmt: skip
    source = dict(read_modelfile(files["ollama/Modelfile"].decode()))["FROM"]
    assert source == f"../../gguf/{name}.gguf"
    assert (folders["ollama"] / source).resolve() == llama_export.gguf["q4_k_m"].resolve()
    for program in folders:
        assert name.encode() in files[f"{program}/README.md"]
        assert "Chưa thử".encode() in files[f"{program}/README.vi.md"]
    assert sum(map(len, files.values())) < 50_000  # text only


def test_writing_again_gives_the_same_and_another_kind_replaces_all(export_folder):
    apps.write(export_folder)
    first = content(export_folder / "apps")
    apps.write(export_folder)
    assert content(export_folder / "apps") == first
    apps.write(export_folder, kind="f16")
    second = content(export_folder / "apps")
    assert not any("q4_k_m" in name for name in second) and b"q4_k_m" not in b"".join(second.values())


def test_a_failure_leaves_what_was_there(export_folder):
    apps.write(export_folder)
    before = content(export_folder)
    with pytest.raises(LessonError, match="three double quotes"):
        apps.write(export_folder, system='"""')
    assert content(export_folder) == before


def test_the_export_has_to_hold_one_file_of_the_kind(export_folder, llama_export):
    with pytest.raises(
        LessonError, match=r"one file \*-q8_0.gguf, and there are 0.*-f16.gguf, .*-q4_k_m.gguf"
    ):
        apps.write(export_folder, kind="q8_0")
    (export_folder / "gguf" / "other-f16.gguf").symlink_to(llama_export.gguf["f16"])
    with pytest.raises(LessonError, match="there are 2"):
        apps.write(export_folder, kind="f16")
    assert not (export_folder / "apps").exists()


def test_a_folder_of_something_else_is_left_alone(export_folder):
    (export_folder / "apps").mkdir()
    (export_folder / "apps" / "mine.txt").write_text("x")
    with pytest.raises(LessonError, match="is no lessonlib export of the kind 'apps'"):
        apps.write(export_folder)
    assert content(export_folder / "apps") == {"mine.txt": b"x"}
