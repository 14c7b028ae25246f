"""Every exercise of lesson 02: untouched, wrong in each known way, right; and the solution that is shown."""

import re

import pytest
import torch

from lessonlib.exercises import lesson02
from lessonlib.exercises.lesson02 import _PHI3, COOKBOOK, solve_factors, solve_labels, solve_missing
from lessonlib.runtime import _language as language

SOLUTIONS = {
    "factors": solve_factors,
    "missing": solve_missing,
    "budget": lesson02.solve_budget(),
    "labels": solve_labels,
    "bits": lesson02.solve_bits(),
    "quantise": lesson02.solve_quantise,
}


def svd(delta):
    return torch.linalg.svd(delta, full_matrices=False)


def from_svd(of):
    """factors that are right but for what `of(U, S, Vh, scale)` does, with U, S, Vh cut to r."""

    def factors(delta, r, alpha):
        U, S, Vh = svd(delta)
        return of(U[:, :r], S[:r], Vh[:r], alpha / r)

    return factors


def full_rank(delta, r, alpha):
    U, S, Vh = svd(delta)
    return Vh, U * S * (r / alpha)


def by_rule(rule):
    return lambda paths, targets: [t for t in targets if not any(rule(path, t) for path in paths)]


def each_turn(of):
    """labels that are `of(role, ids)` for each turn, one behind the other."""
    return lambda turns: [label for role, ids in turns for label in of(role, ids)]


def spoken(of):
    """labels that are right but for the assistant's turns, where they are `of(ids)`."""
    return each_turn(lambda role, ids: of(ids) if role == "assistant" else [-100] * len(ids))


def last_only(turns):
    return [
        label for n, (_, ids) in enumerate(turns, start=1)
        for label in ([-100, *ids[1:]] if n == len(turns) else [-100] * len(ids))
    ]  # fmt: skip


def quantised(scale=lambda block: block.abs().max(), index=None, back=lambda level, scale: level * scale):
    """quantise in the three steps, of which one may be another; a block of zeros gives zeros."""

    def nearest(values, levels):
        return (values.unsqueeze(-1) - levels).abs().argmin(dim=-1)

    def quantise(block, levels):
        if not block.any():
            return block
        unit = scale(block)
        return back(levels[(index or nearest)(block / unit, levels)], unit)

    return quantise


def by_distance(block, levels):
    """Right, but for a block of zeros, whose 0 / 0 stays in the sum."""
    values = block / block.abs().max()
    distances = levels - values.unsqueeze(-1)  # (block, 16)
    nearest = distances.abs().argmin(dim=-1, keepdim=True)
    return (values + distances.gather(-1, nearest).squeeze(-1)) * block.abs().max()


# (exercise, wrong answer, what the message has in it); the first block of factors is 6 x 4 of rank 2
MISTAKES = [
    ("factors", from_svd(lambda U, S, Vh, scale: (Vh, U * S)), "delta already.*Divide A or B"),
    ("factors", from_svd(lambda U, S, Vh, scale: (Vh, U * S * scale)), "you have to divide"),
    ("factors", from_svd(lambda U, S, Vh, scale: (U * S / scale, Vh)), r"swapped.*\(2, 4\).*\(6, 2\)"),
    ("factors", from_svd(lambda U, S, Vh, scale: (Vh.T, U * S / scale)), r"transposed: A has .* \(2, 4\)"),
    ("factors", from_svd(lambda U, S, Vh, scale: (Vh, (U * S / scale).T)), r"transposed.*you gave.*\(2, 6\)"),
    ("factors", from_svd(lambda U, S, Vh, scale: (Vh, U / scale)), "singular values S are missing"),
    ("factors", from_svd(lambda U, S, Vh, scale: (Vh, U)), "singular values S are missing"),
    (
        "factors",
        from_svd(lambda U, S, Vh, scale: (S[:, None] * Vh, U * S / scale)),
        "singular values S are used twice",
    ),
    ("factors", full_rank, "full rank 4, not r=2"),
    ("factors", from_svd(lambda U, S, Vh, scale: (Vh[:1], (U * S)[:, :1])), r"shapes.*you gave \(1, 4\)"),
    ("factors", from_svd(lambda U, S, Vh, scale: (Vh, U * -S / scale)), "delta 6 x 4, r=2.*is not delta"),
    ("factors", from_svd(lambda U, S, Vh, scale: (Vh, U * 0)), "is not delta"),
    ("factors", lambda delta, r, alpha: svd(delta), "Return two tensors"),
    ("factors", lambda delta, r, alpha: delta, "Return two tensors"),
    ("missing", by_rule(lambda path, name: name in path), "`name in path` matches any part"),
    ("missing", by_rule(str.endswith), "The dot is missing"),
    ("missing", lambda p, t: [name for name in t if name not in solve_missing(p, t)], "names that match"),
    ("missing", lambda p, t: [name for name in t if any(name in path for path in p)], "names that match"),
    ("missing", lambda p, t: [n for path in p for n in t if not path.endswith(f".{n}")], "use any"),
    ("missing", lambda p, t: sorted(solve_missing(p, t)), "keep the order of targets"),
    ("missing", lambda p, t: set(solve_missing(p, t)), "a set keeps no order.*you returned set"),
    ("missing", lambda p, t: None, "you returned NoneType"),
    (
        "missing",
        by_rule(lambda path, name: path.endswith(f".{name}")),
        r"paths=\['proj', 'net.fc1'\].*should be \['fc2'\], you gave \['fc2', 'proj'\]",
    ),
    (
        "missing",
        by_rule(lambda path, name: path.split(".")[-1] == name),
        r"should be \['mlp.o_proj'\], you gave \['self_attn.o_proj', 'mlp.o_proj'\]",
    ),
    ("budget", 45, "3,072 too few.*round up"),
    ("budget", 786_432 / 17_408, "round up"),
    ("budget", 32, "not half of the parameters"),
    ("budget", 16, "278,528 parameters in a block"),
    ("budget", 53, r"counted inputs \* outputs"),
    ("budget", 52, r"counted inputs \* outputs"),
    ("budget", 47, "Rank 47 gives 818,176 parameters; take the smallest"),
    ("budget", 6, "Rank 6 gives 104,448 parameters"),
    ("labels", spoken(lambda ids: [-100, *ids[1:-1], -100]), r"end token \(position 8\) is masked"),
    ("labels", spoken(lambda ids: ids), r"role token \(position 4\) carries loss"),
    ("labels", last_only, "Only the assistant's last turn"),
    (
        "labels",
        each_turn(lambda role, ids: [-100] * len(ids) if role == "system" else [-100, *ids[1:]]),
        "A user turn carries loss",
    ),
    (
        "labels",
        each_turn(lambda role, ids: [-100] * len(ids) if role == "user" else [-100, *ids[1:]]),
        "A system turn carries loss",
    ),
    ("labels", lambda turns: [solve_labels([turn]) for turn in turns], "One flat list"),
    ("labels", lambda turns: [n for n in solve_labels(turns) if n != -100], "9 of them, you gave 4"),
    ("labels", lambda turns: [*solve_labels(turns)[1:], -100], "shifted by one"),
    ("labels", spoken(lambda ids: [-100, -100, *ids[2:]]), r"They should be \[-100, -100, .*you gave"),
    ("bits", 4, "the block's absmax too"),
    ("bits", 4.5, "Double quantisation brings it to 8 bits"),
    ("bits", 4.125, "second level is missing"),
    ("bits", 4.25, r"divide by 64 \* 256"),
    ("bits", 0.516, "in bytes"),
    ("bits", 4.13, "It is not 4.13.*three decimals"),
    ("quantise", quantised(back=lambda level, scale: level), "forgot to multiply by absmax"),
    ("quantise", quantised(scale=torch.max), r"absmax is 2 and not 1.1: take absolute values first"),
    ("quantise", quantised(index=lambda x, levels: torch.bucketize(x, levels)), "next level above or below"),
    (
        "quantise",
        quantised(index=lambda x, levels: torch.bucketize(x, levels, right=True) - 1),
        "next level above or below",
    ),
    (
        "quantise",
        quantised(index=lambda x, levels: (torch.bucketize(x, levels) - 1).clamp(min=0)),
        "next level above or below",
    ),
    ("quantise", by_distance, r"A block of zeros has to give zeros, you gave \[nan"),
    (
        "quantise",
        lambda block, levels: (block / block.abs().max()).unsqueeze(-1).sub(levels).abs().argmin(dim=-1),
        "indices of levels",
    ),
    ("quantise", lambda block, levels: block, r"Of \[0.5, -0.21.* there should be left \[0.5, -0.197"),
    ("quantise", lambda block, levels: block.abs().max(), r"shape \(6,\), you returned \(\)"),
    ("quantise", lambda block, levels: block.tolist(), "you returned list"),
]  # fmt: skip

ALSO_RIGHT = [
    ("factors", from_svd(lambda U, S, Vh, scale: (S.sqrt()[:, None] * Vh / scale, U * S.sqrt()))),
    ("factors", from_svd(lambda U, S, Vh, scale: [-Vh / scale**0.5, -U * S / scale**0.5])),
    ("missing", lambda paths, targets: tuple(solve_missing(paths, targets))),
    ("missing", by_rule(lambda path, name: f".{path}".endswith(f".{name}"))),
    ("budget", 46.0),
    ("labels", lambda turns: tuple(solve_labels(turns))),
    ("bits", 4.127),
    ("quantise", quantised(scale=lambda block: block.abs().max().clamp(min=1e-12))),
    ("quantise", lambda block, levels: torch.stack([
        min((level * block.abs().max() for level in levels), key=lambda back: (back - x).abs())
        for x in block
    ])),
]  # fmt: skip


@pytest.mark.parametrize("name", SOLUTIONS)
def test_the_shown_solution_is_right(name):
    exercise = getattr(lesson02, name)
    feedback = exercise.check(SOLUTIONS[name])
    assert feedback.status == "right", feedback
    assert exercise.solve.__name__ in str(exercise.solution())


@pytest.mark.parametrize(("name", "answer"), ALSO_RIGHT)
def test_another_way_is_right_too(name, answer):
    feedback = getattr(lesson02, name).check(answer)
    assert feedback.status == "right", feedback


def test_untouched_starting_points_count_as_not_attempted():
    def untouched(*_):
        return ...  # your code here

    for exercise in lesson02.ALL:
        answer = ... if exercise.start is None else untouched
        assert exercise.check(answer).status == "not attempted"


@pytest.mark.parametrize(("name", "answer", "message"), MISTAKES)
def test_each_mistake_gets_its_own_message(name, answer, message):
    feedback = getattr(lesson02, name).check(answer)
    assert feedback.status == "wrong"
    assert re.search(message, str(feedback)), feedback
    assert feedback.vi != feedback.en


def test_a_function_that_changes_what_it_is_given_is_judged_by_what_it_returns():
    def factors(delta, r, alpha):
        given = solve_factors(delta.clone(), r, alpha)
        delta.zero_()
        return given

    def quantise(block, levels):
        scale = block.abs().max().clamp(min=1e-12)
        block /= scale
        block.copy_(levels[(block.unsqueeze(-1) - levels).abs().argmin(dim=-1)])
        block *= scale
        return block

    assert lesson02.factors.check(factors).status == "right"
    assert lesson02.quantise.check(quantise).status == "right"


def test_everything_is_said_in_both_languages():
    for number, exercise in enumerate(lesson02.ALL, start=1):
        english = exercise.help().html
        language.use("vi")
        assert exercise.help().html != english
        language.use("en")
        assert exercise.title["en"].startswith(f"Exercise {number}")
        assert exercise.title["vi"].startswith(f"Bài tập {number}")
        for words in (exercise.title, exercise.praise, *exercise.hints):
            assert words["vi"] != words["en"] and all(words.texts.values())


# --- the solutions against a reference


def test_factors_are_what_a_lora_layer_makes_its_update_of():
    from lessonlib.lora import layers

    torch.manual_seed(0)
    delta = torch.randn(12, 3) @ torch.randn(3, 8)
    layer = layers.Linear(8, 12, r=3, lora_alpha=6)
    with torch.no_grad():
        for weight, factor in zip((layer.lora_A, layer.lora_B), solve_factors(delta, 3, 6), strict=True):
            weight.copy_(factor)
        torch.testing.assert_close(layer.delta(), delta, rtol=1e-4, atol=1e-4)


def phi3(targets, r):
    """One block of Phi-3-mini on the meta device, with peft's LoRA."""
    from peft import LoraConfig, get_peft_model
    from transformers import Phi3Config, Phi3ForCausalLM

    config = Phi3Config(
        hidden_size=3072, intermediate_size=8192, num_attention_heads=32, num_hidden_layers=1, pad_token_id=0
    )
    with torch.device("meta"):
        return get_peft_model(Phi3ForCausalLM(config), LoraConfig(r=r, target_modules=list(targets)))


def test_missing_names_are_those_that_peft_adapts_nothing_for():
    assert solve_missing(_PHI3, COOKBOOK) == ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"]
    model = phi3(COOKBOOK, 4)
    assert set(_PHI3) <= dict(model.base_model.model.named_modules()).keys()  # the exercise's paths are real
    ends = {path.split(".")[-1] for path in model.targeted_module_names}
    assert ends == {"o_proj", "down_proj"} == set(COOKBOOK) - set(solve_missing(_PHI3, COOKBOOK))
    for name in ("qkv_proj", "gate_up_proj", "self_attn.o_proj", *solve_missing(_PHI3, COOKBOOK)):
        adapted = phi3([name, "down_proj"], 4).targeted_module_names  # with no match at all peft would refuse
        assert (len(adapted) == 1) == (solve_missing(_PHI3, [name]) == [name]), name


def test_the_budget_is_counted_as_peft_counts():
    def trainable_parameters(model):
        return model.get_nb_trainable_parameters()[0]

    four = trainable_parameters(phi3(["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], 16))
    two = [trainable_parameters(phi3(["o_proj", "down_proj"], rank)) for rank in (45, 46)]
    assert four == 786_432 and two == [783_360, 800_768]
    assert lesson02.solve_budget() == 46


def test_labels_are_those_of_a_conversation_written_out():
    turns = [("system", [1, 50, 9]), ("user", [2, 51, 9]), ("assistant", [3, 52, 53, 9]), ("user", [2, 9])]
    assert solve_labels(turns) == [-100] * 3 + [-100] * 3 + [-100, 52, 53, 9] + [-100] * 2


def test_bits_are_what_bitsandbytes_stores():
    from lessonlib.models import _quantisation as quantisation

    torch.manual_seed(0)
    table = quantisation.quantisation_error(torch.randn(1024, 1024)).set_index("double_quantisation")
    assert table["bits_per_weight"][True] == pytest.approx(lesson02.solve_bits(), abs=1e-4)
    assert table["bits_per_weight"][False] == 4.5


def test_a_block_is_quantised_as_bitsandbytes_does():
    from lessonlib.models import _quantisation as quantisation

    torch.manual_seed(0)
    levels = torch.tensor(quantisation.levels("nf4"))
    for block in (torch.randn(64), torch.cat([torch.randn(63) / 50, torch.tensor([-4.0])]), torch.zeros(64)):
        _, back, _ = quantisation.round_trip(block)
        torch.testing.assert_close(lesson02.solve_quantise(block, levels), back, rtol=1e-5, atol=1e-6)
