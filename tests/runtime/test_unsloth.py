"""Both backends give the same: tokenizer, adapter, loss curve, exports. Unsloth really runs here, on the CPU.

It does so in processes of their own (tests/unsloth_run.py), since importing it changes trl for good.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from lessonlib.runtime import _language as language
from lessonlib.runtime import _unsloth as unsloth_backend

# Measured on the Llama twin, 40 steps of 2 x 4 rows of customer_support_vi, at learning rates 2e-4 and 2e-3:
# largest difference 9.5e-7, mean 3e-7; that is 2 units in the last place of a float32 between 4 and 8. The
# two add up the loss in another order. Ten times that leaves room for CPUs that round otherwise.
MARGIN = 1e-5


def run(mode: str, folder: Path, **variables: str) -> dict:
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "UNSLOTH_"))}
    environment = keep | {
        "OMP_NUM_THREADS": "1", "LESSONLIB_LANG": "en", "LESSONLIB_HEADLESS": "1",
        "LESSONLIB_CACHE": str(folder / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    } | variables  # fmt: skip
    environment.pop("LESSONLIB_PROFILE", None)
    (folder / "cwd").mkdir()
    (folder / "work").mkdir()
    script = Path(__file__).parents[1] / "unsloth_run.py"
    done = subprocess.run(
        [sys.executable, script, mode, folder / "work"],
        cwd=folder / "cwd", env=environment, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "work" / "result.json").read_text())


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    # Online, so that whoever wants the network is noticed; sockets are blocked there.
    return run("both", tmp_path_factory.mktemp("unsloth"), HF_HUB_OFFLINE="0")


def farthest(first, second):
    assert len(first) == len(second) == 10
    return max(abs(one - other) for one, other in zip(first, second, strict=True))


# ---- it starts quietly, and touches nothing but this process ----


def test_it_runs_in_rehearsal(ran):
    assert ran["imported"]
    table = ran["table"]
    assert (table["backend"], table["profile"], table["device"]) == ("unsloth", "rehearsal", "cpu")


def test_detecting_loading_and_adapting_say_nothing(ran):
    """No banner, no version, no number of threads, and no warning that names a path."""
    assert ran["said"] == ""


def test_nothing_asks_for_the_network(ran):
    assert ran["asked of the network"] == []


def test_the_learners_folder_stays_empty(ran):
    assert ran["left in the folder"] == []


def test_its_switch_is_no_business_of_child_processes(ran):
    new = set(ran["environment after"]) - set(ran["environment before"])
    assert {"UNSLOTH_DISABLE_STATISTICS", "UNSLOTH_CPU_BF16", "UNSLOTH_COMPILE_LOCATION"} <= new
    assert "UNSLOTH_FORCE_CPU" not in new


def test_in_one_kernel_it_serves_one_device(ran):
    assert ran["refusals"]["other device"] == (
        "this kernel has imported Unsloth for cpu; restart it to use Unsloth on cuda"
    )


# ---- the same model, tokenizer and adapter ----


def test_the_model_is_the_same(ran):
    for what in ("weights", "config"):
        assert ran["unsloth"][what] == ran["plain"][what], what
    assert (ran["unsloth"]["training"], ran["unsloth"]["dtypes"]) == (False, ["torch.float32"])


def test_the_tokenizer_is_the_same(ran):
    plain, other = ran["plain"]["tokenizer"], ran["unsloth"]["tokenizer"]
    assert other == plain
    assert plain["padding"][0] == "right" and plain["padding"][1] != plain["padding"][2]


def test_the_same_seed_draws_the_same_adapter(ran):
    assert ran["unsloth"]["A"] == ran["plain"]["A"]
    assert ran["unsloth"]["B"] == 0.0
    assert ran["unsloth"]["adapted"] == [4] * 7 + [28]  # seven kinds of layers in four blocks
    assert not ran["unsloth"]["checkpointing"]  # on a CPU it would only take time


def test_four_bits_are_the_same_four_bits(ran):
    assert ran["four bits"]["unsloth"] == ran["four bits"]["transformers"]
    assert len(ran["four bits"]["unsloth"]["layers"]) == 28


# ---- the same training ----


def test_the_loss_curves_are_the_same(ran):
    assert ran["unsloth"]["calls of its loss"] == 20  # 10 steps of 2 batches: the loss is Unsloth's own
    plain = ran["plain"]["losses"]
    assert farthest(ran["unsloth"]["losses"], plain) < MARGIN
    assert max(plain) - min(plain) > 0.1  # it learns


@pytest.mark.parametrize("what", ["learning rate", "seed of A", "seed of the order"])
def test_the_margin_would_notice(ran, what):
    """A rate wrong by a tenth, other initial values of A, another order of the rows: 0.06, 0.02, 1.1."""
    assert farthest(ran["wrong"][what], ran["unsloth"]["losses"]) > 100 * MARGIN


def test_the_plain_backend_is_not_changed_by_it(ran):
    """A lesson may show both curves in one notebook, in either order."""
    assert ran["plain after unsloth"] == ran["plain"]["losses"]


def test_a_killed_run_ends_as_one_that_was_not(ran):
    broken, whole = ran["resume"]["broken"], ran["resume"]["unbroken"]
    assert ran["resume"]["killed by"] == 9
    assert "Going on from step 6 of 10." in broken["said"] and "Going on" not in whole["said"]
    for what in ("weights", "history", "tokens", "best"):
        assert broken[what] == whole[what], what
    assert len(whole["eval"]) == 4 and min(whole["eval"]) < whole["eval"][0]


def test_settings_that_it_changes_on_a_cpu_are_said(ran):
    assert ran["optimiser"] == "adamw_torch_fused"
    assert "optim = 'adamw_8bit' needs a GPU, using 'adamw_torch_fused'" in ran["said of settings"]
    assert "switches packing off" in ran["refusals"]["packing"]["en"]
    assert "đã tắt packing" in ran["refusals"]["packing"]["vi"]


# ---- afterwards ----


def test_a_trained_model_answers_like_plain_peft_with_its_adapter(ran):
    measured = ran["afterwards"]["measured"]
    assert measured["unsloth"] == measured["plain"]  # answers, losses and logits, to the bit
    assert len(measured["plain"]["answers"]) == 3
    assert ran["afterwards"]["training"] is False and ran["afterwards"]["cache"] is True
    assert ran["afterwards"]["train after answers"] == 0


def test_what_is_exported_carries_no_trace_of_it(ran):
    theirs, ours = ran["afterwards"]["merged files"], ran["afterwards"]["merged plain files"]
    assert {"model.safetensors", "config.json", "tokenizer.json", "generation_config.json"} <= set(ours)
    assert theirs == ours


def test_what_is_exported_is_what_was_trained(ran):
    merged = ran["afterwards"]["merged"]
    assert merged["class"] == "LlamaForCausalLM"
    assert merged["difference"] < 1e-3 < merged["effect"]


# ---- labels, and what is refused ----


def test_its_mask_is_that_of_chat_encode(ran):
    """train_on_responses_only on every conversation of customer_support_vi."""
    found = ran["responses only"]
    assert {name: split["rows"] for name, split in found.items()} == {
        "train": 256, "validation": 32, "test": 64, "unseen_intents": 20,
    }  # fmt: skip
    for name, split in found.items():
        assert split["differ"] == [] and split["theirs"] == split["rows"], name
        assert 0 < split["learnt"] < split["masked"], name


@pytest.mark.parametrize(
    ("what", "english", "vietnamese"),
    [
        ("dora", "cannot pass on use_dora of the LoraConfig", "không truyền được use_dora của LoraConfig"),
        ("default targets", "names no target_modules", "không có target_modules"),
        ("twice", "has LoRA adapters already", "đã có adapter LoRA"),
        (
            "too long",
            "train_dataset, row 0: 2049 tokens, but the model was loaded for 2048",
            "train_dataset, dòng 0: 2049 token, nhưng mô hình được nạp cho 2048",
        ),
    ],
)
def test_what_it_would_do_without_a_word_is_refused(ran, what, english, vietnamese):
    assert english in ran["refusals"][what]["en"]
    assert vietnamese in ran["refusals"][what]["vi"]


# ---- where it will not start, and how it is started: with packages in its place ----


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Puts a package called unsloth into the path: gives back the function that does it."""
    monkeypatch.delitem(sys.modules, "unsloth", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def put(source: str) -> None:
        (tmp_path / "unsloth.py").write_text(source)

    with mock.patch.dict(os.environ):
        for name in [name for name in os.environ if name.startswith("UNSLOTH_")]:
            del os.environ[name]
        yield put
    sys.modules.pop("unsloth", None)


@pytest.mark.parametrize("kind", ["ImportError", "NotImplementedError", "RuntimeError", "OSError"])
def test_whatever_it_raises_is_the_reason(package, kind):
    package(f"raise {kind}('no kernel for this driver\\nsecond line')")
    assert unsloth_backend.unfit("cpu") == f"{kind}: no kernel for this driver"


def test_a_missing_package_is_a_reason(package, monkeypatch):
    monkeypatch.setitem(sys.modules, "unsloth", None)  # Python's own mark for what cannot be imported
    assert unsloth_backend.unfit("cuda").startswith("ModuleNotFoundError: ")


STARTS = """
import os, warnings
DEVICE_TYPE = {device!r}
SEEN = dict(os.environ)
print("Unsloth 2026.10.9: no GPU found, training on CPU (x86_64, 2 threads, bfloat16 = False).")
print("Unsloth: worth reading")
warnings.warn("WARNING: Unsloth should be imported before [trl, peft] to ensure ...")
"""


def test_on_a_cpu_only_what_names_the_machine_is_left_out(package, capsys, recwarn):
    package(STARTS.format(device="cpu"))
    assert unsloth_backend.unfit("cpu") is None
    assert capsys.readouterr().out == "Unsloth: worth reading\n"
    assert len(recwarn) == 0


def test_on_a_gpu_it_may_say_what_it_likes(package, capsys, recwarn):
    package(STARTS.format(device="cuda"))
    assert unsloth_backend.unfit("cuda") is None
    assert "no GPU found" in capsys.readouterr().out
    assert [str(warning.message)[:7] for warning in recwarn] == ["WARNING"]
    assert "UNSLOTH_FORCE_CPU" not in sys.modules["unsloth"].SEEN


def test_a_rehearsal_beside_a_gpu_is_forced_onto_the_cpu(package, monkeypatch, tmp_path):
    monkeypatch.setenv("LESSONLIB_CACHE", str(tmp_path / "kept"))
    package(STARTS.format(device="cpu"))
    unsloth_backend.unfit("cpu")
    seen = sys.modules["unsloth"].SEEN
    assert seen["UNSLOTH_FORCE_CPU"] == "1" and "UNSLOTH_FORCE_CPU" not in os.environ
    assert seen["UNSLOTH_COMPILE_LOCATION"] == str(tmp_path / "kept" / "unsloth")
    assert (seen["UNSLOTH_CPU_BF16"], seen["UNSLOTH_DISABLE_STATISTICS"]) == ("0", "1")


def test_what_the_learner_has_set_stays(package, monkeypatch):
    for name in ("UNSLOTH_CPU_BF16", "UNSLOTH_DISABLE_CPU_FALLBACK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("UNSLOTH_COMPILE_LOCATION", "mine")
    package(STARTS.format(device="cpu"))
    unsloth_backend.unfit("cpu")
    seen = sys.modules["unsloth"].SEEN
    assert (seen["UNSLOTH_CPU_BF16"], seen["UNSLOTH_COMPILE_LOCATION"]) == ("1", "mine")
    assert "UNSLOTH_FORCE_CPU" not in seen


@pytest.mark.filterwarnings("ignore:WARNING")  # its own, which stays on a GPU
@pytest.mark.parametrize(("there", "asked"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_an_unsloth_for_the_other_device_will_not_do(package, there, asked):
    package(STARTS.format(device=there))
    assert unsloth_backend.unfit(there) is None
    reason = unsloth_backend.unfit(asked)
    assert f"has imported Unsloth for {there}; restart it to use Unsloth on {asked}" in reason
    language.use("vi")
    assert f"đã nạp Unsloth cho {there}" in unsloth_backend.unfit(asked)



def test_where_it_will_not_start_the_lesson_goes_on_without_it(ran, tmp_path):
    without = run("without", tmp_path, HF_HUB_OFFLINE="1", UNSLOTH_DISABLE_CPU_FALLBACK="1")
    assert without["backend"] == "transformers"
    (line,) = without["said"].splitlines()
    assert line.startswith("Unsloth cannot be used (NotImplementedError: ")
    assert line.endswith("the same results, on a GPU more slowly and with more memory.")
    assert farthest(without["losses"], ran["plain"]["losses"]) < MARGIN
