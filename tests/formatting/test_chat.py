"""chat: conversations to ids and labels, held to trl's own masks; every refusal with row, turn and cure."""

import unicodedata
import warnings

import pytest
from datasets import Dataset, DatasetDict
from trl import chat_template_utils as templates

from lessonlib.evaluation import _answers as evaluation
from lessonlib.formatting import _chat as chat
from lessonlib.formatting._text_column import IGNORED
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError
from lessonlib.runtime._paths import twin_dir
from lessonlib.training import _preflight as preflight

TALK = [
    {"role": "system", "content": "Trả lời ngắn gọn."},
    {"role": "user", "content": "Học máy là gì?"},
    {"role": "assistant", "content": "Một nhánh của AI:\n- học từ dữ liệu\n- 🤖"},
    {"role": "user", "content": "And a token?"},
    {"role": "assistant", "content": unicodedata.normalize("NFD", "Một mẩu văn bản.")},
    {"role": "user", "content": "Thanks!"},
    {"role": "assistant", "content": "You are welcome."},
]
TEXTS = [message["content"] for message in TALK] * 3
PLAIN = TALK[1:]
GEMMA = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]


def talks(*conversations):
    return Dataset.from_list([{"messages": list(messages)} for messages in conversations])


def turns(*contents, system=None):
    roles = ("user", "assistant") * len(contents)
    made = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return [{"role": "system", "content": system}, *made] if system else made


@pytest.fixture(scope="module")
def phi3():
    from twins import tokenizers

    made = tokenizers.phi3(TEXTS, vocabulary=400)
    made.chat_template = templates.phi3_chat_template
    return made


@pytest.fixture(scope="module")
def llama3():
    """The twin's tokenizer, which puts BOS before every text; Llama 3's template writes it as well."""
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(twin_dir("llama32"))
    made.chat_template = templates.llama3_chat_template
    return made


@pytest.fixture(scope="module")
def gemma():
    """Byte-level, with Gemma's special tokens; it puts <bos> before every text, as the template does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=400, special_tokens=GEMMA, initial_alphabet=alphabet, show_progress=False
    ))
    core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )
    made.chat_template = templates.gemma_chat_template
    return made


@pytest.fixture
def family(request):
    return request.getfixturevalue(request.param)


FAMILIES = pytest.mark.parametrize("family", ["phi3", "llama3", "gemma"], indirect=True)


def with_template(tokenizer, template):
    from copy import deepcopy

    made = deepcopy(tokenizer)
    made.chat_template = template
    return made


def learnt(row):
    """The stretches of ids that carry loss."""
    runs, before = [], IGNORED
    for label in row["labels"]:
        if label != IGNORED:
            runs = [*runs, []] if before == IGNORED else runs
            runs[-1].append(label)
        before = label
    return runs


# --- what is learnt


@FAMILIES
@pytest.mark.parametrize("length", [2, 4, 6])
def test_ids_and_mask_are_those_of_trls_training_templates(family, length):
    """trl marks what the assistant says inside the template; here it is found from outside."""
    messages = PLAIN[:length]
    ours = chat.encode(talks(messages), family, max_length=999)[0]
    theirs = family.apply_chat_template(
        messages, chat_template=templates.get_training_chat_template(family),
        return_assistant_tokens_mask=True, return_dict=True,
    )
    assert ours["input_ids"] == theirs["input_ids"]
    assert [label != IGNORED for label in ours["labels"]] == [mask == 1 for mask in theirs["assistant_masks"]]
    assert len(learnt(ours)) == length // 2


@pytest.mark.parametrize("name", ["phi3", "llama3"])
def test_a_system_message_carries_no_loss(request, name):
    family = request.getfixturevalue(name)
    with_system, without = chat.encode(talks(TALK, PLAIN), family, max_length=999)
    assert len(with_system["input_ids"]) > len(without["input_ids"])
    assert learnt(with_system) == learnt(without)


def test_phi3_learns_the_answers_and_their_ends_and_nothing_else(phi3):
    row = chat.encode(talks(TALK), phi3, max_length=999)[0]
    end, close = phi3.convert_tokens_to_ids(["<|end|>", "<|endoftext|>"])
    said = [phi3(TALK[turn]["content"])["input_ids"] for turn in (2, 4, 6)]
    assert learnt(row) == [said[0] + [end], said[1] + [end], said[2] + [end, close]]
    assert [label for label in row["labels"] if label != IGNORED] == [
        token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == token
    ]


def test_white_space_that_the_header_swallows_is_not_learnt(phi3):
    """Phi-3's <|assistant|> takes all white space behind it; trl's mask would label the header with it."""
    spaced = turns("Hỏi", "\n  Học máy")
    row = chat.encode(talks(spaced), phi3, max_length=99)[0]
    end, close = phi3.convert_tokens_to_ids(["<|end|>", "<|endoftext|>"])
    assert learnt(row) == [[*phi3("Học máy")["input_ids"], end, close]]
    theirs = phi3.apply_chat_template(
        spaced, chat_template=templates.phi3_training_chat_template,
        return_assistant_tokens_mask=True, return_dict=True,
    )
    assert theirs["input_ids"] == row["input_ids"]
    assert sum(theirs["assistant_masks"]) == len(learnt(row)[0]) + 1


@FAMILIES
def test_last_learns_the_last_turn_and_all_learns_everything(family):
    each, last, every = (
        chat.encode(talks(PLAIN), family, max_length=999, train_on=what)[0]
        for what in ("assistant", "last", "all")
    )
    assert each["input_ids"] == last["input_ids"] == every["input_ids"] == every["labels"]
    assert learnt(last) == learnt(each)[-1:] and len(learnt(each)) == 3


@pytest.mark.parametrize("name", ["llama3", "gemma"])
def test_there_is_one_bos_although_template_and_tokenizer_write_it(request, name):
    family = request.getfixturevalue(name)
    ids = chat.encode(talks(PLAIN), family, max_length=999)[0]["input_ids"]
    assert ids.count(family.bos_token_id) == 1 and ids[0] == family.bos_token_id
    careless = family(family.apply_chat_template(PLAIN, tokenize=False))["input_ids"]
    assert careless.count(family.bos_token_id) == 2


def test_bos_is_put_where_only_the_tokenizer_writes_it(gemma):
    silent = with_template(gemma, gemma.chat_template.replace("{{ bos_token }}", ""))
    assert chat.encode(talks(PLAIN), silent, max_length=999)[:] == chat.encode(
        talks(PLAIN), gemma, max_length=999
    )[:]
    assert evaluation.prompt_ids(silent, chat.prompts(talks(PLAIN), silent)[0])[0][0] == gemma.bos_token_id


def test_options_reach_the_template_everywhere(llama3):
    from transformers import AutoTokenizer

    real = AutoTokenizer.from_pretrained(twin_dir("llama32"))
    dated = {"template_options": {"date_string": "01 Feb 2003"}}
    row = chat.encode(talks(PLAIN), real, max_length=999, **dated)[0]
    (prompt,), _ = chat.prompts(talks(PLAIN), real, **dated)
    assert "Today Date: 01 Feb 2003" in real.decode(row["input_ids"]) and "Today Date: 01 Feb 2003" in prompt
    assert learnt(row) == learnt(chat.encode(talks(PLAIN), llama3, max_length=999)[0])
    splits = chat.encode(DatasetDict(train=talks(PLAIN)), real, max_length=999, **dated)
    assert splits["train"][0] == row
    refusing = "{% if refuse is defined %}{{ raise_exception('no') }}{% endif %}" + real.chat_template
    with pytest.raises(LessonError, match="Not one row can be used.*refuses this conversation"):
        chat.usable(talks(PLAIN), with_template(real, refusing), template_options={"refuse": True})


def test_only_role_and_text_reach_the_template():
    """A Dataset fills keys that a message lacks with None; Llama 3.2's template looks for tool_calls."""
    from transformers import AutoTokenizer

    real = AutoTokenizer.from_pretrained(twin_dir("llama32"))
    more = [{**message, "tool_calls": None} for message in PLAIN]
    same = {"max_length": 999, "template_options": {"date_string": "01 Feb 2003"}}
    assert chat.encode(talks(more), real, **same)[0] == chat.encode(talks(PLAIN), real, **same)[0]


def test_every_split_is_treated_alike(phi3):
    splits = DatasetDict(train=talks(TALK, PLAIN), validation=talks(PLAIN))
    encoded = chat.encode(splits, phi3, max_length=999, train_on="last")
    assert isinstance(encoded, DatasetDict) and encoded["train"].column_names == ["input_ids", "labels"]
    assert encoded["train"][:] == chat.encode(splits["train"], phi3, max_length=999, train_on="last")[:]
    assert len(encoded["validation"]) == 1
    with pytest.raises(LessonError, match="longer than max_length=5"):
        chat.encode(splits, phi3, max_length=5)


# --- prompts


@FAMILIES
def test_a_prompt_has_the_ids_that_stand_before_the_answer_in_training(family):
    row = chat.encode(talks(PLAIN), family, max_length=999)[0]
    asked, said = chat.prompts(talks(PLAIN), family, "all")
    assert said == [PLAIN[turn]["content"] for turn in (1, 3, 5)]
    assert asked[0] in asked[1] and asked[1] in asked[2]
    for ids in evaluation.prompt_ids(family, asked):
        assert row["input_ids"][: len(ids)] == ids
        assert row["labels"][len(ids) - 1] == IGNORED and row["labels"][len(ids)] != IGNORED
    last, said_last = chat.prompts(talks(PLAIN, PLAIN[:2]), family)
    assert last == [asked[2], asked[0]] and said_last == [said[2], said[0]]


@pytest.mark.parametrize("name, header", [
    ("phi3", "assistant|>\n"), ("llama3", "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    ("gemma", "<start_of_turn>model\n"),
])  # fmt: skip
def test_how_an_answer_opens(request, name, header):
    assert chat.answer_opening(request.getfixturevalue(name)) == header


def test_a_tokenizer_without_template_opens_answers_with_nothing(tokenizer):
    assert chat.answer_opening(tokenizer) == ""


# --- rows that are too long


def test_long_conversations_are_refused_by_default(phi3):
    data = talks(PLAIN[:2], PLAIN, PLAIN[:2])
    lengths = [len(ids) for ids in chat.encode(data, phi3, max_length=999)["input_ids"]]
    said = rf"1 of 3 .* \(rows 1\).*Raise max_length to {lengths[1]}.*cut_turns"
    with pytest.raises(LessonError, match=said):
        chat.encode(data, phi3, max_length=lengths[1] - 1)
    assert len(chat.encode(data, phi3, max_length=lengths[1])) == 3
    language.use("vi")
    with pytest.raises(LessonError, match="1 trên 3 hội thoại dài hơn"):
        chat.encode(data, phi3, max_length=lengths[0])


def test_dropping_is_counted(phi3):
    data = talks(PLAIN[:2], PLAIN, PLAIN[2:4])
    whole = chat.encode(data, phi3, max_length=999)
    with pytest.warns(UserWarning, match=r"of 3 conversations 1 were dropped \(rows 1\), 0 lost last turns"):
        kept = chat.encode(data, phi3, max_length=len(whole[1]["input_ids"]) - 1, long="drop")
    assert kept[:] == whole.select([0, 2])[:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chat.encode(data, phi3, max_length=999, long="drop")[:] == whole[:]
    with pytest.raises(LessonError, match="3 of 3 conversations are longer than max_length=4"):
        chat.encode(data, phi3, max_length=4, long="drop")


@pytest.mark.parametrize("system", [None, "Short."])
def test_cut_turns_ends_a_row_with_a_whole_answer(phi3, system):
    talk = turns("Một?", "Một.", "Hai?", "Hai.", "Ba?", "Ba.", system=system)
    start = 1 if system else 0
    parts = [chat.encode(talks(talk[: start + size]), phi3, max_length=999)[0] for size in (2, 4, 6)]
    small, middle, whole = (len(part["input_ids"]) for part in parts)
    for most, wanted in ((middle, 1), (whole - 1, 1), (middle - 1, 0), (small, 0)):
        with pytest.warns(UserWarning, match="0 were dropped .rows -., 1 lost last turns .rows 0"):
            row = chat.encode(talks(talk), phi3, max_length=most, long="cut_turns")[0]
        assert row == parts[wanted]
    data = talks(turns("Hỏi " * 50, "Đáp.", "Hỏi", "Đáp."), turns("a", "b"))
    with pytest.warns(UserWarning, match="1 were dropped .rows 0., 0 lost last turns .rows -"):
        rows = chat.encode(data, phi3, max_length=40, long="cut_turns")
    assert rows[:] == chat.encode(data.select([1]), phi3, max_length=40)[:]


# --- refusals


def broken(*changes, base=TALK):
    messages = [dict(message) for message in base]
    for turn, change in changes:
        messages[turn].update(change)
    return messages


BAD = {
    "Row 1: the conversation is empty": [],
    "Row 1, turn 3: there is no role 'human', only system, user, assistant": broken((3, {"role": "human"})),
    "Row 1, turn 3: 'assistant' stands where 'user' has to": broken((3, {"role": "assistant"})),
    "Row 1, turn 2: 'system' stands where 'assistant' has to.*system .or none., user": broken(
        (2, {"role": "system"})
    ),
    "Row 1, turn 0: 'assistant' stands where 'user' has to": TALK[2:],
    r"Row 1, turn 4 \(assistant\): there is no text \(the value is '  '\)": broken((4, {"content": "  "})),
    r"Row 1, turn 0 \(system\): there is no text \(the value is None\)": broken((0, {"content": None})),
    r"turn 1 \(user\): the text holds '<\|end\|>', a special token": broken((1, {"content": "a<|end|>b"})),
    r"turn 2 \(assistant\): the text holds '<\|endoftext\|>'": broken((2, {"content": "a<|endoftext|>"})),
    r"turn 2 \(assistant\): the text holds '<s>'": broken((2, {"content": "<s>old</s>"})),
    r"Row 1: the last turn \(5\) is 'user', not 'assistant'.*Leave that turn out": TALK[:-1],
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_conversation_is_named_by_row_and_turn(phi3, message):
    data = talks(TALK, BAD[message], TALK)
    for function in (lambda: chat.encode(data, phi3, max_length=999), lambda: chat.prompts(data, phi3)):
        with pytest.raises(LessonError, match=message):
            function()
    rows, problems = chat.usable(data, phi3)
    assert rows["messages"][:] == [TALK, TALK]
    assert problems["row"].tolist() == [1] and problems["reason"][0].startswith("Row 1")


def test_special_tokens_that_the_template_does_not_use_may_stand_in_a_text(phi3):
    assert len(chat.encode(talks(turns("a <|placeholder1|> b", "c")), phi3, max_length=99)) == 1


@pytest.mark.parametrize("messages", ["a text", ["a", "list"]])
def test_messages_that_are_no_messages_are_refused(phi3, messages):
    with pytest.raises(LessonError, match="Row 0: the conversation is empty, or it is no list of {role, "):
        chat.encode(Dataset.from_list([{"messages": messages}]), phi3, max_length=99)


def test_arguments_are_checked(phi3, tokenizer):
    with pytest.raises(LessonError, match="no train_on='completion'.*'assistant', 'last', 'all'"):
        chat.encode(talks(TALK), phi3, max_length=999, train_on="completion")
    with pytest.raises(LessonError, match="no long='cut'.*'refuse', 'drop', 'cut_turns'"):
        chat.encode(talks(TALK), phi3, max_length=999, long="cut")
    with pytest.raises(LessonError, match="no turn='first'.*'last', 'all'"):
        chat.prompts(talks(TALK), phi3, "first")
    with pytest.raises(LessonError, match="has no chat template: it belongs to a base model"):
        chat.encode(talks(TALK), tokenizer, max_length=999)
    with pytest.raises(LessonError, match="'messages' .* is missing; the data has: question"):
        chat.encode(Dataset.from_dict({"question": ["a"]}), phi3, max_length=999)
    with pytest.raises(LessonError, match="There are no conversations"):
        chat.encode(talks(TALK).select([]), phi3, max_length=999)


def test_usable_says_when_nothing_is(phi3):
    with pytest.raises(LessonError, match="Not one row can be used. The first problem: Row 0: the last turn"):
        chat.usable(talks(TALK[:2], TALK[:4]), phi3)


# --- templates that cannot be trained with


def test_a_template_that_refuses_the_system_role_names_the_cure(gemma):
    with pytest.raises(LessonError, match=r"Row 0: .*\(System role not supported\).*formatting.fold_system"):
        chat.encode(talks(TALK), gemma, max_length=999)
    folded = talks(TALK).map(lambda row: {"messages": chat.fold_system(row["messages"])})
    row = chat.encode(folded, gemma, max_length=999)[0]
    assert "user\nTrả lời ngắn gọn.\n\nHọc máy là gì?<end_of_turn>" in gemma.decode(row["input_ids"])


def test_a_template_that_refuses_for_another_reason_is_quoted(gemma):
    never = with_template(gemma, "{{ raise_exception('not today') }}")
    for messages in (TALK, PLAIN):
        with pytest.raises(LessonError, match=r"Row 0: .*\(not today\)\.$"):
            chat.encode(talks(messages), never, max_length=999)


def test_a_template_that_drops_a_message_is_found_out(phi3):
    """As the first published template of Phi-3 did with system messages."""
    deaf = with_template(phi3, phi3.chat_template.replace("['role'] == 'system'", "['role'] == 'nobody'"))
    with pytest.raises(LessonError, match=r"Row 1, turn 0 \(system\): .* without a word.*fold_system"):
        chat.encode(talks(PLAIN, TALK), deaf, max_length=999)
    mute = with_template(phi3, phi3.chat_template.replace("['role'] == 'user'", "['role'] == 'nobody'"))
    with pytest.raises(LessonError, match=r"Row 0, turn 0 \(user\): .* without a word\.$"):
        chat.encode(talks(PLAIN), mute, max_length=999)


OPEN = "{% for m in messages %}{{ ('\n' if loop.index0 else '') + m.role + ':' + m.content }}{% endfor %}"
OPEN_ASK = "{% if add_generation_prompt %}{{ '\nassistant:' }}{% endif %}"
CLOSED = "{% for m in messages %}{{ m.role + ':' + m.content + eos_token }}{% endfor %}"
ASK = "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"


def test_a_template_without_end_marks_is_refused(tokenizer):
    assert len(chat.encode(talks(PLAIN), with_template(tokenizer, CLOSED + ASK), max_length=999)) == 1
    never, at_the_end = OPEN + OPEN_ASK, OPEN + OPEN_ASK.replace("{% endif", "{% else %}</s>{% endif")
    for template in (never, at_the_end):
        with pytest.raises(LessonError, match="Row 0, turn 1: the chat template puts no end mark after this"):
            chat.encode(talks(PLAIN), with_template(tokenizer, template), max_length=999)
    with pytest.raises(LessonError, match="Row 0, turn 5: the chat template puts no end mark after this"):
        chat.encode(talks(PLAIN), with_template(tokenizer, never), max_length=999, train_on="last")
    row = chat.encode(talks(PLAIN), with_template(tokenizer, at_the_end), max_length=999, train_on="last")[0]
    assert tokenizer.decode(learnt(row)[0]) == "You are welcome.</s>"


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer):
    """As Qwen 3's does: it thinks in the last answer only."""
    thinking = (
        "{% for m in messages %}{{ m.role + ':' }}{% if loop.last and m.role == 'assistant' %}{{ '[think]' }}"
        "{% endif %}{{ m.content + eos_token }}{% endfor %}" + ASK
    )
    with pytest.raises(LessonError, match="Row 0, turn 1: .* writes the turn differently.*train_on='last'"):
        chat.encode(talks(PLAIN), with_template(tokenizer, thinking), max_length=999)
    row = chat.encode(talks(PLAIN), with_template(tokenizer, thinking), max_length=999, train_on="last")[0]
    assert tokenizer.decode(learnt(row)[0]) == "[think]You are welcome.</s>"


def test_a_prompt_whose_tokens_differ_from_training_is_refused(tokenizer):
    """The template ends its prompt in a space, which the tokenizer keeps with the answer's first word."""
    spaced = CLOSED.replace("':'", "': '") + ASK.replace(":", ": ")
    with pytest.raises(LessonError, match=r"Row 1, turn 1: the ids of the prompt .* ends in a space"):
        data = talks(turns("a", "12"), turns("token", "token"))
        chat.encode(data, with_template(tokenizer, spaced), max_length=99)
    changed = CLOSED + ASK.replace("assistant", "Assistant")
    with pytest.raises(LessonError, match="Row 0, turn 1: the ids of the prompt"):
        chat.encode(talks(PLAIN), with_template(tokenizer, changed), max_length=999)


# --- folding


def test_folding_moves_the_system_text_and_changes_nothing_else():
    folded = chat.fold_system(TALK)
    assert folded[0] == {"role": "user", "content": "Trả lời ngắn gọn.\n\nHọc máy là gì?"}
    assert folded[1:] == TALK[2:] and TALK[0]["role"] == "system"
    assert chat.fold_system(PLAIN) == PLAIN and chat.fold_system(PLAIN)[0] is not PLAIN[0]
    assert chat.fold_system([]) == []
    with pytest.raises(LessonError, match="No user turn follows the system message"):
        chat.fold_system(TALK[:1])


# --- what comes after


def test_chat_rows_pass_the_checks_before_training_and_masked_ends_do_not(phi3):
    from types import SimpleNamespace

    ends = phi3.convert_tokens_to_ids(["<|endoftext|>", "<|assistant|>", "<|end|>"])
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=ends))
    rows = chat.encode(talks(TALK, PLAIN), phi3, max_length=999)

    def without(*tokens):
        return rows.map(lambda row: {
            "labels": [IGNORED if label in tokens else label for label in row["labels"]]
        })

    preflight.check_rows("train", rows, model, phi3, None)
    preflight.check_rows("train", without(ends[0]), model, phi3, None)  # <|end|> alone is enough
    with pytest.raises(LessonError, match="train, row 0: no label is an end token"):
        preflight.check_rows("train", without(*ends), model, phi3, None)
