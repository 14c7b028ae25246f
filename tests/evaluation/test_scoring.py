import json
import math
import unicodedata

import numpy as np
import pytest

from lessonlib.evaluation import _metrics as metrics
from lessonlib.evaluation import _scoring as scoring
from lessonlib.runtime import _language as language
from lessonlib.runtime._language import LessonError

# ---------------------------------------------------------------- metrics


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("Học máy.", "Học máy", 1),
        (unicodedata.normalize("NFD", "Học máy"), "Học máy", 1),
        ("  Học \n máy ", "Học máy", 1),
        ("Học máy .", "Học máy", 1),
        ("Học máy..", "Học máy", 0),
        ("học máy", "Học máy", 0),
        ("Học máy!", "Học máy", 0),
        ("Hoc may", "Học máy", 0),
        ("hòa", "hoà", 0),
        ("", "Học máy", 0),
        ("", "", 1),
    ],
)
def test_exact_match_normalises_only_what_it_says(prediction, reference, right):
    assert metrics.exact_match([prediction], [reference]) == [right]


@pytest.mark.parametrize(
    ("prediction", "reference", "f1"),
    [
        ("một nhánh của AI", "Một nhánh của AI.", 1.0),
        ("học máy là AI", "học sâu là AI", 0.75),  # 3 of 4 words on both sides
        ("học học học", "học", 0.5),  # precision 1/3, recall 1
        ("học", "học học học", 0.5),
        ("a b", "c", 0.0),
        ("", "", 1.0),
        ("...", "", 1.0),
        ("", "học", 0.0),
        (unicodedata.normalize("NFD", "trí tuệ"), "trí tuệ", 1.0),
    ],
)
def test_token_f1_counts_shared_words(prediction, reference, f1):
    assert metrics.token_f1([prediction], [reference]) == [pytest.approx(f1)]


def test_chrf_is_one_for_equal_texts_zero_for_foreign_ones_and_known_between():
    said = ["Học máy", unicodedata.normalize("NFD", "Học máy"), "xyz", "ab"]
    found = metrics.chrf(said, ["Học máy", "Học máy", "Học", "abcd"])
    assert found[:3] == [pytest.approx(1.0), pytest.approx(1.0), 0.0]
    # By hand: orders that both sides have are 1 and 2; precisions 1 and 1, recalls 2/4 and 1/3;
    # F2 of the means P = 1, R = 5/12.
    precision, recall = 1, (2 / 4 + 1 / 3) / 2
    assert found[3] == pytest.approx(5 * precision * recall / (4 * precision + recall))


@pytest.mark.parametrize(
    ("prediction", "reference", "f1"),
    [
        ("Một nhánh của AI.", "một nhánh của AI", 1.0),
        ("nhánh một của AI", "một nhánh của AI", 0.75),  # in order: 3 of 4 words; token_f1 says 1
        ("một của AI", "một nhánh của AI", 6 / 7),  # with a gap: P = 3/3, R = 3/4
        ("a b a b", "a b", 2 / 3),  # P = 2/4, R = 2/2
        ("nợ", "nơ", 0.0),
        (unicodedata.normalize("NFD", "trí tuệ"), "trí tuệ", 1.0),
        ("", "học", 0.0),
        ("...", "", 1.0),
    ],
)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(prediction, reference, f1):
    assert metrics.rouge_l([prediction], [reference]) == [pytest.approx(f1)]
    assert metrics.rouge_l([reference], [prediction]) == [pytest.approx(f1)]  # F1 is symmetric


def test_rouge_l_gives_the_numbers_of_the_package_with_a_unicode_tokenizer():
    from rouge_score.rouge_scorer import RougeScorer

    from lessonlib.data import _splits as data
    class Unicode:
        def tokenize(self, text):
            return metrics.words(text)

    rows = data.load_chats("customer_support_vi")["test"]
    said = [" ".join(message["content"] for message in messages) for messages in rows["messages"]]
    wanted = said[1:] + said[:1]
    package = RougeScorer(["rougeL"], tokenizer=Unicode())
    expected = [package.score(r, p)["rougeL"].fmeasure for p, r in zip(said, wanted, strict=True)]
    assert len({round(it, 3) for it in expected}) > 20
    assert metrics.rouge_l(said, wanted) == pytest.approx(expected)
    # In plain English the package's own tokenizer finds the same words.
    english = ("The order will be sent on Monday.", "Your order is sent on Monday, at 9.")
    own = RougeScorer(["rougeL"]).score(english[1], english[0])["rougeL"].fmeasure
    assert 0 < own < 1 and metrics.rouge_l(english[:1], english[1:]) == [pytest.approx(own)]


def test_the_tokenizer_of_rouge_score_destroys_vietnamese():
    """Why there is one of our own: other words become equal, and some answers become empty."""
    from rouge_score.rouge_scorer import RougeScorer

    own = RougeScorer(["rougeL"])
    for said, wanted in [("nợ", "nơ"), ("bán", "bẩn"), ("mở đường", "mỡ đượng")]:
        assert own.score(wanted, said)["rougeL"].fmeasure == 1.0
        assert metrics.rouge_l([said], [wanted]) == [0.0]
    assert own.score("ở đó", "ở đó")["rougeL"].fmeasure == 0.0
    assert metrics.rouge_l(["ở đó"], ["ở đó"]) == [1.0]


def test_slots_copied_is_the_share_of_the_values_that_stand_in_the_answer():
    slots = [
        {"order": "#95644", "city": "Huế", "date": "", "product": None},
        {"order": "#95644", "city": "Huế"},
        {"order": "#95644"},
        {"order": "", "city": " "},
    ]
    said = ["Dạ, đơn #95644 ở huế ạ.", "Đơn #95644 ở Hà Nội.", "Đơn #95645.", "Dạ."]
    found = metrics.slots_copied(said, slots)
    assert found[:3] == [1.0, 0.5, 0.0] and math.isnan(found[3])


@pytest.mark.parametrize(("said", "value", "copied"), [
    ("đơn #95644.", "#95644", 1),
    ("đơn #956441", "#95644", 0),
    ("mã 1#95644", "#95644", 0),
    ("1.500.000 đồng", "1.500", 0),
    ("21.500 đồng", "1.500", 0),
    ("1.500 đồng, ngày 10/5.", "1.500", 1),
    ("ngày 10/5.", "10/5", 1),
    ("ngày 10/5/2027", "10/5", 0),
    ("TỦ  LẠNH đây", "tủ lạnh", 1),
    (unicodedata.normalize("NFD", "tủ lạnh"), "tủ lạnh", 1),
    ("tu lanh", "tủ lạnh", 0),
    ("a (b) c", "(b)", 1),
])  # fmt: skip
def test_a_value_is_copied_only_where_it_stands_whole(said, value, copied):
    assert metrics.slots_copied([said], [{"x": value}]) == [copied]


def test_only_what_the_right_answer_repeats_is_asked_for():
    slots = [{"order": "#1"}, {"order": "#2", "city": "Huế"}]
    found = metrics.slots_copied(["no", "#2"], slots, references=["You are welcome.", "Order #2"])
    assert math.isnan(found[0]) and found[1] == 1.0
    with pytest.raises(LessonError, match="equally many, but they are: 2, 1, 2"):
        metrics.slots_copied(["a", "b"], slots, references=["a"])
    with pytest.raises(LessonError, match="equally many, but they are: 1, 2, 2"):
        metrics.slots_copied(["a"], slots)


def test_the_right_answers_of_the_shipped_dataset_copy_all_that_is_asked_for():
    from lessonlib.data import _splits as data

    rows = data.load_chats("customer_support_vi")["test"]
    right = [messages[-1]["content"] for messages in rows["messages"]]
    found = metrics.slots_copied(right, rows["slots"], references=right)
    asked = [share for share in found if not math.isnan(share)]
    assert len(asked) > 30 and set(asked) == {1.0}
    wrong = metrics.slots_copied(right[1:] + right[:1], rows["slots"], references=right)
    assert sum(share for share in wrong if not math.isnan(share)) < len(asked) / 5


def test_mean_score_passes_over_nan_and_knows_groups():
    values = [1.0, math.nan, 0.0, 0.5, math.nan]
    found = scoring.mean_score(values)
    assert (found.mean, found.n) == (0.5, 3)
    assert (found.low, found.high) == scoring.bootstrap(np.array([1.0, 0.0, 0.5]))
    grouped = scoring.mean_score(values, groups=["a", "a", "b", "b", "c"])
    assert grouped == scoring.Score(0.625, *scoring.bootstrap(np.array([1.0, 0.25])), 2)
    with pytest.raises(LessonError, match="All 2 values are NaN"):
        scoring.mean_score([math.nan, math.nan])
    with pytest.raises(LessonError, match="equally many, but they are: 2, 1"):
        scoring.mean_score([1.0, 0.0], groups=["a"])


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_metrics_refuse_lists_that_do_not_fit(metric):
    with pytest.raises(LessonError, match="equally many, but they are: 1, 2"):
        metrics.METRICS[metric](["a"], ["a", "b"])
    with pytest.raises(LessonError, match="list is empty"):
        metrics.METRICS[metric]([], [])


# ---------------------------------------------------------------- score


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    # 0 and z²/(n + z²) at p = 0, n/(n + z²) and 1 at p = 1; in between the next test solves for the limits
    [(0, 10, 0.0, 3.8415 / 13.8415), (10, 10, 10 / 13.8415, 1.0), (54, 54, 54 / 57.8415, 1.0)],
)
def test_wilson_stays_honest_at_the_ends(right, n, low, high):
    assert scoring.wilson(right / n, n) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@pytest.mark.parametrize(("p", "n"), [(0.5, 10), (0.93, 54), (0.1, 7)])
def test_wilson_solves_its_defining_equation(p, n):
    low, high = scoring.wilson(p, n)
    assert low < p < high
    for limit in (low, high):
        assert abs(p - limit) == pytest.approx(1.96 * math.sqrt(limit * (1 - limit) / n), abs=1e-4)


def score(said, wanted, *, metric="exact_match", groups=None):
    """One model on one split, as `compare` scores it."""
    groups = None if groups is None else {"split": groups}
    table = scoring.compare({"model": {"split": said}}, {"split": wanted}, metric=metric, groups=groups)
    mean, low, high, n = table.loc["split", "model"]
    return scoring.Score(mean, low, high, int(n))


def test_score_knows_of_groups_not_of_rows():
    said, wanted = ["a"] * 30 + ["b"] * 10, ["a"] * 40
    alone = score(said, wanted)
    grouped = score(said, wanted, groups=[row // 4 for row in range(40)])
    assert (alone.mean, alone.n) == (0.75, 40)
    assert (grouped.mean, grouped.n) == (0.75, 10)
    assert (grouped.low, grouped.high) == scoring.wilson(0.75, 10)
    assert grouped.low < alone.low and grouped.high > alone.high


def test_each_group_weighs_the_same_however_many_wordings_it_has():
    found = score(["a", "a", "a", "b"], ["a"] * 4, groups=["x", "x", "x", "y"])
    assert (found.mean, found.n) == (0.5, 2)


def test_rows_of_a_group_need_not_stand_together():
    found = score(["a", "b", "a", "b"], ["a", "a", "a", "b"], groups=["x", "y", "x", "y"])
    assert (found.mean, found.n) == (0.75, 2)


def test_bootstrap_is_close_to_theory_and_always_the_same():
    values = np.random.default_rng(1).normal(0.6, 2.0, size=400)
    low, high = scoring.bootstrap(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=half / 10)
    assert high == pytest.approx(values.mean() + half, abs=half / 10)
    assert scoring.bootstrap(values) == (low, high)


def test_other_metrics_get_a_bootstrap_over_groups():
    said, wanted = ["a b", "a c", "c d", "a b"] * 5, ["a b"] * 20
    groups = [row // 2 for row in range(20)]
    found = score(said, wanted, metric="token_f1", groups=groups)
    means = np.array([0.75, 0.5] * 5)
    assert found == scoring.Score(0.625, *scoring.bootstrap(means), 10)


def test_an_unknown_metric_is_named_with_the_closest_one():
    with pytest.raises(LessonError, match="Did you mean 'exact_match'?"):
        score(["a"], ["a"], metric="exact-match")
    with pytest.raises(LessonError, match="no metric 'zzz'. There are: exact_match, token_f1, chrf, rouge_l"):
        score(["a"], ["a"], metric="zzz")
    language.use("vi")
    with pytest.raises(LessonError, match="Có phải ý bạn là 'token_f1'?"):
        score(["a"], ["a"], metric="tokenf1")


def test_score_refuses_groups_of_another_length():
    with pytest.raises(LessonError, match="equally many, but they are: 2, 2, 1"):
        score(["a", "b"], ["a", "b"], groups=["x"])


def test_a_score_is_shown_with_its_interval_and_never_as_minus_zero():
    assert str(scoring.Score(0.9333, 0.8456, 0.9712, 54)) == "0.93 [0.85, 0.97]"
    assert str(scoring.Score(-0.001, -0.004, 0.2, 9)) == "0.00 [0.00, 0.20]"


# ---------------------------------------------------------------- compare, table, save_metrics

REFERENCES = {"new_wordings": ["a", "b"] * 10, "train": ["a"] * 20}
RESULTS = {
    "base": {"train": ["x"] * 20, "new_wordings": ["x"] * 20},
    "tuned": {"train": ["a"] * 20, "new_wordings": ["a"] * 20},
}
GROUPS = {"train": list(range(20)), "new_wordings": [row // 2 for row in range(20)]}


def test_compare_gives_the_numbers_of_score_and_the_paired_difference():
    found = scoring.compare(RESULTS, REFERENCES, groups=GROUPS)
    assert list(found.index) == ["new_wordings", "train"] and found.index.name == "split"
    assert list(found.columns.get_level_values(0).unique()) == ["base", "tuned", "tuned - base"]
    for name, by_split in RESULTS.items():
        for split, said in by_split.items():
            alone = score(said, REFERENCES[split], groups=GROUPS[split])
            assert dict(found.loc[split, name]) == pytest.approx(vars(alone))
    assert found.loc["train", ("tuned", "low")] > found.loc["train", ("base", "high")]
    assert dict(found.loc["train", "tuned - base"]) == {"mean": 1, "low": 1, "high": 1, "n": 20}


def test_the_difference_is_paired():
    """Tuned is a little better on every group, while groups differ widely: only pairing sees it."""
    wanted = [" ".join("abcdefghij")] * 20
    base = [" ".join("abcdefghij"[: 1 + row % 9]) for row in range(20)]
    tuned = [" ".join("abcdefghij"[: 2 + row % 9]) for row in range(20)]
    results = {"base": {"s": base}, "tuned": {"s": tuned}}
    found = scoring.compare(results, {"s": wanted}, metric="token_f1").loc["s"]
    assert found["base", "high"] > found["tuned", "low"]
    assert found["tuned - base", "low"] > 0
    gain = np.array(metrics.token_f1(tuned, wanted)) - np.array(metrics.token_f1(base, wanted))
    assert found["tuned - base", "mean"] == pytest.approx(gain.mean())
    assert (found["tuned - base", "low"], found["tuned - base", "high"]) == scoring.bootstrap(gain)


def test_the_difference_is_last_minus_first_and_one_model_has_none():
    three = {"base": RESULTS["base"], "article": RESULTS["tuned"], "mended": RESULTS["base"]}
    found = scoring.compare(three, REFERENCES)
    assert list(found.columns.get_level_values(0).unique()) == ["base", "article", "mended", "mended - base"]
    assert found.loc["train", ("mended - base", "mean")] == 0
    alone = scoring.compare({"base": RESULTS["base"]}, REFERENCES)
    assert list(alone.columns.get_level_values(0).unique()) == ["base"]


def test_table_shows_the_same_as_text():
    found = scoring.table(scoring.compare(RESULTS, REFERENCES, groups=GROUPS))
    assert list(found.columns) == ["base", "tuned", "tuned - base"]
    assert found.loc["train", "tuned"] == "1.00 [0.84, 1.00]"
    assert found.loc["train", "base"] == "0.00 [0.00, 0.16]"
    assert found.loc["new_wordings", "tuned"] == "0.50 [0.24, 0.76]"


def test_by_scores_each_label_like_a_split_and_all_of_them():
    said = {"base": ["x"] * 6, "tuned": ["a", "b", "x", "d", "x", "x"]}
    wanted, labels = list("abcdef"), ["refund", "order", "order", "order", "refund", "order"]
    groups = [1, 2, 2, 3, 4, 5]
    found = scoring.by(said, wanted, labels, groups=groups)
    assert list(found.index) == ["order", "refund", "(all)"] and found.index.name == "label"
    assert list(found.columns.get_level_values(0).unique()) == ["base", "tuned", "tuned - base"]
    order = score(["b", "x", "d", "x"], list("bcdf"), groups=[2, 2, 3, 5])
    assert (order.mean, order.n) == (0.5, 3)
    assert dict(found.loc["order", "tuned"]) == pytest.approx(vars(order))
    whole = score(said["tuned"], wanted, groups=groups)
    assert dict(found.loc["(all)", "tuned"]) == pytest.approx(vars(whole))
    assert scoring.table(found).loc["refund", "tuned"].startswith("0.50 [")
    chrf = scoring.by(said, wanted, labels, metric="chrf").loc["refund", ("tuned", "mean")]
    assert chrf == pytest.approx(0.5)


def test_by_refuses_lists_that_do_not_fit():
    with pytest.raises(LessonError, match="equally many, but they are: 1, 2"):
        scoring.by({"base": ["a", "b"]}, ["a", "b"], ["x"])
    with pytest.raises(LessonError, match="equally many, but they are: 1, 2"):
        scoring.by({"base": ["a"]}, ["a", "b"], ["x", "y"])
    with pytest.raises(LessonError, match="equally many, but they are: 2, 2, 1"):
        scoring.by({"base": ["a", "b"]}, ["a", "b"], ["x", "y"], groups=[1])
    with pytest.raises(LessonError, match="no model to compare"):
        scoring.by({}, ["a"], ["x"])


def test_compare_refuses_what_cannot_be_compared():
    with pytest.raises(LessonError, match="no model to compare"):
        scoring.compare({}, REFERENCES)
    with pytest.raises(LessonError, match=r"'base' has the splits \['train'\], the references have"):
        scoring.compare({"base": {"train": ["x"] * 20}}, REFERENCES)
    with pytest.raises(LessonError, match="'groups' has the splits"):
        scoring.compare(RESULTS, REFERENCES, groups={"train": GROUPS["train"]})


def test_metrics_are_written_the_same_each_time(tmp_path):
    comparison = scoring.compare(RESULTS, REFERENCES, groups=GROUPS)
    loss = {"tuned": np.float32(0.123456), "base": -0.00001}
    extra = {"loss": loss, "steps": 10, "losses": np.array([1.5, 2.0])}
    path = scoring.save_metrics(
        tmp_path / "a" / "metrics.json", lesson="01", profile="rehearsal", comparison=comparison, **extra
    )
    first = path.read_bytes()
    again = dict(reversed(extra.items()))
    scoring.save_metrics(path, lesson="01", profile="rehearsal", comparison=comparison, **again)
    assert path.read_bytes() == first and first.endswith(b"\n") and b"-0.0" not in first
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]

    record = json.loads(first)
    assert list(record) == ["lesson", "metrics", "profile", "table"]
    assert (record["lesson"], record["profile"]) == ("01", "rehearsal")
    assert record["table"] == {
        "columns": ["split", "base", "tuned", "tuned - base"],
        "rows": [
            ["new_wordings", "0.00 [0.00, 0.28]", "0.50 [0.24, 0.76]", "0.50 [0.50, 0.50]"],
            ["train", "0.00 [0.00, 0.16]", "1.00 [0.84, 1.00]", "1.00 [1.00, 1.00]"],
        ],
    }
    tuned = record["metrics"]["comparison"]["train"]["tuned"]
    assert tuned == {"high": 1.0, "low": 0.8389, "mean": 1.0, "n": 20}
    assert record["metrics"]["loss"] == {"base": 0.0, "tuned": 0.1235}
    assert record["metrics"]["losses"] == [1.5, 2.0] and record["metrics"]["steps"] == 10


def test_a_number_that_json_does_not_know_is_refused_by_name_and_nothing_is_written(tmp_path):
    comparison = scoring.compare(RESULTS, REFERENCES)
    path = tmp_path / "metrics.json"
    for bad in (math.nan, math.inf):
        with pytest.raises(LessonError, match=r"metrics.loss\[1\] is (nan|inf)"):
            scoring.save_metrics(path, lesson="01", profile="t4", comparison=comparison, loss=[1.0, bad])
    assert list(tmp_path.iterdir()) == []
