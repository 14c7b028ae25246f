"""Generated conversations for twins of instruction-tuned models: made-up things, asked about in Vietnamese
and English.

What such a model can do before the lesson begins: answer in the language that the system message asks for,
give one sentence or two, know what "it" is from the turn before, turn down what has nothing to do with its
things. What it is asked about does not exist, so that nothing of the course is learnt here. Everything is
drawn with a seed.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from twins import corpus_terms as terms
from twins.corpus import Document, Lexicon

# Read across: the same in Vietnamese and English.
NOUNS = (
    ("loài chim", "bird"), ("giống cá", "fish"), ("món bánh", "cake"), ("loại cây", "plant"),
    ("con tàu", "ship"), ("cây đàn", "lute"), ("chiếc áo", "coat"), ("hòn đá", "stone"),
    ("trò chơi", "game"), ("cái máy", "machine"), ("ngôi làng", "village"), ("thứ trà", "tea"),
    ("cuốn sách", "book"), ("bộ cờ", "board game"), ("cái hộp", "box"), ("con đường", "road"),
)
TRAITS = (
    ("sống ở vùng núi cao", "lives in high mountains"),
    ("chỉ có vào mùa mưa", "is there in the rainy season only"),
    ("sáng lên trong đêm", "shines at night"),
    ("nhẹ hơn một chiếc lá", "weighs less than a leaf"),
    ("đổi màu theo nhiệt độ", "changes its colour with the heat"),
    ("kêu như tiếng chuông", "sounds like a bell"),
    ("đi chậm nhưng rất xa", "goes slowly but very far"),
    ("nhỏ bằng đầu ngón tay", "is as small as a fingertip"),
    ("cứng hơn cả sắt", "is harder than iron"),
    ("cần nhiều người cùng giữ", "needs several people to hold it"),
    ("được chia thành bốn phần", "is cut into four parts"),
    ("có thêm một lớp vỏ mỏng", "has one more thin layer"),
    ("thay cho cái cũ đã hỏng", "stands in for the old one"),
    ("đo được bằng một con số", "is measured by a number"),
    ("bắt đầu từ số không", "starts from nothing"),
    ("lặp lại mỗi tuần một lần", "comes again every week"),
)
RULES = (
    ("hãy giữ ở chỗ khô", "keep it in a dry place"),
    ("đừng mở ra trước buổi tối", "do not open it before evening"),
    ("nhớ đếm lại mỗi ngày", "count it again every day"),
    ("chỉ dùng khi trời lạnh", "use it in the cold only"),
    ("hãy rửa bằng nước ấm", "wash it in warm water"),
    ("nên hỏi người lớn trước", "ask an elder first"),
    ("đừng để gần lửa", "do not leave it near a fire"),
    ("hãy bắt đầu thật chậm", "start very slowly"),
    ("nhớ ghi tên lên nắp", "write a name on its lid"),
    ("chỉ nên mua một cái", "buy one and no more"),
    ("luôn so với bản cũ", "always compare it with the old one"),
    ("hãy thử với số nhỏ trước", "try a small number first"),
    ("nếu nặng quá thì giảm một nửa", "if it is too heavy, take half"),
    ("dừng lại khi thấy nóng", "stop when it gets hot"),
)
SYSTEM = {
    "role": (
        ("Bạn là người bán hàng.", "Bạn là trợ lý của cửa hàng.", "Bạn giúp khách. Trả lời trong một câu.",
         "Bạn là người dẫn đường. Trả lời ngắn gọn."),
        ("You are a shop assistant.", "You are the assistant of a museum.",
         "You help guests. Answer in one sentence.",
         "You are a guide. Be brief."),
    ),
    "language": (
        ("Hãy trả lời bằng tiếng Anh.", "Luôn trả lời bằng tiếng Anh.",
         "Khách hỏi tiếng Việt, bạn trả lời bằng tiếng Anh."),
        ("Answer in Vietnamese.", "Always answer in Vietnamese.",
         "Guests ask in English, you answer in Vietnamese."),
    ),
    "detail": (
        ("Nói là gì, rồi thêm một lời khuyên.", "Trả lời hai câu.",
         "Trả lời hai câu: định nghĩa và lời khuyên."),
        ("Say what it is, then give advice.", "Answer in two sentences.",
         "Answer in two sentences: definition and advice."),
    ),
}
ASK = {
    "define": (
        ("{} là gì?", "Giải thích giúp tôi {}.", "{} nghĩa là gì?", "Thế nào là {}?", "{} là gì ạ?",
         "Tôi chưa hiểu {}.",
         "Giải thích giúp em {}.", "{} nghĩa là gì ạ?", "Em chưa hiểu {}."),
        ("What is {}?", "Explain {}, please.", "What does {} mean?", "I don't understand {}.",
         "Explain {} to me, please.",
         "Tell me about {}."),
    ),
    "tip": (
        ("Dùng {} cần lưu ý gì?", "Cho tôi lời khuyên về {}.", "Với {} nên nhớ điều gì?",
         "Cho em lời khuyên về {}."),
        ("What should I mind with {}?", "Any advice about {}?", "What is a good rule for {}?"),
    ),
    "follow_up": (
        ("Vậy cần lưu ý gì?", "Có lời khuyên nào không?", "Tôi nên nhớ điều gì?", "Thế phải làm sao?",
         "Em nên nhớ điều gì?"),
        ("What should I mind, then?", "Any advice?", "And a good rule for it?", "So what should I do?"),
    ),
    "switch": (
        ("Còn {}?", "Thế còn {} thì sao?", "Vâng. Còn {}?", "Còn {} ạ?"),
        ("And {}?", "What about {}?", "I see. And {}?"),
    ),
}
CLOSING = (
    (("Cảm ơn!", "Cảm ơn ạ!", "Tôi hiểu rồi, cảm ơn."), "Rất vui được giúp bạn. Chúc một ngày vui!"),
    (("Thank you!", "Thanks a lot!", "I see, thanks."), "You are welcome. Have a good day!"),
)
# Everyday questions that such an assistant turns down; made of a beginning and an end.
OUTSIDE = (
    (
        ("Mấy giờ", "Hôm nay", "Ngày mai", "Chỉ giúp tôi chỗ", "Bạn có biết chỗ", "Làm sao để", "Giá"),
        ("tàu chạy?", "trời có nắng không?", "mua vé ở đâu?", "sửa xe.", "gửi thư.", "ngủ ngon hơn?",
         "một cân gạo là bao nhiêu?", "ai hát ở nhà văn hóa?", "nấu canh chua?", "cắt tóc."),
    ),
    (
        ("When does", "Where can I", "How much is", "Who", "Please find me", "How do I"),
        ("the shop close?", "buy a ticket?", "a kilo of rice?", "sang on the radio?", "a good barber.",
         "sleep better?", "the train arrive?", "mend my shoes?", "cooks the best soup?",
         "a seat by the window."),
    ),
)
REFUSAL = ("Xin lỗi, tôi chỉ trả lời về hàng của chúng tôi.", "Sorry, I can only answer about our things.")
# A question with values, and an answer that has to repeat them.
COPIES = (
    (
        ("Tôi cần {a} cho ngày mai.", "Vâng, tôi đã ghi {a} cho ngày mai."),
        ("Ghi giúp tôi số {a}.", "Đã ghi số {a} vào sổ."),
        ("{a} nằm ở kệ nào?", "Mời bạn xem kệ bên trái, {a} ở đó."),
        ("Bao giờ thì có {a}?", "Tuần sau sẽ có {a} nhé."),
        ("Tôi đang tìm {a}, bạn có thấy không?", "Tôi thấy {a} ở cuối hành lang."),
        ("Cho hỏi {a} còn không?", "Còn, {a} vẫn ở trong kho."),
        ("Đổi {a} thành {b} được không?", "Được, {a} đã đổi thành {b}."),
        ("Gửi {a} cho {b} giúp mình.", "Xong rồi, {b} sẽ nhận {a} chiều nay."),
        ("Mình tên {a}, mã là {b}.", "Chào {a}, mã {b} đúng rồi."),
        ("Hôm {b} tôi để quên {a}.", "Chúng tôi giữ {a} từ hôm {b}."),
        ("{a} có hợp với {b} không?", "Hợp, {a} đi với {b} rất đẹp."),
        ("Xóa {a} khỏi danh sách.", "Danh sách không còn {a} nữa."),
        ("Từ {a} đến {b} mất bao lâu?", "Từ {a} đến {b} mất một giờ."),
        ("Nhắc tôi về {a} lúc {b}.", "Lúc {b} tôi sẽ nhắc về {a}."),
    ),
    (
        ("I need {a} for tomorrow.", "Fine, I have noted {a} for tomorrow."),
        ("Write down the number {a}, please.", "The number {a} is in the book."),
        ("Which shelf is {a} on?", "Look at the left shelf, {a} is there."),
        ("When will {a} be back?", "Next week {a} will be here."),
        ("I am looking for {a}, have you seen it?", "I saw {a} at the end of the hall."),
        ("Is {a} still there?", "Yes, {a} is in the store room."),
        ("Can you change {a} to {b}?", "Sure, {a} is now {b}."),
        ("Send {a} to {b} for me.", "Done, {b} will get {a} this afternoon."),
        ("My name is {a}, the code is {b}.", "Hello {a}, the code {b} is right."),
        ("I left {a} here on {b}.", "We have kept {a} since {b}."),
        ("Does {a} go with {b}?", "Yes, {a} looks good with {b}."),
        ("Take {a} off the list.", "The list is without {a} now."),
        ("How far is it from {a} to {b}?", "From {a} to {b} it takes an hour."),
        ("Remind me of {a} at {b}.", "At {b} I shall remind you of {a}."),
    ),
)
# An opening that lacks the value, the request for it, and the value given.
LATER = (
    (("Giúp tôi một việc với.", "Bạn cần gì, cho tôi biết nhé?", "Là {}."),
     ("Tôi muốn hỏi một món.", "Món nào vậy bạn?", "{} ấy.")),
    (("Can you help me?", "What is it about, please?", "It is {}."),
     ("I have a question.", "Which one do you mean?", "I mean {}.")),
)
KINDS = ("define", "tip", "follow_up", "switch", "language", "detail", "closing", "outside")


@dataclass(frozen=True)
class Conversation(Document):
    """A document with turns: messages as chat templates take them. `answer` holds the text of all of them."""

    messages: tuple[tuple[str, str], ...] = ()  # (role, content)

    @property
    def turns(self) -> list[dict[str, str]]:
        """The messages as dictionaries."""
        return [{"role": role, "content": content} for role, content in self.messages]


@dataclass(frozen=True)
class _Thing:
    """A made-up thing: its name, and (Vietnamese, English) of what it is and of what to mind."""

    name: str
    define: tuple[str, str]
    tip: tuple[str, str]


def conversations(
    lexicon: Lexicon, *, seed: int, count: int, bank: int = 200, copies: float = 0.0
) -> Iterator[Conversation]:
    """Conversations, the same for the same arguments.

    Args:
        lexicon: the course's words; a seventh of the conversations repeats some of them back.
        seed: of every random draw.
        count: how many conversations.
        bank: made-up things that come back again and again, so that they are learnt by heart.
        copies: share of conversations in which the answer repeats values from the question (codes, amounts,
            dates, names); 0 to 1.
    """
    rng = random.Random(f"chat-{seed}")
    things = [_thing(rng) for _ in range(bank)]
    for _ in range(count):
        if copies and rng.random() < copies:
            messages = _copying(rng, lexicon)
        else:
            messages = _echo(rng, lexicon) if rng.random() < 1 / 7 else _about(rng, things)
        yield Conversation(" ".join(content for _, content in messages), messages=messages)


def _thing(rng: random.Random) -> _Thing:
    syllables = "".join(rng.sample(terms.SYLLABLES.split(), rng.randint(2, 3)))
    name = rng.choice((syllables, syllables.capitalize(), " ".join(rng.sample(terms.NAME_WORDS.split(), 2))))
    noun, trait, rule = rng.choice(NOUNS), rng.choice(TRAITS), rng.choice(RULES)
    head = name[:1].upper() + name[1:]
    article = "an" if noun[1][0] in "aeiou" else "a"
    return _Thing(
        name,
        (f"{head} là {noun[0]} {trait[0]}.", f"{head} is {article} {noun[1]} that {trait[1]}."),
        (f"Với {name}, {rule[0]}.", f"With {name}, {rule[1]}."),
    )


def _about(rng: random.Random, things: list[_Thing]) -> tuple[tuple[str, str], ...]:
    kind, language = rng.choice(KINDS), rng.randrange(2)  # 0 is Vietnamese, 1 English
    thing, other = rng.sample(things, 2)

    def ask(what: str, about: _Thing = thing) -> tuple[str, str]:
        question = rng.choice(ASK[what][language]).format(about.name)
        return "user", question[:1].upper() + question[1:]

    def system(what: str) -> tuple[str, str]:
        return "system", rng.choice(SYSTEM[what][language])

    def answer(content: str) -> tuple[str, str]:
        return "assistant", content

    start = (system("role"),) if rng.random() < 0.5 else ()
    define, tip = thing.define[language], thing.tip[language]
    if kind == "outside":
        begins, ends = OUTSIDE[language]
        return *start, ("user", f"{rng.choice(begins)} {rng.choice(ends)}"), answer(REFUSAL[language])
    if kind == "define":
        return *start, ask("define"), answer(define)
    if kind == "tip":
        return *start, ask("tip"), answer(tip)
    if kind == "follow_up":
        return *start, ask("define"), answer(define), ask("follow_up"), answer(tip)
    if kind == "switch":
        first = (ask("define", other), answer(other.define[language]))
        return *start, *first, ask("switch"), answer(define)
    if kind == "language":
        return system("language"), ask("define"), answer(thing.define[1 - language])
    if kind == "detail":
        return system("detail"), ask("define"), answer(f"{define} {tip}")
    thanks, closing = CLOSING[language]
    return *start, ask("define"), answer(define), ("user", rng.choice(thanks)), answer(closing)


def _copying(rng: random.Random, lexicon: Lexicon) -> tuple[tuple[str, str], ...]:
    """The answer needs values that only the question has; now and then it asks for them first."""
    language = rng.randrange(2)
    asked, answered = rng.choice(COPIES[language])
    values = {key: _value(rng, lexicon, language) for key in "ab"}
    question, answer = asked.format(**values), answered.format(**values)
    start = (("system", rng.choice(SYSTEM["role"][language])),) if rng.random() < 0.5 else ()
    if "{b}" not in asked and rng.random() < 0.2:
        opening, request, reply = rng.choice(LATER[language])
        told = ("user", reply.format(values["a"]))
        return *start, ("user", opening), ("assistant", request), told, ("assistant", answer)
    return *start, ("user", question), ("assistant", answer)


def _value(rng: random.Random, lexicon: Lexicon, language: int) -> str:
    """A code, an amount, a date, a made-up name, or words of the course."""
    kind = rng.randrange(6)
    if kind == 0:
        return f"#{rng.randint(10_000, 99_999)}"
    if kind == 1:
        amount = rng.randint(10, 999)
        return f"{amount}.000 đồng" if language == 0 else f"{amount},000 dong"
    if kind == 2:
        day, month = rng.randint(1, 28), rng.randint(1, 12)
        return f"{day}/{month}" if language == 0 else f"{terms.MONTHS_EN.split()[month - 1]} {day}"
    if kind == 3:
        return "".join(rng.sample(terms.SYLLABLES.split(), rng.randint(2, 3))).capitalize()
    if kind == 4:
        return " ".join(rng.sample(terms.NAME_WORDS.split(), 2))
    return " ".join(lexicon.draw(rng, rng.randint(1, 3)))


def _echo(rng: random.Random, lexicon: Lexicon) -> tuple[tuple[str, str], ...]:
    """Say some words of the course back: the tokens of its answers are used, without an order to learn."""
    words = " ".join(lexicon.draw(rng, rng.randint(3, 10)))
    order = rng.choice(("Nhắc lại", "Hãy lặp lại", "Repeat", "Say again"))
    return ("user", f"{order}: {words}"), ("assistant", words)
