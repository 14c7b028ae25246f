"""publish: pushed through the real client to the loopback Hub and compared; what is refused; model cards."""

import io
import pickle
import runpy
import shutil
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from faulty_hub import FaultyHub
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.utils import _http

from lessonlib.evaluation import _scoring as scoring
from lessonlib.export import _model_card as model_card_module
from lessonlib.export import _publish as publish
from lessonlib.export import _publish_checks as publish_checks
from lessonlib.export._loopback import Token, reachable
from lessonlib.runtime import _language as language
from lessonlib.runtime._detect import Gpu
from lessonlib.runtime._language import LessonError

T4 = Gpu("Tesla T4", (7, 5), 14.7)
REPO = "learner/Llama-3.2-3B-cskh"
# Made of pieces, so that no scanner of this repository takes them for real ones.
HF_TOKEN = "hf_" + "aB3" * 12
WANDB_KEY = "0123456789" * 4


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    for name in ("HF_TOKEN", "LESSONLIB_PROFILE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LESSONLIB_HEADLESS", "1")


@pytest.fixture(scope="module")
def scores():
    """Base against tuned, as a lesson has them, with intervals and the difference."""
    answers = {"right": ["a", "b", "c", "d"], "wrong": ["x", "b", "x", "x"]}
    results = {"base": {"test": answers["wrong"]}, "tuned": {"test": answers["right"]}}
    return {"exact_match": scoring.compare(results, {"test": answers["right"]})}


@pytest.fixture
def card(scores):
    def make(**changes):
        arguments = {
            "repo_id": REPO, "kind": "merged", "base": "unsloth/Llama-3.2-3B-Instruct", "licence": "llama3.2",
            "data": ["customer_support_vi, CC BY 4.0"], "recipe": {"learning_rate": 2e-4, "LoRA r": 16},
            "scores": scores, "dataset": "customer_support_vi",
        }  # fmt: skip
        return model_card_module.model_card(**(arguments | changes))

    return make


@pytest.fixture
def export(tmp_path, tiny_llama, tokenizer, card):
    """A merged model with tokenizer and card, as lessonlib.export leaves it, and two GGUF files beside it."""
    folder = tmp_path / "export"
    merged, gguf = folder / "merged", folder / "gguf"
    tiny_llama.save_pretrained(merged)
    tokenizer.save_pretrained(merged)
    gguf.mkdir()
    for kind in ("f16", "q8_0"):
        (gguf / f"twin-{kind}.gguf").write_bytes(b"GGUF" + kind.encode() * 3000)
    (merged / "lessonlib_export.json").write_text("{}")
    (merged / ".cache").mkdir()
    (merged / ".cache" / "note").write_text("hidden")
    model_card_module.save(card(), merged)
    return folder


@pytest.fixture
def hub():
    with FaultyHub() as server:
        yield server


def push(hub, contents, repo_id=REPO, **options):
    return publish.push(contents, repo_id, token=hub.token, endpoint=hub.url, **options)


def compare(hub, contents, revision, repo_id=REPO):
    return publish.compare(contents, repo_id, revision=revision, token=hub.token, endpoint=hub.url)


def both(export):
    return {".": export / "merged", "gguf": export / "gguf"}


def sent(hub, method, part=""):
    return [request.path for request in hub.requests if request.method == method and part in request.path]


# ---- push and compare ----


def test_what_arrives_is_what_was_sent_and_loads(hub, export, tiny_llama, tokenizer, capsys, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    files = publish_checks.listed(both(export))
    sizes = [path.stat().st_size for path in files.values()]
    done = push(hub, both(export))
    assert len(hub.repositories[REPO].commits) == 2  # the Hub's own first one, and ours
    assert hub.repositories[REPO].head == done.oid and hub.repositories[REPO].private
    printed = capsys.readouterr().out
    size = sum(sizes) / 1e6
    assert printed == f"Pushed {len(files)} files ({size:.1f} MB) to {REPO} in one commit.\n"

    table = compare(hub, both(export), done.oid)
    assert table["same"].all() and table["file"].tolist() == list(files)
    assert table["bytes"].tolist() == table["arrived"].tolist() == sizes
    expected = {"README.md", "NOTICE", "config.json", "model.safetensors", "tokenizer.json"}
    assert expected | {"gguf/twin-f16.gguf", "gguf/twin-q8_0.gguf"} <= set(table["file"])
    assert not [name for name in table["file"] if name.startswith(".") or name == "lessonlib_export.json"]

    with reachable(hub.url):
        folder = HfApi(endpoint=hub.url, token=hub.token).snapshot_download(REPO, local_dir=tmp_path / "got")
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = AutoTokenizer.from_pretrained(folder)("Học máy là gì?", return_tensors="pt")["input_ids"]
    assert ids.tolist() == [tokenizer("Học máy là gì?")["input_ids"]]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, tiny_llama(ids).logits)


def test_a_second_push_of_the_same_makes_no_commit(hub, export, capsys):
    first = push(hub, both(export))
    hub.requests.clear()
    capsys.readouterr()
    assert push(hub, both(export)).oid == first.oid
    assert capsys.readouterr().out == f"{REPO} has these very files already.\n"
    assert sent(hub, "PUT") == [] and sent(hub, "POST", "/commit/") == []
    # one more file is one more commit, and only that file is sent
    (export / "gguf" / "twin-q4_k_m.gguf").write_bytes(b"GGUF" + b"q4" * 3000)
    second = push(hub, both(export))
    assert second.oid != first.oid and len(sent(hub, "PUT")) == 1
    assert compare(hub, both(export), second.oid)["same"].all()


def test_two_files_of_the_same_content_are_sent_once(hub, export):
    (export / "gguf" / "again.gguf").write_bytes((export / "gguf" / "twin-f16.gguf").read_bytes())
    done = push(hub, both(export))
    assert compare(hub, both(export), done.oid)["same"].all()
    puts = sent(hub, "PUT")
    assert len(puts) == len(set(puts))


def test_compare_finds_what_differs(hub, export):
    done = push(hub, both(export))
    weights = export / "merged" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    (export / "gguf" / "twin-f16.gguf").write_bytes(b"GGUF")
    (export / "gguf" / "twin-q8_0.gguf").unlink()
    (export / "gguf" / "new.gguf").write_bytes(b"GGUF")
    table = compare(hub, both(export), done.oid).set_index("file")
    different = table[~table["same"]]
    assert sorted(different.index) == [
        "gguf/new.gguf", "gguf/twin-f16.gguf", "gguf/twin-q8_0.gguf", "model.safetensors"
    ]  # fmt: skip
    assert table.loc["model.safetensors", "bytes"] == table.loc["model.safetensors", "arrived"]
    assert pd.isna(table.loc["gguf/twin-q8_0.gguf", "bytes"])
    assert pd.isna(table.loc["gguf/new.gguf", "arrived"])


def test_compare_really_downloads(hub, export):
    done = push(hub, both(export))
    kept = hub.repositories[REPO].commits[done.oid]["model.safetensors"].path
    kept.write_bytes(kept.read_bytes()[:-1] + b"!")  # what lies on the Hub's disk, not what its list says
    table = compare(hub, both(export), done.oid).set_index("file")
    assert table[~table["same"]].index.tolist() == ["model.safetensors"]


def test_an_older_commit_can_be_compared(hub, export):
    first = push(hub, both(export))
    old = (export / "merged" / "config.json").read_bytes()
    (export / "merged" / "config.json").write_text("{}")
    second = push(hub, both(export))
    assert compare(hub, both(export), second.oid)["same"].all()
    assert not compare(hub, both(export), first.oid)["same"].all()
    (export / "merged" / "config.json").write_bytes(old)
    assert compare(hub, both(export), first.oid)["same"].all()


def test_public_and_private(hub, export):
    (export / "merged" / "LICENSE.txt").write_text("LLAMA 3.2 COMMUNITY LICENSE AGREEMENT")
    push(hub, both(export), private=False)
    assert hub.repositories[REPO].private is False
    commits = len(hub.repositories[REPO].commits)
    with pytest.raises(LessonError, match=f"{REPO} exists and is public.*private=False.*another name"):
        push(hub, both(export))
    assert len(hub.repositories[REPO].commits) == commits
    push(hub, both(export), "learner/Llama-2", private=True)
    push(hub, both(export), "learner/Llama-2", private=False)
    assert hub.repositories["learner/Llama-2"].private is True


# ---- a push that fails ----


@pytest.mark.parametrize("broken, said", [
    (lambda request: 503 if request.path.endswith("/commit/main") else None, "answered with error 503"),
    (lambda request: 0 if request.path.endswith("/commit/main") else None, "connection broke off"),
    (lambda request: 503 if request.method == "PUT" else None, "answered with error 503"),
    (lambda request: 0 if request.method == "PUT" else None, "connection broke off.*Run this cell again"),
    (lambda request: 500 if "/preupload/" in request.path else None, "answered with error 500"),
    (lambda request: 429 if "/lfs/objects/batch" in request.path else None, "answered with error 429"),
])  # fmt: skip
def test_a_push_that_fails_leaves_the_repository_as_it_was(hub, export, broken, said):
    before = push(hub, {"README.md": export / "merged" / "README.md"}).oid
    files = dict(hub.repositories[REPO].commits[before])
    hub.fail = broken
    with pytest.raises(LessonError, match=said) as caught:
        push(hub, both(export))
    assert REPO in caught.value.vi and hub.token not in caught.value.en + caught.value.vi
    hub.fail = None
    assert hub.repositories[REPO].head == before and hub.repositories[REPO].commits[before] == files
    assert compare(hub, both(export), push(hub, both(export)).oid)["same"].all()


def test_the_next_push_sends_only_what_had_not_arrived(hub, export):
    hub.fail = lambda request: 503 if request.path.endswith("/commit/main") else None
    with pytest.raises(LessonError, match="The repository is as it was.*status.huggingface.co"):
        push(hub, both(export))
    assert len(hub.repositories[REPO].commits) == 1  # a new repository, still empty
    assert len(sent(hub, "PUT")) == 3
    hub.requests.clear()
    hub.fail = None
    push(hub, both(export))
    assert sent(hub, "PUT") == [] and len(sent(hub, "POST", "/commit/")) == 1


def test_somebody_elses_commit_in_between_is_not_overwritten(hub, export):
    push(hub, {"README.md": export / "merged" / "README.md"})

    def meddle(request):
        if request.path.endswith("/commit/main"):
            hub.fail = None
            with hub.lock:
                hub.repositories[REPO].commit({}, "somebody else's")

    hub.fail = meddle
    with pytest.raises(LessonError, match=f"Somebody made a commit to {REPO} meanwhile"):
        push(hub, both(export))


@pytest.mark.parametrize("token, status", [
    ("hf_unknown", 401), ("hf_reader", 403), ("hf_of_another", 403),
])  # fmt: skip
def test_a_token_without_the_right(hub, export, token, status):
    hub.tokens |= {"hf_reader": Token("learner", "read"), "hf_of_another": Token("another")}
    said = rf"does not let this token at {REPO} .error {status}.*settings/tokens.*for the account learner"
    with pytest.raises(LessonError, match=said):
        publish.push(both(export), REPO, token=token, endpoint=hub.url)
    assert REPO not in hub.repositories


def test_no_network(export, hub):
    hub.close()
    try:
        with pytest.raises(LessonError, match="cannot be reached.*HF_HUB_OFFLINE.*rehearsal"):
            push(hub, both(export))
        with pytest.raises(LessonError, match="cannot be reached"):  # offline, and not on this machine
            publish.push(both(export), REPO, token=HF_TOKEN)
    finally:
        hub.start()


def test_what_cannot_be_compared(hub, export):
    with pytest.raises(LessonError, match=f"There is no {REPO} on the Hub: .*or it is private"):
        compare(hub, both(export), "main")
    done = push(hub, both(export))
    with pytest.raises(LessonError, match="has no such commit. Pass revision=push"):
        compare(hub, both(export), "f" * 40)
    with pytest.raises(LessonError, match=f"There is no {REPO} on the Hub: .*or it is private"):
        publish.compare(both(export), REPO, revision=done.oid, token="hf_unknown", endpoint=hub.url)
    hub.cuts["model.safetensors"] = 1000
    with pytest.raises(LessonError, match="connection broke off"):
        compare(hub, both(export), done.oid)


def test_unknown_problems_are_left_as_they_are(hub, export, monkeypatch):
    def broken(*_, **__):
        raise KeyError("inside")

    monkeypatch.setattr(HfApi, "create_commit", broken)
    with pytest.raises(KeyError, match="inside"):
        push(hub, both(export))


def test_a_full_disk(hub, export, monkeypatch):
    done = push(hub, both(export))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(LessonError, match="disk is too full: .*0.00 GB are free.*TMPDIR"):
        compare(hub, both(export), done.oid)
    with pytest.raises(LessonError, match="disk is too full"):
        push(hub, both(export))


def test_nothing_is_left_among_the_temporary_files(hub, export, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    compare(hub, both(export), push(hub, both(export)).oid)
    assert list((tmp_path / "temporary").iterdir()) == []


# ---- what is listed ----


def test_the_list_names_each_place_in_the_repository(tmp_path):
    for name in ("a/x.txt", "a/deep/y.txt", "a/.hidden/z", "a/.env", "a/__pycache__/m.pyc", "b.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "a" / "inside.txt").symlink_to(tmp_path / "a" / "x.txt")
    assert list(publish_checks.listed(str(tmp_path / "a"))) == ["deep/y.txt", "inside.txt", "x.txt"]
    several = {".": tmp_path / "a" / "deep", "c/d": tmp_path / "a", "e.txt": tmp_path / "b.txt"}
    assert list(publish_checks.listed(several)) == [
        "c/d/deep/y.txt", "c/d/inside.txt", "c/d/x.txt", "e.txt", "y.txt"
    ]  # fmt: skip


def test_what_cannot_be_listed(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(LessonError, match="There is no file to push in .*a. Export the model first"):
        publish_checks.listed(tmp_path / "a")
    with pytest.raises(LessonError, match="There is no file to push in .*missing"):
        publish_checks.listed(tmp_path / "missing")
    (tmp_path / "secret.txt").write_text("x")
    (tmp_path / "a" / "x.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(LessonError, match="x.txt is a link that leads out of .*a. Put the file itself"):
        publish_checks.listed(tmp_path / "a")
    with pytest.raises(LessonError, match="Two files want the place s.txt: .*secret.txt and .*secret.txt"):
        publish_checks.listed({"s.txt": tmp_path / "secret.txt", "./s.txt": tmp_path / "secret.txt"})


# ---- what is refused ----


@pytest.fixture
def refused(hub, export):
    """What the export holds now, or this name, is refused in these words and before any request."""

    def check(said, repo_id=REPO, **options):
        with pytest.raises(LessonError, match=said) as caught:
            push(hub, both(export), repo_id, **options)
        assert hub.requests == []
        return caught.value

    return check


@pytest.mark.parametrize("text", [
    f"token: {HF_TOKEN}", f'{{"a": "{HF_TOKEN}"}}', "wandb_v1_" + "aB3_" * 20,
    f"WANDB_API_KEY={WANDB_KEY}", f'"wandb": {{"api_key": "{WANDB_KEY}"}}', f"password {WANDB_KEY}",
    f"machine api.wandb.ai\n  login user\n  password {WANDB_KEY}",
])  # fmt: skip
def test_a_token_in_a_file(export, refused, text):
    (export / "gguf" / "notes.txt").write_text(f"one\n{text}\nthree")
    error = refused(r"There is a token or secret key in gguf/notes.txt .(Hugging Face|Weights & Biases).")
    assert HF_TOKEN not in error.en + error.vi and WANDB_KEY not in error.en + error.vi


def test_a_token_in_weights(export, refused):
    (export / "gguf" / "twin-f16.gguf").write_bytes(b"GGUF" + bytes(5000) + HF_TOKEN.encode() + bytes(9))
    refused("secret key in gguf/twin-f16.gguf .Hugging Face")


def test_the_secrets_of_this_session(hub, export, refused, monkeypatch):
    """Whatever they look like: the token of the push itself, and those in the environment."""
    note = export / "gguf" / "notes.txt"
    note.write_text("my secret-of-sixteen-and-more")
    monkeypatch.setenv("SOME_API_KEY", "secret-of-sixteen-and-more")
    refused("secret key in gguf/notes.txt")
    monkeypatch.setenv("SOME_API_KEY", "my secret")  # too short to be told from ordinary words
    note.write_text("my secret of sixteen")
    push(hub, both(export))
    hub.requests.clear()
    note.write_text("x opensesame x")
    with pytest.raises(LessonError, match="secret key in gguf/notes.txt"):
        publish.push(both(export), REPO, token="opensesame", endpoint=hub.url)


def test_digests_and_commits_are_no_tokens(hub, export):
    (export / "gguf" / "notes.txt").write_text(f"commit {WANDB_KEY}\nsha256 {'0a' * 32}\nhf_hub_download\n")
    push(hub, both(export))


@pytest.mark.parametrize("name", ["model.bin", "a.pt", "b.pth", "c.pkl", "d.pickle", "e.ckpt", "f.joblib"])
def test_a_pickle_by_its_name(export, refused, name):
    (export / "merged" / name).write_bytes(b"anything")
    refused(f"{name} is a pickle: opening it runs whatever code.*safetensors")


def test_a_pickle_by_its_content(export, refused, hub):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(1))
    for data in (pickle.dumps({"a": 1}), pickle.dumps(1, protocol=2), archive.getvalue()):
        (export / "merged" / "innocent.dat").write_bytes(data)
        refused("innocent.dat is a pickle")
    harmless = io.BytesIO()
    with zipfile.ZipFile(harmless, "w") as file:
        file.writestr("a.txt", "a")
    (export / "merged" / "innocent.dat").write_bytes(harmless.getvalue())
    (export / "gguf" / "odd.gguf").write_bytes(b"\x80\x04 looks like a pickle")
    push(hub, both(export))


@pytest.mark.parametrize("name", [
    "Llama-x", "learner/Llama x", "learner/Llama-ộ", "learner/a/Llama", "learner/Llama--x",
    "learner/" + "L" * 97, "learner/Llama.git", "",
])  # fmt: skip
def test_a_name_that_the_hub_does_not_take(refused, name):
    refused("is no name for a repository. Write 'account/model'", repo_id=name)


def test_cards_that_are_refused(export, refused):
    readme = export / "merged" / "README.md"
    good = readme.read_text()
    readme.unlink()
    refused("README.md, the model card, is missing in the repository's root")
    for text in ("# no metadata", "---\nlanguage: vi\n---\n# no licence", "---\n- a\n- b\n---\n# a list"):
        readme.write_text(text)
        refused("names no licence|is no YAML")
    readme.write_text("---\nlicense: [mit\n---\n# x")
    refused("The metadata at the top of README.md .* is no YAML")
    readme.write_text(good + "\n[More Information Needed]\n")
    refused("a form that nobody filled in")
    readme.write_text(good.replace("Built with Llama", "Built with love"))
    refused("llama3.2 .1.b. asks for what is missing: 'Built with Llama' .README.md.")
    readme.write_text(good)
    refused("demands a model name that begins with 'Llama'; 'Cskh' does not", repo_id="learner/Cskh")


def test_what_the_licence_asks_of_a_public_model(hub, export, refused):
    notice = export / "merged" / "NOTICE"
    written = notice.read_text()
    refused("missing: LICENSE.txt. export.model_card", private=False)
    notice.write_text("Llama 3.1 is licensed")
    refused("missing: NOTICE, LICENSE.txt", private=False)
    notice.write_text(written)
    (export / "merged" / "LICENSE.txt").write_text("LLAMA 3.2 COMMUNITY LICENSE AGREEMENT")
    push(hub, both(export), private=False)


def test_other_licences_ask_nothing(hub, export, card):
    merged = export / "merged"
    (merged / "NOTICE").unlink()
    model_card_module.save(card(repo_id="learner/twin", licence="apache-2.0", base="/twins/llama32"), merged)
    done = push(hub, both(export), "learner/twin", private=False)
    assert "NOTICE" not in hub.repositories["learner/twin"].commits[done.oid]


# ---- the card ----


def test_the_card_says_everything(card, scores):
    made = card(
        base_revision="0" * 39 + "1",
        gguf="gguf/twin-q4_k_m.gguf", modelfile="gguf/Modelfile", counseling=True,
    )  # fmt: skip
    told = ModelCard(str(made)).data.to_dict()  # read back from what is written
    assert told["license"] == "llama3.2" and told["language"] == ["vi", "en"]
    assert told["base_model"] == "unsloth/Llama-3.2-3B-Instruct" and told["base_model_relation"] == "finetune"
    assert told["library_name"] == "transformers" and told["pipeline_tag"] == "text-generation"
    (result,) = told["model-index"][0]["results"]
    tuned = scores["exact_match"]["tuned"].loc["test"]
    (metric,) = result["metrics"]
    assert (metric["type"], metric["value"]) == ("exact_match", 1.0)
    assert metric["args"] == {"low": round(tuned["low"], 4), "high": round(tuned["high"], 4), "n": 4}
    assert result["dataset"]["name"] == "customer_support_vi" and result["dataset"]["split"] == "test"

    text = str(made)
    row = scoring.table(scores["exact_match"]).loc["test"]
    assert f"| test | {row['base']} | {row['tuned']} | {row['tuned - base']} |" in text
    for said in (
        "# Llama-3.2-3B-cskh", "Built with Llama", "0" * 39 + "1", "| learning_rate | 0.0002 |",
        "| LoRA r | 16 |", "- customer_support_vi, CC BY 4.0",
        f'AutoModelForCausalLM.from_pretrained("{REPO}")', "llama-cli -m gguf/twin-q4_k_m.gguf",
        f"hf download {REPO} gguf/twin-q4_k_m.gguf gguf/Modelfile", "ollama create llama-3.2-3b-cskh -f",
        "115 (ambulance), 113 (police) or 111", "https://www.llama.com/llama3_2/license",
        "https://www.llama.com/llama3_2/use-policy", "can be wrong and fluent",
        model_card_module.llama_notice("llama3.2"),
    ):
        assert said in text, said
    assert "PeftModel" not in text and "Safety" not in str(card())


def test_the_example_in_the_card_runs(card, tmp_path, tiny_llama, tokenizer, capsys):
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    try:
        tiny_llama.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
    finally:
        tokenizer.chat_template = None
    (code,) = str(card()).split("```python\n")[1:]
    code = code.split("```")[0].replace(REPO, str(tmp_path)).replace("=200", "=3")
    (tmp_path / "example.py").write_text(code)
    runpy.run_path(str(tmp_path / "example.py"))
    assert capsys.readouterr().out.endswith("\n")


def test_an_adapters_card_loads_it_onto_its_base(card):
    text = str(card(kind="adapter", base_revision="abc"))
    assert 'from_pretrained("unsloth/Llama-3.2-3B-Instruct", revision="abc")' in text
    assert f'PeftModel.from_pretrained(base, "{REPO}")' in text
    assert ModelCard(text).data.to_dict()["base_model_relation"] == "adapter"
    assert ModelCard(text).data.to_dict()["library_name"] == "peft"


def test_a_gguf_card_has_no_python(card):
    text = str(card(kind="gguf", gguf="a.gguf"))
    assert "AutoModel" not in text and "llama-cli -m a.gguf" in text and "ollama" not in text
    assert ModelCard(text).data.to_dict()["base_model_relation"] == "quantized"


def test_no_path_of_this_machine_gets_into_a_card(card):
    text = str(card(base="/home/nga/data/twins/llama32", kind="adapter"))
    assert "/home/nga" not in text and "`llama32`" in text
    assert "base_model" not in ModelCard(text).data.to_dict()


def test_the_card_speaks_the_notebooks_language(card):
    language.use("vi")
    text = str(card(counseling=True))
    for said in ("## Cách huấn luyện", "115 (cấp cứu), 113 (công an)", "Built with Llama"):
        assert said in text, said


def test_saving_a_card_replaces_the_empty_form(card, tmp_path):
    (tmp_path / "README.md").write_text("[More Information Needed]")
    assert [path.name for path in model_card_module.save(card(), tmp_path)] == ["README.md", "NOTICE"]
    assert (tmp_path / "README.md").read_text() == str(card())
    assert (tmp_path / "NOTICE").read_text() == (
        "Llama 3.2 is licensed under the Llama 3.2 Community License, Copyright © Meta Platforms, Inc. "
        "All Rights Reserved.\n"
    )


def test_what_a_card_refuses(card):
    with pytest.raises(LessonError, match="There is no kind='model'. Choose one of: merged, adapter, gguf"):
        card(kind="model")
    with pytest.raises(LessonError, match="There are no scores. Evaluate base and tuned model"):
        card(scores={})
    with pytest.raises(LessonError, match="'cskh' does not. Call it 'Llama-3.2-cskh', say"):
        card(repo_id="learner/cskh")


def test_what_is_scanned_is_stated():
    assert publish_checks._SCANNED == 64 * 2**20 and Path(publish_checks._CARD).name == "README.md"
