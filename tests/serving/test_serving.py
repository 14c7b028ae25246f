"""An exported file answers in llama.cpp, GPT4All and over HTTP as transformers does; mistakes are named."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from lessonlib import serving
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError
from lessonlib.serving import _gpt4all as gpt4all
from lessonlib.serving import _server as server
from lessonlib.serving._llama import chat_format

SYSTEM = {"role": "system", "content": "Bạn là trợ lý của cửa hàng."}
CONVERSATIONS = [
    [{"role": "user", "content": "Đơn hàng của tôi đâu rồi?"}],
    [SYSTEM, {"role": "user", "content": "How do I cancel my order?"}],
    [
        SYSTEM,
        {"role": "user", "content": "Xin chào"},
        {"role": "assistant", "content": "Chào {bạn}, 50%1 {0} nhé."},
        {"role": "user", "content": "Học máy %1 là gì {0}?"},
    ],
]
LONGEST = 24  # tokens of an answer
SURE = 0.05  # a lead of the best token that the key-value cache's 16 bits cannot turn


@pytest.fixture(scope="module", autouse=True)
def english_for_fixtures():
    language.use("en")


@pytest.fixture(scope="module")
def f32(llama_export):
    return llama_export.gguf["f32"]


@pytest.fixture(scope="module")
def greedy(llama_export):
    """A function: messages -> (prompt ids, answer ids without the stop token, how many of them are sure)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(llama_export.merged, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(llama_export.merged)
    stops = set(model.generation_config.eos_token_id)

    def answer(messages):
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )  # fmt: skip
        prompt, leads = len(ids), []
        with torch.no_grad():
            for _ in range(LONGEST):
                best = model(torch.tensor([ids])).logits[0, -1].topk(2)
                leads.append(float(best.values[0] - best.values[1]))
                if int(best.indices[0]) in stops:
                    break
                ids = [*ids, int(best.indices[0])]
        sure = next((at for at, lead in enumerate(leads) if lead < SURE), len(leads))
        return ids[:prompt], ids[prompt:], sure

    answer.tokenizer = tokenizer
    return answer


def check_answer(greedy, messages, said):
    """The answer is that of transformers, as far as rounding cannot turn it; gives how far that is."""
    _, ids, sure = greedy(messages)
    whole, certain = (visible(greedy.tokenizer.decode(part)) for part in (ids, ids[:sure]))
    if sure > len(ids) or sure == LONGEST:
        assert visible(said) == whole
    else:
        assert visible(said).startswith(certain.rstrip("�"))
    return min(sure, len(ids))


def visible(text):
    """Text without special tokens: GPT4All shows those at which it doesn't stop, llama.cpp does not."""
    return re.sub(r"<\|\w+\|>", "", text)


@pytest.fixture
def prompts(monkeypatch):
    """The token ids that llama.cpp is given, call by call."""
    from llama_cpp import Llama

    given, complete = [], Llama.create_completion

    def noted(self, prompt, **options):
        given.append(list(prompt))
        return complete(self, prompt, **options)

    monkeypatch.setattr(Llama, "create_completion", noted)
    return given


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_llama_cpp_is_given_the_prompt_of_training_and_answers_as_transformers(
    llama_export, greedy, prompts, kind
):
    compared = 0
    for messages in CONVERSATIONS:
        said = serving.ask_llama_cpp(llama_export.gguf[kind], messages, max_tokens=LONGEST)
        compared += check_answer(greedy, messages, said)
    assert prompts == [greedy(messages)[0] for messages in CONVERSATIONS]  # BOS once, the same date
    assert compared >= 3


def test_the_same_file_answers_the_same_each_time(f32):
    said = {serving.ask_llama_cpp(f32, CONVERSATIONS[0], max_tokens=8) for _ in range(2)}
    assert len(said) == 1


def test_gpt4all_answers_as_transformers(f32, greedy):
    compared = 0
    for messages in CONVERSATIONS[1:]:
        said = serving.ask_gpt4all(f32, messages, max_tokens=LONGEST)
        compared += check_answer(greedy, messages, said)
    assert compared >= 2


def test_gpt4all_is_given_the_whole_prompt_without_its_bos(f32, monkeypatch):
    tasks = []

    def noted(command, input, **options):
        tasks.append(json.loads(input))
        return subprocess.CompletedProcess(command, 0, '{"answer": "x", "problems": []}', "")

    monkeypatch.setattr(gpt4all.subprocess, "run", noted)
    assert serving.ask_gpt4all(f32, CONVERSATIONS[2], max_tokens=7) == "x"
    (task,) = tasks
    form = chat_format(f32)
    whole = form.render(CONVERSATIONS[2])
    assert form.bos + task["before"] + task["question"] + task["after"] == whole
    assert task["before"].count("<|eot_id|>") == 3 and not task["before"].startswith(form.bos)
    assert task["max_tokens"] == 7


def test_the_chat_format_is_that_of_the_tokenizer(f32, greedy):
    form, tokenizer = chat_format(f32), greedy.tokenizer
    assert form.template == tokenizer.chat_template
    assert (form.bos, form.eos) == (tokenizer.bos_token, tokenizer.eos_token)
    assert form.stops[0] == "<|eot_id|>"
    assert set(form.stops) == {"<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"}
    for messages in CONVERSATIONS:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert form.render(messages) == rendered
        closed = tokenizer.apply_chat_template(messages, tokenize=False)
        assert form.render(messages, ask=False) == closed


# --- the server


@pytest.fixture(scope="module")
def url(f32):
    """A server started where the environment names other addresses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOST", "0.0.0.0")
        patch.setenv("PORT", "1")
        with serving.llama_server(f32, context=512) as address:
            yield address


@pytest.fixture
def replies(monkeypatch):
    """What is sent to the server, and what it answers, call by call."""
    import httpx

    seen, post = [], httpx.Client.post

    def noted(self, url, *, json):
        reply = post(self, url, json=json)
        seen.append((json, reply.json()))
        return reply

    monkeypatch.setattr(httpx.Client, "post", noted)
    return seen


def test_the_server_answers_as_transformers_and_counts_the_tokens(url, greedy, replies):
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    for messages in CONVERSATIONS:
        said = serving.chat(url, messages, max_tokens=LONGEST)
        check_answer(greedy, messages, said)
        prompt, ids, sure = greedy(messages)
        request, reply = replies.pop()
        asked = (request["temperature"], request["repeat_penalty"], request["max_tokens"])
        assert asked == (0.0, 1.0, LONGEST)  # nothing but the likeliest token
        assert reply["usage"]["prompt_tokens"] == len(prompt)
        if sure > len(ids):
            assert reply["usage"]["completion_tokens"] == len(ids)
            assert reply["choices"][0]["finish_reason"] == "stop"
        assert not any(token in said for token in ("<|eot_id|>", "<|start_header_id|>"))


def test_streaming_brings_the_same_answer_in_pieces(url, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # a proxy is not for this machine
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    for messages in CONVERSATIONS:
        whole = serving.chat(url, messages, max_tokens=LONGEST)
        pieces = list(serving.chat(url, messages, max_tokens=LONGEST, stream=True))
        assert "".join(pieces) == whole
        assert len(pieces) > 1 and max(map(len, pieces)) < len(whole)


def test_a_stream_may_be_left_in_the_middle(url):
    pieces = serving.chat(url, CONVERSATIONS[0], max_tokens=300, stream=True)
    first = next(pieces)
    pieces.close()
    assert serving.chat(url, CONVERSATIONS[0], max_tokens=LONGEST).startswith(first)


def test_only_this_machine_reaches_the_server(url):
    port = int(url.rsplit(":")[-1].split("/")[0])
    socket.create_connection(("127.0.0.1", port), timeout=10).close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", port), timeout=10)


def test_the_servers_own_error_is_told(url):
    long = [{"role": "user", "content": "a b " * 600}]
    with pytest.raises(LessonError, match="answered with an error 400.*context"):
        serving.chat(url, long)
    with pytest.raises(LessonError, match="stopped sending and gave no reason.*stream=False"):
        list(serving.chat(url, long, stream=True))
    with pytest.raises(LessonError, match="answered with an error 404"):
        list(serving.chat(f"{url}/nowhere", CONVERSATIONS[0], stream=True))


def free(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_the_server_ends_with_the_block_also_after_an_error(f32):
    with pytest.raises(KeyboardInterrupt), serving.llama_server(f32) as address:
        port = int(re.fullmatch(r"http://127.0.0.1:(\d+)/v1", address)[1])
        assert not free(port)
        raise KeyboardInterrupt  # what interrupting a notebook's kernel does
    assert free(port)
    for stream in (False, True):
        with pytest.raises(LessonError, match="There is no server at .* only inside the block"):
            list(serving.chat(address, CONVERSATIONS[0], stream=stream))


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_the_server_does_not_outlive_a_killed_process(f32):
    code = (
        "import sys, time; from lessonlib import serving\n"
        f"with serving.llama_server({str(f32)!r}) as url: print(url, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        port = int(parent.stdout.readline().rsplit(":")[-1].split("/")[0])
        assert not free(port)
        parent.send_signal(signal.SIGKILL)
    for _ in range(600):
        if free(port):
            return
        time.sleep(0.1)
    pytest.fail("the server is still there")


def test_a_server_that_ends_shows_what_it_wrote(f32, monkeypatch):
    monkeypatch.setattr(server, "_SERVE", "raise SystemExit('no memory left')")
    with (
        pytest.raises(LessonError, match=r"server ended \(code 1\).*(?s:.)no memory left"),
        serving.llama_server(f32),
    ):
        pass


def test_the_server_is_told_what_to_do(f32, monkeypatch):
    """By default it would cut off an answer when the next question comes, and keep every token's logits."""
    monkeypatch.setattr(server, "_SERVE", "import sys; print(open(sys.argv[2]).read()); raise SystemExit(3)")
    with (
        pytest.raises(LessonError) as problem,
        serving.llama_server(f32, context=300),
    ):
        pass
    told = json.loads(problem.value.en.splitlines()[-1])
    (model,) = told["models"]
    assert (told["host"], told["interrupt_requests"]) == ("127.0.0.1", False)
    assert (model["model"], model["n_ctx"], model["logits_all"]) == (str(f32), 300, False)
    assert model["n_threads"] == model["n_threads_batch"] == int(os.environ["OMP_NUM_THREADS"])


def test_a_server_that_is_silent_is_given_up(f32, monkeypatch):
    monkeypatch.setattr(server, "_SERVE", "import time; print('loading', flush=True); time.sleep(600)")
    with (
        pytest.raises(LessonError, match="did not answer within 0.5 seconds"),
        serving.llama_server(f32, time_limit=0.5),
    ):
        pass


# --- mistakes


def test_missing_packages_are_named_with_the_command(f32, monkeypatch):
    monkeypatch.setattr(gpt4all, "find_spec", lambda name: None)
    with pytest.raises(LessonError, match="pip install gpt4all==2.8.2"):
        serving.ask_gpt4all(f32, CONVERSATIONS[0])
    monkeypatch.setattr(server, "find_spec", lambda name: None if name == "uvicorn" else name)
    with (
        pytest.raises(LessonError, match=r'needs further packages: uvicorn.*"llama-cpp-python\[server\]=='),
        serving.llama_server(f32),
    ):
        pass


def edited(f16, folder, old, new):
    """A copy of a GGUF file with some bytes of its header changed."""
    content = f16.read_bytes()
    assert len(old) == len(new) and content.count(old) == 1
    copy = folder / "edited.gguf"
    copy.write_bytes(content.replace(old, new))
    return copy


def test_files_that_cannot_be_used_are_told_apart(llama_export, tmp_path):
    f16 = llama_export.gguf["f16"]
    with pytest.raises(LessonError, match="no file .*nothing.gguf. The .gguf files .*llama32-twin-f16.gguf"):
        chat_format(f16.with_name("nothing.gguf"))
    with pytest.raises(LessonError, match="is an adapter folder"):
        serving.ask_llama_cpp(llama_export.adapter, CONVERSATIONS[0])
    with pytest.raises(LessonError, match="is a folder; .*llama32-twin-f16.gguf"):
        serving.ask_gpt4all(f16.parent, CONVERSATIONS[0])
    pointer = tmp_path / "pointer.gguf"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(LessonError, match="is no GGUF file: it begins with b'vers'"):
        serving.ask_llama_cpp(pointer, CONVERSATIONS[0])
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(f16.read_bytes()[: f16.stat().st_size // 2])
    for ask in (serving.ask_llama_cpp, serving.ask_gpt4all):
        with pytest.raises(LessonError, match="cannot open .*cut.gguf.*not within the file bounds"):
            ask(cut, CONVERSATIONS[0])
    with pytest.raises(LessonError, match="cannot open .*cut.gguf"), serving.llama_server(cut):
        pass


def test_a_file_without_a_usable_chat_template_is_refused(llama_export, tmp_path):
    f16 = llama_export.gguf["f16"]
    bare = edited(f16, tmp_path, b"tokenizer.chat_template", b"tokenizer.chat_templatX")
    for ask in (serving.ask_llama_cpp, serving.ask_gpt4all):
        with pytest.raises(LessonError, match="has no chat template"):
            ask(bare, CONVERSATIONS[0])
    broken = edited(f16, tmp_path, b"{%- macro turn(role", b"{%- macrX turn(role")
    with pytest.raises(LessonError, match="cannot open .*macrX"):
        chat_format(broken)
    with pytest.raises(LessonError, match="cannot open .*macrX"):
        serving.ask_llama_cpp(broken, CONVERSATIONS[0])


def test_what_gpt4alls_library_does_not_know_becomes_an_error(llama_export, tmp_path):
    newer = edited(  # a newer architecture, as GPT4All sees it; llama.cpp reads the vocabulary all the same
        llama_export.gguf["f16"], tmp_path,
        b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama",
        b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0qwen3",
    )  # fmt: skip
    with pytest.raises(LessonError, match=r"ended its process over .*edited.gguf \(code"):
        serving.ask_gpt4all(newer, CONVERSATIONS[0])


def test_gpt4all_is_ended_when_its_time_is_up(f32):
    with pytest.raises(LessonError, match="not done after 0.01 seconds"):
        serving.ask_gpt4all(f32, CONVERSATIONS[0], time_limit=0.01)


def test_a_conversation_longer_than_the_context_is_refused(f32):
    long = [{"role": "user", "content": "một hai ba " * 100}]
    with pytest.raises(LessonError, match=r"has \d{3,} tokens, which the context of 256 does not hold"):
        serving.ask_llama_cpp(f32, long, context=256)
    with pytest.raises(LessonError, match="GPT4All refuses this conversation: .*context window"):
        serving.ask_gpt4all(f32, long, context=256)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "There are no messages"),
        ("Xin chào", "There are no messages"),
        ({"role": "user", "content": "a"}, "There are no messages"),
        ([{"role": "human", "content": "a"}], "Message 0: there is no role 'human'"),
        ([{"content": "a"}], "Message 0: there is no role None"),
        ([SYSTEM, {"role": "user", "content": " \n"}], r"Message 1 \(user\) has no text"),
        ([SYSTEM, {"role": "user", "content": None}], r"Message 1 \(user\) has no text"),
        ([SYSTEM], "last message is of the role 'system'"),
        (
            [*CONVERSATIONS[0], {"role": "assistant", "content": "a"}],
            "last message is of the role 'assistant'",
        ),
    ],
)
def test_messages_that_cannot_be_answered_are_refused(f32, messages, said):
    for ask in (serving.ask_llama_cpp, serving.ask_gpt4all):
        with pytest.raises(LessonError, match=said):
            ask(f32, messages)
    for stream in (False, True):  # before anything is sent
        with pytest.raises(LessonError, match=said):
            serving.chat("http://127.0.0.1:9/v1", messages, stream=stream)
