"""charts: what is drawn is what was given; equal pictures for equal numbers; both languages."""

import io
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

from lessonlib.lora import _config as lora
from lessonlib.models import _quantisation as quantisation
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError
from lessonlib.training import _memory as memory
from lessonlib.views import _charts as charts

# --- loss_curve ---


def history(shift=0.0):
    return pd.DataFrame({"step": [1, 2, 3], "loss": [3.0, 2.0 + shift, None], "eval_loss": [None, 2.5, None]})


def test_curves_hold_the_measured_points():
    figure = charts.loss_curve({"base": history(), "tuned": history()}, reference={"ln(V)": 6.931})
    axes = figure.axes[0]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert drawn["base · training"] == [[1, 3.0], [2, 2.0]]
    assert drawn["tuned · held-out"] == [[2, 2.5]]
    assert "ln(V) = 6.93" in [note.get_text() for note in axes.texts]
    assert axes.get_xlabel() == "step" and axes.get_ylabel() == "loss (nats per token)"


def test_a_run_without_held_out_loss_has_one_curve():
    figure = charts.loss_curve({"only": history().drop(columns="eval_loss")})
    assert [line.get_label() for line in figure.axes[0].lines] == ["only · training"]


def test_the_picture_is_the_same_for_losses_equal_to_three_decimals():
    first = charts.loss_curve({"a": history()})._repr_png_()
    assert first == charts.loss_curve({"a": history(shift=1e-7)})._repr_png_()
    assert first != charts.loss_curve({"a": history(shift=0.5)})._repr_png_()
    assert first.startswith(b"\x89PNG") and b"matplotlib" not in first


def test_the_figure_stays_out_of_pyplot_and_can_be_saved():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    figure = charts.loss_curve({"a": history()})
    assert pyplot.get_fignums() == before
    figure.savefig(io.BytesIO(), format="svg")


def test_labels_are_in_vietnamese():
    language.use("vi")
    axes = charts.loss_curve({"gốc": history()}).axes[0]
    assert axes.get_xlabel() == "bước (step)"
    assert [line.get_label() for line in axes.lines] == ["gốc · huấn luyện", "gốc · held-out"]


def test_nothing_to_draw_is_refused():
    with pytest.raises(LessonError, match="There is no run to draw"):
        charts.loss_curve({})
    with pytest.raises(
        LessonError, match="The run 'a' has nothing to draw.*'loss'.* in 0 rows.*training.history"
    ):
        charts.loss_curve({"a": history().iloc[:0]})
    with pytest.raises(LessonError, match="The run 'a' has nothing to draw: it needs step"):
        charts.loss_curve({"a": history().drop(columns="step")})
    language.use("vi")
    with pytest.raises(LessonError, match="'a' không có gì để vẽ"):
        charts.loss_curve({"a": pd.DataFrame({"step": [1]})})


# --- live_loss ---

LOG = [
    {"step": 10, "loss": 3.2, "epoch": 0.5, "learning_rate": 1e-3},
    {"step": 20, "loss": 2.1, "epoch": 1.0, "learning_rate": 5e-4},
    {"step": 20, "eval_loss": 2.4, "epoch": 1.0},
]


@pytest.fixture
def shown(monkeypatch):
    """Every figure that is displayed or put in the place of one, as its lines' points."""
    import IPython.display

    figures = []

    def points(figure):
        return [line.get_xydata().tolist() for line in figure.axes[0].get_lines()]

    def display(figure, *, display_id):
        assert display_id is True
        figures.append(("new", points(figure)))
        return SimpleNamespace(update=lambda figure: figures.append(("update", points(figure))))

    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.delenv("LESSONLIB_HEADLESS", raising=False)
    return figures


def log(callback, count):
    callback.on_log(None, SimpleNamespace(log_history=LOG[:count]), None)


def test_one_picture_is_kept_up_to_date(shown):
    callback = charts.live_loss("run")
    for count in (1, 2, 3):
        log(callback, count)
    assert [kind for kind, _ in shown] == ["new", "update", "update"]
    assert shown[0][1] == [[[10.0, 3.2]]]
    assert sorted(shown[-1][1]) == [[[10.0, 3.2], [20.0, 2.1]], [[20.0, 2.4]]]


def test_a_log_without_losses_draws_nothing(shown):
    charts.live_loss().on_log(None, SimpleNamespace(log_history=[{"step": 1, "grad_norm": 1.0}]), None)
    assert shown == []


def test_nobody_watches_a_headless_run(shown, monkeypatch):
    monkeypatch.setenv("LESSONLIB_HEADLESS", "1")
    log(charts.live_loss(), 3)
    assert shown == []


# --- memory_bars ---


@pytest.fixture
def plans(tiny_phi3):
    config = lora.lora_config(tiny_phi3, r=4)
    shape = {"batch_size": 2, "length": 64}
    made = {
        "full": memory.plan(tiny_phi3, **shape),
        "nf4": memory.plan(tiny_phi3, lora=config, quantisation="nf4", **shape),
    }
    for plan in made.values():  # from thousands of bytes to GiB
        plan["gib"] = plan["bytes"] / 2**18
    return made


def bars(figure):
    """Legend entry -> [(start, length) of each bar, from the first plan on]."""
    return {
        container.get_label(): [(bar.get_x(), bar.get_width()) for bar in container]
        for container in figure.axes[0].containers
    }


def test_each_bar_is_its_plan_s_parts_end_to_end(plans):
    figure = charts.memory_bars(plans)
    drawn = bars(figure)
    names = {"quantisation constants": "constants"}
    for row, plan in enumerate(plans.values()):
        gib = plan.set_index("part")["gib"]
        end = 0.0
        for label, pieces in drawn.items():
            start, length = pieces[row]
            assert start == pytest.approx(end)
            assert length == pytest.approx(gib[names.get(label, label)])
            end = start + length
        assert end == pytest.approx(gib["total"])
    axes = figure.axes[0]
    assert list(drawn) == [
        "weights", "quantisation constants", "adapters", "gradients", "optimiser", "activations", "logits"
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["full", "nf4"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top
    assert axes.get_xlabel() == "GPU memory (GiB)"


def test_the_card_and_its_reserve_are_lines_and_the_verdict_a_mark(plans):
    totals = {name: float(plan["gib"].iloc[-1]) for name, plan in plans.items()}
    assert totals["full"] > totals["nf4"] + 0.01
    card = totals["nf4"] + memory.RESERVE_GIB + 0.005
    figure = charts.memory_bars(plans, card=card)
    lines = figure.axes[0].lines
    assert [line.get_xdata()[0] for line in lines] == pytest.approx([card, card - 1])
    assert [line.get_linestyle() for line in lines] == ["-", "--"]
    labels = [f"card: {card:g} GiB", f"less 1 GiB in reserve: {card - 1:g}"]
    assert [line.get_label() for line in lines] == labels
    notes = [note.get_text() for note in figure.axes[0].texts]
    assert notes == [f"{totals['full']:.1f} GiB ✗", f"{totals['nf4']:.1f} GiB ✓"]
    assert memory.fits(plans["nf4"], card) and not memory.fits(plans["full"], card)
    bare = charts.memory_bars(plans, card=None).axes[0]
    assert not bare.lines and [note.get_text() for note in bare.texts] == [note[:-2] for note in notes]


def test_everything_drawn_lies_inside_the_frame_or_the_picture(plans):
    for card in (0.5, 40.0):
        figure = charts.memory_bars(plans, card=card)
        figure.draw_without_rendering()
        low, high = figure.axes[0].get_xlim()
        ends = [start + length for pieces in bars(figure).values() for start, length in pieces]
        assert low == 0 and max([*ends, card]) < high
        whole = figure.bbox
        boxes = [note.get_window_extent() for note in (*figure.axes[0].texts, *figure.legends)]
        assert all(whole.x0 <= box.x0 and box.x1 <= whole.x1 and box.y0 >= whole.y0 for box in boxes)


def test_parts_differ_in_hatch_as_well_as_in_colour(plans):
    containers = charts.memory_bars(plans).axes[0].containers
    assert len({container[0].get_hatch() for container in containers}) == len(containers) == 7
    assert len({to_hex(container[0].get_facecolor()) for container in containers}) == 7


def test_a_part_that_no_plan_has_is_left_out(plans):
    assert "quantisation constants" not in bars(charts.memory_bars({"full": plans["full"]}))


def test_memory_bars_in_vietnamese(plans):
    language.use("vi")
    figure = charts.memory_bars(plans, card=8)
    assert list(bars(figure)) == [
        "trọng số", "hằng số lượng tử hóa", "adapter", "gradient", "bộ tối ưu", "activation", "logits"
    ]
    assert figure.axes[0].get_xlabel() == "bộ nhớ GPU (GiB)"
    assert figure.axes[0].lines[1].get_label() == "trừ 1 GiB dự phòng: 7"


def test_no_plans_to_draw_are_refused(plans):
    with pytest.raises(LessonError, match="no memory plan to draw. Pass {'name': training.memory_plan"):
        charts.memory_bars({})
    with pytest.raises(LessonError, match="'mine' is no table of training.memory_.*part and gib.*row total"):
        charts.memory_bars({"mine": pd.DataFrame({"part": ["weights"], "gib": [1.0]})})
    with pytest.raises(LessonError, match="'mine' is no table of training.memory_plan"):
        charts.memory_bars({**plans, "mine": pd.DataFrame({"part": ["total"]})})
    for card in (0, -1, float("nan")):
        with pytest.raises(LessonError, match="has to be above 0"):
            charts.memory_bars(plans, card=card)


# --- quantisation ---


@pytest.fixture
def weight():
    """100 blocks of 64, one of which has an outlier."""
    weight = torch.randn(80, 80, generator=torch.Generator().manual_seed(1)) * 0.02
    weight[0, 3] = 0.5
    return weight


def test_the_histogram_is_that_of_each_number_over_its_block_s_largest(weight):
    left, _ = charts.quantisation(weight).axes
    heights = [bar.get_height() for bar in left.patches]
    edges = [bar.get_x() for bar in left.patches]
    blocks = weight.reshape(100, 64)
    scaled = blocks / blocks.abs().amax(dim=1, keepdim=True)
    assert sum(heights) == weight.numel()
    assert heights[0] + heights[-1] == (scaled.abs() > 0.9875).sum()
    middle = heights[len(heights) // 2]
    assert middle == pytest.approx((scaled.abs() < 0.0125).sum().item(), abs=2)
    assert edges[0] == pytest.approx(-1.0125)
    drawn = [line.get_xdata()[0] for line in left.lines]
    assert drawn == pytest.approx(quantisation.levels())
    relative = quantisation.quantisation_error(weight)["relative_error"][0]
    assert left.get_title() == f"relative error {relative:.1%}"


def test_each_point_is_a_block_s_largest_number_and_its_mean_error(weight):
    _, right = charts.quantisation(weight).axes
    (points,) = right.lines
    largest, error = points.get_xdata(), points.get_ydata()
    values, back, _ = quantisation.round_trip(weight)
    by_hand = (values - back).abs().reshape(100, 64).mean(dim=1)
    assert len(largest) == 100
    assert largest == pytest.approx(weight.reshape(100, 64).abs().amax(dim=1).numpy(), abs=1e-4)
    assert error == pytest.approx(by_hand.numpy(), abs=1e-5)
    assert largest[0] == pytest.approx(0.5, abs=1e-4)
    assert error[0] > 3 * sorted(error)[-2]  # one outlier, and 63 numbers are worse off


def test_of_many_blocks_some_are_drawn_evenly():
    weight = torch.arange(1.0, 5001).repeat_interleave(32)  # blocks of 32 whose largest is their number
    _, right = charts.quantisation(weight, blocksize=32).axes
    drawn = right.lines[0].get_xdata()
    assert drawn == pytest.approx(list(range(1, 5001, 3)), abs=0.5)


def test_a_last_block_that_is_not_full_is_left_out():
    _, right = charts.quantisation(torch.ones(150)).axes
    assert right.lines[0].get_xdata().tolist() == [1, 1]


def test_the_picture_is_the_same_for_weights_equal_to_four_digits(weight):
    first = charts.quantisation(weight)._repr_png_()
    assert first == charts.quantisation(weight.clone())._repr_png_()
    assert first != charts.quantisation(weight, blocksize=128)._repr_png_()
    assert first.startswith(b"\x89PNG") and b"matplotlib" not in first
    charts.quantisation(torch.zeros(8, 8))._repr_png_()  # nothing to divide by


def test_quantisation_in_vietnamese(weight):
    language.use("vi")
    left, right = charts.quantisation(weight).axes
    assert left.get_xlabel() == "trọng số / số lớn nhất của khối (absmax)"
    assert left.get_legend_handles_labels()[1] == ["trước: mọi trọng số", "sau: 16 mức của nf4"]
    assert right.get_title() == "mỗi điểm: khối 64 trọng số"


def test_a_weight_smaller_than_a_block_is_refused(weight):
    with pytest.raises(LessonError, match="has 63 numbers, less than one block of 64"):
        charts.quantisation(weight.flatten()[:63])
    with pytest.raises(LessonError, match="no blocksize=10"):
        charts.quantisation(weight, blocksize=10)


@pytest.mark.parametrize("picture", ["memory_bars", "quantisation"])
def test_pictures_stay_out_of_pyplot_and_can_be_saved(picture, plans, weight):
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    figure = getattr(charts, picture)(plans if picture == "memory_bars" else weight)
    assert pyplot.get_fignums() == before
    figure.savefig(io.BytesIO(), format="svg")
    assert figure._repr_png_().startswith(b"\x89PNG")


# --- confusion ---


def report(*turns):
    """(wanted names, called names, error) as a report."""
    return pd.DataFrame(
        {
            "expected": [{"name": name, "arguments": {}} for name in wanted],
            "got": [{"name": name, "arguments": {}} for name in got],
            "error": error,
        }
        for wanted, got, error in turns
    )


REPORT = report(
    ("a", "a", None),
    ("a", "a", "value"),
    ("a", "b", "name"),
    ("a", "", "no_call"),
    ("b", "", "unreadable"),
    ("b", ["invented"], "name"),
    ("ab", "ba", None),
    ("ab", "cb", "name"),  # b belongs to b, so c came for a
    ("ab", "b", "call_count"),
    ("a", "aa", "call_count"),
    ("", "", None),
    ("", "a", "called_without_need"),
    ("", "", "unreadable"),
)


def cells(figure):
    axes = figure.axes[0]
    rows, columns = (
        [label.get_text() for label in labels] for labels in (axes.get_yticklabels(), axes.get_xticklabels())
    )
    places = [(note.get_position(), note.get_text()) for note in axes.texts]
    return {(rows[int(y)], columns[int(x)]): shown for (x, y), shown in places}


def test_each_cell_counts_what_was_wanted_and_what_came():
    assert cells(charts.confusion(REPORT)) == {
        ("a (8)", "a"): "4", ("a (8)", "b"): "1", ("a (8)", "no call"): "2", ("a (8)", "another name"): "1",
        ("b (5)", "b"): "3", ("b (5)", "unreadable"): "1", ("b (5)", "another name"): "1",
        ("no call (4)", "no call"): "1", ("no call (4)", "a"): "2", ("no call (4)", "unreadable"): "1",
    }  # fmt: skip


def test_the_diagonal_is_framed_and_unused_columns_are_left_out():
    axes = charts.confusion(report(("b", "b", None), ("a", "b", "name"), ("", "", None))).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "no call"]
    assert [frame.get_xy() for frame in axes.patches] == [(at - 0.5, at - 0.5) for at in range(3)]
    assert axes.images[0].get_array().tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_confusion_in_both_languages():
    axes = charts.confusion(REPORT).axes[0]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("tool that was wanted (times)", "tool that was called")
    language.use("vi")
    axes = charts.confusion(REPORT).axes[0]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("công cụ cần gọi (số lần)", "công cụ được gọi")
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "a", "b", "không gọi", "không đọc được", "tên khác"
    ]  # fmt: skip


def test_fourteen_tools_have_room():
    names = [f"get_exchange_rate_{number}" for number in range(14)]
    fourteen = report(*(([name], [name], None) for name in names))
    figure = charts.confusion(fourteen)
    picture = figure._repr_png_()
    assert picture.startswith(b"\x89PNG") and b"matplotlib" not in picture
    width = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(above.y0 >= below.y1 for above, below in zip(width, width[1:], strict=False))
    box = figure.axes[0].get_window_extent()
    assert min(box.width, box.height) / 15 > 25  # pixels a cell
    assert min(label.x0 for label in width) >= 0


def test_confusion_stays_out_of_pyplot():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    charts.confusion(REPORT)
    assert pyplot.get_fignums() == before


def test_what_is_no_report_is_refused():
    with pytest.raises(LessonError, match="takes a table of tools.report, this has 0 rows"):
        charts.confusion(REPORT.iloc[:0])
    with pytest.raises(LessonError, match="this has 1 rows and the columns \\['id'\\]"):
        charts.confusion(pd.DataFrame({"id": [1]}))
    language.use("vi")
    with pytest.raises(LessonError, match="cần bảng của tools.report, đang có 1 dòng"):
        charts.confusion(pd.DataFrame({"id": [1]}))
