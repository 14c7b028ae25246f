"""The live loss curve: what is shown, when, and what is not."""

from types import SimpleNamespace

import pytest

from lessonlib.views import _live as live

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
    callback = live.live_loss("run")
    for count in (1, 2, 3):
        log(callback, count)
    assert [kind for kind, _ in shown] == ["new", "update", "update"]
    assert shown[0][1] == [[[10.0, 3.2]]]
    assert sorted(shown[-1][1]) == [[[10.0, 3.2], [20.0, 2.1]], [[20.0, 2.4]]]


def test_a_log_without_losses_draws_nothing(shown):
    live.live_loss().on_log(None, SimpleNamespace(log_history=[{"step": 1, "grad_norm": 1.0}]), None)
    assert shown == []


def test_nobody_watches_a_headless_run(shown, monkeypatch):
    monkeypatch.setenv("LESSONLIB_HEADLESS", "1")
    log(live.live_loss(), 3)
    assert shown == []
