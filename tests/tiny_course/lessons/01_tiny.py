# %% [markdown] id="title" lang="vi"
# # Bài 1. Bé xíu
#
# Không cần gì.
# %% [markdown] id="title" lang="en"
# # Lesson 1. Tiny
#
# Nothing needed.

# %% id="setup"
# filled in by `lessonlib build`

# %% [markdown] id="noise" lang="vi"
# ## Ồn ào
# Công thức $a^2$.
# %% [markdown] id="noise" lang="en"
# ## Noise
# A formula $a^2$.

# %% id="noisy"
import os
import sys
import time
from pathlib import Path

work = Path(os.environ["LESSONLIB_WORK"])
print("started")
print("a warning", file=sys.stderr)
print(work / "checkpoint", object())
time.sleep(0.2)
print(dict(train_runtime=time.perf_counter(), loss=0.5))

# %% id="timed" tags=["timed"]
print(f"took {time.perf_counter():.3f} s")

# %% id="shown"
# NBVAL_CHECK_OUTPUT
import json

from lessonlib import runtime

assert os.environ["LESSONLIB_PROFILE"] == "rehearsal" and os.environ["LESSONLIB_HEADLESS"] == "1"
table = {"columns": ["split", "base", "tuned"], "rows": [["held-in", "0.00", "1.00"]]}
(work / "metrics.json").write_text(json.dumps({"lesson": "01", "table": table}))
runtime.text(vi="xong", en="done")
