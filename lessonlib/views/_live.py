"""The loss curve while it is being drawn: a callback for a Trainer in a notebook that somebody watches."""

from typing import TYPE_CHECKING, Any

from lessonlib.runtime._detect import headless
from lessonlib.training._trainer import logged
from lessonlib.views._charts import loss_curve

if TYPE_CHECKING:
    from transformers import TrainerCallback


def live_loss(name: str = "loss") -> "TrainerCallback":
    """A callback that draws training and held-out loss in the cell's output, anew at each log.

    Give it to `training.trainer(..., callbacks=[live_loss()])`. In a headless run it draws nothing: there the
    curve is drawn once, at the end, by `views.loss_curve(training.history(trainer))`.

    Args:
        name: the run's name in the legend.

    Returns:
        A `transformers.TrainerCallback`.
    """
    from transformers import TrainerCallback

    class LiveLoss(TrainerCallback):
        """Keeps one picture in the output up to date."""

        picture: Any = None

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if headless():
                return
            from IPython.display import display

            frame = logged(state.log_history)
            if frame.empty:
                return
            figure = loss_curve({name: frame})
            if self.picture is None:
                self.picture = display(figure, display_id=True)
            else:
                self.picture.update(figure)

    return LiveLoss()
