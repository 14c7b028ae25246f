"""Training: configuration, checks before the start, checkpoints that resume to the same weights, W&B, memory.

It takes encoded rows and gives back trl's own `SFTTrainer`. How good the result is, it does not know.
"""

from lessonlib.training._checkpoints import newest_checkpoint
from lessonlib.training._memory import plan as memory_plan
from lessonlib.training._memory import verdict as memory_verdict
from lessonlib.training._tracking import finish as finish_tracking
from lessonlib.training._tracking import offline_history
from lessonlib.training._tracking import start as start_tracking
from lessonlib.training._trainer import fit, history, sft_config, trainer

__all__ = [
    "finish_tracking",
    "fit",
    "history",
    "memory_plan",
    "memory_verdict",
    "newest_checkpoint",
    "offline_history",
    "sft_config",
    "start_tracking",
    "trainer",
]
