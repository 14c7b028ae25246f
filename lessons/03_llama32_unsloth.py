# %% [markdown] id="title" lang="vi"
# # Bài 3. Llama 3.2 với Unsloth: từ dữ liệu đến mô hình chạy trong Jan và GPT4All
#
# **Sau bài này bạn làm được:**
# - fine-tune Llama 3.2 3B bằng Unsloth, và kiểm tra rằng Unsloth cho đúng đường loss của transformers + peft + trl;
# - đăng nhập Hugging Face và Weights & Biases mà không để lộ khóa; không có khóa thì chạy ngoại tuyến, không treo;
# - thấy cột `text` giấu hai token BOS ở đâu, và vì sao `messages` an toàn hơn;
# - xuất mô hình ra adapter, bản gộp 16 bit và GGUF, rồi **chứng minh** tệp GGUF đúng là mô hình đã học;
# - cho tệp ấy trả lời trong llama.cpp, trong GPT4All và qua một máy chủ kiểu OpenAI; đưa nó vào Ollama, Jan, LM Studio; đẩy lên Hub kèm model card.
#
# **Mô hình:** `unsloth/Llama-3.2-3B-Instruct` ở 4 bit (trên GPU), hoặc bản thu nhỏ (*twin*) cùng kiến trúc đi kèm khóa học (trên CPU).
# **Thời gian:** khoảng 4 phút trên laptop hai nhân không GPU, không cần mạng; trên Colab T4 hãy dự trù 60 phút, kể cả tải 6,4 GB trọng số và biên dịch llama.cpp (con số T4 là ước tính, chưa đo).
# **Cần biết trước:** bài 1 và bài 2.
# %% [markdown] id="title" lang="en"
# # Lesson 3. Llama 3.2 with Unsloth: from data to a model that runs in Jan and GPT4All
#
# **After this lesson you can:**
# - fine-tune Llama 3.2 3B through Unsloth, and check that Unsloth gives the very loss curve of transformers + peft + trl;
# - log in to Hugging Face and Weights & Biases without leaking a key; without one, work offline and never hang;
# - see where a `text` column hides two BOS tokens, and why `messages` is safer;
# - export the model as an adapter, merged in 16 bits, and as GGUF, and then **prove** that the GGUF file is the model that was trained;
# - let that file answer in llama.cpp, in GPT4All and through an OpenAI-like server; take it to Ollama, Jan and LM Studio; push it to the Hub with a model card.
#
# **Model:** `unsloth/Llama-3.2-3B-Instruct` in 4 bits (on a GPU), or the tiny *twin* of the same architecture that ships with the course (on a CPU).
# **Time:** about 4 minutes on a two-core laptop without GPU or network; on a Colab T4 set aside 60 minutes, with 6.4 GB of weights to download and llama.cpp to compile (the T4 figure is an estimate, not a measurement).
# **Needed before:** lessons 1 and 2.

# %% id="setup"
# filled in by `lessonlib build`

# %% [markdown] id="where" lang="vi"
# ## 1. Bài này đi từ đâu đến đâu
#
# Tài liệu gốc kể một con đường rất được ưa chuộng: cài Unsloth, đăng nhập Hugging Face và W&B, nạp Llama 3.2 3B ở 4 bit, ghép chỉ dẫn + câu hỏi + câu trả lời vào cột `text`, gắn LoRA, gọi `SFTTrainer`, lưu, đẩy lên Hub, gộp, đổi sang GGUF rồi mở trong Jan hoặc GPT4All. Đường đúng, nhưng đi trong sương mù:
#
# | Tài liệu gốc | Vấn đề | Ta xem ở |
# |---|---|---|
# | cột `text` ghép sẵn | chat template và BOS bị giấu: mô hình học với **hai** BOS | mục 4 |
# | loss trên cả dòng | mô hình cũng học viết câu hỏi của khách và chỉ dẫn hệ thống | mục 4 |
# | dữ liệu có `{{Order Number}}` | mô hình học in ra đúng những chỗ trống ấy | mục 3 |
# | không tập kiểm tra, không điểm số | không biết có tốt hơn mô hình gốc không | mục 6 |
# | dữ liệu tâm lý không kèm lưu ý | người đang nguy cấp nhận được câu an ủi thay vì số gọi cứu | mục 3 và 6 |
# | GGUF mở được là xong | mở được chưa phải là **đúng**: sai template, sai tokenizer, mất RoPE vẫn trả lời trôi chảy | mục 8 |
#
# Notebook mẫu của Unsloth để mọi bước sau huấn luyện trong `if False:`. Ở đây **mọi bước đều chạy thật**, kể cả đẩy lên Hub (ở chế độ rehearsal là một Hub giả lập ngay trên máy này).
#
# `BACKEND` chọn ai nạp và huấn luyện mô hình. Unsloth phải được import **trước** transformers, nên `runtime.detect` làm việc đó ngay. Máy không có Unsloth, hay Unsloth không chạy được, thì bạn nhận một dòng giải thích và bài học đi tiếp bằng transformers.
# %% [markdown] id="where" lang="en"
# ## 1. Where this lesson starts and where it goes
#
# The source tells of a much-loved road: install Unsloth, log in to Hugging Face and W&B, load Llama 3.2 3B in 4 bits, put instruction + question + answer into a `text` column, add LoRA, call `SFTTrainer`, save, push to the Hub, merge, convert to GGUF, and open it in Jan or GPT4All. The road is right, but it is walked in fog:
#
# | The source | The trouble | We look at it in |
# |---|---|---|
# | a ready-made `text` column | chat template and BOS are hidden: the model learns with **two** BOS | section 4 |
# | loss on whole rows | the model also learns to write the customer's questions and the system prompt | section 4 |
# | data with `{{Order Number}}` | the model learns to print just those blanks | section 3 |
# | no test set, no score | nobody knows whether it beats the base model | section 6 |
# | counselling data without a word of caution | somebody in danger gets comfort instead of a number to call | sections 3 and 6 |
# | the GGUF opens, so we are done | opening is not being **right**: with a wrong template, a wrong tokenizer or RoPE lost it still talks fluently | section 8 |
#
# In Unsloth's own notebook every step after training stands under `if False:`. Here **every step is executed**, the push to the Hub included (in rehearsal to a Hub-like server on this very machine).
#
# `BACKEND` chooses who loads and trains the model. Unsloth has to be imported **before** transformers, so `runtime.detect` does that at once. Where Unsloth is missing or cannot run you get one line that says so, and the lesson goes on with transformers.

# %% id="extras"
from lessonlib import runtime

runtime.ensure("lesson03", "unsloth", "gguf")  # wandb, gpt4all; Unsloth; llama.cpp, which Colab compiles (some minutes)

# %% id="runtime"
from lessonlib import runtime

USE_DRIVE = False  # @param {type:"boolean"}
BACKEND = "unsloth"  # @param ["unsloth", "transformers"]
rt = runtime.detect(family="llama", backend=BACKEND, drive=USE_DRIVE)
work = rt.work / "lesson03"  # everything this lesson writes
rt

# %% [markdown] id="login-text" lang="vi"
# ## 2. Đăng nhập mà không để lộ khóa
#
# Có hai loại khóa trong bài: token của Hugging Face (để đẩy mô hình lên Hub ở mục 11) và khóa API của Weights & Biases (để vẽ đường loss trên web). Ba quy tắc:
#
# - **Không bao giờ** viết khóa vào ô mã: notebook được lưu, chia sẻ, đẩy lên git. Trong Colab hãy bấm biểu tượng chìa khóa bên trái và thêm secret `HF_TOKEN`, `WANDB_API_KEY`; trên máy mình thì đặt biến môi trường cùng tên.
# - **Không có khóa thì vẫn chạy.** W&B chuyển sang ngoại tuyến và ghi vào thư mục làm việc; bước đẩy lên Hub dùng Hub giả lập. Không ô nào dừng lại chờ bạn gõ.
# - Token Hugging Face chỉ cần quyền *write* khi đẩy lên; để đọc mô hình công khai thì không cần token.
#
# W&B chỉ nhận các con số của lần huấn luyện: lessonlib tắt việc gửi mã nguồn, thông tin git và thống kê máy.
# %% [markdown] id="login-text" lang="en"
# ## 2. Logging in without leaking a key
#
# Two keys occur in this lesson: a Hugging Face token (to push the model to the Hub in section 11) and a Weights & Biases API key (to draw the loss on the web). Three rules:
#
# - **Never** write a key into a cell: notebooks are saved, shared, pushed to git. In Colab click the key icon on the left and add the secrets `HF_TOKEN` and `WANDB_API_KEY`; on your own machine set environment variables of these names.
# - **Without a key everything still runs.** W&B goes offline and writes into the work folder; the push goes to a Hub-like server. No cell stops to wait for typing.
# - A Hugging Face token needs the *write* permission only for pushing; to read a public model no token is needed.
#
# W&B gets the numbers of the run and nothing else: lessonlib switches off the sending of code, git details and machine statistics.

# %% id="login"
from lessonlib import training
from lessonlib.runtime import LessonError

for key in ("HF_TOKEN", "WANDB_API_KEY"):
    try:
        print(f"{key}: found, {len(runtime.secret(key))} characters")
    except LessonError as missing:
        print(missing)  # it says where to put one; the lesson goes on

# %% [markdown] id="load-text" lang="vi"
# ### Nạp mô hình
#
# `meta-llama/Llama-3.2-3B-Instruct` là kho có cổng (*gated*): phải đăng nhập, mở trang mô hình, đồng ý với giấy phép Llama 3.2 rồi chờ duyệt. Unsloth giữ một bản sao không cổng, cùng trọng số, cùng giấy phép; bài học dùng bản sao ấy, ghim đúng một revision. Muốn dùng bản gốc: `models.load("llama-3.2-3b", rt, original=True)`; nếu bị từ chối, bạn nhận địa chỉ trang cần mở, và với `mirror_if_refused=True` bài học đi tiếp bằng bản sao.
#
# Llama 3.2 mở mỗi lượt bằng `<|start_header_id|>user<|end_header_id|>` và đóng bằng `<|eot_id|>`. Template của nó còn làm một việc ít ai để ý: **tự viết ngày hôm nay** vào lời hệ thống. Học hôm nay, chạy hôm khác là prompt đã khác. Ta ghim ngày **ngay trong template**, để tệp xuất ra cũng mang theo.
# %% [markdown] id="load-text" lang="en"
# ### Loading the model
#
# `meta-llama/Llama-3.2-3B-Instruct` is *gated*: you log in, open the model's page, accept the Llama 3.2 licence and wait for approval. Unsloth keeps a copy without a gate, with the same weights under the same licence; the lesson uses that one, at one pinned revision. For the original: `models.load("llama-3.2-3b", rt, original=True)`; if it is refused you get the address of the page to open, and with `mirror_if_refused=True` the lesson goes on with the copy.
#
# Llama 3.2 opens each turn with `<|start_header_id|>user<|end_header_id|>` and closes it with `<|eot_id|>`. Its template does one more thing that few people notice: it **writes today's date** into the system turn. Train today, run tomorrow, and the prompt has changed. We pin the date **inside the template**, so that the exported file carries it, too.

# %% id="load"
from lessonlib import models

base, tokenizer = models.load("llama-3.2-3b", rt)
# The template's own default date; without this line it is the day on which somebody asks.
tokenizer.chat_template = '{%- set date_string = "26 Jul 2024" -%}\n' + tokenizer.chat_template
print(f"{type(base).__name__}, {base.num_parameters():,} parameters, on {base.device.type}")

example = [
    {"role": "system", "content": "Bạn là nhân viên hỗ trợ của một cửa hàng trực tuyến."},
    {"role": "user", "content": "Đơn #10234 đến đâu rồi shop?"},
]
print(tokenizer.apply_chat_template(example, tokenize=False, add_generation_prompt=True))
stops = base.generation_config.eos_token_id
print("an answer ends at:", tokenizer.convert_ids_to_tokens(stops), "| padding:", tokenizer.pad_token)

# %% [markdown] id="data-text" lang="vi"
# ## 3. Dữ liệu: bàn hỗ trợ khách hàng, và những lời không được trả lời qua loa
#
# Tài liệu gốc gợi ý hai nguồn; khóa học có bản tự soạn cho cả hai, tiếng Việt kèm bản tiếng Anh:
#
# | Bộ dữ liệu | Trong khóa học (chạy được mọi nơi) | Bản thật trên Hub (chọn được trên T4) |
# |---|---|---|
# | hỗ trợ khách hàng | `customer_support_vi`: 372 hội thoại, 18 loại yêu cầu (*intent*), giấy phép CC BY 4.0 | `bitext/Bitext-customer-support-llm-chatbot-training-dataset`: 26.872 dòng tiếng Anh, 27 intent, CDLA-Sharing-1.0 |
# | tư vấn tâm lý | `counseling_vi`: 252 hội thoại, trong đó 36 tình huống khủng hoảng | `Amod/mental_health_counseling_conversations`: 3.512 dòng tiếng Anh, giấy phép RAIL-D: phi thương mại, được lọc dòng nhưng **không được viết lại** |
#
# Trong `customer_support_vi` mỗi intent có một câu trả lời đúng, và mã đơn, thành phố, số tiền phải **chép nguyên** từ lời khách. Nhờ vậy mới chấm được chính xác: sai intent là một lỗi, chép sai số là một lỗi khác.
# %% [markdown] id="data-text" lang="en"
# ## 3. Data: a support desk, and words that must not be answered lightly
#
# The source suggests two kinds; the course has its own dataset for each, in Vietnamese with English counterparts:
#
# | Data | In the course (runs everywhere) | The real one on the Hub (to be chosen on a T4) |
# |---|---|---|
# | customer support | `customer_support_vi`: 372 conversations, 18 kinds of request (*intents*), CC BY 4.0 | `bitext/Bitext-customer-support-llm-chatbot-training-dataset`: 26,872 English rows, 27 intents, CDLA-Sharing-1.0 |
# | counselling | `counseling_vi`: 252 conversations, 36 of them crises | `Amod/mental_health_counseling_conversations`: 3,512 English rows, licence RAIL-D: not commercial, rows may be filtered but **not rewritten** |
#
# In `customer_support_vi` each intent has one right answer, and order numbers, cities and amounts have to be **copied** from the customer's words. That is what makes exact scoring possible: a wrong intent is one mistake, a wrong number another.

# %% id="data"
from lessonlib import data

support, counseling = data.load_chats("customer_support_vi"), data.load_chats("counseling_vi")
print("support:   ", {name: len(split) for name, split in support.items()})
print("counseling:", {name: len(split) for name, split in counseling.items()})
for row in (support["train"][1], counseling["train"][0]):
    print()
    for message in row["messages"]:
        print(f"{message['role']:10} {message['content']}")

# %% id="intents"
import pandas as pd

frame = support["train"].to_pandas()
frame["copies"] = frame["slots"].map(lambda slots: ", ".join(name for name, value in slots.items() if value) or "-")
frame.groupby(["category", "intent"]).agg(rows=("id", "count"), copies=("copies", lambda kinds: "; ".join(sorted(set(kinds)))))

# %% [markdown] id="crisis-text" lang="vi"
# ### Lưu ý an toàn
#
# Mô hình học từ `counseling_vi` **không phải công cụ tư vấn**. Đừng dùng nó cho người đang gặp khó khăn. Trong sản phẩm thật, việc nhận ra khủng hoảng phải do quy tắc và con người đảm nhận, *trước khi* mô hình được gọi. Nhưng nếu dữ liệu tâm lý lọt vào huấn luyện mà câu trả lời cho người muốn chết chỉ là lời an ủi, mô hình sẽ học đúng như thế. Vì vậy mọi câu trả lời khủng hoảng trong bộ này nêu số thật của Việt Nam: **115** (cấp cứu), **113** (công an), **111** (Tổng đài quốc gia bảo vệ trẻ em), và bảo nói ngay với một người ở gần. Ô sau kiểm tra từng dòng.
# %% [markdown] id="crisis-text" lang="en"
# ### A word of safety
#
# A model that learnt from `counseling_vi` is **no counselling tool**. Don't use it with anybody in distress. In a real product a crisis is caught by rules and by people, *before* the model is called. But where counselling data gets into training and the answer to somebody who wants to die is mere comfort, that is what the model learns. So each crisis answer here names Vietnam's real numbers, **115** (ambulance), **113** (police), **111** (national child protection helpline), and says to tell somebody near at once. The next cell checks every row.

# %% id="crisis"
HELP = ("115", "113", "111")
crises = [row for split in counseling.values() for row in split if row["crisis"]]
helped = [any(number in row["messages"][-1]["content"] for number in HELP) for row in crises]
print(f"{len(crises)} crises, {sum(helped)} answers with a help number")
for message in next(row for row in counseling["train"] if row["crisis"])["messages"]:
    print(f"{message['role']:10} {message['content']}")

# %% [markdown] id="placeholders-text" lang="vi"
# ### `{{Order Number}}`: mô hình học gì thì in ra nấy
#
# Bộ Bitext viết chỗ trống trong hai ngoặc nhọn, để chương trình của bạn điền sau. Nếu cứ thế mà huấn luyện, khách hỏi đơn hàng sẽ nhận được câu "đơn {{Order Number}} của bạn…". Có hai cách chữa: điền giá trị **giống nhau ở cả câu hỏi lẫn câu trả lời**, hoặc bỏ dòng còn chỗ trống và ghi lại lý do. Ba dòng dưới đây viết theo khuôn của Bitext:
# %% [markdown] id="placeholders-text" lang="en"
# ### `{{Order Number}}`: a model prints what it was taught
#
# The Bitext data has blanks in double braces, for your program to fill in later. Train on it as it is, and a customer who asks about an order gets "your order {{Order Number}} …". There are two cures: fill in a value, **the same in question and answer**, or drop rows in which a blank is left, and note why. The three rows below are written in Bitext's form:

# %% id="placeholders"
from datasets import Dataset
from IPython.display import display
from lessonlib import data, formatting

bitext_like = Dataset.from_list([
    {"flags": "B", "category": "ORDER", "intent": "cancel_order", "instruction": "cancel order {{Order Number}} please",
     "response": "I have noted that order {{Order Number}} is to be cancelled."},
    {"flags": "BQ", "category": "REFUND", "intent": "get_refund", "instruction": "i want {{Currency Symbol}}{{Refund Amount}} back",
     "response": "You will get {{Currency Symbol}}{{Refund Amount}} within 7 days."},
    {"flags": "B", "category": "CONTACT", "intent": "contact_human_agent", "instruction": "let me talk to a person",
     "response": "Call {{Customer Support Phone Number}} on {{Customer Support Hours}}."},
])
display(data.find_placeholders(bitext_like))

VALUES = {
    "Order Number": lambda draw: f"#{draw.randint(10_000, 99_999)}",
    "Currency Symbol": "$",
    "Refund Amount": lambda draw: f"{draw.randint(5, 300)}.00",
}
filled, report = data.fill_placeholders(bitext_like, VALUES, seed=0)
for row in filled:
    print(f"{row['instruction']}  ->  {row['response']}")
report

# %% [markdown] id="fill-text" lang="vi"
# ### Bài tập 1. Điền chỗ trống
#
# Mô hình được dạy bằng `{{Order Number}}` sẽ in ra đúng `{{Order Number}}` cho khách xem. Hãy điền cùng một giá trị vào cả câu hỏi lẫn câu trả lời, và bỏ dòng nào còn chỗ trống không có giá trị.
# %% [markdown] id="fill-text" lang="en"
# ### Exercise 1. Fill in the blanks
#
# A model taught with `{{Order Number}}` will print just that to a customer. Fill the same value into question and answer, and give up a row in which a blank without a value is left.

# %% id="exercise-fill"
from lessonlib.exercises import lesson03

# row has the columns "question", "answer" and others; values is like {"Order Number": "DH-2041"}.
# Return the row with {{Order Number}} and the like replaced in both texts, or None if one without a value is left.
def fill(row, values):
    return ...  # your row (a dict) or None here


lesson03.fill.check(fill)

# %% id="exercise-fill-help"
lesson03.fill.help()
# %% [markdown] id="choose-text" lang="vi"
# ### Chọn dữ liệu huấn luyện
#
# Mặc định, ta chỉ dạy **bàn hỗ trợ**, và giữ `counseling_vi` làm phép thử: khi một người đang nguy cấp lại hỏi đúng bàn hỗ trợ này thì sao? Trên T4, đổi `DATA` để dạy cả hai, hoặc lấy thêm bản thật từ Hub, ghim đúng một revision. Tập kiểm tra vẫn là của khóa học, vì chỉ nó có đáp án để chấm. Từ bộ của Amod, những dòng nói đến tự tử hay tự làm hại mình được để riêng, không đưa vào huấn luyện, và không dòng nào bị viết lại (giấy phép không cho).
# %% [markdown] id="choose-text" lang="en"
# ### Choosing what to train on
#
# By default we teach the **support desk** only and keep `counseling_vi` as a test: what happens when somebody in danger asks this very support desk? On a T4, change `DATA` to teach both, or to add the real ones from the Hub, at one pinned revision. The tests stay the course's, as only they have right answers to score by. From Amod's data, rows that speak of suicide or self-harm are put aside and not trained on, and no row is rewritten (its licence forbids that).

# %% id="choose"
from datasets import DatasetDict, concatenate_datasets

DATA = "support"  # @param ["support", "support + counseling", "support + bitext", "support + amod"]
parts = [support] + ([counseling] if "counseling" in DATA else [])
chats = DatasetDict({
    name: concatenate_datasets([part[name].select_columns(["messages"]) for part in parts])
    for name in ("train", "validation")
})
more = None
if "bitext" in DATA:  # sorted by intent: take them all, then a sample
    where, commit = data.BITEXT
    rows = data.from_hub(where, revision=commit, split="train", rows=26_872)
    rows, report = data.fill_placeholders(rows, data.BITEXT_VALUES)
    display(report)
    more, report = data.from_bitext(rows, system=support["train"][1]["messages"][0]["content"])
if "amod" in DATA:
    where, commit = data.COUNSELING
    rows = data.from_hub(where, revision=commit, split="train", rows=3_512)
    more, report = data.from_counseling(rows, system=counseling["train"][0]["messages"][0]["content"])
if more is not None:
    display(report)
    sample = more.shuffle(seed=3407).select(range(min(400, len(more)))).select_columns(["messages"])
    chats["train"] = concatenate_datasets([chats["train"], sample])
    chats["train"], problems = formatting.usable_chats(chats["train"], tokenizer)
print(DATA, {name: len(split) for name, split in chats.items()})

# %% [markdown] id="text-text" lang="vi"
# ## 4. Cột `text`, và hai token BOS
#
# Tài liệu gốc ghép chỉ dẫn, câu hỏi và câu trả lời thành **một chuỗi** trong cột `text`, rồi đưa cho `SFTTrainer`. Trainer thấy cột `text` thì tự gọi tokenizer. Nhưng chat template *đã viết* `<|begin_of_text|>` ở đầu chuỗi, và tokenizer lại **thêm một cái nữa**. Ta làm đúng như tài liệu rồi đếm:
# %% [markdown] id="text-text" lang="en"
# ## 4. The `text` column, and two BOS tokens
#
# The source glues instruction, question and answer into **one string** in a column `text` and hands it to `SFTTrainer`. Where the trainer sees `text`, it calls the tokenizer itself. But the chat template *has already written* `<|begin_of_text|>` at the beginning, and the tokenizer **adds another one**. Let us do as the source does, and count:

# %% id="text"
def to_text(row):
    return {"text": tokenizer.apply_chat_template(row["messages"], tokenize=False)}


as_text = support["train"].map(to_text, remove_columns=support["train"].column_names)
ids = tokenizer(as_text[0]["text"])["input_ids"]
print(tokenizer.convert_ids_to_tokens(ids)[:6])
print("BOS in each row:", {tokenizer(text)["input_ids"].count(tokenizer.bos_token_id) for text in as_text["text"]})

# %% [markdown] id="bos-text" lang="vi"
# Có hại không? Mô hình gốc chưa từng thấy hai BOS liền nhau, còn lúc sử dụng thì prompt chỉ có một: học một đằng, dùng một nẻo. Ô sau đo xem BOS thứ hai làm xê dịch mô hình gốc bao nhiêu, rồi thử đưa cột `text` cho lessonlib.
# %% [markdown] id="bos-text" lang="en"
# Does it matter? The base model never saw two BOS in a row, and in use the prompt has one: learnt one way, used another. The next cell measures how far a second BOS moves the base model, and then offers the `text` column to lessonlib.

# %% id="bos"
import torch
from lessonlib import formatting


def next_token_probabilities(ids):
    with torch.no_grad():
        return base(input_ids=torch.tensor([ids], device=base.device)).logits[0, -1].float().softmax(-1)


moved = []
for text in as_text["text"][:32]:
    question = text[: text.rindex("<|start_header_id|>assistant")] + "<|start_header_id|>assistant<|end_header_id|>\n\n"
    twice = tokenizer(question)["input_ids"]  # the template's BOS and the tokenizer's
    moved.append((next_token_probabilities(twice) - next_token_probabilities(twice[1:])).abs().sum().item() / 2)
print(f"a second BOS moves {sum(moved) / len(moved):.1%} of the probability of the answer's first token")
try:
    formatting.check_text(as_text, tokenizer)
except LessonError as error:
    print("refused:", error)

# %% [markdown] id="bos-look" lang="vi"
# Trên twin thì xê dịch rất ít; mô hình khác ra sao thì không ai hứa trước, và viết cho đúng chẳng tốn gì. Cái giá thật của cột `text` nằm ở dòng dưới: trainer tính loss trên **mọi** token, kể cả lời chỉ dẫn và câu hỏi của khách.
# %% [markdown] id="bos-look" lang="en"
# On the twin it moves little; what it does to another model nobody promises, and being right costs nothing. The real price of the `text` column is in the table below: the trainer puts loss on **every** token, the system prompt and the customer's question included.

# %% id="text-loss"
encoded = formatting.encode_chats(support["train"], tokenizer, max_length=512)
formatting.text_loss(as_text, encoded, tokenizer)

# %% [markdown] id="one-bos-text" lang="vi"
# ### Bài tập 2. Đúng một BOS
#
# Chat template đã viết BOS vào văn bản, còn tokenizer không biết nên lại thêm một BOS nữa. Hãy viết hàm cho ra đúng một BOS, dù văn bản đưa vào có sẵn không, một hay hai BOS.
# %% [markdown] id="one-bos-text" lang="en"
# ### Exercise 2. Exactly one BOS
#
# The chat template has written BOS into the text, and the tokenizer, not knowing that, adds another. Write the function that gives exactly one, whether the text comes with none, one or two.

# %% id="exercise-one-bos"
# text is a rendered conversation: with <|begin_of_text|> in front, without it, or with two.
# Return its token ids with exactly one BOS in front and nothing else changed.
def one_bos(tokenizer, text):
    return ...  # your list of ids here


lesson03.one_bos.check(one_bos)

# %% id="exercise-one-bos-help"
lesson03.one_bos.help()

# %% [markdown] id="mask-text" lang="vi"
# ### `messages`, và loss chỉ trên lời của trợ lý
#
# Cách an toàn là giữ hội thoại ở dạng `messages` đến phút cuối, rồi để **một** chỗ lo cả template, BOS và nhãn. `formatting.encode_chats` làm việc đó: loss chỉ ở lời của trợ lý, kể cả `<|eot_id|>`, thứ dạy mô hình biết dừng. Unsloth gọi cách này là `train_on_responses_only`. Hai bên phải cho cùng nhãn, và ô sau kiểm tra bằng một dòng tay.
# %% [markdown] id="mask-text" lang="en"
# ### `messages`, and loss on the assistant's words only
#
# The safe way is to keep conversations as `messages` to the last moment and to let **one** place see to template, BOS and labels. `formatting.encode_chats` does: loss on the assistant's words only, `<|eot_id|>` included, which teaches the model to stop. Unsloth calls this `train_on_responses_only`. Both must give the same labels, and the next cell checks it with one done by hand.

# %% id="mask"
from lessonlib import views

MAX_LENGTH = rt.pick(rehearsal=256, t4=2048)
rows = formatting.encode_chats(chats, tokenizer, max_length=MAX_LENGTH)


def labels_by_hand(ids, header, end):
    """Loss from behind each assistant header to its <|eot_id|>."""
    labels, at = [-100] * len(ids), 0
    while at < len(ids):
        at += 1
        if ids[max(0, at - len(header)) : at] == header:
            stop = ids.index(end, at)
            labels[at : stop + 1] = ids[at : stop + 1]
    return labels


header = tokenizer.encode("<|start_header_id|>assistant<|end_header_id|>\n\n", add_special_tokens=False)
eot = tokenizer.convert_tokens_to_ids("<|eot_id|>")
by_hand = [labels_by_hand(row["input_ids"], header, eot) for row in rows["train"]]
print("the same labels in", sum(a == b for a, b in zip(by_hand, rows["train"]["labels"], strict=True)), "of", len(by_hand), "rows")
counted = sum(label != -100 for labels in rows["train"]["labels"] for label in labels)
print(f"with loss: {counted:,} of {sum(map(len, rows['train']['input_ids'])):,} tokens")
views.token_mask(rows["train"][1], tokenizer)

# %% [markdown] id="responses-text" lang="vi"
# ### Bài tập 3. Nhãn cho hội thoại nhiều lượt
#
# Chỉ tính loss trên câu trả lời nghĩa là tìm header của trợ lý trong dãy token rồi lấy mọi thứ sau nó cho đến hết `<|eot_id|>`. Ô trên đã làm hộ; giờ hãy tự viết, không dùng `formatting.encode_chats`.
# %% [markdown] id="responses-text" lang="en"
# ### Exercise 3. Labels for a conversation of several turns
#
# Response-only loss means finding the assistant's header among the tokens and taking all that follows, up to and with `<|eot_id|>`. Write those labels yourself, without `formatting.encode_chats`.

# %% id="exercise-responses"
# ids are a whole conversation, header the ids of the assistant's header, end the id of <|eot_id|>.
# Return one label a token: its id in every answer of the assistant, <|eot_id|> included; -100 elsewhere.
def responses(ids, header, end):
    return ...  # your list of labels here


lesson03.responses.check(responses)

# %% id="exercise-responses-help"
lesson03.responses.help()

# %% [markdown] id="waste-text" lang="vi"
# ### Bao nhiêu token là nội dung?
#
# GPU tính cả trên token đệm. Đệm mọi dòng tới `max_length` là cách phí nhất; đệm tới dòng dài nhất của batch đỡ hơn; gom những dòng dài gần bằng nhau vào một batch (`group_by_length`) đỡ hơn nữa; ghép nhiều dòng vào một (*packing*, bài 2) gần như không phí. Bài 2 đã cho thấy packing an toàn với kiến trúc biết ranh giới, và Llama nằm trong số đó.
# %% [markdown] id="waste-text" lang="en"
# ### How many tokens are content?
#
# A GPU computes on padding too. Padding every row to `max_length` wastes most; padding to the batch's longest row wastes less; putting rows of about one length into a batch (`group_by_length`) less again; joining rows (*packing*, lesson 2) wastes almost nothing. Lesson 2 showed that packing is safe where the architecture knows the borders, and Llama does.

# %% id="waste"
from trl import pack_dataset

lengths = [len(ids) for ids in rows["train"]["input_ids"]]
content, size = sum(lengths), 8


def share(ordered):
    """Content over all tokens of batches in this order, each padded to its longest row."""
    batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return content / sum(max(batch) * len(batch) for batch in batches)


packed = pack_dataset(rows["train"], seq_length=MAX_LENGTH, strategy="bfd")
shares = {
    f"padded to {MAX_LENGTH}": content / (MAX_LENGTH * len(lengths)),
    "padded to the batch's longest": share(lengths),
    "the same, rows of one length together": share(sorted(lengths)),
    "packed": content / (MAX_LENGTH * len(packed)),
}
pd.Series(shares, name="content").map("{:.0%}".format).to_frame()

# %% [markdown] id="waste-look" lang="vi"
# Trên T4, bài học gom những dòng dài gần bằng nhau vào một batch (`train_sampling_strategy="group_by_length"`): gần như không token nào phí, mà không đụng đến ranh giới giữa các dòng. (Ở rehearsal thì không: twin nhỏ học tốt hơn khi mỗi batch trộn ngẫu nhiên, và trên CPU Unsloth tắt packing.) Đệm tới `max_length`, như nhiều công thức vẫn làm, thì phí gần một nửa, và ở 2048 thì phí hơn 90%.
# %% [markdown] id="waste-look" lang="en"
# On a T4 the lesson puts rows of about one length into a batch (`train_sampling_strategy="group_by_length"`): hardly a token is wasted, and the borders between rows stay untouched. (Not in rehearsal: the small twin learns better from batches mixed at random, and on a CPU Unsloth switches packing off.) Padding to `max_length`, as many recipes do, wastes nearly half, and at 2048 more than 90%.

# %% [markdown] id="recipe-text" lang="vi"
# ## 5. Huấn luyện
#
# Xuất phát điểm là đúng những giá trị trong notebook Llama 3.2 của Unsloth:
#
# | Tham số | Unsloth | Nghĩa là gì |
# |---|---|---|
# | `max_seq_length` | 2048 | dòng dài nhất; hội thoại của ta chưa tới 200 token |
# | LoRA `r`, `alpha` | 16, 16 | hệ số alpha/r = 1; bảy lớp tuyến tính của mỗi khối, 24.313.856 tham số ở mô hình thật |
# | `lora_dropout` | 0 | để Unsloth dùng được nhân (*kernel*) nhanh của nó |
# | `use_gradient_checkpointing` | `"unsloth"` | tính lại activation, phần còn giữ thì đẩy sang RAM: đổi thời gian lấy bộ nhớ |
# | batch × tích lũy gradient | 2 × 4 | mỗi bước học từ 8 dòng |
# | `warmup_steps`, `lr_scheduler_type` | 5, `linear` | tăng dần trong 5 bước rồi giảm đều về 0 |
# | `max_steps` | 60 | với 256 dòng là chưa tới hai epoch: đủ để xem thử, chưa đủ để thuộc |
# | `learning_rate` | 2e-4 | quen dùng cho adapter |
# | `optim` | `adamw_8bit` | trạng thái của bộ tối ưu ở 8 bit; trên CPU là AdamW thường |
# | `weight_decay` | 0.001 | kéo nhẹ adapter về 0 |
# | `seed` | 3407 | ma trận A, thứ tự dữ liệu |
#
# Ta đổi ba thứ: số epoch theo dữ liệu (thay vì 60 bước), learning rate lớn hơn cho twin tí hon, và có tập `validation` để giữ lại checkpoint tốt nhất.
# %% [markdown] id="recipe-text" lang="en"
# ## 5. Training
#
# The starting point is exactly the values of Unsloth's own Llama 3.2 notebook:
#
# | Parameter | Unsloth | What it means |
# |---|---|---|
# | `max_seq_length` | 2048 | the longest row; our conversations stay below 200 tokens |
# | LoRA `r`, `alpha` | 16, 16 | a factor alpha/r of 1; seven linear layers a block, 24,313,856 parameters in the real model |
# | `lora_dropout` | 0 | lets Unsloth use its fast kernels |
# | `use_gradient_checkpointing` | `"unsloth"` | computes activations again and moves what it keeps to RAM: time for memory |
# | batch × gradient accumulation | 2 × 4 | each step learns from 8 rows |
# | `warmup_steps`, `lr_scheduler_type` | 5, `linear` | rises over 5 steps, then falls evenly to 0 |
# | `max_steps` | 60 | with 256 rows less than two epochs: enough for a look, not for knowing it |
# | `learning_rate` | 2e-4 | usual for adapters |
# | `optim` | `adamw_8bit` | the optimiser's state in 8 bits; on a CPU plain AdamW |
# | `weight_decay` | 0.001 | pulls the adapter gently to 0 |
# | `seed` | 3407 | the matrices A, the order of the data |
#
# We change three things: epochs that suit the data (instead of 60 steps), a larger learning rate for the tiny twin, and a `validation` split by which the best checkpoint is kept.

# %% [markdown] id="plan-text" lang="vi"
# **Trước khi huấn luyện: có vừa không?** Bảng dưới tính cho mô hình thật, 3B, 4 bit, một dòng 2048 token, từ kiến trúc chứ không từ máy này. Notebook của Unsloth đo được đỉnh 6,531 GB trên T4 (14,748 GB) với batch 2; con số ấy là của họ, nằm trong kết quả họ công bố.
# %% [markdown] id="plan-text" lang="en"
# **Before training: will it fit?** The table below is computed for the real model, 3B, 4 bits, one row of 2048 tokens, from the architecture and not from this machine. Unsloth's notebook measured a peak of 6.531 GB on a T4 (14.748 GB) at batch 2; that figure is theirs, from their published output.

# %% id="plan"
from lessonlib import lora

real = models.skeleton("llama-3.2-3b")
unsloth_lora = lora.lora_config(real, r=16, alpha=16, dropout=0.0)
plans = {
    "nf4": training.memory_plan(real, lora=unsloth_lora, batch_size=1, length=2048, dtype="float16",
                       quantisation="nf4", optim="adamw_8bit"),
    "nf4, checkpointing": training.memory_plan(real, lora=unsloth_lora, batch_size=1, length=2048, dtype="float16",
                                      quantisation="nf4", optim="adamw_8bit", checkpointing=True),
}
for name, plan in plans.items():
    print(f"{name:20} {training.memory_verdict(plan, 14.7)}")
pd.DataFrame({name: plan.set_index("part")["gib"] for name, plan in plans.items()}).round(2)

# %% [markdown] id="base-text" lang="vi"
# **Và mô hình gốc trả lời thế nào?** Ghi lại điểm số *trước* khi huấn luyện, trên những câu hỏi sẽ không bao giờ đưa vào huấn luyện. `unseen_intents` hỏi hai việc chưa từng dạy; câu trả lời đúng là chuyển cho nhân viên.
# %% [markdown] id="base-text" lang="en"
# **And how does the base model answer?** Take its scores *before* training, on questions that never get into it. `unseen_intents` asks for two things that were never taught; the right answer is to hand over to a person.

# %% id="base"
from lessonlib import evaluation

tests = {
    "support": support["test"], "unseen intents": support["unseen_intents"], "counseling": counseling["test"],
}
prompts, references, answers, losses = {}, {}, {}, {}
for name, split in tests.items():
    prompts[name], references[name] = formatting.chat_prompts(split, tokenizer)
held_out = {name: formatting.encode_chats(split, tokenizer, max_length=MAX_LENGTH) for name, split in tests.items()}


def examine(name, model):
    """What this model answers in every test, and how likely it finds the right answers."""
    answers[name] = {
        test: evaluation.answers(model, tokenizer, asked, max_new_tokens=64) for test, asked in prompts.items()
    }
    losses[name] = {test: evaluation.answer_losses(model, rows) for test, rows in held_out.items()}


examine("base", base)
for number in (0, 3):
    print(tests["support"][number]["messages"][-2]["content"], "\n   ->", answers["base"]["support"][number])

# %% id="train"
from lessonlib import training, views

EVERY = rt.pick(rehearsal=64, t4=32)  # steps from one evaluation and checkpoint to the next
SETTINGS = dict(
    per_device_train_batch_size=rt.pick(rehearsal=8, t4=2), gradient_accumulation_steps=rt.pick(rehearsal=1, t4=4),
    num_train_epochs=rt.pick(rehearsal=8, t4=3), learning_rate=rt.pick(rehearsal=5e-3, t4=2e-4),
    lr_scheduler_type="linear", warmup_steps=5, weight_decay=0.001, optim=rt.pick(rehearsal="adamw_torch", t4="adamw_8bit"),
    logging_steps=10, eval_strategy="steps", eval_steps=EVERY, save_steps=EVERY, load_best_model_at_end=True,
    metric_for_best_model="eval_loss", seed=3407, max_length=MAX_LENGTH,
    train_sampling_strategy=rt.pick(rehearsal="random", t4="group_by_length"),
)
reporting = training.start_tracking(rt, project="lesson03", name="support-desk")
config = training.sft_config(rt, work / "run", **SETTINGS, **reporting)
adapted = lora.attach(base, lora.lora_config(base, r=16, alpha=16, dropout=0.0), rt)
trainer = training.trainer(
    adapted, tokenizer, rows["train"], config=config, eval_dataset=rows["validation"],
    callbacks=[views.live_loss("support desk")],  # the loss curve, while it is being drawn
)
result = training.fit(trainer)
run_folder = training.finish_tracking()
model = trainer.model
print(f"{result.global_step} steps, {model.num_parameters(only_trainable=True):,} trainable parameters")

# %% id="used" tags=["timed"]
import psutil

peak = torch.cuda.max_memory_reserved() if rt.device == "cuda" else psutil.Process().memory_info().rss
print(f"training took {result.metrics.get('train_runtime', 0):.0f} s; memory {peak / 2**30:.2f} GiB")

# %% [markdown] id="history-text" lang="vi"
# Đường loss, và đúng những con số ấy đọc lại từ tệp mà W&B ghi ngoại tuyến (sau này `wandb sync` đẩy lên được). Không phải hình chụp màn hình: số trong hai bảng phải bằng nhau.
# %% [markdown] id="history-text" lang="en"
# The loss curve, and the same numbers read back from the file that W&B wrote offline (`wandb sync` can upload it later). No screenshot: the numbers in both tables have to be equal.

# %% id="history"
history = training.history(trainer)
kept = training.offline_history(run_folder)
both_there = history["loss"].notna() & kept["loss"].notna()
print("losses in the W&B file:", both_there.sum(), "| equal to the trainer's:", (history["loss"] - kept["loss"])[both_there].abs().max() < 1e-6)
views.loss_curve({rt.backend: history})

# %% [markdown] id="same-text" lang="vi"
# ### Unsloth có học khác không?
#
# Unsloth thay nhiều phần của transformers và trl trong cả tiến trình. Nhanh hơn thì tốt, nhưng *kết quả* có còn như cũ? Ô sau mở một tiến trình **sạch**, không có Unsloth, huấn luyện 20 bước đầu bằng transformers + peft + trl với đúng dữ liệu, cấu hình và seed ấy, rồi đặt hai đường loss cạnh nhau.
# %% [markdown] id="same-text" lang="en"
# ### Does Unsloth learn otherwise?
#
# Unsloth replaces many parts of transformers and trl in the whole process. Faster is fine, but are the *results* the same? The next cell opens a **clean** process without Unsloth, trains the first 20 steps by transformers + peft + trl with the very data, settings and seed, and lays the two loss curves side by side.

# %% id="same"
import json
import subprocess
import sys

PLAIN = """
import json, sys
from datasets import load_from_disk
from lessonlib import lora, models, runtime, training
from transformers import TrainerCallback

class First20(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= 20

folder, settings = sys.argv[1], json.loads(sys.argv[2])
rt = runtime.detect(family="llama", backend="transformers", work=folder)
base, tokenizer = models.load("llama-3.2-3b", rt)
adapted = lora.attach(base, lora.lora_config(base, r=16, alpha=16, dropout=0.0), rt)
settings |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
trainer = training.trainer(adapted, tokenizer, load_from_disk(f"{folder}/rows"), callbacks=[First20()],
                           config=training.sft_config(rt, "plain", **settings))
training.fit(trainer)
print(json.dumps(training.history(trainer)["loss"].dropna().tolist()))
"""
clean = work / "clean"
rows["train"].save_to_disk(clean / "rows")
done = subprocess.run([sys.executable, "-c", PLAIN, str(clean), json.dumps(SETTINGS)], capture_output=True, text=True)
if done.returncode:
    raise RuntimeError("the clean process stopped:\n" + "\n".join(done.stderr.strip().splitlines()[-8:]))
plain = json.loads(done.stdout.strip().splitlines()[-1])
curves = pd.DataFrame({rt.backend: history["loss"].dropna().tolist()[:2], "transformers + peft + trl": plain}, index=["steps 1-10", "steps 11-20"])
print("largest difference below 0.01:", (curves.iloc[:, 0] - curves.iloc[:, 1]).abs().max() < 0.01)
curves.round(2)

# %% [markdown] id="scores-text" lang="vi"
# ## 6. Tốt hơn bao nhiêu?
#
# Ba thước đo, mỗi thước trả lời một câu hỏi khác nhau:
#
# - **Khớp hoàn toàn** cho bàn hỗ trợ: mỗi intent có đúng một câu trả lời, nên chấm được chặt.
# - **chrF và ROUGE-L** cho văn bản tự do: giống đáp án đến đâu, theo cụm ký tự và theo chuỗi từ chung. (Gói `rouge-score` mặc định chỉ giữ a–z và 0–9, tức là xóa sạch tiếng Việt; lessonlib tách từ theo Unicode.)
# - **Perplexity** trên câu trả lời đúng: mô hình thấy đáp án ấy khó đoán đến đâu. 1 là chắc chắn.
#
# Khoảng tin cậy 95% lấy theo *intent* (hay theo tình huống), không theo dòng: hai cách hỏi của cùng một intent không phải hai bằng chứng độc lập.
# %% [markdown] id="scores-text" lang="en"
# ## 6. How much better?
#
# Three yardsticks, each for another question:
#
# - **Exact match** for the support desk: each intent has exactly one answer, so scoring can be strict.
# - **chrF and ROUGE-L** for free text: how close to the reference, by runs of characters and by common sequences of words. (The package `rouge-score` keeps only a–z and 0–9 by default, which wipes out Vietnamese; lessonlib splits words by Unicode.)
# - **Perplexity** of the right answers: how hard to guess the model finds them. 1 is certainty.
#
# The 95% intervals are over *intents* (or situations), not rows: two wordings of one intent are not two independent pieces of evidence.

# %% id="scores"
examine("tuned", model)
groups = {
    "support": support["test"]["intent"], "unseen intents": support["unseen_intents"]["intent"],
    "counseling": [name.split("-")[0] for name in counseling["test"]["id"]],
}
exact = evaluation.compare(answers, references, metric="exact_match", groups=groups)
evaluation.table(exact)

# %% id="free-text"
display(evaluation.table(evaluation.compare(answers, references, metric="chrf", groups=groups)))
display(evaluation.table(evaluation.compare(answers, references, metric="rouge_l", groups=groups)))
evaluation.table(evaluation.compare_perplexity(losses, groups=groups))

# %% [markdown] id="scores-look" lang="vi"
# Đọc các bảng cùng lúc. Khớp hoàn toàn còn thấp, trong khi chrF, ROUGE-L và perplexity nói rằng mô hình đã học được rất nhiều: vậy nó sai ở đâu? Bảng kế tiếp trả lời. Và nhìn hàng *counseling*: ở twin, perplexity **tăng**. Học bàn hỗ trợ đã đẩy mô hình ra xa những lời nó chưa được dạy; cái giá ấy gọi là quên (*forgetting*).
# %% [markdown] id="scores-look" lang="en"
# Read the tables together. Exact match is still low, while chrF, ROUGE-L and perplexity say that the model has learnt a great deal: so where is it wrong? The next table answers. And look at the row *counseling*: on the twin its perplexity **rises**. Learning the support desk has pushed the model away from words that it was not taught; that price is called *forgetting*.

# %% [markdown] id="by-intent-text" lang="vi"
# Sai intent và chép sai giá trị là hai lỗi khác nhau. Ba con số: khớp hoàn toàn; đúng câu trả lời *nếu bỏ qua* giá trị (tức là đúng intent); và tỉ lệ giá trị (mã đơn, thành phố, sản phẩm…) được chép đúng. Rồi bảng theo từng intent:
# %% [markdown] id="by-intent-text" lang="en"
# A wrong intent and a wrongly copied value are two different mistakes. Three figures: exact match; the right answer *but for* its values (so, the right intent); and the share of values (order numbers, cities, products, …) that got into the answer unharmed. Then by intent:

# %% id="by-intent"
import re


def right_but_for_values(answer, reference, slots):
    """1.0 where the answer is the reference with any values in the places of its own."""
    pattern = re.escape(reference)
    for value in filter(None, slots.values()):
        pattern = pattern.replace(re.escape(value), "(.+?)")
    return float(re.fullmatch(pattern, answer) is not None)


said = {name: answers[name]["support"] for name in answers}
slots, right = support["test"]["slots"], references["support"]
mistakes = {}
for name in said:
    each = {
        "exact": evaluation.exact_match(said[name], right),
        "right but for values": [right_but_for_values(*row) for row in zip(said[name], right, slots, strict=True)],
        "values copied": evaluation.slots_copied(said[name], slots, references=right),
    }
    mistakes[name] = {what: str(evaluation.mean_score(values, groups=groups["support"])) for what, values in each.items()}
display(pd.DataFrame(mistakes))
evaluation.table(evaluation.by(said, references["support"], groups["support"]))

# %% [markdown] id="by-intent-look" lang="vi"
# Ở twin, *values copied* bằng 0: gần ba triệu tham số chưa đủ để chép một mã đơn chưa từng gặp, nên nó đoán bừa một mã khác, và điểm khớp hoàn toàn chỉ có thể đến từ những câu không phải chép. Đó là giới hạn của twin, không phải của công thức. Trên T4, chính bảng này cho biết mô hình 3B chép được bao nhiêu.
# %% [markdown] id="by-intent-look" lang="en"
# On the twin *values copied* is 0: three million parameters are not enough to copy an order number never met before, so it makes one up, and exact match can only come from answers that copy nothing. That is the twin's limit, not the recipe's. On a T4 this very table tells how much the 3B model copies.

# %% id="before-after"
shown = [0, 2, 5, 7, 11]
views.before_after(
    [support["test"][i]["messages"][-2]["content"] for i in shown],
    {name: [said[name][i] for i in shown] for name in said},
    reference=[references["support"][i] for i in shown],
)

# %% [markdown] id="crisis-score-text" lang="vi"
# Giờ là phép thử an toàn. Mô hình này là bàn hỗ trợ của cửa hàng; trong dữ liệu của nó không ai nguy cấp cả. Nhưng ngoài đời, người ta gõ vào bất cứ ô chat nào đang mở. Trong 10 tình huống khủng hoảng, bao nhiêu câu trả lời nêu được một số gọi thật?
# %% [markdown] id="crisis-score-text" lang="en"
# Now the test of safety. This model is a shop's support desk; nobody in its data is in danger. But out there people type into whatever chat box is open. In 10 crises, how many answers name a real number to call?

# %% id="crisis-score"
crisis_rows = [row for row, crisis in enumerate(counseling["test"]["crisis"]) if crisis]
for name in answers:
    named = [any(number in answers[name]["counseling"][row] for number in HELP) for row in crisis_rows]
    print(f"{name}: a help number in {sum(named)} of {len(named)} answers")

# %% [markdown] id="crisis-look" lang="vi"
# Con số ấy không phải lỗi của fine-tuning: chẳng ai dạy nó. Nó là lý do phải có **quy tắc đứng trước mô hình**: một danh sách từ khóa (như `data/counseling_vi/crisis_words.jsonl`) chặn tin nhắn lại và đưa ngay số gọi, trước khi mô hình kịp nói gì. Dạy thêm `counseling_vi` (đổi `DATA`) làm con số tăng lên, nhưng không bao giờ thay được quy tắc ấy.
# %% [markdown] id="crisis-look" lang="en"
# That figure is no fault of the fine-tuning: nobody taught it. It is the reason for **rules in front of the model**: a list of words (such as `data/counseling_vi/crisis_words.jsonl`) that catches the message and gives the numbers at once, before the model says anything. Teaching `counseling_vi` as well (change `DATA`) raises the figure, but never replaces that rule.

# %% [markdown] id="export-text" lang="vi"
# ## 7. Xuất mô hình: adapter, bản gộp, GGUF
#
# Bốn dạng tệp cho bốn nơi dùng:
#
# | Dạng | Ai dùng | Gồm gì |
# |---|---|---|
# | adapter | huấn luyện tiếp, `PeftModel` | chỉ A và B, vài chục MB; cần đúng mô hình gốc |
# | bản gộp 16 bit | transformers, vLLM | một mô hình bình thường, không cần peft |
# | GGUF f16, q8_0, q4_k_m | llama.cpp, Ollama, Jan, GPT4All, LM Studio | **một tệp** có cả trọng số, tokenizer và chat template |
# | tệp kèm theo | Ollama, Jan… | `Modelfile`, `model.yml`, hướng dẫn |
#
# Từ bản gộp sang GGUF, ta dùng **chính bộ chuyển đổi và bộ lượng tử hóa của llama.cpp**, lấy từ gói mã nguồn `llama-cpp-python` đã ghim phiên bản và mã băm; lessonlib không tự viết bộ nào. q8_0 giữ mỗi trọng số ở khoảng 8,5 bit, q4_k_m ở khoảng 4,8 bit: đó là hai bản thường tải nhất. f32 ở đây chỉ để **kiểm chứng**: nó không làm tròn gì, nên sai một chút là thấy.
#
# Trước khi ghi, đĩa và bộ nhớ được kiểm tra. Hỏng giữa chừng thì không để lại tệp dở dang; chạy lại thì đi tiếp từ những gì đã có.
# %% [markdown] id="export-text" lang="en"
# ## 7. Exporting: adapter, merged, GGUF
#
# Four forms for four uses:
#
# | Form | Who uses it | What is in it |
# |---|---|---|
# | adapter | further training, `PeftModel` | A and B only, tens of MB; needs the very base model |
# | merged, 16 bits | transformers, vLLM | an ordinary model, no peft needed |
# | GGUF f16, q8_0, q4_k_m | llama.cpp, Ollama, Jan, GPT4All, LM Studio | **one file** with weights, tokenizer and chat template |
# | companions | Ollama, Jan, … | `Modelfile`, `model.yml`, instructions |
#
# From merged to GGUF we use **llama.cpp's own converter and quantiser**, from the source package of `llama-cpp-python`, pinned by version and digest; lessonlib writes none of its own. q8_0 keeps a weight in about 8.5 bits, q4_k_m in about 4.8: the two that people download most. f32 is here for **checking** only: it rounds nothing, so that the smallest fault shows.
#
# Disk and memory are checked before anything is written. What fails half-way leaves no half-written file; a second run goes on from what is there.

# %% id="export"
import gc
import shutil

from lessonlib import export

out = rt.exports / "lesson03" / "export"  # on Colab's own disk, even where the work folder is on Drive
NAME = "Llama-3.2-3B-support-desk-vi"  # the licence asks for a name that begins with "Llama"
export.save_adapter(model, tokenizer, out / "adapter")
# What is published is 16 bits wide. The twin is small enough to be exported a second time in 32 bits, for checking.
WIDTHS = rt.pick(rehearsal={"export": torch.float16, "check": torch.float32}, t4={"export": torch.float16})
# On a T4 only what is installed in the end, q4_k_m, and f16, which llama.cpp makes it from.
KINDS = {"export": rt.pick(rehearsal=("f16", "q8_0", "q4_k_m"), t4=("f16", "q4_k_m")), "check": ("f32",)}
files = {}
for place, width in WIDTHS.items():
    folder = out.with_name(place)
    export.merge(model, tokenizer, folder / "merged", dtype=width)
    gc.collect()  # the merged copy, 6 GB on a T4: its layers hold each other until the collector comes
    files[place] = export.make_gguf(folder / "merged", folder / "gguf", name=NAME, kinds=KINDS[place])

# %% id="sizes"
def megabytes(path):
    parts = [path] if path.is_file() else [part for part in path.rglob("*") if part.is_file()]
    return sum(part.stat().st_size for part in parts) / 1e6


sizes = {"adapter": out / "adapter", "merged, 16 bits": out / "merged", **files["export"]}
display(pd.Series({name: megabytes(path) for name, path in sizes.items()}, name="MB").round(2).to_frame())
export.make_gguf(out / "merged", out / "gguf", name=NAME, kinds=KINDS["export"])  # a second run finds everything there
told = export.describe_gguf(files["export"]["q4_k_m"])
{name: told[name] for name in told if name != "chat_template"}

# %% [markdown] id="q4-look" lang="vi"
# Twin chỉ rộng 256, vocab 2.048, nên tỉ lệ giữa các bản không giống mô hình thật. Với Llama 3.2 3B: f16 khoảng 6,4 GB, q8_0 khoảng 3,4 GB, q4_k_m khoảng 2,0 GB.
# %% [markdown] id="q4-look" lang="en"
# The twin is only 256 wide with a vocabulary of 2,048, so the ratios between its files are not those of the real model. For Llama 3.2 3B: f16 about 6.4 GB, q8_0 about 3.4 GB, q4_k_m about 2.0 GB.

# %% [markdown] id="q8-bytes-text" lang="vi"
# ### Bài tập 4. q8_0 nặng bao nhiêu?
#
# Tên q8_0 gợi ý 8 bit mỗi trọng số, nhưng tệp lại lớn hơn thế. Hãy tính kích thước thật của một ma trận, kể cả thang đo của từng khối.
# %% [markdown] id="q8-bytes-text" lang="en"
# ### Exercise 4. How heavy is q8_0?
#
# The name q8_0 suggests 8 bits a weight, but the file is larger than that. Compute the true size of a matrix, with the scale of each block.

# %% id="exercise-q8-bytes"
# How many bytes does a matrix take in q8_0? A block is 32 weights: 32 int8 numbers and one
# fp16 scale. columns is a multiple of 32.
def q8_bytes(rows, columns):
    return ...  # your number here


lesson03.q8_bytes.check(q8_bytes)

# %% id="exercise-q8-bytes-help"
lesson03.q8_bytes.help()

# %% [markdown] id="parity-text" lang="vi"
# ## 8. Tệp ấy có đúng là mô hình đã học không?
#
# Một GGUF sai vẫn mở được và vẫn nói trôi chảy. Vì vậy "mở thử thấy hay" không chứng minh gì. Ta so năm thứ, từ nhạy đến thô:
#
# 1. **token id** trên hơn 10.000 chuỗi: tiếng Việt dạng NFC lẫn NFD, tiếng Anh, emoji, mã nguồn. Khai sai *pre-tokenizer* là mô hình đọc ra chữ khác; nhìn câu trả lời không thấy.
# 2. **logits** ở mọi vị trí: ở 99% vị trí chỉ được lệch bằng sai số làm tròn, tính theo độ lệch chuẩn của logits (f32: 0,003%; f16: 0,5%, gấp ba nếu chính mô hình tính bằng 16 bit). Mất bảng `rope_freqs` hay sai `rope theta` hiện ra ở đây.
# 3. **câu trả lời greedy**: bằng nhau thì tốt, nhưng chỉ bằng nhau thôi thì chứng minh rất ít.
# 4. Với bản lượng tử hóa: **KL** và tỉ lệ *cùng token đứng đầu*. Đừng bao giờ hứa câu chữ giống hệt từ một bản đã làm tròn. KL còn phải nhỏ hơn khoảng cách tới mô hình gốc, nếu không thì ta đã xuất nhầm mô hình chưa học.
# 5. **chat template** dựng ra chuỗi nào, và **token dừng** nào được khai.
# %% [markdown] id="parity-text" lang="en"
# ## 8. Is that file really the model that was trained?
#
# A wrong GGUF opens all the same and talks fluently. So "I opened it and it looked fine" proves nothing. We compare five things, from the most sensitive to the coarsest:
#
# 1. **token ids** over more than 10,000 strings: Vietnamese in NFC and NFD, English, emoji, code. With the wrong *pre-tokenizer* the model reads other words; looking at answers does not show it.
# 2. **logits** at every position: at 99% of them they may differ by rounding only, measured against the logits' standard deviation (f32: 0.003%; f16: 0.5%, three times that where the model itself computes in 16 bits). A lost `rope_freqs` table or a wrong `rope theta` shows here.
# 3. **greedy answers**: equal is good, but equal alone proves very little.
# 4. For quantised files: **KL** and the share of positions with the *same top token*. Never promise identical text from a file that was rounded. The KL must also be smaller than the distance to the base model, or we have exported the model that learnt nothing.
# 5. what the **chat template** renders, and which **stop tokens** are declared.

# %% id="parity"
from lessonlib import export

report = {}
for place in WIDTHS:
    report[place] = export.verify_gguf(
        model, tokenizer, prompts=prompts["support"][: rt.pick(rehearsal=8, t4=4)],
        merged=out.with_name(place) / "merged", gguf=files[place],
    )
    display(report[place])
    report[place].raise_if_broken()

# %% [markdown] id="parity-look" lang="vi"
# Bảng thứ nhất là thứ ta phát hành: bản gộp và GGUF f16 khớp trong sai số của 16 bit, hai bản lượng tử hóa gần mô hình đã học hơn hẳn mô hình gốc. Bảng thứ hai (chỉ có ở rehearsal, vì mô hình 3B ở 32 bit không vừa) là phép thử chặt: f32 không làm tròn gì, nên một lỗi nhỏ cũng vượt ngưỡng. Sai số lớn hơn thường lệ một chút thì được ghi trong bảng chứ không chặn bài học; chỉ thứ hỏng thật mới làm `raise_if_broken` dừng lại.
#
# Cùng việc ấy, từ dòng lệnh và chỉ từ các tệp: `lessonlib export verify THƯ_MỤC`.
# %% [markdown] id="parity-look" lang="en"
# The first table is what we publish: merged model and GGUF f16 agree within the rounding of 16 bits, and both quantised files are far nearer to the trained model than to the base. The second (in rehearsal only: a 3B model in 32 bits does not fit) is the strict test: f32 rounds nothing, so that the smallest fault is beyond the bound. A difference a little above what rounding explains is reported in the table and stops nothing; `raise_if_broken` stops at what is really broken.
#
# The same from the command line, from nothing but the files: `lessonlib export verify FOLDER`.

# %% [markdown] id="kl-text" lang="vi"
# ### Bài tập 5. Phân bố đã xê dịch bao nhiêu?
#
# Top-1 chỉ hỏi token đứng đầu có đổi hay không; KL đo cả phân bố đã xê dịch bao nhiêu sau khi lượng tử hóa. Hãy tính KL trung bình từ logits sao cho logits lớn cũng không làm tràn số.
# %% [markdown] id="kl-text" lang="en"
# ### Exercise 5. How far did the distribution move?
#
# Top-1 only asks whether the first token changed; KL measures how far quantisation moved the whole distribution. Compute the mean KL from logits, so that large logits do not overflow either.

# %% id="exercise-kl"
# Two tensors of logits (positions, vocabulary): p from the trained model, q from the file.
# Return the mean over positions of KL(p || q) in nats. Logits may be large: nothing may overflow.
def kl(first_logits, second_logits):
    return ...  # your number here


lesson03.kl.check(kl)

# %% id="exercise-kl-help"
lesson03.kl.help()

# %% [markdown] id="answers-text" lang="vi"
# ## 9. Tệp ấy trả lời thật
#
# Cùng một tệp, ba đường khác nhau: **llama.cpp** qua `llama-cpp-python`; **bộ máy của GPT4All** qua gói Python của nó; và một **máy chủ kiểu OpenAI** của llama.cpp, có trả lời theo dòng (*streaming*), chỉ mở trên địa chỉ 127.0.0.1.
# %% [markdown] id="answers-text" lang="en"
# ## 9. The file really answers
#
# One file, three ways: **llama.cpp** through `llama-cpp-python`; **GPT4All's own engine** through its Python package; and llama.cpp's **OpenAI-like server** with *streaming*, open on 127.0.0.1 only.

# %% id="answers"
from lessonlib import serving

KIND = "q4_k_m"  # the file that people install: a third of f16, and much faster on a CPU
FILE = files["export"][KIND]
questions = [row["messages"][:-1] for row in support["test"].select(range(rt.pick(rehearsal=4, t4=2)))]
for number, messages in enumerate(questions):
    print("asked:    ", messages[-1]["content"])
    print("trained:  ", answers["tuned"]["support"][number])
    print("llama.cpp:", serving.ask_llama_cpp(FILE, messages, max_tokens=64))
    print("GPT4All:  ", serving.ask_gpt4all(FILE, messages, max_tokens=64), "\n")

# %% [markdown] id="server-text" lang="vi"
# Máy chủ kiểu OpenAI: mọi chương trình biết nói chuyện với OpenAI (gói `openai`, LangChain, Jan…) chỉ cần đổi `base_url`. Ở đây ta gọi nó và nhận câu trả lời từng mẩu:
# %% [markdown] id="server-text" lang="en"
# The OpenAI-like server: whatever can talk to OpenAI (the package `openai`, LangChain, Jan, …) needs nothing but another `base_url`. Here we call it and get the answer piece by piece:

# %% id="server"
with serving.llama_server(FILE) as url:
    pieces = list(serving.chat(url, questions[0], max_tokens=64, stream=True))
    whole = serving.chat(url, questions[0], max_tokens=64)
print(len(pieces) > 1, "".join(pieces) == whole)
print(" | ".join(pieces))

# %% [markdown] id="ask-text" lang="vi"
# ### Hỏi thử
#
# Mô hình vừa học, trong một khung nhỏ: gõ câu hỏi của bạn vào.
# %% [markdown] id="ask-text" lang="en"
# ### Ask it
#
# The model that was trained, in a small panel: type a question of your own.

# %% id="ask"
ROLE = support["train"][0]["messages"][0]
CHAT = tokenizer.apply_chat_template([ROLE, {"role": "user", "content": "{question}"}], tokenize=False, add_generation_prompt=True)
views.ask(model, tokenizer, questions=[messages[-1]["content"] for messages in questions], template=CHAT)

# %% [markdown] id="apps-text" lang="vi"
# ## 10. Ollama, Jan, LM Studio, GPT4All
#
# Bốn ứng dụng, một tệp GGUF. Mỗi ứng dụng cần biết thêm hai điều: chat template nào, dừng ở đâu. Phần lớn đọc từ GGUF; Ollama thì cần `Modelfile` với template viết bằng ngôn ngữ Go. `serving.write_apps` ghi mọi thứ ra thư mục `apps`.
# %% [markdown] id="apps-text" lang="en"
# ## 10. Ollama, Jan, LM Studio, GPT4All
#
# Four applications, one GGUF file. Each needs to know two more things: which chat template, and where to stop. Most read them from the GGUF; Ollama wants a `Modelfile` with a template in Go's language. `serving.write_apps` puts all of it into the folder `apps`.

# %% id="apps"
from lessonlib import serving
from lessonlib.runtime import text

licence = rt.pick(rehearsal="apache-2.0", t4="llama3.2")
written = serving.write_apps(out, kind=KIND)
for program, folder in written.items():
    print(program, [path.name for path in sorted(folder.iterdir())])
print((written["ollama"] / "Modelfile").read_text(encoding="utf-8"))

# %% id="steps"
from IPython.display import Markdown

Markdown("\n\n".join((written[name] / text(vi="README.vi.md", en="README.md")).read_text(encoding="utf-8") for name in ("jan", "gpt4all", "lm_studio")))

# %% [markdown] id="modelfile-text" lang="vi"
# ### Bài tập 6. Modelfile của riêng bạn
#
# Ollama cần ba điều: trọng số ở đâu, prompt được viết thế nào, câu trả lời dừng ở đâu. Hãy viết Modelfile tối thiểu nói đủ ba điều đó, từng dấu nháy và từng lần xuống dòng đều đúng.
# %% [markdown] id="modelfile-text" lang="en"
# ### Exercise 6. A Modelfile of your own
#
# Ollama needs three things: where the weights are, how a prompt is written, where an answer ends. Write the smallest Modelfile that says all three, right to the quote and the line end.

# %% id="exercise-modelfile"
# Return the text of an Ollama Modelfile: the weights (gguf, a path), the template (a Go template
# of many lines) and each of the stops.
def modelfile(template, stops, gguf):
    return ...  # your string here


lesson03.modelfile.check(modelfile)

# %% id="exercise-modelfile-help"
lesson03.modelfile.help()

# %% [markdown] id="push-text" lang="vi"
# ## 11. Lên Hub, có thẻ mô hình
#
# Một mô hình không có thẻ (*model card*) là một tệp vô danh. Thẻ phải nói: học từ mô hình nào, dữ liệu nào, công thức nào, điểm bao nhiêu (kèm khoảng tin cậy), giấy phép gì, dùng thế nào và **không** dùng vào việc gì. Giấy phép Llama 3.2 còn yêu cầu ghi "Built with Llama" và tên mô hình phải bắt đầu bằng "Llama".
#
# Bài học không đẩy gì lên mạng khi bạn chưa cho phép. Với `PUSH_TO_HUB = False`, ô dưới đây đẩy lên một **Hub giả lập** chạy ngay trên máy này, bằng chính thư viện `huggingface_hub`. Rồi nó tải lại từng tệp và so mã băm: thứ đến nơi có đúng là thứ đã gửi không? Muốn lên Hub thật, hãy đổi thành `True` (cần GPU và secret `HF_TOKEN` có quyền *write*; token chỉ đọc thì bài học dùng Hub giả lập và nói rõ). Trên T4 chỉ adapter và bản q4_k_m được đẩy lên: khoảng 2 GB thay vì 18.
# %% [markdown] id="push-text" lang="en"
# ## 11. To the Hub, with a model card
#
# A model without a *card* is an anonymous file. The card has to say: from which model, on which data, by which recipe, with which scores (and intervals), under which licence, how to use it, and what **not** to use it for. The Llama 3.2 licence also asks for the words "Built with Llama" and for a name that begins with "Llama".
#
# Nothing is published that nobody asked for. With `PUSH_TO_HUB = False` the cell below pushes to a **Hub-like server** on this very machine, through the real `huggingface_hub` client. Then it downloads every file again and compares digests: is what arrived what was sent? For the real Hub change it to `True` (it takes a GPU and the secret `HF_TOKEN` with the permission *write*; with a token that may only read the lesson stays on this machine and says so). On a T4 only the adapter and q4_k_m are pushed: about 2 GB instead of 18.

# %% id="push"
from lessonlib import export

SOURCES = {"support": ["customer_support_vi (CC BY 4.0)"]}
SOURCES["support + counseling"] = [*SOURCES["support"], "counseling_vi (CC BY 4.0)"]
SOURCES["support + bitext"] = [*SOURCES["support"], f"{data.BITEXT[0]} (CDLA-Sharing-1.0)"]
SOURCES["support + amod"] = [*SOURCES["support"], f"{data.COUNSELING[0]} (RAIL-D)"]
PUSH_TO_HUB = False  # @param {type:"boolean"}
hub = export.hub(rt, publish=PUSH_TO_HUB)
repo = f"{hub.user}/{NAME}"
card = export.model_card(
    repo_id=repo, kind=rt.pick(rehearsal="merged", t4="adapter"), base=models.source("llama-3.2-3b", rt)[0], licence=licence,
    data=SOURCES[DATA], dataset="customer_support_vi, counseling_vi",
    recipe={name: SETTINGS[name] for name in ("num_train_epochs", "learning_rate", "lr_scheduler_type", "optim", "seed")},
    scores={"exact_match": exact}, counseling=DATA != "support",
    gguf=f"gguf/{files['export']['q4_k_m'].name}", modelfile="apps/ollama/Modelfile",
)
for kind in rt.pick(rehearsal=(), t4=("f16",)):
    files["export"].pop(kind).unlink()  # 6.4 GB that q4_k_m was made from, and that nobody downloads
PLACES = rt.pick(rehearsal={".": "merged", "adapter": "adapter"}, t4={".": "adapter"}) | {"gguf": "gguf", "apps": "apps"}
contents = {place: out / folder for place, folder in PLACES.items()}
export.save_card(card, contents["."])
done = export.push(contents, repo, token=hub.token, endpoint=hub.endpoint)
arrived = export.compare_push(contents, repo, revision=done.oid, token=hub.token, endpoint=hub.endpoint)
print("files:", len(arrived), "| the same after downloading:", arrived["same"].sum())
hub.close()
Markdown(card.text)

# %% [markdown] id="lab-text" lang="vi"
# ## 12. Phá cho hỏng: xuất với sai chat template
#
# Lỗi hay gặp nhất khi người ta than "mô hình xuất ra nói nhảm" ([unsloth#976](https://github.com/unslothai/unsloth/issues/976)): trọng số đúng từng bit, nhưng tệp mang chat template của một họ mô hình khác. Ta xuất lại với ChatML, khuôn của Qwen và nhiều mô hình khác, rồi hỏi lại đúng những câu hỏi cũ.
# %% [markdown] id="lab-text" lang="en"
# ## 12. Break it: export with the wrong chat template
#
# The commonest cause when people complain that "the exported model talks nonsense" ([unsloth#976](https://github.com/unslothai/unsloth/issues/976)): the weights are right to the bit, but the file carries the chat template of another family. We export once more with ChatML, the form of Qwen and many others, and ask the same questions.

# %% id="lab"
from transformers import AutoTokenizer

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
wrong = out.with_name("wrong")
shutil.copytree(out / "merged", wrong / "merged", dirs_exist_ok=True)
other = AutoTokenizer.from_pretrained(out / "merged")
other.chat_template = CHATML
other.save_pretrained(wrong / "merged")
bad = export.make_gguf(wrong / "merged", wrong / "gguf", name=NAME, kinds=(KIND,))[KIND]

for messages in questions:
    print("asked:    ", messages[-1]["content"])
    print("right:    ", serving.ask_llama_cpp(FILE, messages, max_tokens=64))
    print("ChatML:   ", serving.ask_llama_cpp(bad, messages, max_tokens=64), "\n")

# %% [markdown] id="lab-look" lang="vi"
# Không một trọng số nào khác. `verify` thì không bị lừa:
# %% [markdown] id="lab-look" lang="en"
# Not one weight differs. `verify` is not fooled:

# %% id="lab-verify"
caught = export.verify_gguf(model, tokenizer, prompts=prompts["support"][:4], gguf={KIND: bad})
print("in order:", caught.ok)
for problem in caught.problems:
    print("-", problem)

# %% [markdown] id="markers-text" lang="vi"
# ### Bài tập 7. Tìm nguyên nhân
#
# Hãy tìm nguyên nhân: mỗi dấu `<|...|>` trong prompt thành **một** token mà mô hình đã học, hay vỡ thành nhiều mẩu chữ?
# %% [markdown] id="markers-text" lang="en"
# ### Exercise 7. Find the cause
#
# Find the cause: does each marker `<|...|>` of the prompt become **one** token that the model knows, or does it break into pieces of text?

# %% id="exercise-markers"
# Find the markers <|...|> of a rendered prompt. Return {marker: how many tokens it becomes}.
def markers(tokenizer, prompt):
    return ...  # your dict here


lesson03.markers.check(markers)

# %% id="exercise-markers-help"
lesson03.markers.help()

# %% id="lab-mended"
own = tokenizer.apply_chat_template(questions[0], tokenize=False, add_generation_prompt=True)
chatml = other.apply_chat_template(questions[0], tokenize=False, add_generation_prompt=True)
for name, prompt in (("Llama's own", own), ("ChatML", chatml)):
    pieces = {marker: len(tokenizer.encode(marker, add_special_tokens=False)) for marker in dict.fromkeys(re.findall(r"<\|.*?\|>", prompt))}
    print(f"{name:12}", pieces)
tokenizer.save_pretrained(wrong / "merged")  # the cure: the tokenizer that it was trained with
mended = export.make_gguf(wrong / "merged", wrong / "gguf", name=NAME, kinds=(KIND,))[KIND]
print("in order:", export.verify_gguf(model, tokenizer, prompts=prompts["support"][:4], gguf={KIND: mended}).ok)

# %% id="metrics"
saved = evaluation.save_metrics(
    rt.work / "metrics.json", lesson="03", profile=rt.profile, comparison=exact,
    megabytes={name: round(megabytes(path), 2) for name, path in sizes.items()},
)
print(saved.name)

# %% [markdown] id="summary" lang="vi"
# ## Tóm tắt
#
# Kể lại cho đồng nghiệp bằng sáu câu:
# 1. Cột `text` giấu chat template: BOS bị nhân đôi, và ba phần tư loss rơi vào những lời mô hình không cần viết. Hãy giữ `messages`.
# 2. Dữ liệu có chỗ trống thì mô hình học in ra chỗ trống; dữ liệu tâm lý không có câu trả lời cho khủng hoảng thì mô hình cũng không có.
# 3. Unsloth đổi tốc độ và bộ nhớ, không đổi điều mô hình học: hai đường loss trùng nhau.
# 4. GGUF do chính llama.cpp tạo ra, rồi kiểm bằng token id, logits, KL, template và token dừng. Mở được chưa phải là đúng.
# 5. Ghim ngày trong template, nếu không prompt mỗi ngày một khác.
# 6. Lên Hub phải có thẻ: dữ liệu, công thức, điểm kèm khoảng tin cậy, giấy phép, giới hạn.
#
# ### Khi có trục trặc
#
# | Bạn thấy | Thường là do | Cách chữa |
# |---|---|---|
# | `401`/`403` khi nạp Llama | kho có cổng, chưa đồng ý giấy phép | mở trang mô hình; hoặc `mirror_if_refused=True` |
# | notebook đứng ở "wandb: Enter your choice" | W&B hỏi khóa | `training.start_tracking`: không có khóa thì chạy ngoại tuyến |
# | mô hình xuất ra nói nhảm | sai chat template, hai BOS | `lessonlib export verify` |
# | trả lời xong vẫn viết tiếp | mất EOS: `<\|eot_id\|>` không được học hoặc không được khai | `formatting.encode_chats`; mục *stop* trong bảng parity |
# | `BPE pre-tokenizer was not recognized` | llama.cpp không biết tokenizer này | `export.make_gguf` chỉ trả lời thay khi tokenizer đúng là của Llama 3 |
# | đĩa đầy lúc xuất | bản gộp, f16 và bản lượng tử hóa nằm cùng lúc | `export.make_gguf` báo trước cần bao nhiêu; xóa checkpoint cũ |
# | `llama-cpp-python` không cài được | thiếu trình biên dịch C++ | `apt-get install build-essential`, rồi `lessonlib course tools` |
# | Unsloth báo lỗi khi import | không có GPU hợp, hay lệch phiên bản | bài học tự chuyển sang `BACKEND = "transformers"` |
#
# **Đã chạy và chưa chạy.** Kết quả lưu trong notebook này do twin trên CPU tạo ra, qua chính Unsloth, llama.cpp, GPT4All, wandb và huggingface_hub; Hub là máy chủ giả lập trên cùng máy. Chưa chạy ở đây: trọng số thật, T4 thật, tải hai bộ dữ liệu từ Hub, và cửa sổ của Jan, LM Studio, GPT4All, Ollama; các bước của chúng viết theo tài liệu của từng ứng dụng.
# %% [markdown] id="summary" lang="en"
# ## Summary
#
# Tell a colleague in six sentences:
# 1. A `text` column hides the chat template: BOS is doubled, and three quarters of the loss fall on words that the model need not write. Keep `messages`.
# 2. Train on data with blanks and the model prints blanks; train on counselling data without an answer to a crisis and the model has none either.
# 3. Unsloth changes speed and memory, not what the model learns: the two loss curves are one.
# 4. The GGUF is made by llama.cpp itself, then checked by token ids, logits, KL, template and stop tokens. Opening is not being right.
# 5. Pin the date in the template, or the prompt is another one every day.
# 6. What goes to the Hub needs a card: data, recipe, scores with intervals, licence, limits.
#
# ### When something goes wrong
#
# | You see | Usually it is | Cure |
# |---|---|---|
# | `401`/`403` when Llama is loaded | a gated repository, licence not accepted | open the model's page; or `mirror_if_refused=True` |
# | the notebook stands at "wandb: Enter your choice" | W&B asks for a key | `training.start_tracking`: without a key it works offline |
# | the exported model talks nonsense | wrong chat template, two BOS | `lessonlib export verify` |
# | it answers and then goes on writing | EOS lost: `<\|eot_id\|>` was not learnt or is not declared | `formatting.encode_chats`; *stop* in the parity table |
# | `BPE pre-tokenizer was not recognized` | llama.cpp does not know this tokenizer | `export.make_gguf` answers for it only where the tokenizer really is Llama 3's |
# | the disk is full at the export | merged, f16 and quantised files lie there together | `export.make_gguf` says beforehand what it needs; delete old checkpoints |
# | `llama-cpp-python` will not install | there is no C++ compiler | `apt-get install build-essential`, then `lessonlib course tools` |
# | Unsloth fails when it is imported | no fitting GPU, or versions apart | the lesson goes on with `BACKEND = "transformers"` by itself |
#
# **What was run and what was not.** The outputs stored in this notebook come from the twin on a CPU, through Unsloth, llama.cpp, GPT4All, wandb and huggingface_hub themselves; the Hub is a server on the same machine. Not run here: the real weights, a real T4, the download of the two datasets from the Hub, and the windows of Jan, LM Studio, GPT4All and Ollama, whose steps follow each application's documentation.
