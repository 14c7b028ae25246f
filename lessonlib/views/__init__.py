"""What a lesson shows: loss curves, bars, token masks, before and after, a box to ask, a panel of calls.

It draws what others computed and computes nothing that a lesson concludes from.
"""

from lessonlib.views._charts import confusion, live_loss, loss_curve, memory_bars
from lessonlib.views._charts import quantisation as quantisation_chart
from lessonlib.views._tool_panel import panel as tool_panel
from lessonlib.views._views import ask, before_after, token_mask

__all__ = [
    "ask",
    "before_after",
    "confusion",
    "live_loss",
    "loss_curve",
    "memory_bars",
    "quantisation_chart",
    "token_mask",
    "tool_panel",
]
