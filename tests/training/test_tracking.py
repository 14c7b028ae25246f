"""tracking: logins, W&B offline and online against servers on this machine, and its file read back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from wandb.proto import wandb_internal_pb2
from wandb_server import WandbServer

from lessonlib.runtime import _language as language
from lessonlib.runtime._detect import detect
from lessonlib.runtime._language import LessonError
from lessonlib.training import _tracking as tracking
from lessonlib.training import _trainer as training

KEY = "0123456789abcdef" * 2 + "01234567"  # 40 characters, as W&B's keys
OTHER = KEY[::-1]
LOSSES = [3.5, 1.75, 3.5 / 3]


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch):
    for name in list(os.environ):
        if name.startswith("WANDB_") or name in ("HF_TOKEN", "LESSONLIB_PROFILE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LESSONLIB_HEADLESS", "1")


@pytest.fixture
def rt(tmp_path):
    return detect(family="llama", profile="rehearsal", gpu=None, work=tmp_path / "work")


# ---- W&B: what is read back is what was trained ----


def test_the_losses_of_the_trainer_are_in_the_offline_run(rt, tiny_llama, tokenizer, capfd):
    """Six steps, evaluated at every second, reported to W&B offline by transformers' own callback."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model

    texts = [[4 + number, 9, 40 + number, 2] for number in range(8)]
    dataset = Dataset.from_list([{"input_ids": ids, "labels": ids} for ids in texts])
    report = tracking.start(rt, project="lesson-03", name="twin")
    assert report == {"report_to": "wandb", "run_name": "twin"}
    config = training.sft_config(
        rt, "run", max_steps=6, logging_steps=1, eval_strategy="steps", eval_steps=2, save_steps=2,
        per_device_train_batch_size=2, learning_rate=1e-2, **report,
    )  # fmt: skip
    model = get_peft_model(tiny_llama, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    trainer = training.trainer(model, tokenizer, dataset, config=config, eval_dataset=dataset)
    training.fit(trainer)
    folder = tracking.finish()
    printed = capfd.readouterr()

    history = tracking.offline_history(folder)
    pd.testing.assert_frame_equal(history, training.history(trainer), check_exact=True)
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    assert history["loss"].tolist() == losses and len(losses) == 6 and losses[-1] < losses[0]
    assert history["eval_loss"].notna().tolist() == [False, True] * 3
    assert printed.out.splitlines()[0] == f"W&B: offline (no WANDB_API_KEY), kept in {rt.work / 'wandb'}"
    assert "wandb" not in (printed.out.partition("\n")[2] + printed.err).lower()


@pytest.fixture
def written(rt, monkeypatch):
    """Three runs: of 60 losses with so long a text that records cross blocks of 32 KiB, of two, of none."""
    import wandb

    monkeypatch.chdir(rt.work)
    folders = []
    for count, filling in ((60, "x" * 5000), (2, ""), (0, "")):
        tracking.start(rt, project="lesson-03", name=f"run of {count}")
        for step in range(count):
            wandb.log({"train/global_step": step + 1, "train/loss": 1 / (step + 1), "text": filling})
        wandb.log({"something else": 1.0})
        folders.append(tracking.finish())
    return folders


def test_every_record_is_found_across_blocks(written, rt, capfd):
    long, short, empty = written
    (file,) = long.glob("*.wandb")
    assert file.stat().st_size > 4 * 32768
    losses = [1 / step for step in range(1, 61)]
    for place in (long, file, str(file)):
        assert tracking.offline_history(place)["loss"].tolist() == losses
    assert tracking.offline_history(short)["loss"].tolist() == [1.0, 0.5]
    assert tracking.offline_history(empty).columns.tolist() == list(tracking._COLUMNS.values())
    assert len(tracking.offline_history(empty)) == 0
    # of a folder with several runs the newest that logged a loss
    for place in (rt.work, rt.work / "wandb"):
        assert tracking.offline_history(place)["loss"].tolist() == [1.0, 0.5]


def test_the_newest_run_is_the_one_that_began_last(written, tmp_path):
    long, short, _ = written
    runs = {  # the folder's name: (whose record, when it was written)
        "run-20260102_030405-bbbb": (long, 9), "offline-run-20260102_030406-zzzz": (long, 3),
        "offline-run-20260102_030406-aaaa": (short, 4), "run-20251231_235959-cccc": (long, 8),
        "copied": (long, 99),
    }  # fmt: skip
    for name, (source, when) in runs.items():
        (record,) = source.glob("*.wandb")
        (tmp_path / name).mkdir()
        copy = tmp_path / name / f"run-{name[-4:]}.wandb"
        copy.write_bytes(record.read_bytes())
        os.utime(copy, (when, when))
    assert tracking.offline_history(tmp_path)["loss"].tolist() == [1.0, 0.5]


def test_a_file_that_is_cut_short_or_damaged(written, tmp_path):
    (file,) = written[0].glob("*.wandb")
    data, cut = file.read_bytes(), tmp_path / "cut.wandb"
    losses, rows = [1 / step for step in range(1, 61)], []
    for size in range(7, len(data), 21001):  # killed while it wrote
        cut.write_bytes(data[:size])
        found = tracking.offline_history(cut)["loss"].tolist()
        assert found == losses[: len(found)]
        rows.append(len(found))
    assert rows[0] == 0 and rows == sorted(rows) and len(set(rows)) > 10
    spot = data.index(b"train/loss")
    cut.write_bytes(data[:spot] + b"X" + data[spot + 1 :])
    with pytest.raises(LessonError, match="cut.wandb is damaged at byte [0-9]+. Train again"):
        tracking.offline_history(cut)
    cut.write_bytes(b"SQLite format 3")
    with pytest.raises(LessonError, match="cut.wandb is no run file of W&B's"):
        tracking.offline_history(cut)
    with pytest.raises(LessonError, match="There is no W&B run in .*nothing. Call training.start_tracking"):
        tracking.offline_history(tmp_path / "nothing")


# ---- W&B: a learner's session in a process of its own (tests/track_runs.py) ----


def session(work, home, url, *steps):
    """What each step told, and everything that was printed beside it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"LESSONLIB_LANG": "en", "LESSONLIB_HEADLESS": "1", "HOME": str(home)}
    environment["WANDB_BASE_URL"] = url
    # whatever goes out in spite of all, Go's process included, comes here
    environment |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), url)
    script = str(Path(__file__).parents[1] / "track_runs.py")
    done = subprocess.run(
        [sys.executable, script, str(work), *steps], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        env=environment, timeout=240, cwd=home,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    return told, [line for line in lines if not line.startswith("{")], done.stderr


def contents(*folders):
    return b"".join(path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def places(tmp_path):
    for name in ("work", "home"):
        (tmp_path / name).mkdir()
    return tmp_path / "work", tmp_path / "home"


def test_without_a_key_nothing_asks_nothing_waits_nothing_goes_out(places):
    work, home = places
    with WandbServer(KEY) as wandb:
        told, printed, errors = session(work, home, wandb.url, "none", "none")
        assert wandb.requests == []
    assert len(told) == 2
    for step in told:
        assert step["losses"] == LOSSES and step["changed"] == []
        assert step["config"] == {"report_to": "wandb", "run_name": "a run"}
        assert step["folder"].startswith("wandb/offline-run-")
    assert printed == [f"W&B: offline (no WANDB_API_KEY), kept in {work / 'wandb'}"] * 2 and errors == ""
    assert list(home.rglob("*")) == []
    (file,) = (work / told[0]["folder"]).glob("*.wandb")
    messages = [wandb_internal_pb2.Record.FromString(record) for record in tracking._records(file)]
    (run,) = (message.run for message in messages if message.HasField("run"))
    assert run.project == "lesson-03" and not run.host and not run.HasField("git")
    kinds = {message.WhichOneof("record_type") for message in messages}
    assert "history" in kinds and not kinds & {"environment", "stats", "output", "output_raw", "artifact"}
    assert [word for word in (str(home), "track_runs.py") if word.encode() in file.read_bytes()] == []
    assert [path.name for path in work.rglob("requirements.txt")] == []


def test_with_a_key_only_what_is_needed_goes_up_and_the_key_is_nowhere(places):
    work, home = places
    with WandbServer(KEY) as wandb:
        told, printed, errors = session(work, home, wandb.url, KEY)
        sent = "".join(path + body for path, body in wandb.requests)
    assert told[0]["losses"] == LOSSES and told[0]["changed"] == []
    assert printed == [f"W&B: online, see {wandb.url}/learner/lesson-03/runs/{told[0]['folder'][-8:]}"]
    assert errors == ""
    assert all(str(loss) in sent for loss in LOSSES) and '"a run"' in sent
    graphql = [json.loads(body) for path, body in wandb.requests if path == "/graphql"]
    runs = [it["variables"] for it in graphql if "upsertBucket" in it["query"]]
    assert runs and {it[name] for it in runs for name in ("commit", "host", "program", "repo")} == {None}
    values = [json.dumps(it["variables"]) for it in graphql]
    values += [path + body for path, body in wandb.requests if path != "/graphql"]
    private = [str(home), str(work), "track_runs.py", "requirements.txt", "output.log"]
    assert [word for word in private if word in "".join(values)] == []
    assert KEY.encode() not in contents(work, home) and KEY not in sent
    assert list(home.rglob("*")) == []


def test_a_wrong_key_says_so_and_an_unreachable_server_is_no_reason_to_stop(places):
    work, home = places
    with WandbServer(KEY) as wandb:
        nobody = "http://127.0.0.1:9"
        told, printed, errors = session(
            work, home, wandb.url, "tooshort", OTHER, f"{KEY}@{nobody}", f"{KEY}@{wandb.url}"
        )
    form, refused, alone, online = told
    page = "https://forge.coreweave.com/wandb/authorize"
    assert f"has the wrong form (API key must have 40+ characters, has 8.). Visit {page}" in form["en"]
    assert "không đúng dạng" in form["vi"] and "tooshort" not in form["en"] + form["vi"]
    assert "W&B refuses WANDB_API_KEY" in refused["en"] and page in refused["en"]
    assert "W&B từ chối" in refused["vi"] and OTHER not in refused["en"] + refused["vi"]
    assert alone["losses"] == online["losses"] == LOSSES
    assert printed[0] == f"W&B: offline (W&B cannot be reached), kept in {work / 'wandb'}"
    assert printed[1].startswith("W&B: online, see ") and len(printed) == 2 and errors == ""
    found = contents(work, home)
    assert KEY.encode() not in found and OTHER.encode() not in found


# ---- W&B: choices and errors ----


def test_wandb_mode_is_heeded_even_with_a_key(rt, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with WandbServer(KEY) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_MODE", "offline")
        assert tracking.start(rt, project="p", name="n")["report_to"] == "wandb"
        assert tracking.finish().name.startswith("offline-run-")
        monkeypatch.setenv("WANDB_MODE", "disabled")
        assert tracking.start(rt, project="p", name="n") == {"report_to": "none", "run_name": "n"}
        assert tracking.finish() is None
        assert server.requests == []
    assert capsys.readouterr().out.splitlines() == [
        f"W&B: offline (WANDB_MODE=offline), kept in {rt.work / 'wandb'}", "W&B: off (WANDB_MODE=disabled).",
    ]  # fmt: skip


def test_a_second_start_ends_the_first_run(rt):
    tracking.start(rt, project="p", name="first")
    import wandb

    wandb.log({"train/global_step": 1, "train/loss": 2.0})
    tracking.start(rt, project="p", name="second")
    assert tracking.offline_history(rt.work)["loss"].tolist() == [2.0]
    tracking.finish()
    assert len(list((rt.work / "wandb").glob("offline-run-*"))) == 2


def test_the_messages_of_the_session_are_lesson_errors(rt, monkeypatch):
    """The same in this process, with wandb.init replaced: what it raises and what becomes of it."""
    import wandb
    from wandb.errors import AuthenticationError, CommError, UsageError

    monkeypatch.setenv("WANDB_API_KEY", KEY)
    for problem, said in (
        (AuthenticationError("API key is empty."), "has the wrong form .API key is empty.*run offline"),
        (CommError("user is not logged in"), "refuses WANDB_API_KEY .user is not.*create a new key"),
        (UsageError("Invalid project"), "does not take project='a/b', name='n': Invalid project"),
    ):

        def broken(problem=problem, **_):
            raise problem

        monkeypatch.setattr(wandb, "init", broken)
        with pytest.raises(LessonError, match=said):
            tracking.start(rt, project="a/b", name="n")


def test_without_wandb_it_says_how_to_get_it(rt, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(LessonError, match="wandb is not installed. Run: pip install wandb"):
        tracking.start(rt, project="p", name="n")
    assert tracking.finish() is None


def test_a_breakdown_of_wandbs_process_does_not_end_the_kernel(rt, monkeypatch):
    import wandb

    tracking.start(rt, project="p", name="n")
    teardown = wandb.teardown
    monkeypatch.setattr(wandb, "teardown", lambda: sys.exit(3))
    with pytest.raises(LessonError, match="ended with error 3. What it had written is in .*offline-run"):
        tracking.finish()
    teardown()


def test_vietnamese(rt, capsys):
    language.use("vi")
    tracking.start(rt, project="p", name="n")
    tracking.finish()
    assert capsys.readouterr().out == f"W&B: offline (chưa có WANDB_API_KEY), ghi vào {rt.work / 'wandb'}\n"
