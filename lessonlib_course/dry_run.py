"""`lessonlib run NN --dry-run t4`: the branch of a lesson that Colab takes, first cell to last, on a CPU.

The cells are the lesson's own and the profile is t4. Simulated is what a CPU cannot be (`DIFFERENCES`): the
card, and the Hub, which is a server on this machine that gives out the twins under the real names at the
pinned revisions. What only a T4 shows, and this does not: speed, memory, float16, and how good the real
model becomes. Where memory is recorded (`ledger`), long trainings also end after 60 steps and answers after
32 tokens.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lessonlib.export._loopback import HubServer
from lessonlib.export._loopback._store import File, Repository
from lessonlib.models._loading import CATALOGUE
from lessonlib.runtime import _paths as paths
from lessonlib.runtime._language import Translated

_SIMULATED = str(Path(__file__).parent / "simulated")  # holds sitecustomize.py
DIFFERENCES = (
    Translated("the card is made up (Tesla T4, 7.5, 14.7 GiB); the model lies on the CPU"),
    Translated("float32 instead of float16"),
    Translated("twins instead of the real weights, from a Hub on this machine"),
    Translated("no token: nothing can be pushed, and W&B stays offline"),
)


@contextmanager
def simulated_t4(record: Path | None = None) -> Iterator[dict[str, str | None]]:
    """The environment of a kernel that takes itself for one on a T4, while a small Hub runs.

    Args:
        record: where the kernel writes the ledger and the counts (`ledger.start`), which also cuts what takes
            long; None: neither.

    Yields:
        Variables to set for the kernel, or to take away (None). The Hub client's downloads go to a temporary
        folder; tokens are taken away, so that nothing can be pushed.
    """
    with HubServer() as hub, tempfile.TemporaryDirectory(prefix="dry_run_") as cache:
        for entry in CATALOGUE.values():
            if entry.twin is not None:
                files = _files(paths.twin_dir(entry.twin))
                hub.repositories[entry.hub_id] = Repository({entry.revision: files})
                if entry.mirror and entry.mirror_revision:
                    hub.repositories[entry.mirror] = Repository({entry.mirror_revision: files})
        startup = Path(cache) / "ipython" / "profile_default" / "startup"
        startup.mkdir(parents=True)
        if record is not None:
            begin = f"__import__('lessonlib_course.ledger').ledger.start({str(record)!r})\n"
            (startup / "ledger.py").write_text(begin, encoding="utf-8")
        yield {
            "IPYTHONDIR": str(startup.parents[1]),
            "HF_ENDPOINT": hub.url,
            "HF_HOME": cache,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": None,
            "WANDB_API_KEY": None,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, (_SIMULATED, os.environ.get("PYTHONPATH")))),
        }


def _files(folder: Path) -> dict[str, File]:
    every = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    return {name: File.read(path, name) for name, path in every.items() if path.is_file()}
