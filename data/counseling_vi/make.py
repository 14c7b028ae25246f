"""Make the splits from cases.jsonl: `python data/counseling_vi/make.py [folder]`.

Knows nothing of models. Standard library only: the same tables and SEED give the same bytes on every machine.
"""

import json
import random
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = 20264
LANGUAGES = ("vi", "en")
SPLITS = ("train", "validation", "test")

Row = dict[str, object]

SYSTEM = {
    "vi": "Gọi tên cảm xúc, gợi ý một việc nhỏ. Nếu nguy hiểm, hãy bảo gọi 115, 113 hoặc 111.",
    "en": "Name the feeling, suggest one small step. In danger, tell them to call 115, 113 or 111.",
}


def table(name: str) -> list[dict]:
    """The lines of one of the two source tables, cases or crisis_words."""
    return [json.loads(line) for line in (HERE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def alarming(text: str, language: str) -> list[str]:
    """The crisis words of that language in the text, as whole words, in any case: a rule before any model."""
    (words,) = (row["words"] for row in table("crisis_words") if row["language"] == language)
    return [each for each in words if re.search(rf"(?<!\w){re.escape(each)}(?!\w)", text.casefold())]


def splits() -> dict[str, list[Row]]:
    """The three splits. A conversation and its counterpart in the other language are in the same one.

    The flag `crisis` comes from the table; it must agree with the crisis words (checked here).
    """
    made: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for case in table("cases"):
        for number, wording in enumerate(case["wordings"], start=1):
            for language in LANGUAGES:
                found = alarming(wording[language], language)
                assert bool(found) == case["crisis"], (
                    f"flag {case['crisis']}, but crisis words {found}: {wording[language]}"
                )
                messages = [
                    {"role": "system", "content": SYSTEM[language]},
                    {"role": "user", "content": wording[language]},
                    {"role": "assistant", "content": case["reply"][language]},
                ]
                made[wording["split"]].append(
                    {
                        "id": f"{case['case']}-{number}-{language}",
                        "topic": case["topic"],
                        "language": language,
                        "crisis": case["crisis"],
                        "messages": messages,
                    }
                )
    rng = random.Random(SEED)
    for rows in made.values():
        rng.shuffle(rows)
    return made


def main(folder: Path) -> None:
    for name, rows in splits().items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
