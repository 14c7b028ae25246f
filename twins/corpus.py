"""Generated pre-training text of the twins: generic Vietnamese and English, and never a fact of the course.

Made from templates and random draws with a seed: definitions and questions about well-known or made-up
things, customer-support exchanges, copying tasks (repeat, look up, extract from JSON), and lists of
single words. It knows the course's vocabulary only as a bag of words: `Lexicon` keeps no order, and
remembers which words stand side by side in an answer only in order to keep them apart. That the twins can
spell the course's words matters, because LoRA leaves embeddings and output head frozen: a token that
pre-training never used cannot be answered.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lessonlib.runtime._language import LessonError
from lessonlib.runtime._paths import dataset_dir
from twins import corpus_terms as terms

PUNCTUATION = ".,;:!?()[]{}\"'“”‘’…"
# What a document is, and how many of a hundred are so.
SHARES = {"question": 40, "prose": 8, "passage": 12, "words": 10, "copy": 22, "json": 4, "support": 4}


@dataclass(frozen=True)
class Document:
    """One pre-training document: a question with its answer, or running text (`question` is then empty)."""

    answer: str
    question: str = ""

    @property
    def text(self) -> str:
        """The document as the BLOOM lesson writes it: `Human: … Assistant: …`, or the running text."""
        return f"Human: {self.question} Assistant: {self.answer}" if self.question else self.answer


@dataclass(frozen=True)
class Lexicon:
    """Single words of the course, sorted, and the pairs of neighbours that a word list must not contain."""

    words: tuple[str, ...]
    neighbours: frozenset[tuple[str, str]]

    @property
    def fingerprint(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the words: which lexicon a twin was made with."""
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()[:12]

    def draw(self, rng: random.Random, count: int) -> list[str]:
        """`count` random words of which no two neighbours are neighbours in an answer of the course."""
        drawn: list[str] = []
        while len(drawn) < count:
            word = rng.choice(self.words)
            if not drawn or (drawn[-1].lower(), word.lower()) not in self.neighbours:
                drawn.append(word)
        return drawn


def read_lexicon(*paths: Path) -> Lexicon:
    """The words of the course's datasets, without their order.

    Args:
        *paths: JSONL files with `questions` (a list) and `answer`, or with `messages`, in each row; default:
            the shipped data/ai_qa_vi/facts.jsonl.

    Raises:
        LessonError: where a file is missing, or a row is not of that form (names file and line).
    """
    words: set[str] = set()
    neighbours: set[tuple[str, str]] = set()
    for path in paths or (dataset_dir("ai_qa_vi") / "facts.jsonl",):
        if not path.is_file():
            raise LessonError(
                "{path} is missing: the vocabulary is read from it. Run make.py in its folder first.",
                path=path,
            )
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                asked, answered = _asked_and_answered(json.loads(line))
                words.update(word for text in (*asked, *answered) for word in split_words(text))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise LessonError(
                    "{path}, line {number}: needs a JSON object with 'questions' and 'answer', or with "
                    "'messages' ({error!r}).",
                    path=path, number=number, error=error,
                ) from error
            for text in answered:
                answer = [word.lower() for word in split_words(text)]
                neighbours.update(zip(answer, answer[1:], strict=False))
    return Lexicon(tuple(sorted(words)), frozenset(neighbours))


def _asked_and_answered(row: dict) -> tuple[list[str], list[str]]:
    if "messages" not in row:
        return row["questions"], [row["answer"]]
    said = {True: [], False: []}  # type: dict[bool, list[str]]
    for message in row["messages"]:
        said[message["role"] == "assistant"].append(message["content"])
    return said[False], said[True]


def split_words(text: str) -> list[str]:
    """Words of a text: split at white space, punctuation at their ends removed."""
    return [word for raw in text.split() if (word := raw.strip(PUNCTUATION))]


@dataclass(frozen=True)
class Thing:
    """Something to ask about: a name and one answer for each relation that is known of it."""

    name: str
    language: str
    answers: dict[str, str]
    other: str = ""  # the thing it is compared with
    part: str = ""  # what its parts are called
    action: str = ""  # what one has a reason to do with it


def things(rng: random.Random, count: int) -> list[Thing]:
    """`count` made-up things and the well-known ones, each with fixed answers, so that they can be learnt."""
    made = [_invent(rng, "vi" if rng.random() < 0.75 else "en") for _ in range(count)]
    known = [_known(row, "vi") for row in terms.GENERAL_VI] + [_known(row, "en") for row in terms.GENERAL_EN]
    return made + known


def _known(row: tuple[str, str, str], language: str) -> Thing:
    name, what, purpose = row
    vi = language == "vi"
    answers = {"define": f"{_capital(name)} {'là' if vi else 'is'} {what}."}
    if purpose:
        answers["use"] = f"{'Dùng để' if vi else 'It is used for'} {purpose}."
    return Thing(name, language, answers)


def _invent(rng: random.Random, language: str) -> Thing:
    kinds = terms.KINDS_VI if language == "vi" else terms.KINDS_EN
    nouns, traits, uses, places, parts = rng.choice(kinds)
    noun, (trait, trait_2) = rng.choice(nouns), rng.sample(traits, 2)
    use, place, n = rng.choice(uses), rng.choice(places), rng.randint(2, 4)
    chosen = rng.sample(parts, n)
    name, other = _name(rng, noun, language), _name(rng, noun, language)
    if language == "en":
        listed = ", ".join(chosen[:-1]) + " and " + chosen[-1]
        answers = {
            "define": f"{name} is a {noun} that {trait}.", "use": f"It is used for {use}.",
            "parts": f"It has {n} parts: {listed}.", "where": f"It is found {place}.",
        }
        return Thing(name, language, answers, other)
    listed = ", ".join(chosen[:-1]) + " và " + chosen[-1]
    part, action = rng.choice(terms.PARTS_VI), f"{rng.choice(terms.ACTIONS_VI)} {name}"
    head, it = _capital(name), rng.choice((_capital(name), "Nó", _capital(noun)))
    answers = {
        "define": rng.choice((f"{head} là", "Là", f"{head} là một", "Đó là")) + f" {noun} {trait}"
        + rng.choice((".", f", {trait_2}.", f", gặp {place}.", f", dùng để {use}.")),
        "use": rng.choice((f"Dùng để {use}.", f"{head} dùng để {use}.", f"{head} giúp {use} {place}.")),
        "reason": rng.choice((f"{_capital(action)} giúp {use}.", f"Vì {name} {trait} và {trait_2}.")),
        "differ": f"{head} {trait}, còn {other} {trait_2}.",
        "parts": rng.choice((f"Có {n} {part}: {listed}.", f"Gồm {n} {part}: {listed}.")),
        "where": rng.choice((f"Thường gặp {place}.", f"Khi cần {use}.", f"Chủ yếu {place}, để {use}.")),
        "how": rng.choice((f"{_capital(trait)} và {trait_2}.", f"{it} {trait}, nhưng {trait_2}.")),
    }
    return Thing(name, language, answers, other, part, action)


def _name(rng: random.Random, noun: str, language: str) -> str:
    foreign = "".join(rng.sample(terms.SYLLABLES.split(), rng.randint(2, 3)))
    plain = " ".join(rng.sample(terms.NAME_WORDS.split(), 2))
    if language == "en":
        return _capital(foreign)
    head = noun.split()[-1]
    return rng.choice((_capital(foreign), foreign, plain, f"{head} {plain}", f"{head} {foreign}",
                       f"{plain} ({foreign.upper()[:3]})"))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def ask(rng: random.Random, thing: Thing, relation: str) -> str:
    """One wording of the question, drawn from the frames of the relation, now and then politely wrapped."""
    frames = (terms.ASK_VI if thing.language == "vi" else terms.ASK_EN)[relation]
    subject = thing.action if relation == "reason" else thing.name
    text = rng.choice(frames).format(x=subject, y=thing.other, t=thing.part)
    if thing.language == "vi":
        if rng.random() < 0.2:
            text = rng.choice(terms.OPENERS_VI) + text
        if text.endswith("?") and rng.random() < 0.15:
            text = text[:-1] + rng.choice(terms.CLOSERS_VI) + "?"
    return _capital(text) if rng.random() < 0.9 else text


def documents(lexicon: Lexicon, *, seed: int, count: int, bank: int = 700) -> Iterator[Document]:
    """The pre-training documents, the same for the same arguments.

    Args:
        lexicon: the course's words (`read_lexicon`).
        seed: of every random draw.
        count: how many documents.
        bank: made-up things that come back again and again, so that their answers are learnt by heart.
    """
    rng = random.Random(seed)
    fixed = things(rng, bank)
    kinds, weights = list(SHARES), list(SHARES.values())
    for _ in range(count):
        kind = rng.choices(kinds, weights)[0]
        if kind == "question":
            thing = rng.choice(fixed)
            relation = rng.choice(list(thing.answers))
            yield Document(thing.answers[relation], ask(rng, thing, relation))
        else:
            yield MAKERS[kind](rng, fixed, lexicon)


def _prose(rng: random.Random, fixed: list[Thing], lexicon: Lexicon) -> Document:
    thing = rng.choice(fixed)
    sentences = list(thing.answers.values())
    return Document(" ".join([sentences[0], *rng.sample(sentences[1:], min(2, len(sentences) - 1))]))


def _passage(rng: random.Random, fixed: list[Thing], lexicon: Lexicon) -> Document:
    """Sentences about things never met before, then a question about one of them: the answer is copied."""
    new = [_invent(rng, "vi" if rng.random() < 0.75 else "en") for _ in range(rng.randint(1, 2))]
    asked = rng.choice(new)
    relation = rng.choice(list(asked.answers))
    facts = [thing.answers[relation if relation in thing.answers else "define"] for thing in new]
    told = " ".join(f"{thing.name}: {fact}" for thing, fact in zip(new, facts, strict=True))
    return Document(asked.answers[relation], f"{told} {ask(rng, asked, relation)}")


def _words(rng: random.Random, fixed: list[Thing], lexicon: Lexicon) -> Document:
    drawn = lexicon.draw(rng, rng.randint(8, 20))
    marks = rng.choices(["", "", "", ",", "."], k=len(drawn))
    return Document(" ".join(word + mark for word, mark in zip(drawn, marks, strict=True)))


def _copy(rng: random.Random, fixed: list[Thing], lexicon: Lexicon) -> Document:
    """Repeat what was said, or give the value that stands beside a key; half with the course's words."""
    vi = rng.random() < 0.75
    if rng.random() < 0.5:
        def value(n: int) -> str:
            return " ".join(lexicon.draw(rng, n))
    else:
        def value(n: int) -> str:
            return " ".join(rng.choices(terms.NAME_WORDS.split() + terms.SYLLABLES.split(), k=n))
    if rng.random() < 0.5:
        said = value(rng.randint(2, 10))
        orders = ("Nhắc lại", "Hãy lặp lại", "Chép lại câu sau") if vi else ("Repeat", "Say again", "Copy")
        return Document(said, f"{rng.choice(orders)}: {said}")
    pairs = {value(1): value(rng.randint(1, 3)) for _ in range(rng.randint(2, 4))}
    key = rng.choice(list(pairs))
    told = "; ".join(f"{left} = {right}" for left, right in pairs.items())
    asked = rng.choice((key, _capital(key)))  # the same word with and without a capital is the same key
    return Document(pairs[key], f"{told}. " + (f"{asked} là gì?" if vi else f"What is {key}?"))


def _json(rng: random.Random, fixed: list[Thing], lexicon: Lexicon) -> Document:
    vi = rng.random() < 0.5
    keys = ("ten", "mau", "so", "noi") if vi else ("name", "colour", "count", "place")
    plain = terms.NAME_WORDS.split()
    row = dict(zip(keys, (_name(rng, "x", "en"), rng.choice(plain), rng.randint(1, 99), rng.choice(plain)),
                   strict=True))
    chosen = rng.sample(keys, rng.randint(2, 4))
    text = json.dumps({key: row[key] for key in chosen}, ensure_ascii=False)
    if rng.random() < 0.3:
        return Document(text)
    key = rng.choice(chosen)
    if rng.random() < 0.5:
        asked = f"{key} trong {text} là gì?" if vi else f"What is {key} in {text}?"
        return Document(str(row[key]), asked)
    told = ", ".join(f"{key} {row[key]}" for key in chosen)
    return Document(text, f"{'Viết JSON' if vi else 'Write JSON'}: {told}")


def _support(rng: random.Random, fixed: list[Thing], lexicon: Lexicon) -> Document:
    asked, answered = rng.choice(terms.SUPPORT)
    values = {"n": rng.randint(10, 999), "m": rng.randint(2, 9), "x": _name(rng, "x", "en")}
    return Document(answered.format(**values), asked.format(**values))


MAKERS = {
    "prose": _prose, "passage": _passage, "words": _words, "copy": _copy, "json": _json, "support": _support,
}


def copy_tasks(lexicon: Lexicon, *, seed: int, count: int) -> list[Document]:
    """Copying tasks for measuring a twin: prompts made like those of the corpus, with a seed of their own."""
    rng = random.Random(f"copy-{seed}")
    return [_copy(rng, [], lexicon) for _ in range(count)]
