"""The memory ledger and the counts of a lesson on a T4, from its dry run on a CPU.

    python benchmarks/ledger.py 03        # runs it; writes benchmarks/ledger/03.md and 03.json
    python benchmarks/ledger.py --times   # reading, running and exercises of every lesson
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lessonlib.runtime import LessonError
from lessonlib_course import ledger, notebook, run, source, t4_time

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "benchmarks" / "ledger"


def keep(number: str, record: Path, cells: Sequence[str]) -> bool:
    """Writes the table and the counts of a dry run; whether no cell exceeds a bar."""
    lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    rows = ledger.rows(lines, cells)
    counts = [
        {"cell": cell} | count for cell, line in zip(cells, lines, strict=False) for count in line["counts"]
    ]
    KEPT.mkdir(exist_ok=True)
    table = ledger.markdown(number, rows)
    (KEPT / f"{number}.md").write_text(table, encoding="utf-8")
    whole = {"lesson": number, "rows": rows, "counts": counts}
    text = json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
    (KEPT / f"{number}.json").write_text(text, encoding="utf-8")
    print(table)
    minutes = t4_time.t4_minutes(counts, t4_time.sizes())
    print("minutes on a T4 (computed):", {part: round(value, 1) for part, value in minutes.items()})
    return not any(row["over"] for row in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """One lesson, or the table of times; 1 where a cell exceeds a bar."""
    parser = argparse.ArgumentParser(description="The memory ledger of a lesson on a T4.")
    parser.add_argument("lesson", nargs="?", metavar="NN")
    parser.add_argument("--times", action="store_true")
    options = parser.parse_args(arguments)
    if options.times or not options.lesson:
        print(t4_time.table(ROOT))
        return 0
    with tempfile.TemporaryDirectory(prefix="ledger_") as folder:
        out = Path(folder) / "run"
        whole = True
        try:
            run.run(ROOT, options.lesson, language="en", out=out, dry_run=True)
        except LessonError as error:  # what was seen up to there is worth keeping
            print(error, file=sys.stderr)
            whole = False
        lesson = source.parse(source.find(ROOT, options.lesson))
        made = notebook.make(notebook.course(ROOT), lesson, "en")
        cells = [cell.id for cell in made.cells if cell.cell_type == "code" and cell.source.strip()]
        within = keep(options.lesson, out / "record.jsonl", cells)
        return 0 if whole and within else 1


if __name__ == "__main__":
    sys.exit(main())
