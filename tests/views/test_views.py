"""What is drawn: states of tokens, joined bytes, tables, the ask box."""

import builtins
import re

import numpy as np
import pytest

from lessonlib.formatting import _rows as formatting
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError
from lessonlib.views import _views as views

PROMPT, ANSWER = "Human: Học máy là gì? Assistant:", " Là <b>."


@pytest.fixture
def row(tokenizer):
    prompt, answer = tokenizer(PROMPT)["input_ids"], tokenizer(ANSWER)["input_ids"] + [tokenizer.eos_token_id]
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def states(page):
    """The legend's counts: {"with loss": 3, ...}."""
    legend = str(page).splitlines()[-1]
    return {name.strip(" ("): int(count) for name, count in re.findall(r"([^,;:]+): (\d+)", legend)}


# --- token_mask ---


def test_tokens_with_loss_stand_in_brackets(tokenizer, row):
    text = str(views.token_mask(row, tokenizer))
    assert text.startswith("Human:·")
    bracketed = "".join(re.findall(r"\[([^\[\]]+)\]", text.splitlines()[0]))
    assert bracketed == "·Là·<b>.</s>"
    assert repr(views.token_mask(row, tokenizer)) == text


def test_every_token_is_counted_once(tokenizer, row):
    loss = sum(label != -100 for label in row["labels"])
    counts = states(views.token_mask(row, tokenizer))
    assert counts == {"with loss": loss, "without loss": len(row["labels"]) - loss}


def test_padding_with_and_without_loss_are_told_apart(tokenizer, row):
    fill = [tokenizer.pad_token_id] * 20
    good = {"input_ids": row["input_ids"] + fill, "labels": row["labels"] + [-100] * 20}
    bad = {"input_ids": fill + row["input_ids"], "labels": fill + row["input_ids"]}
    page = views.token_mask([good, bad], tokenizer)
    counts = states(page)
    assert counts["padding"] == 20 and counts["padding with loss (a mistake!)"] == 20
    assert "<pad>×20" in str(page) and "Row 2: [<pad>]×20[" in str(page)
    for style in ("dotted", "double", "solid rgb"):  # not by colour alone
        assert style in page._repr_html_()


def test_pad_tokens_are_padding_after_the_articles_mistake_and_eos_is_not(tokenizer, row):
    import copy

    mistaken = copy.deepcopy(tokenizer)
    mistaken.pad_token = mistaken.eos_token
    ids = [3, 3, *row["input_ids"]]
    counts = states(views.token_mask({"input_ids": ids, "labels": ids}, mistaken))
    assert counts == {"padding with loss (a mistake!)": 2, "with loss": len(row["input_ids"])}


def test_an_attention_mask_decides_what_padding_is(tokenizer, row):
    eos = tokenizer.eos_token_id
    padded = {
        "input_ids": [*row["input_ids"], eos, eos],
        "labels": [*row["labels"], -100, -100],
        "attention_mask": [1] * len(row["input_ids"]) + [0, 0],
    }
    assert states(views.token_mask(padded, tokenizer))["padding"] == 2


def test_short_runs_are_not_folded(tokenizer):
    row = {"input_ids": [3] * 3, "labels": [-100] * 3}
    assert str(views.token_mask(row, tokenizer)).startswith("<pad><pad><pad>\n")


def test_batches_rows_and_datasets_are_drawn_alike(tokenizer, row):
    import torch
    from datasets import Dataset

    expected = str(views.token_mask([row, row], tokenizer))
    batch = {name: torch.tensor([values, values]) for name, values in row.items()}
    arrays = {name: np.array([values, values]) for name, values in row.items()}
    for rows in (batch, arrays, Dataset.from_list([row, row]), (row, row)):
        assert str(views.token_mask(rows, tokenizer)) == expected
    one = {name: torch.tensor(values) for name, values in row.items()}
    assert str(views.token_mask(one, tokenizer)) == str(views.token_mask(row, tokenizer))


def test_vietnamese_letters_split_over_tokens_are_joined(tokenizer):
    ids = tokenizer("ẵỗ")["input_ids"]
    assert len(ids) > 2  # the letters are not in the vocabulary: bytes
    page = views.token_mask({"input_ids": ids, "labels": ids}, tokenizer)
    assert str(page).startswith("[ẵ][ỗ]\n")
    assert states(page) == {"with loss": len(ids)}
    assert "1 letter made of 2 tokens" in page._repr_html_()


def test_a_letter_that_cannot_be_joined_shows_its_bytes(tokenizer):
    ids = tokenizer("ẵ")["input_ids"]  # E1 BA B5
    labels = [-100, *ids[1:]]  # the mask cuts through the letter
    page = str(views.token_mask({"input_ids": ids, "labels": labels}, tokenizer))
    shown = page.splitlines()[0]
    assert "�" not in page
    assert re.sub(r"[^0-9A-F]", "", shown) == "E1BAB5"
    assert shown.startswith("⟨E1") and shown.endswith("⟩]")


def test_every_byte_has_its_letter(tokenizer):
    from tokenizers.pre_tokenizers import ByteLevel

    letters = formatting.byte_letters()
    assert set(letters) == set(ByteLevel.alphabet())
    assert sorted(letters.values()) == list(range(256))
    pre = ByteLevel(add_prefix_space=False, use_regex=False)
    for said in ("ẵ", " ", "\n", "\u00ad", "a"):  # the reference: what the tokenizer itself does
        assert bytes(letters[letter] for letter in pre.pre_tokenize_str(said)[0][0]) == said.encode()


def test_blanks_are_visible_and_html_is_escaped(tokenizer):
    ids = tokenizer("a b\n\tc <script>")["input_ids"]
    page = views.token_mask({"input_ids": ids, "labels": ids}, tokenizer)
    assert "·" in str(page) and "↵" in str(page) and "→" in str(page)
    assert "&lt;" in page._repr_html_() and "<script>" not in page._repr_html_()


def test_sentencepiece_spaces_are_kept():
    class Pieces:
        """The part of a SentencePiece tokenizer whose decoder takes the first space off."""

        pad_token, eos_token = "<pad>", "</s>"
        vocabulary = ["▁Học", "▁máy"]

        def convert_ids_to_tokens(self, ids):
            return self.vocabulary[ids] if isinstance(ids, int) else [self.vocabulary[i] for i in ids]

        def decode(self, ids, **_):
            return "".join(self.vocabulary[i] for i in ids).replace("▁", " ").removeprefix(" ")

    assert str(views.token_mask({"input_ids": [0, 1], "labels": [0, 1]}, Pieces())).startswith("[·Học][·máy]")


def test_the_legend_speaks_vietnamese(tokenizer, row):
    language.use("vi")
    page = views.token_mask([row, row], tokenizer)
    assert "tính loss: " in page._repr_html_() and "Mẫu 2: " in str(page)


@pytest.mark.parametrize("bad", [{"input_ids": [4]}, {"input_ids": [4], "labels": [4, 5]}, {"labels": [4]}])
def test_rows_that_cannot_be_drawn_are_refused(tokenizer, row, bad):
    with pytest.raises(LessonError, match="Row 2 cannot be drawn .*use formatting.encode"):
        views.token_mask([row, bad], tokenizer)
    language.use("vi")
    with pytest.raises(LessonError, match="Mẫu 2 không vẽ được"):
        views.token_mask([row, bad], tokenizer)


# --- before_after ---


def test_right_and_wrong_answers_are_marked():
    results = {"base": ["no", ""], "tuned": ["A is b.", "C <d>."]}
    page = views.before_after(["A?", "C?"], results, reference=["A is b.", "C <d>."])
    assert str(page).splitlines()[:4] == [
        "question: A?",
        "base: ✗ no",
        "tuned: ✓ A is b.",
        "reference: A is b.",
    ]
    assert "base: ✗ (empty)" in str(page)
    assert str(page).endswith("question: right answers\nbase: 0/2\ntuned: 2/2")
    shown = page._repr_html_()
    assert "✓ C &lt;d&gt;." in shown and "<d>" not in shown
    assert shown.count("<tr>") == 4


def test_without_a_reference_nothing_is_marked():
    page = views.before_after(["A?"], {"base": ["no"]})
    assert str(page) == "question: A?\nbase: no"
    language.use("vi")
    assert str(views.before_after(["A?"], {"base": [" "]})) == "câu hỏi: A?\nbase: (để trống)"


def test_lists_of_another_length_are_refused():
    with pytest.raises(LessonError, match="'tuned' has 1 answers for 2 questions"):
        views.before_after(["A?", "B?"], {"base": ["a", "b"], "tuned": ["a"]})
    with pytest.raises(LessonError, match="'reference' has 1 answers for 2 questions"):
        views.before_after(["A?", "B?"], {"base": ["a", "b"]}, reference=["a"])
    language.use("vi")
    with pytest.raises(LessonError, match="'đáp án' có 1 câu trả lời cho 2 câu hỏi"):
        views.before_after(["A?", "B?"], {"base": ["a", "b"]}, reference=["a"])


# --- ask ---


def test_headless_is_a_table_of_greedy_answers(headless, tiny_bloom, tokenizer):
    from lessonlib.evaluation._answers import answers

    page = views.ask(tiny_bloom, tokenizer, questions=["AI là gì?"], max_new_tokens=4)
    said = answers(tiny_bloom, tokenizer, ["Human: AI là gì? Assistant:"], max_new_tokens=4)[0].strip()
    assert str(page) == f"question: AI là gì?\nthe model's answer: {said}"
    assert page._repr_html_().startswith("<table>")


def test_headless_without_questions_says_what_to_do(headless, tiny_bloom, tokenizer):
    assert "Pass questions=[...]" in str(views.ask(tiny_bloom, tokenizer))
    language.use("vi")
    assert "Hãy truyền questions=[...]" in views.ask(tiny_bloom, tokenizer)._repr_html_()


def test_without_ipywidgets_the_table_takes_its_place(watched, monkeypatch, tiny_bloom, tokenizer):
    real = builtins.__import__

    def without_widgets(name, *args, **kwargs):
        if name == "ipywidgets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_widgets)
    page = views.ask(tiny_bloom, tokenizer, questions=["AI là gì?"], max_new_tokens=2)
    assert isinstance(page, views.Page) and "AI là gì?" in str(page)


@pytest.fixture
def box(watched, tiny_bloom, tokenizer):
    """The ask box and its parts: text, tokens, temperature, button, answer."""
    whole = views.ask(tiny_bloom, tokenizer, questions=["AI là gì?"], max_new_tokens=4)
    text, (tokens, heat, button), answer = whole.children[0], whole.children[1].children, whole.children[2]
    return text, tokens, heat, button, answer


def test_the_box_asks_with_its_settings(box, monkeypatch):
    text, tokens, heat, button, answer = box
    asked = []

    def say(model, tokenizer, prompt, temperature, longest):
        asked.append((prompt, temperature, longest))
        return "<b>Đáp</b>"

    monkeypatch.setattr(views, "_answer", say)
    assert (text.value, tokens.value, heat.value) == ("AI là gì?", 4, 0.0)
    text.value, tokens.value, heat.value = "Token {x} là gì?", 9, 0.7
    button.click()
    assert asked == [("Human: Token {x} là gì? Assistant:", 0.7, 9)]
    assert answer.value == "<div>&lt;b&gt;Đáp&lt;/b&gt;</div>"
    assert not button.disabled


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_box_generates_greedily_and_sampled(box, temperature):
    _, _, heat, button, answer = box
    heat.value = temperature
    button.click()
    assert answer.value.startswith("<div>") and "✗" not in answer.value


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_whose_logits_are_no_numbers_is_said_in_the_box(box, tiny_bloom, temperature):
    _, _, heat, button, answer = box
    tiny_bloom.transformer.ln_f.bias.data[0] = float("nan")
    heat.value = temperature
    button.click()
    assert "✗ The model&#x27;s logits are NaN or infinite" in answer.value


def test_an_error_while_generating_shows_in_the_box(box, monkeypatch):
    _, _, _, button, answer = box

    def fail(*_):
        raise RuntimeError("out of <memory>")

    monkeypatch.setattr(views, "_answer", fail)
    button.click()
    assert "✗ RuntimeError: out of &lt;memory&gt;" in answer.value
    assert not button.disabled


def test_sampling_is_generate_without_the_prompt_and_leaves_the_model_as_it_was(tiny_bloom, tokenizer):
    import torch

    prompt = "Human: AI là gì? Assistant:"
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    torch.manual_seed(0)
    options = {"do_sample": True, "temperature": 0.7, "max_new_tokens": 8, "pad_token_id": 2}
    expected = tiny_bloom.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, ids.shape[1] :]
    tiny_bloom.train()  # as it is after training: dropout must not reach the answer
    torch.manual_seed(0)
    said = views._answer(tiny_bloom, tokenizer, prompt, 0.7, 8)
    assert said == tokenizer.decode(expected, skip_special_tokens=True).strip() != ""
    assert tiny_bloom.training


def test_a_refusal_shows_in_the_box_without_its_type(watched, tiny_bloom, tokenizer):
    whole = views.ask(tiny_bloom, tokenizer, template="{question}")
    whole.children[1].children[2].click()  # nothing was asked
    assert whole.children[2].value.startswith(
        '<div style="color:rgb(218,54,51)">✗ The prompt in row 0 is empty'
    )


def test_a_template_without_a_place_is_refused(tiny_bloom, tokenizer):
    with pytest.raises(LessonError, match="has no place for the question. Write {question}"):
        views.ask(tiny_bloom, tokenizer, template="Human: Assistant:")
    language.use("vi")
    with pytest.raises(LessonError, match="thiếu chỗ cho câu hỏi"):
        views.ask(tiny_bloom, tokenizer, template="Human: Assistant:")
