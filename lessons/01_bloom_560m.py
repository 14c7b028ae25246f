# %% [markdown] id="title" lang="vi"
# # Bài 1. BLOOM-560m: trọn một vòng fine-tuning, làm bằng tay
#
# **Sau bài này bạn làm được:**
# - tự tay đi hết con đường: dọn dữ liệu, tokenize, gắn LoRA, huấn luyện, đo, lưu, gộp (merge) và hỏi lại mô hình;
# - đọc một con số loss và biết nó đang đo *cái gì*;
# - tìm ra vì sao một công thức đã đăng lên mạng cho loss 13 và câu trả lời vô nghĩa, rồi sửa từng bước, mỗi bước có số đo.
#
# **Mô hình:** `bigscience/bloom-560m` (trên GPU) hoặc bản thu nhỏ (*twin*) cùng kiến trúc đi kèm khóa học (trên CPU).
# **Thời gian:** khoảng 2 phút trên laptop hai nhân không GPU, không cần mạng; trên Colab T4 hãy dự trù 15 phút (con số T4 là ước tính, chưa đo).
# **Cần biết trước:** Python cơ bản. Không cần biết gì về LoRA.
# %% [markdown] id="title" lang="en"
# # Lesson 1. BLOOM-560m: the whole round of fine-tuning, by hand
#
# **After this lesson you can:**
# - walk the whole way yourself: clean data, tokenise, attach LoRA, train, measure, save, merge and ask the model;
# - read a loss value and know *what* it is measuring;
# - find out why a published recipe gave a loss of 13 and nonsense answers, and mend it step by step, each step with a number.
#
# **Model:** `bigscience/bloom-560m` (on a GPU), or the tiny *twin* of the same architecture that ships with the course (on a CPU).
# **Time:** about 2 minutes on a two-core laptop without GPU or network; on a Colab T4 set aside 15 minutes (the T4 figure is an estimate, not a measurement).
# **Needed before:** basic Python. Nothing about LoRA.

# %% id="setup"
# filled in by `lessonlib build`

# %% [markdown] id="where" lang="vi"
# ## 1. Bài này đang chạy ở đâu?
#
# Cùng một notebook chạy trên Colab T4 và trên laptop không GPU. Thứ duy nhất thay đổi là **profile**: nó chọn mô hình,
# kích thước và số bước. Mã lệnh thì giữ nguyên. Bảng dưới cho biết máy bạn có gì và vì thế bài học chọn gì.
# Đặt `USE_DRIVE = True` nếu bạn ở Colab và muốn checkpoint còn nguyên khi phiên làm việc bị ngắt.
# %% [markdown] id="where" lang="en"
# ## 1. Where is this running?
#
# The same notebook runs on a Colab T4 and on a laptop without a GPU. Only the **profile** changes: it picks the model,
# the sizes and the number of steps. The code stays the same. The table below says what your machine has and what the lesson chose for it.
# Set `USE_DRIVE = True` if you are in Colab and want checkpoints to survive a dropped session.

# %% id="runtime"
from lessonlib import runtime

USE_DRIVE = False  # @param {type:"boolean"}
rt = runtime.detect(family="bloom", drive=USE_DRIVE)
work = rt.work / "lesson01"  # everything this lesson writes
rt

# %% [markdown] id="why" lang="vi"
# ## 2. Vì sao phải fine-tune?
#
# **Pre-training** (huấn luyện trước) cho mô hình đọc một khối văn bản khổng lồ với đúng một nhiệm vụ: đoán token kế tiếp.
# Xong bước này ta có *base model*: nó biết viết tiếp một đoạn văn, nhưng không biết rằng sau một câu hỏi thì phải **trả lời**,
# càng không biết khi nào nên dừng.
#
# **Fine-tuning** huấn luyện tiếp trên ít dữ liệu nhưng đúng việc mình cần. Nhiệm vụ vẫn là đoán token kế tiếp; chỉ có dữ liệu
# khác đi, và (bạn sẽ thấy điều này quan trọng đến mức nào) *những token nào được tính loss* cũng khác đi.
#
# | | Pre-training | Fine-tuning |
# |---|---|---|
# | Dữ liệu | hàng trăm tỷ token, đủ loại | vài trăm đến vài chục nghìn ví dụ, một việc |
# | Chi phí | hàng triệu giờ GPU | vài phút đến vài giờ trên một GPU |
# | Trọng số | tất cả | tất cả, hoặc chưa tới 1% (LoRA) |
# | Kết quả | biết ngôn ngữ | biết làm việc của bạn |
#
# Trước khi huấn luyện bất cứ thứ gì, ta xem base model trả lời ra sao. Không có câu trả lời "trước" thì câu trả lời "sau" chẳng nói lên điều gì.
# %% [markdown] id="why" lang="en"
# ## 2. Why fine-tune?
#
# **Pre-training** lets a model read an enormous body of text with one single task: guess the next token.
# The result is a *base model*: it can continue a text, but it does not know that a question wants an **answer**,
# let alone when to stop.
#
# **Fine-tuning** goes on training with little data that shows exactly the job you want done. The task is still to guess the next token;
# only the data differs, and (you will see how much this matters) *which tokens count in the loss*.
#
# | | Pre-training | Fine-tuning |
# |---|---|---|
# | Data | hundreds of billions of tokens of every kind | a few hundred to some ten thousand examples of one job |
# | Cost | up to millions of GPU hours | minutes to hours on one GPU |
# | Weights | all of them | all, or less than 1% (LoRA) |
# | Result | knows language | knows your job |
#
# Before we train anything we look at what the base model answers. Without a "before", an "after" says nothing.

# %% [markdown] id="base-choice" lang="vi"
# ### Chọn base model
#
# Bài gốc chọn BLOOM-560m, và đó là lựa chọn hợp lý để học: BLOOM được pre-train trên 46 ngôn ngữ, có tiếng Việt; 560 triệu tham số nên
# vừa cả GPU nhỏ; giấy phép mở (BigScience RAIL, có điều khoản cấm một số mục đích sử dụng: hãy đọc trước khi làm sản phẩm). Khi tự chọn, hãy hỏi theo thứ tự:
#
# 1. Mô hình có *đọc* ngôn ngữ của bạn khi pre-train không? Đếm số token cho mỗi từ là phép thử nhanh nhất (mục 3).
# 2. Có *vừa* GPU không, kể cả lúc huấn luyện? Tính trước khi tải (ô dưới đây).
# 3. Giấy phép có cho phép việc bạn định làm không?
# 4. Cần base model (bạn dạy định dạng từ đầu) hay bản *instruct* (đã biết hội thoại, từ bài 2)?
#
# Ô dưới dựng đúng cấu hình thật của BLOOM-560m trên thiết bị `meta`: có đủ hình dạng các ma trận, không tốn một byte trọng số nào. Vì thế nó chạy được cả khi máy bạn không có mạng.
# %% [markdown] id="base-choice" lang="en"
# ### Choosing the base model
#
# The source article picked BLOOM-560m, a sensible choice for learning: BLOOM was pre-trained on 46 natural languages, Vietnamese among them; with 560 million
# parameters it fits a small GPU; its licence is open (BigScience RAIL, which forbids certain uses: read it before you build a product). When you choose yourself, ask in this order:
#
# 1. Did the model *read* your language in pre-training? Counting tokens per word is the quickest test (section 3).
# 2. Does it *fit* your GPU, training included? Compute it before you download (the cell below).
# 3. Does the licence allow what you plan?
# 4. Do you want a base model (you teach the format from nothing) or an *instruct* one (already knows conversation, from lesson 2 on)?
#
# The cell below builds the real configuration of BLOOM-560m on the `meta` device: every matrix has its shape, not one byte of weights is held. So it runs without a network too.

# %% id="real-size"
from lessonlib import models

real = models.skeleton("bloom-560m")  # the real architecture, on the meta device
print(f"parameters: {sum(p.numel() for p in real.parameters()):,}")
print(f"layers: {real.config.n_layer}, hidden size: {real.config.hidden_size}, vocabulary: {real.config.vocab_size:,}")
embedding = real.get_input_embeddings().weight
print(f"share of the embedding matrix: {embedding.numel() / sum(p.numel() for p in real.parameters()):.0%}")

# %% [markdown] id="load-text" lang="vi"
# ## 3. Nạp tokenizer và mô hình
#
# `models.source` cho biết lấy mô hình từ đâu: trên GPU là Hub, ở một **revision cố định** (tên nhánh `main` có thể đổi nội dung qua đêm); trên CPU là twin đi kèm.
# Phần còn lại là lệnh `transformers` bình thường. Bài gốc dùng thêm `trust_remote_code=True`, tức là cho phép chạy mã Python tải từ Hub; BLOOM đã có sẵn trong `transformers` nên **không cần, và không nên**.
# %% [markdown] id="load-text" lang="en"
# ## 3. Load tokenizer and model
#
# `models.source` says where the model comes from: on a GPU the Hub, at a **pinned revision** (what is behind a branch name such as `main` can change overnight); on a CPU the shipped twin.
# The rest is ordinary `transformers`. The article also passed `trust_remote_code=True`, which runs Python code downloaded from the Hub; BLOOM is built into `transformers`, so this is **not needed, and better left out**.

# %% id="load"
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

path, revision = models.source("bloom-560m", rt)
tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)


def fresh(dtype=rt.torch_dtype):
    """The untouched base model again: every experiment starts from the same weights."""
    model = AutoModelForCausalLM.from_pretrained(
        path, revision=revision, dtype=dtype, attn_implementation=rt.attention
    )
    return model.to(rt.device)


base = fresh().eval()
print(f"{base.config.model_type}, {base.num_parameters():,} parameters, {base.dtype}, on {base.device.type}")

# %% [markdown] id="tokenizer-text" lang="vi"
# Mô hình không đọc chữ mà đọc số. Tokenizer cắt văn bản thành **token** rồi thay mỗi token bằng một số. Ba điều cần nhìn:
#
# - **Tiếng Việt bị cắt vụn đến đâu.** Càng nhiều token cho mỗi từ, huấn luyện càng chậm và càng tốn bộ nhớ.
# - **Các token đặc biệt.** `</s>` (số 2) nghĩa là "hết văn bản"; `<pad>` (số 3) chỉ để lấp chỗ trống. Hãy nhớ hai số này: cả vụ án loss 13 xoay quanh chúng.
# - **Dấu cách thuộc về từ đứng sau nó** (ký hiệu `Ġ` ở đầu token). Vì vậy `Assistant:` và `Assistant: ` (thừa một dấu cách) là hai dãy số khác nhau.
# %% [markdown] id="tokenizer-text" lang="en"
# A model reads numbers, not letters. The tokenizer cuts text into **tokens** and replaces each by a number. Three things to look at:
#
# - **How finely Vietnamese is cut.** The more tokens per word, the slower and the hungrier training becomes.
# - **The special tokens.** `</s>` (number 2) means "the text ends here"; `<pad>` (number 3) only fills gaps. Remember these two numbers: the whole case of loss 13 turns on them.
# - **A space belongs to the word after it** (the `Ġ` at the front of a token). So `Assistant:` and `Assistant: ` (one space too many) are two different rows of numbers.

# %% id="tokenizer"
sentence = "Human: Học máy là gì? Assistant: Học máy là một nhánh của AI."
pieces = tokenizer(sentence)["input_ids"]
print(f"{len(sentence.split())} words -> {len(pieces)} tokens ({len(pieces) / len(sentence.split()):.1f} per word)")
print([tokenizer.decode([piece]) for piece in pieces][:16], "...")
print("end of text:", tokenizer.eos_token, tokenizer.eos_token_id)
print("padding:", tokenizer.pad_token, tokenizer.pad_token_id)
print("vocabulary:", f"{base.config.vocab_size:,}")

for prompt in ("Assistant:", "Assistant: "):
    print(repr(prompt), "->", tokenizer(prompt)["input_ids"])

# %% [markdown] id="ask-base-text" lang="vi"
# Giờ hỏi base model ba câu. `max_new_tokens` giới hạn phần trả lời; `do_sample=False` luôn lấy token có xác suất cao nhất, nên chạy lại vẫn ra kết quả đó.
# %% [markdown] id="ask-base-text" lang="en"
# Now ask the base model three questions. `max_new_tokens` bounds the answer; `do_sample=False` always takes the most probable token, so that a second run gives the same.

# %% id="ask-base"
QUESTIONS = ["Trí tuệ nhân tạo (AI) là gì?", "Học máy có mấy phương pháp chính?", "K-means clustering là gì?"]


def answer(model, questions, **settings):
    """What the model writes after each question, up to and including </s>."""
    prompts = [f"Human: {question} Assistant:" for question in questions]
    # Rows of one batch need one length. Padding goes on the left, so that each prompt ends where the answer begins.
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(model.device)
    with torch.no_grad():
        ids = model.generate(**inputs, **{"max_new_tokens": 40, "do_sample": False} | settings)
    written = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :])  # only what came after the prompt
    return [text.replace(tokenizer.pad_token, "") for text in written]


for question, text in zip(QUESTIONS, answer(base, QUESTIONS), strict=True):
    print(question, "\n   ->", text)

# %% [markdown] id="ask-base-look" lang="vi"
# Câu chữ trôi chảy hay không tùy mô hình, nhưng đây không phải câu trả lời cho câu hỏi. Đó là lý do ta fine-tune.
# %% [markdown] id="ask-base-look" lang="en"
# However fluent the words may be, they do not answer the questions. That is why we fine-tune.

# %% [markdown] id="data-text" lang="vi"
# ## 4. Dữ liệu: đọc, kiểm tra, làm sạch
#
# Bài gốc nói "thu thập, làm sạch, định dạng" rồi dùng một tệp đã sạch. Ngoài đời, tệp nhận được không bao giờ sạch. `raw.jsonl` là một tệp như thế:
# 216 cặp hỏi đáp về AI, lẫn với đủ kiểu lỗi thường gặp. Trước hết, đọc nó theo cách ai cũng viết lần đầu:
# %% [markdown] id="data-text" lang="en"
# ## 4. Data: read, check, clean
#
# The article says "collect, clean, format" and goes on with a file that is clean already. Files in real life never are. `raw.jsonl` is such a file:
# 216 question-answer pairs about AI, mixed with every common kind of flaw. First, read it the way everybody does the first time:

# %% id="read-naive"
import json

from lessonlib.runtime import dataset_dir

raw = dataset_dir("ai_qa_vi") / "raw.jsonl"
for number, line in enumerate(raw.read_text(encoding="utf-8").split("\n"), 1):
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        print(f"stopped at line {number}: {error}")
        break

# %% [markdown] id="read-text" lang="vi"
# Dừng ngay dòng đầu: tệp mở đầu bằng BOM, một ký tự vô hình mà Excel và Notepad hay chèn vào. Phản xạ thường thấy là bọc `try/except: continue`, và thế là từ đó mọi dòng hỏng
# **biến mất trong im lặng**. `data.read` làm khác: dòng nào không dùng được thì giữ lại kèm số dòng và lý do.
# %% [markdown] id="read-text" lang="en"
# It stops at the very first line: the file opens with a BOM, an invisible character that Excel and Notepad like to add. The usual reflex is `try/except: continue`, and from then on every bad line
# **disappears in silence**. `data.read` does otherwise: what cannot be used is kept, with its line number and the reason.

# %% id="read"
from lessonlib import data

records = data.read(raw)
print(len(records.rows), "rows can be used;", len(records.problems), "cannot:")
records.problems.table

# %% [markdown] id="clean-text" lang="vi"
# Dòng đọc được chưa chắc đã sạch. `data.clean` đi qua từng bước có tên; mỗi bước là một hàm nhỏ, và mỗi dòng bị sửa hay bị bỏ đều được ghi lại kèm lý do. Các bước đúng như bài gốc dặn
# (bỏ trùng, bỏ nhiễu, chuẩn hóa văn bản), cộng thêm vài lỗi chỉ tiếng Việt mới hay gặp:
#
# - **NFD so với NFC**: chữ `ế` có thể là một ký tự hoặc là `e` cộng hai dấu rời. Mắt nhìn giống hệt, tokenizer thấy hai dãy khác nhau. macOS hay sinh ra NFD.
# - **Mojibake**: `Há»c mÃ¡y` là "Học máy" bị đọc sai bảng mã.
# - **Gần trùng**: hai câu chỉ khác nhau chữ hoa hay dấu câu. Nếu để lọt, một câu ở tập train và câu kia ở tập kiểm tra sẽ cho điểm đẹp giả tạo.
# %% [markdown] id="clean-text" lang="en"
# A row that can be read is not yet clean. `data.clean` goes through named steps; each is a small function, and every row that is changed or dropped is written down with the reason. The steps are those the article asks for
# (duplicates, noise, normalisation), and some flaws that Vietnamese has more often than English:
#
# - **NFD against NFC**: `ế` may be one character, or `e` and two loose marks. They look alike to the eye and are different token rows to the tokenizer. macOS likes to produce NFD.
# - **Mojibake**: `Há»c mÃ¡y` is "Học máy" read with the wrong encoding.
# - **Near duplicates**: two questions that differ in case or punctuation only. Left in, one of them in train and the other in test make a score that is too good to be true.

# %% id="clean"
cleaned, report = data.clean(records)
saved = report.save(work / "cleaning")
print("every removed or changed row, with its reason:", sorted(file.name for file in saved.iterdir()))
report

# %% [markdown] id="nfd-text" lang="vi"
# Bước NFC có đáng làm không? Đếm token cho cùng một câu ở hai dạng:
# %% [markdown] id="nfd-text" lang="en"
# Is the NFC step worth it? Count the tokens of one sentence in both forms:

# %% id="nfd"
import unicodedata

text = "Học máy là một nhánh của trí tuệ nhân tạo."
for form in ("NFC", "NFD"):
    ids = tokenizer(unicodedata.normalize(form, text))["input_ids"]
    print(form, len(ids), "tokens")

# %% [markdown] id="splits-text" lang="vi"
# ### Chia tập: học thuộc khác với hiểu
#
# Bài gốc không chừa dòng nào để kiểm tra. Ta chừa, và chừa theo **hai chiều**, vì câu hỏi "mô hình đã học chưa?" có ba đáp án khác nhau:
#
# | Tập | Sự kiện | Cách hỏi | Điểm cao nghĩa là |
# |---|---|---|---|
# | `train` (hỏi lại) | đã học | đã thấy | đã **thuộc** |
# | `new_wordings` | đã học | **chưa thấy** | đã **hiểu** câu hỏi dù hỏi kiểu khác |
# | `unseen_facts` | **chưa học** | chưa thấy | *biết* điều chưa ai dạy (đừng mong!) |
#
# `validation` là cách hỏi thứ năm của mỗi sự kiện, để theo dõi trong lúc huấn luyện. Chia theo từng dòng ngẫu nhiên sẽ trộn ba điều này làm một.
# %% [markdown] id="splits-text" lang="en"
# ### Splits: knowing by heart is not understanding
#
# The article keeps no row aside. We do, and along **two lines**, because "has the model learnt it?" has three different answers:
#
# | Split | Fact | Wording | A high score means |
# |---|---|---|---|
# | `train` (asked again) | learnt | seen | **memorised** |
# | `new_wordings` | learnt | **never seen** | **understands** the question asked another way |
# | `unseen_facts` | **never learnt** | never seen | *knows* what nobody taught it (don't expect it!) |
#
# `validation` holds a fifth wording of each fact, to watch during training. A random split by rows would mix the three into one.

# %% id="splits"
splits = data.load_splits("ai_qa_vi")
print({name: len(split) for name, split in splits.items()})


def pairs(rows):
    return set(zip(rows["question"], rows["answer"], strict=True))


def shared(column, first, second):
    return len(set(splits[first][column]) & set(splits[second][column]))


print("cleaning gave back exactly the training rows:", pairs(cleaned) == pairs(splits["train"]))
print("questions in both train and new_wordings:", shared("question", "train", "new_wordings"))
print("facts in both train and unseen_facts:", shared("id", "train", "unseen_facts"))

# %% [markdown] id="format-text" lang="vi"
# ### Định dạng: `input`, `output`, `context`
#
# Bài gốc khuyên lưu mỗi ví dụ thành JSON với `input`, `output` và `context`. `context` là phần tài liệu mô hình phải *dựa vào* để trả lời (một đoạn chính sách, một trang hướng dẫn). Bộ dữ liệu của ta hỏi đáp không cần tài liệu kèm, nên `context` rỗng
# và prompt bỏ hẳn dòng đó: đừng bắt mô hình học một nhãn luôn trống.
# %% [markdown] id="format-text" lang="en"
# ### Format: `input`, `output`, `context`
#
# The article advises one JSON object per example with `input`, `output` and `context`. `context` is the text that the answer must *rest on* (a paragraph of a policy, a page of a manual). Our questions need none, so `context` is empty
# and the prompt leaves that line out: don't make a model learn a label that is always blank.

# %% id="format"
first = splits["train"][0]
example = {"input": first["question"], "output": first["answer"], "context": ""}
print(json.dumps(example, ensure_ascii=False))


def prompt_of(example):
    """The text the model reads; the context line only where there is a context."""
    context = f"Context: {example['context']} " if example["context"] else ""
    return f"{context}Human: {example['input']} Assistant:"


print(prompt_of(example))
print(prompt_of(example | {"context": "AI Act, Article 3"}))

# %% [markdown] id="article-text" lang="vi"
# ## 5. Công thức của bài gốc, làm đúng như in
#
# Giờ ta làm theo bài gốc từng dòng. Nhật ký của tác giả: loss **13,34** ở bước đầu, **10,59** sau 10 bước; câu trả lời sau đó vô nghĩa; kết luận của bài: *tại dữ liệu ít*. Ta sẽ kiểm tra kết luận ấy.
#
# Chạy nguyên văn thì đoạn mã không chạy nổi. Ba chỗ vướng, hai chỗ đầu thư viện nói rõ, chỗ thứ ba thì im lặng:
# %% [markdown] id="article-text" lang="en"
# ## 5. The article's recipe, as printed
#
# Now we follow the article line by line. Its author's log: loss **13.34** at the first step, **10.59** after 10 steps; the answers afterwards are nonsense; the article concludes that *there was too little data*. We are going to test that conclusion.
#
# Taken literally the code doesn't run. Three places stop it; the library names the first two plainly, the third is silent:

# %% id="article-stops"
from transformers import Trainer, TrainingArguments

for argument in ({"optim": "adamw_hf"}, {"logging_dir": "logs"}):
    try:
        TrainingArguments(output_dir=work / "article", **argument)
    except (ValueError, TypeError) as error:
        print(f"{argument}: {type(error).__name__}: {str(error)[:90]}")
print("files that *.json finds:", [file.name for file in raw.parent.glob("*.json")])

# %% [markdown] id="article-fix-text" lang="vi"
# `adamw_hf` nay là `adamw_torch`; `logging_dir` đã bỏ; tệp dữ liệu đuôi `.jsonl` nên `*.json` không thấy gì. Chỗ vướng thứ tư là thiếu *collator* (bộ gom các dòng thành batch và tạo nhãn): không có nó, `Trainer` báo "did not return a loss".
# Nhật ký của tác giả có loss, nên tác giả hẳn đã dùng `DataCollatorForLanguageModeling`. Ta thêm đúng bấy nhiêu, không sửa gì khác.
#
# Thứ tự ba dòng trong hàm dưới đây là của bài gốc. Hãy nhìn kỹ, lát nữa ta quay lại.
# %% [markdown] id="article-fix-text" lang="en"
# `adamw_hf` is `adamw_torch` today; `logging_dir` is gone; the data file ends in `.jsonl`, so `*.json` finds nothing. The fourth stop is the missing *collator* (which gathers rows into a batch and makes the labels): without one `Trainer` says "did not return a loss".
# The author's log has losses, so there must have been a `DataCollatorForLanguageModeling`. We add that much and change nothing else.
#
# The order of the three steps in the function below is the article's. Look at it closely; we will come back to it.

# %% id="article-rows"
from transformers import DataCollatorForLanguageModeling


def article_batches(rows):
    """The article's preparation in its own order: pad, then change the pad token, then build the collator."""
    tok = AutoTokenizer.from_pretrained(path, revision=revision)
    texts = [f"Human: {row['question']} Assistant: {row['answer']}" for row in rows]
    encoded = [tok(text, padding="max_length", max_length=512, truncation=True) for text in texts]
    tok.pad_token = tok.eos_token
    return encoded, DataCollatorForLanguageModeling(tok, mlm=False)


article_rows, article_collator = article_batches(splits["train"])
print(len(article_rows), "rows of", len(article_rows[0]["input_ids"]), "tokens")

# %% id="article-no-collator"
one_step = TrainingArguments(
    output_dir=work / "article", max_steps=1, per_device_train_batch_size=1, use_cpu=rt.device == "cpu",
    report_to="none", disable_tqdm=True,
)
try:
    Trainer(model=fresh(), args=one_step, train_dataset=article_rows).train()
except ValueError as error:
    print("without a collator:", str(error)[:46])

# %% [markdown] id="lora-text" lang="vi"
# ### LoRA và từng con số của nó
#
# Fine-tune toàn bộ nghĩa là cập nhật mọi trọng số: riêng AdamW đã cần thêm 8 byte cho mỗi tham số. LoRA ([Hu và cộng sự, 2021](https://arxiv.org/abs/2106.09685)) đóng băng ma trận gốc $W$ và học một phần thêm có hạng thấp:
#
# $$W' = W + \frac{\alpha}{r} B A,\qquad A \in \mathbb{R}^{r \times d_{in}},\; B \in \mathbb{R}^{d_{out} \times r}$$
#
# | Tham số | Bài gốc | Ý nghĩa |
# |---|---|---|
# | `r` | 8 | hạng của phần thêm: càng lớn càng nhiều tham số |
# | `lora_alpha` | 32 | hệ số nhân là $\alpha/r = 4$, **không phải** 32. Đổi `r` mà giữ `alpha` là đã đổi cả hệ số |
# | `lora_dropout` | 0.05 | tắt ngẫu nhiên 5% đầu vào của $A$ khi huấn luyện, đỡ học vẹt |
# | `bias` | none | không học bias |
# | `task_type` | CAUSAL_LM | để peft bọc đúng loại mô hình |
# | `target_modules` | *(bỏ trống)* | peft tự chọn: với BLOOM **chỉ** `query_key_value` |
#
# $B$ bắt đầu bằng 0, nên trước bước đầu tiên mô hình có adapter cho kết quả y hệt mô hình gốc.
# %% [markdown] id="lora-text" lang="en"
# ### LoRA, and each of its numbers
#
# Full fine-tuning updates every weight: AdamW alone then needs 8 more bytes per parameter. LoRA ([Hu et al., 2021](https://arxiv.org/abs/2106.09685)) freezes the matrix $W$ and learns an addition of low rank:
#
# $$W' = W + \frac{\alpha}{r} B A,\qquad A \in \mathbb{R}^{r \times d_{in}},\; B \in \mathbb{R}^{d_{out} \times r}$$
#
# | Parameter | Article | Meaning |
# |---|---|---|
# | `r` | 8 | rank of the addition: the larger, the more parameters |
# | `lora_alpha` | 32 | the factor is $\alpha/r = 4$, **not** 32. Change `r` and keep `alpha`, and you have changed the factor too |
# | `lora_dropout` | 0.05 | switches off 5% of the input of $A$ at random while training, against learning by rote |
# | `bias` | none | biases are not trained |
# | `task_type` | CAUSAL_LM | so that peft wraps the right kind of model |
# | `target_modules` | *(left out)* | peft chooses: for BLOOM **only** `query_key_value` |
#
# $B$ starts at 0, so before the first step the model with adapter gives exactly what the base gives.

# %% id="lora"
from peft import LoraConfig, get_peft_model

article_lora = LoraConfig(r=8, lora_alpha=32, lora_dropout=0.05, bias="none", task_type="CAUSAL_LM")


def trainable(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


real_lora = get_peft_model(models.skeleton("bloom-560m"), article_lora)  # the real size, on the meta device
share = trainable(real_lora) / real_lora.num_parameters()
print(f"BLOOM-560m: {trainable(real_lora):,} trainable of {real_lora.num_parameters():,} ({share:.2%})")

adapted = get_peft_model(fresh(), article_lora).eval()
inputs = tokenizer(sentence, return_tensors="pt").to(rt.device)
with torch.no_grad():
    difference = (adapted(**inputs).logits - base(**inputs).logits).abs().max().item()
print("largest change of a logit before the first step:", difference)
del adapted, real_lora

# %% id="exercise-scale"
from lessonlib.exercises import lesson01

# Exercise 1. With r=8 and alpha=32 the article multiplies B·A by some factor.
# Which alpha keeps that factor at r=16?
alpha_for_r16 = ...  # your number here

lesson01.scale.check(alpha_for_r16)

# %% id="exercise-scale-help"
lesson01.scale.help()

# %% id="exercise-count"
# Exercise 2. How many parameters does LoRA of rank r add to one linear layer (inputs -> outputs)?
def lora_parameters(inputs, outputs, r):
    return ...  # your formula here


lesson01.count.check(lora_parameters)

# %% id="exercise-count-help"
lesson01.count.help()

# %% [markdown] id="memory-text" lang="vi"
# ### Hai dòng "tiết kiệm bộ nhớ" của bài gốc
#
# **`prepare_model_for_kbit_training`** dành cho mô hình đã lượng tử hóa 8 hoặc 4 bit. Gọi nó trên mô hình thường thì ngược lại: nó nâng trọng số 16 bit lên 32 bit. (Lượng tử hóa thật, QLoRA, là chuyện của bài 2.) Đo thử:
# %% [markdown] id="memory-text" lang="en"
# ### The article's two "memory savers"
#
# **`prepare_model_for_kbit_training`** is meant for a model quantised to 8 or 4 bits. On any other model it does the opposite: it raises 16-bit weights to 32 bits. (Real quantisation, QLoRA, is the subject of lesson 2.) Measured:

# %% id="kbit"
from peft import prepare_model_for_kbit_training

half = fresh(torch.float16)
before = sum(p.numel() * p.element_size() for p in half.parameters())
prepared = prepare_model_for_kbit_training(half)
after = sum(p.numel() * p.element_size() for p in prepared.parameters())
print(f"weights before: {before:,} bytes, after: {after:,} bytes = {after / before:.0f}x")
del half, prepared

# %% [markdown] id="checkpointing-text" lang="vi"
# **Gradient checkpointing** không bỏ *gradient* như nhiều bài viết, mà bỏ các **activation** (kết quả trung gian của lượt tính xuôi) rồi tính lại khi cần. Đổi lại: tốn thêm gần một lượt tính xuôi cho mỗi bước. Đếm số byte mà autograd phải giữ lại cho một batch kiểu bài gốc:
# %% [markdown] id="checkpointing-text" lang="en"
# **Gradient checkpointing** does not drop *gradients*, as is often written, but **activations** (what the forward pass leaves for the backward pass), and computes them again when they are needed. The price: nearly one more forward pass for every step. Count the bytes that autograd has to keep for one batch like the article's:

# %% id="checkpointing"
def saved_bytes(model, batch):
    """Bytes of the distinct tensors that one forward pass keeps for the backward pass, weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(**batch)
    return sum(kept.values())


model = get_peft_model(fresh(), article_lora).train()
batch = article_collator(article_rows[:2]).to(rt.device)
plain = saved_bytes(model, batch)
model.enable_input_require_grads()
model.gradient_checkpointing_enable({"use_reentrant": False})
checkpointed = saved_bytes(model, batch)
print(f"kept for the backward pass: {plain / 2**20:.0f} MiB, with checkpointing {checkpointed / 2**20:.0f} MiB")

# %% [markdown] id="plan-text" lang="vi"
# Còn ở kích thước thật thì sao? `training.memory_plan` cộng từng phần cho BLOOM-560m với đúng cấu hình của bài gốc (batch 2, dài 512) trên T4, **trước khi tải bất cứ thứ gì**. Trọng số, adapter, gradient và optimizer là số chính xác; activation và logits là ước tính theo công thức ghi trong tài liệu của hàm.
# %% [markdown] id="plan-text" lang="en"
# And at the real size? `training.memory_plan` adds up every part for BLOOM-560m in the article's setting (batch 2, length 512) on a T4, **before anything is downloaded**. Weights, adapters, gradients and optimiser are exact; activations and logits are an estimate by the formula in the function's docstring.

# %% id="plan"
from lessonlib import training

plan = training.memory_plan(
    models.skeleton("bloom-560m"), lora=article_lora, batch_size=2, length=512, dtype="float16", checkpointing=True
)
print(training.memory_verdict(plan, gib=14.7))
plan

# %% [markdown] id="article-train-text" lang="vi"
# ### Huấn luyện 10 bước như bài gốc
#
# | Tham số của `Trainer` | Giá trị | Ý nghĩa |
# |---|---|---|
# | `per_device_train_batch_size` | 2 | số dòng trong một lượt tính |
# | `gradient_accumulation_steps` | 8 | cộng gradient của 8 lượt rồi mới cập nhật: batch thực là 2 × 8 = 16 |
# | `max_steps` | 10 | 10 lần cập nhật = 160 dòng trong 216: 0,74 epoch |
# | `warmup_steps` | 2 | 2 bước đầu tăng dần learning rate từ 0 |
# | `learning_rate` | 2e-4 | độ lớn mỗi lần cập nhật, mức thường dùng cho LoRA |
# | `optim` | AdamW | mỗi tham số giữ thêm hai số trung bình trượt |
# | `logging_steps` | 1 | ghi loss sau mỗi bước |
#
# Bài gốc còn bọc `trainer.train()` trong `try/except` rồi vẫn lưu và gộp mô hình dù huấn luyện hỏng. Ta bỏ chỗ đó: lỗi phải dừng chương trình. Bài gốc cũng không đặt seed; ta đặt, để ai chạy cũng ra như nhau.
# %% [markdown] id="article-train-text" lang="en"
# ### Ten steps of training, as in the article
#
# | `Trainer` argument | Value | Meaning |
# |---|---|---|
# | `per_device_train_batch_size` | 2 | rows in one pass |
# | `gradient_accumulation_steps` | 8 | gradients of 8 passes are summed before one update: the real batch is 2 × 8 = 16 |
# | `max_steps` | 10 | 10 updates = 160 of 216 rows: epoch 0.74 |
# | `warmup_steps` | 2 | the learning rate climbs from 0 during the first 2 steps |
# | `learning_rate` | 2e-4 | the size of an update, a usual value for LoRA |
# | `optim` | AdamW | keeps two moving averages for each parameter |
# | `logging_steps` | 1 | writes the loss after each step |
#
# The article also wraps `trainer.train()` in `try/except` and then saves and merges even if training failed. We leave that out: an error has to stop the program. Nor does the article set a seed; we do, so that everybody gets the same.

# %% id="article-train"
from transformers import PrinterCallback

device = {"use_cpu": rt.device == "cpu", "fp16": rt.dtype == "float16", "bf16": rt.dtype == "bfloat16"}
quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1, "seed": 42}


def train(model, rows, collator, callbacks=(), **arguments):
    """Plain `Trainer`, with the log kept in a table rather than printed line by line."""
    arguments = TrainingArguments(output_dir=work / "by_hand", **quiet, **device, **arguments)
    trainer = Trainer(
        model=model, args=arguments, train_dataset=rows, data_collator=collator, callbacks=list(callbacks)
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer


set_seed(42)
article = get_peft_model(fresh(torch.float32), article_lora)  # LoRA's A starts at random: the seed comes first
article.enable_input_require_grads()
article_trainer = train(
    article, article_rows, article_collator,
    per_device_train_batch_size=2, gradient_accumulation_steps=8, max_steps=10, warmup_steps=2,
    learning_rate=2e-4, optim="adamw_torch", gradient_checkpointing=True,
)

# %% [markdown] id="article-log-text" lang="vi"
# ### Đọc nhật ký
#
# Bốn cột cần nhìn: `loss` (trung bình trên mọi token *được tính*), `grad_norm` (gradient lớn bất thường là dấu hiệu xấu), `learning_rate` (tăng trong 2 bước warm-up rồi giảm dần) và `epoch` (kết thúc ở 0,74, y như bài gốc).
#
# Và một vạch để so: đoán bừa, mọi token như nhau, thì loss là $\ln(\text{số từ vựng})$. Với BLOOM thật là $\ln(250\,880) = 12{,}43$.
# %% [markdown] id="article-log-text" lang="en"
# ### Reading the log
#
# Four columns matter: `loss` (the mean over all tokens *that count*), `grad_norm` (an unusually large gradient is a bad sign), `learning_rate` (climbs during the 2 warm-up steps, then falls) and `epoch` (ends at 0.74, as in the article).
#
# And one line to compare with: guessing blindly, every token alike, gives a loss of $\ln(\text{vocabulary})$. For the real BLOOM that is $\ln(250{,}880) = 12.43$.

# %% id="article-log"
import math

import pandas as pd

from lessonlib import training, views

article_history = training.history(article_trainer)
uniform = math.log(base.config.vocab_size)
print(f"loss {article_history['loss'].iloc[0]:.2f} -> {article_history['loss'].iloc[-1]:.2f}")
print(f"a uniform guess: ln({base.config.vocab_size:,}) = {uniform:.2f}")
views.loss_curve({"article": article_history}, reference={"ln(vocabulary)": uniform})

# %% id="article-table"
log = pd.DataFrame(article_trainer.state.log_history[:-1]).set_index("step")  # the last entry sums up the run
log[["epoch", "loss", "grad_norm", "learning_rate"]].round({"epoch": 2, "loss": 2, "grad_norm": 2})

# %% id="above-uniform"
# NBVAL_CHECK_OUTPUT
print("the first loss is above a uniform guess:", article_history["loss"].iloc[0] > uniform)

# %% [markdown] id="suspicion" lang="vi"
# ## 6. Truy nguyên: vì sao loss lại tệ hơn đoán bừa?
#
# Dừng lại nghĩ một chút. Loss cao hơn $\ln(\text{số từ vựng})$ nghĩa là mô hình cho token đúng xác suất *thấp hơn cả mức đoán bừa*. Một mô hình đã đọc hàng trăm tỷ token không thể tệ thế trên một câu tiếng Việt bình thường.
# "Dữ liệu ít" cũng không giải thích được: đây là loss ở **bước đầu tiên**, lúc mô hình chưa học dòng nào.
#
# Vậy chỉ còn một khả năng: loss đang đo thứ khác, không phải tiếng Việt. Hãy mở batch ra xem những token nào được tính.
# %% [markdown] id="suspicion" lang="en"
# ## 6. Detective work: why is the loss worse than guessing?
#
# Stop and think for a moment. A loss above $\ln(\text{vocabulary})$ means that the model gives the right token a probability *below that of a blind guess*. A model that has read hundreds of billions of tokens cannot be that bad at an ordinary Vietnamese sentence.
# Nor can "too little data" explain it: this is the loss of the **first step**, before the model has learnt from a single row.
#
# One possibility is left: the loss measures something else than Vietnamese. Let us open a batch and see which tokens count.

# %% id="count-loss"
# NBVAL_CHECK_OUTPUT
batch = article_collator(article_rows[:1])
carries = int((batch["labels"] != -100).sum())
print(f"{carries} of {batch['labels'].numel()} tokens carry loss")

# %% id="mask-article"
row = {name: batch[name][0].tolist() for name in ("input_ids", "labels")}
last = len(row["input_ids"]) - 60  # the tail of the row: BLOOM pads on the left
views.token_mask({name: ids[last:] for name, ids in row.items()}, tokenizer)

# %% [markdown] id="mask-article-text" lang="vi"
# Mọi token đều được tính loss, kể cả `<pad>`. Ô trên chỉ vẽ 60 token cuối; phía trước còn hơn 400 token `<pad>` nữa, cũng tính loss tất. Tách loss trước khi huấn luyện theo hai loại token:
# %% [markdown] id="mask-article-text" lang="en"
# Every token carries loss, `<pad>` included. The picture shows the last 60 tokens only; in front of them are over 400 more `<pad>`, all with loss. Split the loss before training by the two kinds of token:

# %% id="loss-by-kind"
import torch.nn.functional as F


@torch.no_grad()
def token_losses(model, batch):
    """Loss of each predicted token and its label: both of shape (rows, length - 1)."""
    losses = []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        # One row at a time: the logits of 16 rows over BLOOM's 250,880 tokens would fill 8 GB.
        row = {"input_ids": ids[None], "attention_mask": mask[None]}
        logits = model(**{name: value.to(model.device) for name, value in row.items()}).logits[0].float()
        # logits: (length, vocabulary); those at position t predict token t + 1
        losses.append(F.cross_entropy(logits[:-1].cpu(), labels[1:], reduction="none"))
    return torch.stack(losses), batch["labels"][:, 1:]


losses, labels = token_losses(base, article_collator(article_rows[:16]))
is_pad = labels == tokenizer.pad_token_id
split_loss = pd.DataFrame(
    {
        "tokens": [int(is_pad.sum()), int((~is_pad).sum()), labels.numel()],
        "mean loss": [losses[is_pad].mean().item(), losses[~is_pad].mean().item(), losses.mean().item()],
    },
    index=["<pad>", "text", "all"],
)
split_loss.round(2)

# %% [markdown] id="why-13" lang="vi"
# **Vụ án sáng tỏ.** Trên chữ thật, base model không hề tệ. Chính `<pad>` kéo loss lên: trong suốt pre-training `<pad>` chưa bao giờ là đáp án, nên mô hình đã học được rằng `<pad>` *gần như không thể xuất hiện*, khó hơn mọi token khác. Mỗi `<pad>` vì thế bị phạt nặng hơn đoán bừa, và `<pad>` chiếm gần hết batch.
#
# Vì sao collator không che `<pad>`? `DataCollatorForLanguageModeling` che những vị trí có số bằng `pad_token_id` **vào lúc nó được dùng**. Xem lại thứ tự của bài gốc:
#
# 1. `padding="max_length"`: điền `<pad>`, số **3**, vào các dòng;
# 2. `tok.pad_token = tok.eos_token`: từ giờ `pad_token_id` là **2**;
# 3. collator đi tìm số **2** để che. Trong các dòng không có số 2 nào.
#
# Một dòng lệnh đặt sai chỗ. Loss giảm từ 13 xuống 10 không có nghĩa là mô hình đang học tiếng Việt, mà là đang học **viết ra `<pad>`**. Kiểm chứng: loss của từng loại token trước và sau 10 bước.
# %% [markdown] id="why-13" lang="en"
# **Case solved.** On real text the base model is not bad at all. It is `<pad>` that pushes the loss up: in all of pre-training `<pad>` was never the right answer, so the model has learnt that `<pad>` *practically never comes*, less than any other token. Each `<pad>` is therefore punished harder than a blind guess, and nearly the whole batch is `<pad>`.
#
# Why did the collator not mask them? `DataCollatorForLanguageModeling` masks the positions whose number equals `pad_token_id` **at the time it is used**. Look at the article's order again:
#
# 1. `padding="max_length"`: `<pad>`, number **3**, goes into the rows;
# 2. `tok.pad_token = tok.eos_token`: from now on `pad_token_id` is **2**;
# 3. the collator looks for number **2** to mask. There is no 2 in any row.
#
# One line in the wrong place. That the loss fell from 13 to 10 does not mean that the model was learning Vietnamese; it was learning to **write `<pad>`**. The proof: the loss of each kind of token before and after the 10 steps.

# %% id="article-learnt"
after, _ = token_losses(article.eval(), article_collator(article_rows[:16]))
split_loss["after 10 steps"] = [part.mean().item() for part in (after[is_pad], after[~is_pad], after)]
split_loss["change"] = split_loss["after 10 steps"] - split_loss["mean loss"]
split_loss.round(2)

# %% id="exercise-uniform"
# Exercise 3. A colleague's model has a vocabulary of 128,256; the first line of the log says loss 12.9.
# Write the test that should have stopped the run: True where the loss is worse than a uniform guess.
def suspicious(first_loss, vocabulary):
    return ...  # your condition here


lesson01.uniform.check(suspicious)

# %% id="exercise-uniform-help"
lesson01.uniform.help()

# %% [markdown] id="break-it-text" lang="vi"
# ### Phòng thí nghiệm phá hỏng: lỗi padding
#
# Cách chữa hay gặp trên mạng là `tokenizer.pad_token = tokenizer.eos_token` **trước** khi pad. `<pad>` biến mất thật, nhưng collator lại che luôn cả `</s>` ở cuối câu trả lời: mô hình không bao giờ được dạy cách dừng ([llm-course#33](https://github.com/mlabonne/llm-course/issues/33)). Hãy tự viết nhãn đúng: che phần đệm, giữ `</s>` thật.
# %% [markdown] id="break-it-text" lang="en"
# ### Break-it lab: the padding mistake
#
# A cure often seen on the web is `tokenizer.pad_token = tokenizer.eos_token` **before** padding. `<pad>` is gone indeed, but now the collator masks the `</s>` at the end of the answer as well: the model is never taught to stop ([llm-course#33](https://github.com/mlabonne/llm-course/issues/33)). Write the right labels yourself: mask what is filling, keep the real `</s>`.

# %% id="exercise-padding"
# Exercise 4. ids is one padded row; its first `length` tokens are real, the rest is filling.
# Return the labels: the id where the model has to learn, -100 where not.
# Filling may have ANY id, even that of </s>.
def labels_for(ids, length):
    return ...  # your list here


lesson01.padding.check(labels_for)

# %% id="exercise-padding-help"
lesson01.padding.help()

# %% [markdown] id="mend-text" lang="vi"
# ## 7. Sửa từng bước một
#
# Sửa một lúc năm chỗ thì không biết chỗ nào có tác dụng. Ta sửa từng chỗ một và đo sau mỗi lần, trên cùng 16 dòng, **chưa huấn luyện gì cả**:
#
# 1. giữ nguyên `<pad>` làm token đệm;
# 2. đệm đến dòng dài nhất trong batch, thay vì luôn đến 512;
# 3. thêm `</s>` vào cuối câu trả lời, để mô hình học cách dừng;
# 4. chỉ tính loss trên câu trả lời: lúc dùng thật, câu hỏi do người dùng viết, mô hình không cần học cách đặt câu hỏi.
# %% [markdown] id="mend-text" lang="en"
# ## 7. Mend it, one step at a time
#
# Change five things at once and you will never know which one helped. We change one at a time and measure after each, on the same 16 rows, **before any training**:
#
# 1. keep `<pad>` as the padding token;
# 2. pad to the longest row of the batch rather than always to 512;
# 3. add `</s>` at the end of the answer, so that the model learns to stop;
# 4. count the loss on the answer only: in use the question comes from the user, the model need not learn to ask it.

# %% id="mend"
def make_batch(rows, *, keep_pad, longest, eos, answer_only):
    """One batch by hand: input_ids, attention_mask and labels, each of shape (rows, length)."""
    prompts = [f"Human: {row['question']} Assistant:" for row in rows]
    end = tokenizer.eos_token if eos else ""
    texts = [f"{prompt} {row['answer']}{end}" for prompt, row in zip(prompts, rows, strict=True)]
    batch = tokenizer(texts, padding="longest" if longest else "max_length", max_length=512, return_tensors="pt")
    labels = batch["input_ids"].clone()
    # What the collator does: mask the token that is called padding when the batch is made.
    labels[labels == (tokenizer.pad_token_id if keep_pad else tokenizer.eos_token_id)] = -100
    if answer_only:
        for i, prompt in enumerate(prompts):
            start = int(batch["attention_mask"][i].argmax())  # first real token: the padding lies on the left
            labels[i, start : start + len(tokenizer(prompt)["input_ids"])] = -100
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}


steps = {
    "the article": {"keep_pad": False, "longest": False, "eos": False, "answer_only": False},
    "1. keep <pad>": {"keep_pad": True},
    "2. pad to the longest": {"longest": True},
    "3. add </s>": {"eos": True},
    "4. loss on the answer": {"answer_only": True},
}
tokenizer.padding_side = "left"
settings, lines = {}, {}
for name, change in steps.items():
    settings |= change
    batch = make_batch(list(splits["train"])[:16], **settings)
    losses, labels = token_losses(base, batch)
    counted = labels != -100
    lines[name] = {
        "tokens computed": labels.numel() + len(labels),
        "with loss": int(counted.sum()),
        "of these <pad>": int((labels == tokenizer.pad_token_id).sum()),
        "of these </s>": int((labels == tokenizer.eos_token_id).sum()),
        "first loss": round(losses[counted].mean().item(), 2),
    }
mended_steps = pd.DataFrame(lines).T
mended_steps = mended_steps.astype({column: int for column in mended_steps.columns[:-1]})
mended_steps

# %% [markdown] id="mend-look" lang="vi"
# Đọc bảng từ trên xuống. Sửa số 1 chỉ là *xóa một dòng lệnh*, và loss rơi từ trên vạch đoán bừa xuống mức bình thường: đúng thủ phạm. Sửa số 2 hầu như không đổi loss nhưng bỏ đi hơn 90% số token phải tính. Sửa số 3 đưa 16 token `</s>` vào loss, mỗi dòng một. Sửa số 4 dồn toàn bộ tín hiệu vào câu trả lời (loss bước đầu có thể *tăng*: câu trả lời khó đoán hơn những chữ lặp lại như `Human:`, điều đó không xấu).
#
# Đây là dòng đầu tiên sau khi sửa:
# %% [markdown] id="mend-look" lang="en"
# Read the table from the top. Change 1 merely *deletes one line of code*, and the loss drops from above the blind guess to an ordinary value: this was the culprit. Change 2 hardly moves the loss but removes over 90% of the tokens to compute. Change 3 brings 16 tokens `</s>` into the loss, one a row. Change 4 puts the whole signal on the answer (the first loss may *rise*: an answer is harder to guess than ever-repeated words like `Human:`, and that is no bad sign).
#
# This is the first row after mending:

# %% id="mask-mended"
views.token_mask({name: batch[name][0].tolist() for name in ("input_ids", "labels")}, tokenizer)

# %% [markdown] id="space-text" lang="vi"
# **Dấu cách thừa.** Bài gốc hỏi mô hình bằng `"Human: ... Assistant: "`, có dấu cách ở cuối. Lúc huấn luyện, dấu cách ấy dính vào từ đầu tiên của câu trả lời (` AI` là một token). Lúc hỏi, nó thành một token riêng mà mô hình chưa từng thấy ở vị trí đó:
# %% [markdown] id="space-text" lang="en"
# **One space too many.** The article asks with `"Human: ... Assistant: "`, a space at the end. In training that space belongs to the first word of the answer (` AI` is one token). When asking it becomes a token of its own, at a place where the model has never seen it:

# %% id="space"
for prompt, rest in (("Assistant:", " Học máy"), ("Assistant: ", "Học máy")):
    ids = tokenizer(prompt)["input_ids"] + tokenizer(rest)["input_ids"]
    print(f"{prompt!r:>14} + {rest!r:<11}", [tokenizer.decode([i]) for i in ids])

# %% id="exercise-prompt"
# Exercise 5. Build the prompt for asking, so that prompt + " " + answer is exactly the training text.
def asking_prompt(question):
    return ...  # your text here


lesson01.prompt.check(asking_prompt)

# %% id="exercise-prompt-help"
lesson01.prompt.help()

# %% [markdown] id="recipe-text" lang="vi"
# ## 8. Công thức đã sửa, trước hết bằng transformers + peft thuần
#
# Ngoài bốn chỗ sửa trên, ta đổi thêm vài con số, mỗi con số có lý do:
#
# | | Bài gốc | Ta dùng | Vì sao |
# |---|---|---|---|
# | LoRA gắn vào | `query_key_value` | cả 4 lớp tuyến tính của mỗi khối | kiến thức mới nằm nhiều ở MLP; gắn đủ thì học nhanh hơn |
# | `r`, `alpha` | 8, 32 (hệ số 4) | 16, 32 (hệ số 2) | nhiều sức chứa hơn, bước đi êm hơn |
# | batch | 2 × 8 | 8 × 1 | dòng ngắn rồi, không cần chia nhỏ để vừa bộ nhớ |
# | số bước | 10 (0,74 epoch) | nhiều epoch | 10 bước không đủ cho bất kỳ dữ liệu nào |
# | checkpointing | bật | tắt | activation của dòng ngắn rất nhỏ: bật chỉ tổ chậm |
#
# Ô dưới chạy 3 epoch đầu, đủ để lát nữa so với lessonlib; lần chạy trọn vẹn là ở mục 9.
# %% [markdown] id="recipe-text" lang="en"
# ## 8. The mended recipe, first in plain transformers + peft
#
# Besides the four changes above we alter a few numbers, each for a reason:
#
# | | Article | Ours | Why |
# |---|---|---|---|
# | LoRA on | `query_key_value` | all 4 linear layers of each block | much of new knowledge goes into the MLP; adapting all learns faster |
# | `r`, `alpha` | 8, 32 (factor 4) | 16, 32 (factor 2) | more room, smoother steps |
# | batch | 2 × 8 | 8 × 1 | the rows are short now, no need to split to fit the memory |
# | steps | 10 (epoch 0.74) | many epochs | 10 steps are not enough for any data |
# | checkpointing | on | off | short rows have small activations: it would only slow us down |
#
# The cell below runs the first 3 epochs, enough to compare with lessonlib in a moment; the whole run comes in section 9.

# %% id="recipe"
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, TrainerCallback

EPOCHS = rt.pick(rehearsal=20, t4=10)
RATE = rt.pick(rehearsal=3e-3, t4=3e-4)  # a tiny model wants larger steps than a real one
BY_HAND_STEPS = 81  # 3 epochs are enough to compare with; the schedule is that of the whole run
LINEAR = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]


def encode_row(row):
    """Token ids of prompt + answer + </s>, and labels that count the answer and </s> only."""
    prompt = tokenizer(f"Human: {row['question']} Assistant:")["input_ids"]
    target = tokenizer(f" {row['answer']}")["input_ids"] + [tokenizer.eos_token_id]
    return {"input_ids": prompt + target, "labels": [-100] * len(prompt) + target}


class StopAt(TrainerCallback):
    """Ends a run early without touching its learning-rate schedule."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= BY_HAND_STEPS


train_rows = Dataset.from_list([encode_row(row) for row in splits["train"]])
collator = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100)  # pads each batch to its longest row

tokenizer.padding_side = "right"  # in training either side will do; TRL pads on the right, and so do we
set_seed(42)
by_hand_lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=LINEAR, task_type="CAUSAL_LM")
by_hand = get_peft_model(fresh(), by_hand_lora)
print(f"{trainable(by_hand):,} trainable parameters")
by_hand_trainer = train(
    by_hand, train_rows, collator, callbacks=[StopAt()],
    per_device_train_batch_size=8, num_train_epochs=EPOCHS, learning_rate=RATE, warmup_steps=20,
    lr_scheduler_type="linear",
)
hand_history = training.history(by_hand_trainer)
print(f"loss {hand_history['loss'].iloc[0]:.2f} -> {hand_history['loss'].iloc[-1]:.2f} in {len(hand_history)} steps")

# %% [markdown] id="helper-text" lang="vi"
# ## 9. Cùng công thức đó với lessonlib
#
# Bạn vừa viết tay mọi thứ. Từ đây ta dùng các hàm của `lessonlib`: chúng nhận và trả về đúng các đối tượng quen thuộc (`Dataset`, `LoraConfig`, `SFTConfig`, `SFTTrainer` của TRL), kiểm tra giúp những lỗi ta vừa gặp (dấu cách thừa, thiếu `</s>`, dòng không có token nào tính loss), và lưu checkpoint để phiên làm việc có đứt thì chạy tiếp được.
# %% [markdown] id="helper-text" lang="en"
# ## 9. The same recipe with lessonlib
#
# You have just written everything by hand. From here on we use the helpers of `lessonlib`: they take and return the objects you know (`Dataset`, `LoraConfig`, TRL's `SFTConfig` and `SFTTrainer`), check for the mistakes we met (a trailing space, a missing `</s>`, a row without any token that counts), and save checkpoints, so that training goes on after a dropped session.

# %% id="helper"
from lessonlib import formatting, lora

asked = formatting.to_prompt_completion(splits)  # adds the columns prompt and completion to every split
encoded = formatting.encode(asked["train"], tokenizer, max_length=512)
validation = formatting.encode(asked["validation"], tokenizer, max_length=512)

set_seed(42)
model = fresh()
config = training.sft_config(
    rt, work / "tuned",
    per_device_train_batch_size=8, num_train_epochs=EPOCHS, learning_rate=RATE, warmup_steps=20,
    lr_scheduler_type="linear", gradient_checkpointing=False, seed=42,
    logging_steps=1, save_steps=108, eval_strategy="steps", eval_steps=108,
    loss_type="nll",  # as Trainer computes it; TRL's default adds the same numbers up in pieces
)
tuned = get_peft_model(model, lora.lora_config(model, r=16, alpha=32, dropout=0.05))
trainer = training.trainer(tuned, tokenizer, encoded, config=config, eval_dataset=validation)
training.fit(trainer)
history = training.history(trainer)

# %% id="same-loss"
same_rows = all(encoded[column][:] == train_rows[column][:] for column in ("input_ids", "labels"))
gap = (history["loss"].iloc[:BY_HAND_STEPS] - hand_history["loss"]).abs().max()
print("same token ids and labels:", same_rows)
# A GPU rounds a little differently each time; a CPU does not.
print(f"same loss in all {len(hand_history)} steps:", gap < rt.pick(rehearsal=0.001, t4=0.2))

# %% id="curves"
views.loss_curve({"article": article_history, "mended": history}, reference={"ln(vocabulary)": uniform})

# %% [markdown] id="adapted-text" lang="vi"
# LoRA đã gắn vào đâu? `lora.adapted` liệt kê từng loại lớp, hình dạng và số tham số. Đáng nhìn mỗi lần: gắn thiếu lớp là lỗi *im lặng* (bài 2 có một ca thật, mất hai phần ba số adapter mà không một lời cảnh báo).
# %% [markdown] id="adapted-text" lang="en"
# Where did LoRA go? `lora.adapted` lists the layers with shapes and parameter counts. Worth a look every time: adapting too few layers is a *silent* mistake (lesson 2 has a real case, two thirds of the adapters missing without a word of warning).

# %% id="adapted"
lora.adapted(tuned).head(8)

# %% [markdown] id="resume-text" lang="vi"
# ### Phiên Colab bị ngắt thì sao?
#
# `training.fit` lưu checkpoint đều đặn vào thư mục làm việc (trên Drive, nếu bạn đã bật `USE_DRIVE`). Bị ngắt giữa chừng? Cứ chạy lại notebook: nó tìm checkpoint **hoàn chỉnh** mới nhất và đi tiếp, kết quả giống từng bit với lần chạy không bị ngắt (trên CPU, có test chứng minh bằng cách "giết" tiến trình nhiều lần).
# Một checkpoint đang ghi dở thì bị bỏ qua, kèm một lời nhắn. Thử làm hỏng một cái:
# %% [markdown] id="resume-text" lang="en"
# ### What if the Colab session drops?
#
# `training.fit` saves checkpoints regularly to the work folder (on Drive, if you set `USE_DRIVE`). Cut off half-way? Run the notebook again: it finds the newest **complete** checkpoint and goes on, and the result equals that of an unbroken run bit for bit (on a CPU; a test proves it by killing the process several times).
# A half-written checkpoint is passed over, with a word. Let us break one:

# %% id="resume"
import shutil

broken = work / "broken"
shutil.copytree(work / "tuned", broken, dirs_exist_ok=True)
newest = training.newest_checkpoint(broken)
print("newest:", newest.name)
(newest / "adapter_model.safetensors").write_bytes(b"half of a file")
print("after the damage:", training.newest_checkpoint(broken).name)

# %% id="exercise-epoch"
# Exercise 6. How many updates does one epoch take, and at which epoch does a run of max_steps stop?
def epoch_reached(rows, batch, accumulation, max_steps):
    return ...  # your formula here; the article: 216 rows, batch 2, accumulation 8, 10 steps


lesson01.epoch.check(epoch_reached)

# %% id="exercise-epoch-help"
lesson01.epoch.help()

# %% [markdown] id="evaluate-text" lang="vi"
# ## 10. Đo: base, bài gốc, bản đã sửa
#
# Ba mô hình, ba tập, cùng những câu hỏi ấy. **Exact match** là tỷ lệ câu trả lời trùng khít đáp án (sau khi bỏ khác biệt về khoảng trắng). Con số trong ngoặc vuông là **khoảng tin cậy 95%**: với vài chục câu hỏi, 0,90 và 0,95 có thể chỉ là may rủi; hai khoảng không chạm nhau thì mới yên tâm nói rằng khác. Mỗi sự kiện được tính một lần, vì nhiều cách hỏi của cùng một sự kiện không phải là nhiều bằng chứng độc lập.
# %% [markdown] id="evaluate-text" lang="en"
# ## 10. Measure: base, article, mended
#
# Three models, three splits, the same questions. **Exact match** is the share of answers equal to the reference (white space aside). In square brackets stands the **95% confidence interval**: with a few dozen questions 0.90 and 0.95 may be mere luck; only where two intervals do not touch may we safely say that two models differ. Each fact counts once, because several wordings of one fact are not several independent pieces of evidence.

# %% id="evaluate"
from lessonlib import evaluation

tests = {
    "train": asked["train"].select(range(0, 216, 4)),  # one of the four training wordings of each fact
    "new_wordings": asked["new_wordings"],
    "unseen_facts": asked["unseen_facts"],
}
references = {name: split["answer"] for name, split in tests.items()}
facts = {name: split["id"] for name, split in tests.items()}


def answer_all(model):
    return {
        name: evaluation.answers(model, tokenizer, split["prompt"], max_new_tokens=48)
        for name, split in tests.items()
    }


results = {"base": answer_all(base), "article": answer_all(article), "mended": answer_all(tuned)}
comparison = evaluation.compare(results, references, metric="exact_match", groups=facts)
evaluation.table(comparison)

# %% [markdown] id="evaluate-look" lang="vi"
# Ba điều để nhớ:
# - **Bài gốc không nhúc nhích khỏi base.** Mười bước học viết `<pad>` không dạy được gì cho câu trả lời.
# - **Bản đã sửa thuộc bài và hiểu cách hỏi mới.** Cùng dữ liệu "ít" ấy. Vậy lỗi không phải ở dữ liệu ít.
# - **Sự kiện chưa học thì vẫn không biết.** Fine-tuning không ban cho mô hình kiến thức mà dữ liệu không có. Ai khoe điểm mà không nói đo trên tập nào, hãy hỏi lại câu này.
# %% [markdown] id="evaluate-look" lang="en"
# Three things to remember:
# - **The article hasn't moved from the base.** Ten steps of learning to write `<pad>` taught it nothing about answers.
# - **The mended model knows its facts and understands new wordings.** From the very same "little data". So little data was not the reason.
# - **Facts never learnt are still unknown.** Fine-tuning does not give a model knowledge that its data does not hold. When somebody shows you a score and doesn't say on which split: ask.

# %% id="thresholds"
# NBVAL_CHECK_OUTPUT
def interval(model, split):
    return comparison.loc[split, (model, "low")], comparison.loc[split, (model, "high")]


for split, bar in (("train", 0.9), ("new_wordings", 0.5)):
    gain = comparison.loc[split, ("mended", "mean")] - comparison.loc[split, ("base", "mean")]
    apart = interval("mended", split)[0] > interval("base", split)[1]
    print(f"{split}: gain of at least {bar}: {gain >= bar}; intervals apart: {apart}")

# %% [markdown] id="chrf-text" lang="vi"
# Exact match khắt khe: sai một chữ là 0. **chrF** so các cụm ký tự nên cho điểm từng phần; với tiếng Việt nó đáng tin hơn BLEU tách theo khoảng trắng.
# %% [markdown] id="chrf-text" lang="en"
# Exact match is strict: one wrong word and the score is 0. **chrF** compares runs of characters and so gives partial credit; for Vietnamese it is more trustworthy than BLEU over white space.

# %% id="chrf"
evaluation.table(evaluation.compare(results, references, metric="chrf", groups=facts))

# %% id="before-after"
sample = {name: [answers["new_wordings"][i] for i in range(6)] for name, answers in results.items()}
views.before_after(splits["new_wordings"]["question"][:6], sample, reference=references["new_wordings"][:6])

# %% [markdown] id="generation-text" lang="vi"
# ## 11. Các tham số khi sinh văn bản
#
# Bài gốc sinh câu trả lời với `do_sample=True, temperature=0.8, no_repeat_ngram_size=2, num_return_sequences=1`, `max_length=100`, `early_stopping=True`, `pad_token_id=50256`. Từng cái một:
#
# | Tham số | Thực ra làm gì | Với bài toán của ta |
# |---|---|---|
# | `do_sample`, `temperature` | bốc thăm token theo xác suất; nhiệt độ càng cao càng liều | câu hỏi có đáp án đúng thì không cần bốc thăm |
# | `no_repeat_ngram_size=2` | cấm lặp lại **bất kỳ** cặp token nào, kể cả cặp đã có trong câu hỏi | câu trả lời thường phải lặp lại chữ của câu hỏi: bị cấm nói đúng |
# | `max_length=100` | tính **cả câu hỏi** vào 100 | dùng `max_new_tokens` |
# | `num_return_sequences=1` | số câu trả lời cho mỗi câu hỏi | 1 đã là mặc định |
# | `early_stopping` | chỉ có tác dụng với beam search | vô dụng ở đây |
# | `pad_token_id=50256` | số của GPT-2; BLOOM đệm bằng 3 | để tokenizer tự lo |
#
# Đo luôn, trên chính mô hình đã sửa và tập `new_wordings`:
# %% [markdown] id="generation-text" lang="en"
# ## 11. The settings of generation
#
# The article generates with `do_sample=True, temperature=0.8, no_repeat_ngram_size=2, num_return_sequences=1`, `max_length=100`, `early_stopping=True`, `pad_token_id=50256`. One by one:
#
# | Setting | What it really does | For our task |
# |---|---|---|
# | `do_sample`, `temperature` | draws the token by lot; the hotter, the bolder | a question with one right answer needs no lottery |
# | `no_repeat_ngram_size=2` | forbids repeating **any** pair of tokens, even pairs that stand in the question | an answer often has to repeat the question's words: it is forbidden to be right |
# | `max_length=100` | counts **the prompt too** | use `max_new_tokens` |
# | `num_return_sequences=1` | answers per question | 1 is the default |
# | `early_stopping` | acts on beam search only | does nothing here |
# | `pad_token_id=50256` | GPT-2's number; BLOOM pads with 3 | leave it to the tokenizer |
#
# Let us measure, with the mended model on `new_wordings`:

# %% id="generation"
variants = {
    "greedy": {},
    "no_repeat_ngram_size=2": {"no_repeat_ngram_size": 2},
    "sampling at 0.8": {"do_sample": True, "temperature": 0.8},
    "the article's": {"do_sample": True, "temperature": 0.8, "no_repeat_ngram_size": 2},
}
questions, expected = asked["new_wordings"]["question"], asked["new_wordings"]["answer"]
for name, setting in variants.items():
    set_seed(42)
    written = answer(tuned, questions, max_new_tokens=48, **setting)
    said = [text.removesuffix(tokenizer.eos_token).strip() for text in written]
    print(f"{name:24} exact match {sum(evaluation.exact_match(said, expected)) / len(expected):.2f}")

# %% [markdown] id="stop-text" lang="vi"
# Còn `</s>`? Đếm xem mô hình nào biết tự dừng trong 48 token:
# %% [markdown] id="stop-text" lang="en"
# And `</s>`? Count which model knows how to stop by itself within 48 tokens:

# %% id="stop"
for name, one in {"base": base, "article": article, "mended": tuned}.items():
    stopped = [text.endswith(tokenizer.eos_token) for text in answer(one, questions, max_new_tokens=48)]
    print(f"{name:8} stops by itself: {sum(stopped)} of {len(stopped)}")

# %% [markdown] id="save-text" lang="vi"
# ## 12. Lưu adapter, gộp (merge), và kiểm tra bản gộp
#
# **Adapter** chỉ gồm các ma trận $A$, $B$: nhỏ, gửi đi dễ, nhưng lúc dùng phải có base model. **Gộp** là cộng $\frac{\alpha}{r}BA$ vào $W$: được một mô hình bình thường, không cần peft. Gộp là phép làm tròn thêm một lần nữa, nên đừng tin suông: so **logits** của bản gộp (đọc lại từ đĩa) với mô hình vừa huấn luyện. So bằng mắt vài câu trả lời thì không đủ.
# %% [markdown] id="save-text" lang="en"
# ## 12. Save the adapter, merge, and check what was merged
#
# The **adapter** holds the matrices $A$ and $B$ only: small, easy to send, but it needs the base model beside it. **Merging** adds $\frac{\alpha}{r}BA$ to $W$: the result is an ordinary model that needs no peft. Merging rounds once more, so don't take it on trust: compare the **logits** of the merged model, read back from disk, with those of the model you trained. A look at a few answers is not enough.

# %% id="save"
from lessonlib import export

adapter_folder = export.save_adapter(tuned, tokenizer, work / "adapter")
export.merge(tuned, tokenizer, work / "merged")

merged = AutoModelForCausalLM.from_pretrained(work / "merged", dtype=rt.torch_dtype).to(rt.device).eval()
for folder in ("adapter", "merged"):
    size = sum(file.stat().st_size for file in (work / folder).glob("*.safetensors"))
    print(f"{folder}: {size:,} bytes of weights")
prompts = asked["new_wordings"]["prompt"][:16]
same = evaluation.parity(tuned, merged, tokenizer, prompts)
same.raise_if_broken()
same

# %% [markdown] id="ask-text" lang="vi"
# Bản gộp là mô hình bạn mang đi dùng. Hỏi nó (trong Colab và Jupyter là một ô nhập liệu; khi chạy không giao diện là bảng câu trả lời cho các câu mẫu):
# %% [markdown] id="ask-text" lang="en"
# The merged model is the one you take away. Ask it (an input box in Colab and Jupyter; without a screen, a table of answers to the sample questions):

# %% id="ask"
views.ask(merged, tokenizer, questions=QUESTIONS, template="Human: {question} Assistant:")

# %% [markdown] id="metrics-text" lang="vi"
# Cuối cùng, ghi kết quả ra `metrics.json`: lần sau sửa công thức, bạn có cái để so.
# %% [markdown] id="metrics-text" lang="en"
# Last, write the results to `metrics.json`: the next time you change the recipe you have something to compare with.

# %% id="metrics"
saved = evaluation.save_metrics(
    rt.work / "metrics.json", lesson="01", profile=rt.profile, comparison=comparison
)
print(saved.name)

# %% [markdown] id="summary" lang="vi"
# ## Tóm tắt
#
# Hãy thử kể lại cho đồng nghiệp bằng năm câu:
# 1. Loss ở bước đầu cao hơn $\ln(\text{số từ vựng})$ nghĩa là loss đang đo thứ mô hình cho là *không thể xảy ra*.
# 2. Ở bài gốc, thứ đó là `<pad>`: 512 trên 512 token được tính loss, phần lớn là `<pad>`, mà `<pad>` chưa từng là đáp án lúc pre-train.
# 3. Nguyên nhân: đổi `pad_token` **sau** khi đã đệm, nên collator che nhầm số.
# 4. Sửa: giữ `<pad>`, đệm vừa đủ, dạy `</s>`, tính loss trên câu trả lời, huấn luyện đủ lâu.
# 5. Chứng minh: ba tập kiểm tra, khoảng tin cậy, và logits của bản gộp.
#
# ### Khi có trục trặc
#
# | Bạn thấy | Thường là do | Cách chữa |
# |---|---|---|
# | loss bước đầu trên $\ln(\text{số từ vựng})$ | đệm bị tính loss, hoặc nhãn lệch | xem `views.token_mask` |
# | loss bằng 0 hoặc `nan` ngay từ đầu | mọi nhãn đều -100; fp16 tràn số | `formatting.encode` báo dòng nào; tham số học phải là fp32 |
# | trả lời đúng rồi viết mãi không dừng | `</s>` không được học | `formatting.encode` luôn thêm và tính loss `</s>` |
# | thuộc lòng câu train, hỏi kiểu khác thì hỏng | quá khớp, ít cách hỏi | thêm cách hỏi cho mỗi sự kiện, giảm epoch |
# | `CUDA out of memory` | batch hay độ dài quá lớn | `training.memory_plan` trước khi chạy; giảm batch, tăng accumulation |
# | Colab ngắt phiên | bình thường với bản miễn phí | bật `USE_DRIVE`, chạy lại: `training.fit` đi tiếp |
#
# **Đã chạy và chưa chạy.** Kết quả lưu trong notebook này do twin trên CPU tạo ra. Cấu hình thật của BLOOM-560m được dựng trên `meta`; trọng số thật và T4 thật thì chưa chạy ở đây, các con số 13,34 và 10,59 là của bài gốc.
# %% [markdown] id="summary" lang="en"
# ## Summary
#
# Try to tell a colleague in five sentences:
# 1. A first loss above $\ln(\text{vocabulary})$ means that the loss measures something the model holds to be *impossible*.
# 2. In the article that something is `<pad>`: 512 of 512 tokens carry loss, most of them `<pad>`, and `<pad>` was never the right answer in pre-training.
# 3. The cause: the pad token is changed **after** padding, so the collator masks the wrong number.
# 4. The cure: keep `<pad>`, pad no more than needed, teach `</s>`, count the answer only, train long enough.
# 5. The proof: three splits, confidence intervals, and the logits of the merged model.
#
# ### When something goes wrong
#
# | You see | Usually it is | Cure |
# |---|---|---|
# | a first loss above $\ln(\text{vocabulary})$ | padding in the loss, or shifted labels | look at `views.token_mask` |
# | a loss of 0 or `nan` from the start | all labels are -100; fp16 overflow | `formatting.encode` names the row; trainable parameters must be fp32 |
# | a right answer that never stops | `</s>` was not learnt | `formatting.encode` always adds it and counts it |
# | training questions by heart, other wordings fail | overfitting, too few wordings | more wordings for each fact, fewer epochs |
# | `CUDA out of memory` | batch or length too large | `training.memory_plan` first; smaller batch, more accumulation |
# | Colab drops the session | normal on the free tier | set `USE_DRIVE`, run again: `training.fit` goes on |
#
# **What was run and what was not.** The outputs stored in this notebook come from the twin on a CPU. The real configuration of BLOOM-560m was built on `meta`; the real weights and a real T4 were not run here, and the figures 13.34 and 10.59 are the article's own.
