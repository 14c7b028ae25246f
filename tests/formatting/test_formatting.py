"""formatting: prompt and completion, ids and labels, and every refusal with its cure."""

import warnings

import pytest
import torch
from datasets import Dataset, DatasetDict
from tokenizers import processors
from transformers import AutoTokenizer, DataCollatorForLanguageModeling, PreTrainedTokenizerFast

from lessonlib.formatting import _chat as chat
from lessonlib.formatting import _rows as formatting
from lessonlib.formatting import _text_column as text_column
from lessonlib.formatting._text_column import IGNORED
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError
from lessonlib.runtime._paths import twin_dir

ROWS = [
    {"id": "f1", "question": "Học máy là gì?", "answer": "Một nhánh của AI."},
    {"id": "f2", "question": "What is a token?", "answer": "A piece of text."},
]


def dataset(*completions, prompt="Human: hi Assistant:"):
    rows = [{"prompt": prompt, "completion": completion} for completion in completions]
    return Dataset.from_list(rows)


def counted(data, *, pad):
    """What rows or a padded batch are made of; labels with loss are those other than -100."""
    columns = (data[name] for name in ("input_ids", "labels"))
    ids, labels = ([torch.as_tensor(row) for row in column] for column in columns)
    trained = [row != IGNORED for row in labels]
    padded = [row == pad for row in ids]
    return {
        "content": sum(int((~row).sum()) for row in padded),
        "padding": sum(int(row.sum()) for row in padded),
        "with_loss": sum(int(row.sum()) for row in trained),
        "padding_with_loss": sum(int((one & two).sum()) for one, two in zip(padded, trained, strict=True)),
    }


@pytest.fixture
def with_bos(tokenizer):
    """The same tokenizer, putting <s> before and </s> after each text, as some do."""
    core = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def test_prompt_and_completion_are_added_and_the_rest_stays():
    made = formatting.to_prompt_completion(Dataset.from_list(ROWS))
    assert made.column_names == ["id", "question", "answer", "prompt", "completion"]
    assert made[0]["prompt"] == "Human: Học máy là gì? Assistant:"
    assert made[0]["completion"] == " Một nhánh của AI."
    assert made["id"][:] == ["f1", "f2"]


def test_a_second_call_replaces_the_columns():
    once = formatting.to_prompt_completion(Dataset.from_list(ROWS))
    twice = formatting.to_prompt_completion(once, template="Hỏi: {question} Đáp:")
    assert twice[1]["prompt"] == "Hỏi: What is a token? Đáp:"


def test_every_split_is_treated_alike(tokenizer):
    splits = DatasetDict(train=Dataset.from_list(ROWS), validation=Dataset.from_list(ROWS[:1]))
    made = formatting.to_prompt_completion(splits)
    encoded = formatting.encode(made, tokenizer, max_length=99)
    assert isinstance(encoded, DatasetDict)
    assert {name: len(part) for name, part in encoded.items()} == {"train": 2, "validation": 1}
    assert encoded["train"].column_names == ["input_ids", "labels"]


def test_a_template_that_ends_in_a_space_is_refused_with_the_reason():
    with pytest.raises(LessonError, match="ends in a space.*answer=' {answer}'"):
        formatting.to_prompt_completion(Dataset.from_list(ROWS), template="Human: {question} Assistant: ")
    language.use("vi")
    with pytest.raises(LessonError, match="kết thúc bằng dấu cách.*bỏ dấu cách ở cuối prompt"):
        formatting.to_prompt_completion(Dataset.from_list(ROWS), template="Human: {question} Assistant: ")


def test_a_trailing_space_really_tokenises_differently_from_training(tokenizer):
    """The reason that the refusal gives: the ids of 'Assistant: ' are no prefix of what training saw."""
    trained = tokenizer("Assistant: Học máy")["input_ids"]
    clean, spaced = tokenizer("Assistant:")["input_ids"], tokenizer("Assistant: ")["input_ids"]
    assert trained[: len(clean)] == clean
    assert trained[: len(spaced)] != spaced


def test_a_row_whose_prompt_ends_in_a_space_is_named():
    rows = Dataset.from_list([ROWS[0], {**ROWS[1], "question": "why? "}])
    with pytest.raises(LessonError, match="Row 1: the prompt ends in a space"):
        formatting.to_prompt_completion(rows, template="Assistant, {question}")


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_row_without_text_is_named(value):
    rows = Dataset.from_list([ROWS[0], {**ROWS[1], "answer": value}])
    with pytest.raises(LessonError, match="Row 1: column 'answer' holds no text"):
        formatting.to_prompt_completion(rows)


def test_an_unknown_column_is_refused_with_those_that_are_there():
    with pytest.raises(LessonError, match="'instruction', but the data has: id, question, answer"):
        formatting.to_prompt_completion(Dataset.from_list(ROWS), template="Human: {instruction} Assistant:")


def test_an_unpaired_brace_is_refused():
    with pytest.raises(LessonError, match="cannot be read.*Write a literal brace twice: {{ and }}"):
        formatting.to_prompt_completion(Dataset.from_list(ROWS), template="Human: {question Assistant:")
    made = formatting.to_prompt_completion(Dataset.from_list(ROWS[:1]), answer=" {{{id}}}")
    assert made[0]["completion"] == " {f1}"


def test_only_the_completion_and_eos_are_trained(tokenizer):
    made = formatting.to_prompt_completion(Dataset.from_list(ROWS))
    for row, encoded in zip(made, formatting.encode(made, tokenizer, max_length=99), strict=True):
        ids, labels = encoded["input_ids"], encoded["labels"]
        prompt = tokenizer(row["prompt"])["input_ids"]
        assert ids == tokenizer(row["prompt"] + row["completion"])["input_ids"] + [2]
        assert ids[: len(prompt)] == prompt
        assert labels == [IGNORED] * len(prompt) + ids[len(prompt):]
        assert tokenizer.decode([label for label in labels if label != IGNORED]) == row["completion"] + "</s>"


def test_train_on_all_labels_the_prompt_too(tokenizer):
    encoded = formatting.encode(dataset(" yes"), tokenizer, max_length=99, train_on="all")[0]
    assert encoded["labels"] == encoded["input_ids"]


def test_eos_is_there_once_and_can_be_left_out(tokenizer):
    plain = formatting.encode(dataset(" yes"), tokenizer, max_length=99)[0]
    closed = formatting.encode(dataset(" yes</s>"), tokenizer, max_length=99)[0]
    assert plain == closed
    assert plain["input_ids"].count(2) == 1
    without = formatting.encode(dataset(" yes"), tokenizer, max_length=99, eos=False)[0]
    assert without["input_ids"] == plain["input_ids"][:-1]


def test_a_tokenizer_that_opens_with_bos_gives_exactly_one(tokenizer, with_bos):
    assert with_bos("a")["input_ids"] == [1, *tokenizer("a")["input_ids"], 2]
    opened = formatting.encode(dataset(" yes"), with_bos, max_length=99)[0]
    plain = formatting.encode(dataset(" yes"), tokenizer, max_length=99)[0]
    assert opened["input_ids"] == [1, *plain["input_ids"]]
    assert opened["labels"] == [IGNORED, *plain["labels"]]


def test_a_second_bos_is_refused(with_bos):
    with pytest.raises(LessonError, match="Row 0 has 2 opening tokens '<s>'"):
        formatting.encode(dataset(" yes", prompt="<s>Human: hi Assistant:"), with_bos, max_length=99)


def test_a_merge_across_the_border_is_undone_with_a_warning(tokenizer):
    prompt, completion = "Human: Học má", "y là gì?"
    alone = tokenizer(prompt)["input_ids"]
    assert tokenizer(prompt + completion)["input_ids"][: len(alone)] != alone  # this pair does merge
    rows = dataset(completion, prompt=prompt)
    with pytest.warns(UserWarning, match=r"In 1 of 1 rows \(rows 0\) the tokenizer would merge"):
        encoded = formatting.encode(rows, tokenizer, max_length=99)[0]
    assert encoded["input_ids"][: len(alone)] == alone
    assert tokenizer.decode(encoded["input_ids"]) == prompt + completion + "</s>"
    assert encoded["labels"][: len(alone)] == [IGNORED] * len(alone)


def test_a_space_at_the_completions_start_gives_no_warning(tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        formatting.encode(dataset(" yes", " no"), tokenizer, max_length=99)


def test_a_tokenizer_without_eos_is_refused(tokenizer):
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, pad_token="<pad>")
    with pytest.raises(LessonError, match="no end-of-sequence token"):
        formatting.encode(dataset(" yes"), bare, max_length=99)
    assert formatting.encode(dataset(" yes"), bare, max_length=99, eos=False)[0]["labels"][-1] != 2


def test_pad_that_is_eos_is_warned_of_because_a_collator_masks_both(tokenizer):
    mixed = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>", pad_token="</s>"
    )
    with pytest.warns(UserWarning, match="pad_token is the same as eos_token"):
        row = formatting.encode(dataset(" yes"), mixed, max_length=99)[0]
    batch = DataCollatorForLanguageModeling(mixed, mlm=False)([{"input_ids": row["input_ids"]}])
    assert row["labels"][-1] == 2  # here EOS is trained
    assert batch["labels"][0, -1] == IGNORED  # and there it no longer is


def test_rows_that_are_too_long_are_refused_with_the_length_that_would_do(tokenizer):
    rows = dataset(" yes", *[" yes" * 50] * 6)
    longest = len(formatting.encode(rows, tokenizer, max_length=10_000)[1]["input_ids"])
    with pytest.raises(LessonError, match=rf"6 of 7 rows .*\(rows 1, 2, 3, 4, 5, \.\.\.\).*to {longest},"):
        formatting.encode(rows, tokenizer, max_length=longest - 1)
    assert len(formatting.encode(rows, tokenizer, max_length=longest)) == 7
    language.use("vi")
    with pytest.raises(LessonError, match=f"tăng max_length lên {longest}"):
        formatting.encode(rows, tokenizer, max_length=longest - 1)


def test_a_row_without_a_trained_token_is_refused(tokenizer):
    with pytest.raises(LessonError, match=r"1 rows have no token with loss \(rows 1\)"):
        formatting.encode(dataset(" yes", ""), tokenizer, max_length=99, eos=False)


def test_wrong_input_is_refused(tokenizer):
    with pytest.raises(LessonError, match="Column 'prompt' is missing.*id, question, answer"):
        formatting.encode(Dataset.from_list(ROWS), tokenizer, max_length=99)
    with pytest.raises(LessonError, match="no rows to encode"):
        formatting.encode(dataset(" yes").select([]), tokenizer, max_length=99)
    with pytest.raises(LessonError, match="no train_on='answer'"):
        formatting.encode(dataset(" yes"), tokenizer, max_length=99, train_on="answer")


def test_trl_s_own_collator_takes_the_rows_as_they_are(tokenizer):
    """Why there is no collator here: padding and the labels' -100 come from TRL."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling as TrlCollator

    rows = formatting.encode(dataset(" yes", " yes yes yes"), tokenizer, max_length=99)
    batch = TrlCollator(pad_token_id=3)(list(rows))
    before, after = counted(rows, pad=3), counted(batch, pad=3)
    assert after["padding"] > 0 == after["padding_with_loss"]
    assert (after["content"], after["with_loss"]) == (before["content"], before["with_loss"])


# ---------------------------------------------------------------- the column `text`

LLAMA_DATE = {"date_string": "26 Jul 2024"}
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Học máy là gì?"},
    {"role": "assistant", "content": "Một nhánh của AI."},
]
SHORT = [TALK[1], {"role": "assistant", "content": "Là AI."}]


@pytest.fixture(scope="module")
def llama():
    """The Llama twin's tokenizer: it opens a text with BOS, and so does its chat template."""
    return AutoTokenizer.from_pretrained(twin_dir("llama32"))


@pytest.fixture(scope="module")
def talks():
    return Dataset.from_list([{"id": "a", "messages": TALK}, {"id": "b", "messages": SHORT}])


def as_text(talks, tokenizer):
    """Each conversation as one string, as recipes with a column `text` make it."""
    made = [tokenizer.apply_chat_template(said, tokenize=False, **LLAMA_DATE) for said in talks["messages"]]
    return texts(*made)


def texts(*said):
    return Dataset.from_dict({"text": list(said)})


def test_a_rendered_text_gets_a_second_bos_and_is_refused(llama, talks):
    made = as_text(talks, llama)
    bos = llama.bos_token_id
    assert llama(made["text"][0])["input_ids"][:2] == [bos, bos]
    with pytest.raises(LessonError, match=r"Row 0 has 2 opening tokens '<\|begin_of_text\|>'.*"
                       "'messages' to formatting.encode_chats, or tokenise with add_special_tokens=False"):
        text_column.check_text(made, llama)
    text_column.check_text(made, llama, add_special_tokens=False)
    clean = texts(*(said.removeprefix("<|begin_of_text|>") for said in made["text"]))
    text_column.check_text(clean, llama)
    with pytest.raises(LessonError, match="Row 1 has 2 opening"):  # the row at fault is named
        text_column.check_text(texts(clean["text"][0], made["text"][1]), llama)
    language.use("vi")
    with pytest.raises(LessonError, match="Dòng 0 có 2 token mở đầu"):
        text_column.check_text(made, llama)


def test_a_text_without_bos_is_refused_only_where_the_model_knows_one(llama, tokenizer, talks):
    made = as_text(talks, llama)
    bare = texts(made["text"][0], made["text"][1].removeprefix("<|begin_of_text|>"))
    with pytest.raises(LessonError, match=r"Row 1 has no opening token '<\|begin_of_text\|>' \(count 0\)"):
        text_column.check_text(bare, llama, add_special_tokens=False)
    text_column.check_text(texts("Human: hi Assistant: yes</s>"), tokenizer)  # BLOOM opens with nothing


@pytest.mark.parametrize("end", ["", "\n", "<|start_header_id|>assistant<|end_header_id|>\n\n"])
def test_a_text_without_an_end_token_is_refused(llama, talks, end):
    whole = as_text(talks, llama)["text"][0]
    open_ended = whole.removesuffix("<|eot_id|>") + end
    with pytest.raises(LessonError, match=r"Row 0 does not end with an end token \('<\|eot_id\|>'; count 0"):
        text_column.check_text(texts(open_ended), llama, add_special_tokens=False)


@pytest.mark.parametrize("extra", ["<|eot_id|>", "\n<|eot_id|>", "\n"])
def test_a_second_end_token_is_refused_and_so_is_a_line_break_that_makes_trl_add_one(llama, talks, extra):
    whole = as_text(talks, llama)["text"][0]
    with pytest.raises(LessonError, match=r"Row 0 ends with 2 tokens '<\|eot_id\|>' in a row"):
        text_column.check_text(texts(whole + extra), llama, add_special_tokens=False)


def test_two_different_end_tokens_are_fine_where_the_template_writes_both(talks):
    phi3 = AutoTokenizer.from_pretrained(twin_dir("phi3"))
    made = as_text(talks, phi3)
    assert made["text"][0].endswith("<|end|>\n<|endoftext|>")
    text_column.check_text(made, phi3)
    turn_only = texts(made["text"][0].removesuffix("<|endoftext|>"))  # TRL then adds <|endoftext|>
    text_column.check_text(turn_only, phi3)


def test_check_text_and_text_loss_want_text(llama, talks):
    for check in (text_column.check_text, lambda data, tok: text_column.text_loss(data, talks, tok)):
        with pytest.raises(LessonError, match="no column 'text'; the data has: id, messages"):
            check(talks, llama)
        with pytest.raises(LessonError, match="There are no rows"):
            check(texts("a").select([]), llama)
        with pytest.raises(LessonError, match="Row 1: column 'text' holds no text"):
            check(texts("a<|eot_id|>", " "), llama)


def test_text_loss_counts_what_trl_really_trains(llama, talks, tmp_path):
    """The figures of the row "text" come out of TRL's own SFTTrainer, the others from chat.encode."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    made = as_text(talks, llama)
    made = texts(*made["text"], made["text"][0].removesuffix("<|eot_id|>"))  # TRL adds EOS to the last one
    three = Dataset.from_list([*talks, {"id": "c", "messages": TALK}])
    encoded = chat.encode(three, llama, max_length=200, template_options=LLAMA_DATE)
    found = text_column.text_loss(made, encoded, llama)

    config = LlamaConfig(
        vocab_size=len(llama), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2,
    )
    arguments = SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, gradient_checkpointing=False, max_length=200,
        report_to="none", dataset_num_proc=None,
    )
    model = LlamaForCausalLM(config).to(torch.float32)
    trainer = SFTTrainer(model, arguments, train_dataset=made, processing_class=llama)
    batch = trainer.data_collator(list(trainer.train_dataset))
    trained = counted(batch, pad=llama.pad_token_id)
    assert trained["padding"] > 0 == trained["padding_with_loss"]
    assert found.loc["text", "tokens"] == trained["content"]
    assert found.loc["text", "with_loss"] == trained["with_loss"]
    opened = [row.tolist().count(llama.bos_token_id) for row in batch["input_ids"]]
    assert opened == [2, 2, 2] and found["bos"].tolist() == [2, 1]

    ours = counted(encoded, pad=llama.pad_token_id)
    assert found.loc["messages", ["tokens", "with_loss", "prompt", "prompt_share"]].tolist() == [
        ours["content"], ours["with_loss"], 0, 0
    ]
    assert found.loc["text", "tokens"] == ours["content"] + 3  # one more BOS in each row
    assert found.loc["text", "prompt"] == trained["with_loss"] - ours["with_loss"]
    assert found.loc["text", "prompt_share"] == 1 - ours["with_loss"] / trained["with_loss"] > 0.5


def test_text_loss_wants_the_same_rows_twice(llama, talks):
    made = as_text(talks, llama)
    encoded = chat.encode(talks, llama, max_length=200, template_options=LLAMA_DATE)
    with pytest.raises(LessonError, match="'text' has 2 rows but the encoded data has 1"):
        text_column.text_loss(made, encoded.select([0]), llama)
