# %% [markdown] id="title" lang="vi"
# # Bài 2. Phi-3: LoRA nhìn từ bên trong, lớp gộp, LoRA và QLoRA
#
# **Sau bài này bạn làm được:**
# - tự viết LoRA trong mười dòng và chứng minh rằng nó tính đúng như loralib và peft, cả sau khi huấn luyện;
# - nhận ra khi nào một danh sách `target_modules` chỉ gắn được *nửa* mô hình mà không báo lỗi, và sửa nó;
# - chuẩn bị dữ liệu hội thoại nhiều lượt: chỉ tính loss trên lời của trợ lý, ghép dòng (packing) mà không để mẫu này đọc mẫu kia;
# - tính trước bộ nhớ cho LoRA 16 bit và QLoRA 4 bit, huấn luyện cả hai, so chất lượng có khoảng tin cậy, và gộp (merge) mô hình 4 bit đúng cách.
#
# **Mô hình:** `microsoft/Phi-3-mini-4k-instruct` (trên GPU) hoặc bản thu nhỏ (*twin*) cùng kiến trúc đi kèm khóa học (trên CPU).
# **Thời gian:** khoảng 3 phút trên laptop hai nhân không GPU, không cần mạng; trên Colab T4 hãy dự trù 45 phút, kể cả tải 7,6 GB trọng số (con số T4 là ước tính, chưa đo).
# **Cần biết trước:** bài 1.
# %% [markdown] id="title" lang="en"
# # Lesson 2. Phi-3: LoRA from the inside, fused layers, LoRA against QLoRA
#
# **After this lesson you can:**
# - write LoRA yourself in ten lines and prove that it computes what loralib and peft compute, after training too;
# - notice when a list of `target_modules` reaches only *half* of a model without an error, and mend it;
# - prepare conversations of several turns: loss on the assistant's words only, rows packed together without one reading the other;
# - plan the memory of 16-bit LoRA and 4-bit QLoRA, train both, compare their quality with intervals, and merge a 4-bit model the right way.
#
# **Model:** `microsoft/Phi-3-mini-4k-instruct` (on a GPU), or the tiny *twin* of the same architecture that ships with the course (on a CPU).
# **Time:** about 3 minutes on a two-core laptop without GPU or network; on a Colab T4 set aside 45 minutes, with 7.6 GB of weights to download (the T4 figure is an estimate, not a measurement).
# **Needed before:** lesson 1.

# %% id="setup"
# filled in by `lessonlib build`

# %% [markdown] id="where" lang="vi"
# ## 1. Bài này đi từ đâu đến đâu
#
# Tài liệu gốc là *Phi-3 Cookbook* của Microsoft (bản tiếng Việt): một phần dạy LoRA bằng thư viện `loralib`, một phần đưa đoạn mã mẫu dùng `peft` để fine-tune Phi-3-mini trên dữ liệu hội thoại, kèm biến thể QLoRA 4 bit.
# Công thức chạy được, nhưng có sáu chỗ nên biết trước khi chép:
#
# | Tài liệu gốc | Vấn đề | Ta xem ở |
# |---|---|---|
# | danh sách `q_proj, k_proj, v_proj, gate_proj, up_proj…` | Phi-3 **không có** những lớp đó: chỉ một nửa mô hình được gắn adapter, không một lời cảnh báo | mục 4 |
# | cài `loralib` nhưng mã lại dùng `peft` | hai thư viện, hai cách cư xử khác nhau | mục 3 |
# | `loralib` với giá trị mặc định | hệ số LoRA chỉ còn 1/16; `.eval()` âm thầm gộp trọng số | mục 3 |
# | `learning_rate = 5e-6` | quá nhỏ cho adapter | mục 6 |
# | "GPU V100 trở lên", `bf16`, FlashAttention-2 | V100 và T4 không có bfloat16 lẫn FlashAttention-2 | mục 6 |
# | `trust_remote_code=True` | chạy mã tải từ Hub; lớp Phi-3 có sẵn trong transformers không cần, và mã cũ còn làm hỏng KV cache ([transformers#36071](https://github.com/huggingface/transformers/issues/36071)) | ngay dưới đây |
#
# Trước hết, máy này có gì? Ta bắt đầu **không lượng tử hóa** (`quantisation="none"`), để đến mục 7 so với 4 bit.
# %% [markdown] id="where" lang="en"
# ## 1. Where this lesson starts and where it goes
#
# The source is Microsoft's *Phi-3 Cookbook* (in its Vietnamese translation): one part teaches LoRA with the library `loralib`, another gives a sample script that fine-tunes Phi-3-mini on conversations with `peft`, with a 4-bit QLoRA variant.
# The recipe runs, but six of its places are worth knowing before you copy it:
#
# | The source | The trouble | We look at it in |
# |---|---|---|
# | a list `q_proj, k_proj, v_proj, gate_proj, up_proj…` | Phi-3 **has no** such layers: half of the model gets no adapter, without a word of warning | section 4 |
# | installs `loralib`, but the code uses `peft` | two libraries that behave differently | section 3 |
# | `loralib` with its defaults | LoRA's factor shrinks to 1/16; `.eval()` silently merges weights | section 3 |
# | `learning_rate = 5e-6` | too small for adapters | section 6 |
# | "V100 or later", `bf16`, FlashAttention-2 | a V100 and a T4 have neither bfloat16 nor FlashAttention-2 | section 6 |
# | `trust_remote_code=True` | runs code downloaded from the Hub; the Phi-3 class built into transformers needs none, and the old code breaks the KV cache ([transformers#36071](https://github.com/huggingface/transformers/issues/36071)) | right below |
#
# First, what does this machine have? We start **without quantisation** (`quantisation="none"`), so that section 7 can compare 4 bits with it.

# %% id="runtime"
from lessonlib import runtime

USE_DRIVE = False  # @param {type:"boolean"}
rt = runtime.detect(family="phi3", quantisation="none", backend="transformers", drive=USE_DRIVE)
work = rt.work / "lesson02"  # everything this lesson writes
rt

# %% [markdown] id="load-text" lang="vi"
# ## 2. Một mô hình hội thoại, và chat template của nó
#
# Phi-3-mini-**instruct** khác BLOOM ở bài 1: sau pre-training nó đã được dạy trò chuyện. Nó quen một khuôn viết rất cụ thể, gọi là **chat template**: mỗi lượt mở bằng `<|system|>`, `<|user|>` hoặc `<|assistant|>` và đóng bằng `<|end|>`. Viết sai khuôn là mô hình lạc ngay. Vì vậy đừng tự ghép chuỗi, hãy để `apply_chat_template` làm.
#
# `models.load` nạp mô hình từ một revision cố định, chỉ đọc safetensors, không chạy mã nào của Hub.
# %% [markdown] id="load-text" lang="en"
# ## 2. A conversational model and its chat template
#
# Phi-3-mini-**instruct** differs from the BLOOM of lesson 1: after pre-training it was taught to converse. It is used to one very particular way of writing, its **chat template**: each turn opens with `<|system|>`, `<|user|>` or `<|assistant|>` and closes with `<|end|>`. Write it differently and the model is lost. So don't glue strings together; let `apply_chat_template` do it.
#
# `models.load` takes the model from a pinned revision, reads safetensors only, and runs no code from the Hub.

# %% id="load"
from lessonlib import models

base, tokenizer = models.load("phi-3-mini", rt)
print(f"{type(base).__name__}, {base.num_parameters():,} parameters, {base.dtype}, on {base.device.type}")

example = [
    {"role": "system", "content": "Bạn là trợ giảng."},
    {"role": "user", "content": "Adapter là gì?"},
    {"role": "assistant", "content": "Phần tham số nhỏ gắn thêm vào mô hình gốc."},
]
print(tokenizer.apply_chat_template(example, tokenize=False))

# %% [markdown] id="special-text" lang="vi"
# Ba điều cần nhìn trong ô sau, vì cả ba đều từng làm hỏng mô hình của ai đó:
#
# - **Hai token kết thúc.** `<|end|>` đóng một *lượt*, `<|endoftext|>` đóng cả *văn bản*. Tokenizer gọi `<|endoftext|>` là EOS, nhưng khi trả lời mô hình phải dừng ở `<|end|>`. Danh sách đúng nằm trong `generation_config`.
# - **Token đệm.** Bản công bố dùng luôn `<|endoftext|>` để đệm, tức là EOS bị che khỏi loss cùng với phần đệm (bài 1). Tài liệu gốc đổi sang `<unk>`; lessonlib cũng vậy.
# - **Dấu xuống dòng biến mất.** Template viết `<|user|>` rồi xuống dòng, nhưng token đặc biệt của Phi-3 "nuốt" khoảng trắng đứng sau nó. Đếm token bằng mắt trên văn bản sẽ lệch.
# %% [markdown] id="special-text" lang="en"
# Three things to see in the next cell, because each of them has spoilt somebody's model:
#
# - **Two ends.** `<|end|>` closes a *turn*, `<|endoftext|>` the whole *text*. The tokenizer calls `<|endoftext|>` its EOS, but an answer has to stop at `<|end|>`. The right list stands in `generation_config`.
# - **The padding token.** As published it is `<|endoftext|>` too, so that EOS is masked together with the padding (lesson 1). The source changes it to `<unk>`, and so does lessonlib.
# - **The line break is gone.** The template writes `<|user|>` and a line break, but Phi-3's special tokens swallow the white space behind them. Counting tokens by eye in the text goes wrong.

# %% id="special"
for name in ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"):
    print(f"{name:14}", tokenizer.convert_tokens_to_ids(name))
stops = base.generation_config.eos_token_id
print("an answer ends at:", tokenizer.convert_ids_to_tokens(stops))
print("EOS:", tokenizer.eos_token, "| padding:", tokenizer.pad_token)
ids = tokenizer("<|user|>\nAdapter là gì?<|end|>\n<|assistant|>\n")["input_ids"]
print(tokenizer.convert_ids_to_tokens(ids))

# %% [markdown] id="ask-base-text" lang="vi"
# Hỏi mô hình gốc trước đã. `add_generation_prompt=True` viết thêm `<|assistant|>` ở cuối: đến lượt trợ lý nói.
# %% [markdown] id="ask-base-text" lang="en"
# First ask the base model. `add_generation_prompt=True` adds `<|assistant|>` at the end: it is the assistant's turn.

# %% id="ask-base"
from lessonlib import evaluation

QUESTIONS = ["LoRA là gì?", "Cho em lời khuyên về batch size.", "What is a checkpoint?"]


def prompt_for(question):
    messages = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


asked = [prompt_for(question) for question in QUESTIONS]
for question, answer in zip(QUESTIONS, evaluation.answers(base, tokenizer, asked, max_new_tokens=40), strict=True):
    print(question, "\n   ->", answer)

# %% [markdown] id="ask-base-look" lang="vi"
# Trả lời đúng khuôn, dừng đúng chỗ, nhưng nội dung thì không phải của khóa học này. Đó là tình huống thường gặp nhất: có một mô hình biết trò chuyện, cần nó biết *việc của mình*.
# %% [markdown] id="ask-base-look" lang="en"
# The form is right and it stops where it should, but what it says is not this course's. That is the commonest case of all: a model that knows how to converse and is to learn *your* business.

# %% [markdown] id="by-hand-text" lang="vi"
# ## 3. LoRA viết bằng tay
#
# Bài 1 đã dùng LoRA như một chiếc hộp. Giờ ta mở hộp. Một lớp tuyến tính tính $y = Wx$ với $W$ cỡ $d_{out} \times d_{in}$. LoRA giữ nguyên $W$, học thêm hai ma trận hẹp:
#
# $$y = Wx + \frac{\alpha}{r}\,B\,(A\,x),\qquad A \in \mathbb{R}^{r \times d_{in}},\; B \in \mathbb{R}^{d_{out} \times r}$$
#
# - **Khởi tạo:** $A$ ngẫu nhiên, $B$ bằng 0. Nếu cả hai đều ngẫu nhiên thì mô hình hỏng ngay từ bước 0; nếu cả hai đều bằng 0 thì gradient của cả hai cũng bằng 0 và không bao giờ học được.
# - **Hệ số** $\alpha/r$: đổi rank mà vẫn giữ độ mạnh.
# - **Dropout** chỉ đặt trên đường vào $A$, không đụng đến $Wx$.
#
# Toàn bộ LoRA là lớp dưới đây.
# %% [markdown] id="by-hand-text" lang="en"
# ## 3. LoRA, written by hand
#
# Lesson 1 used LoRA as a box. Now we open it. A linear layer computes $y = Wx$ with $W$ of size $d_{out} \times d_{in}$. LoRA leaves $W$ as it is and learns two narrow matrices beside it:
#
# $$y = Wx + \frac{\alpha}{r}\,B\,(A\,x),\qquad A \in \mathbb{R}^{r \times d_{in}},\; B \in \mathbb{R}^{d_{out} \times r}$$
#
# - **Initial values:** $A$ random, $B$ zero. With both random the model would be damaged at step 0; with both zero both gradients are zero as well, and nothing is ever learnt.
# - **The factor** $\alpha/r$: change the rank and keep the strength.
# - **Dropout** sits on the way into $A$ only and leaves $Wx$ alone.
#
# The layer below is all there is to LoRA.

# %% id="by-hand"
import torch
from torch import nn


class LoRALinear(nn.Module):
    """y = W x + (alpha / r) B A dropout(x), with W frozen."""

    def __init__(self, linear, r, alpha, dropout=0.0):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.empty(r, linear.in_features))  # (r, in)
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, r))  # (out, r)
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)  # as nn.Linear does
        self.dropout = nn.Dropout(dropout)
        self.scale = alpha / r

    def forward(self, x):  # (..., in) -> (..., out)
        narrow = self.dropout(x) @ self.lora_A.T  # (..., r)
        return self.linear(x) + self.scale * narrow @ self.lora_B.T


torch.manual_seed(0)
linear = nn.Linear(64, 48)
layer = LoRALinear(linear, r=8, alpha=16)
x = torch.randn(5, 64)
print("change before training:", (layer(x) - linear(x)).abs().max().item())
print("trainable:", sum(p.numel() for p in layer.parameters() if p.requires_grad), "of", linear.weight.numel())

# %% [markdown] id="same-text" lang="vi"
# ### Có đúng là LoRA không?
#
# "Trông giống" chưa đủ. Lấy cùng $W$, cùng $A$, rồi huấn luyện mười bước AdamW trên cùng dữ liệu với bốn bản: lớp viết tay ở trên, `layers.Linear` của lessonlib, `loralib` và `peft`. Nếu cả bốn là cùng một phép toán, kết quả phải trùng nhau sau mười lần cập nhật, chứ không chỉ ở lượt tính xuôi đầu tiên.
# %% [markdown] id="same-text" lang="en"
# ### Is it really LoRA?
#
# "It looks alike" won't do. Take the same $W$ and the same $A$, and train ten steps of AdamW on the same data with four of them: the layer above, `layers.Linear` of lessonlib, `loralib` and `peft`. If all four are the same computation, they must agree after ten updates, not only in the first forward pass.

# %% id="same"
from collections import OrderedDict
from copy import deepcopy

import loralib
from lessonlib.lora import layers
from peft import LoraConfig, get_peft_model


def from_loralib():
    made = loralib.Linear(64, 48, r=8, lora_alpha=16)
    made.load_state_dict(linear.state_dict(), strict=False)  # it made a W of its own
    return made


def from_peft():
    model = nn.Sequential(OrderedDict(proj=deepcopy(linear)))
    return get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=["proj"]))


candidates = {
    "by hand": LoRALinear(deepcopy(linear), r=8, alpha=16),
    "lessonlib": layers.Linear.from_layer(deepcopy(linear), r=8, lora_alpha=16),
    "loralib": from_loralib(),
    "peft": from_peft(),
}


def ten_steps(module):
    """Start from the A of the layer above, train ten steps, give the outputs."""
    learnt = [p for name, p in module.named_parameters() if "lora_" in name]
    next(p for name, p in module.named_parameters() if "lora_A" in name).data.copy_(layer.lora_A)
    torch.manual_seed(1)
    inputs, targets = torch.randn(10, 16, 64), torch.randn(10, 16, 48)
    optimiser = torch.optim.AdamW(learnt, lr=1e-2)
    for step in range(10):
        loss = (module(inputs[step]) - targets[step]).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    with torch.no_grad():
        return module(x)


outputs = {name: ten_steps(module) for name, module in candidates.items()}
for name, output in outputs.items():
    difference = (output - outputs["by hand"]).abs().max().item()
    print(f"{name:10} moved by {(output - linear(x)).abs().max().item():.2f}, "
          f"equal to the one by hand: {difference < 1e-5}")

# %% [markdown] id="traps-text" lang="vi"
# ### Ba cái bẫy của loralib
#
# Cùng một công thức, nhưng `loralib` có ba thói quen mà tài liệu gốc không nhắc. Cả ba đều im lặng:
#
# 1. `lora_alpha` mặc định là 1. Với `r=16`, hệ số là 1/16: học chậm đi 16 lần so với `alpha = r`.
# 2. `.eval()` **cộng $BA$ vào $W$**. Lưu `state_dict()` lúc đó thì $W$ đã chứa LoRA, mà $A$, $B$ cũng được lưu: nạp lại và gọi `.eval()` là LoRA bị cộng hai lần.
# 3. `loralib.Linear(...)` tạo $W$ *mới, ngẫu nhiên*. Thay lớp mà quên nạp lại trọng số gốc thì mô hình mất trí nhớ.
# %% [markdown] id="traps-text" lang="en"
# ### Three traps of loralib
#
# The formula is the same, but `loralib` has three habits that the source doesn't mention. All three are silent:
#
# 1. `lora_alpha` is 1 by default. At `r=16` the factor is 1/16: it learns 16 times more slowly than with `alpha = r`.
# 2. `.eval()` **adds $BA$ to $W$**. A `state_dict()` saved then has LoRA inside $W$, and $A$ and $B$ beside it: load it, call `.eval()`, and LoRA counts twice.
# 3. `loralib.Linear(...)` makes a *new, random* $W$. Replace a layer, forget to load the weights, and the model has lost its memory.

# %% id="traps"
print("1. loralib's factor by default at r=16:", loralib.Linear(64, 48, r=16).scaling)

trained = candidates["loralib"]
with torch.no_grad():
    right = trained(x)
    trained.eval()  # merges
    saved = {name: value.clone() for name, value in trained.state_dict().items()}
    again = loralib.Linear(64, 48, r=8, lora_alpha=16)
    again.load_state_dict(saved)
    again.eval()  # merges once more
    twice = again(x)
effect = (right - linear(x)).abs().mean()
print(f"2. error after saving in eval(): {((twice - right).abs().mean() / effect).item():.0%} of LoRA's effect")

fresh = loralib.Linear(64, 48, r=8)
print("3. keeps the weights of the layer it replaces:", torch.equal(fresh.weight, linear.weight))

# %% [markdown] id="ours-text" lang="vi"
# Lớp trong `lessonlib.lora.layers` viết cùng công thức, nhưng **không có trạng thái ẩn**: `.eval()` không đụng đến trọng số, `merge()` và `unmerge()` là hai lệnh bạn tự gọi, và những việc làm hỏng mô hình thì bị từ chối kèm cách sửa. Hãy mở mã nguồn mà đọc (`layers.Linear??` trong Jupyter): nó được viết để đọc.
# %% [markdown] id="ours-text" lang="en"
# The layers in `lessonlib.lora.layers` compute the same, but have **no hidden state**: `.eval()` leaves weights alone, `merge()` and `unmerge()` are commands that you give, and what would damage the model is refused, with the cure. Open the source (`layers.Linear??` in Jupyter): it is written to be read.

# %% id="ours"
from lessonlib.runtime import LessonError

ours = candidates["lessonlib"]
with torch.no_grad():
    before = ours(x)
    print("eval() changes the weights:", not torch.equal(ours.eval().weight, linear.weight))
    ours.merge()
    print(f"merged: {ours.merged}, output moved by less than 1e-5: {((ours(x) - before).abs().max() < 1e-5).item()}")

for mistake in (ours.merge, ours.state_dict):  # merging twice; saving while merged
    try:
        mistake()
    except LessonError as error:
        print(f"{mistake.__name__}: {error}")
ours.unmerge()
print("the very same weights are back:", torch.equal(ours.weight, linear.weight))

# %% [markdown] id="state-text" lang="vi"
# ### Vào mô hình, ra tệp, rồi trở lại
#
# Tài liệu gốc dạy ba lệnh của loralib: `mark_only_lora_as_trainable` (đóng băng mọi thứ trừ LoRA), `lora_state_dict` (chỉ lấy $A$, $B$ để lưu), và nạp lại bằng `load_state_dict(strict=False)` hai lần: mô hình gốc trước, LoRA sau. `strict=False` nghĩa là **không khớp cũng im**: sai tên, thiếu lớp, nhầm mô hình gốc đều trôi qua. `layers.load` nạp cùng những thứ đó nhưng kiểm tra trước. Thử trên một khối của mô hình:
# %% [markdown] id="state-text" lang="en"
# ### Into a model, out to a file, and back
#
# The source teaches three commands of loralib: `mark_only_lora_as_trainable` (freeze all but LoRA), `lora_state_dict` (take $A$ and $B$ alone, to be saved), and loading by `load_state_dict(strict=False)` twice: the base first, LoRA after it. `strict=False` means **silence where nothing fits**: a wrong name, a missing layer, another base all pass. `layers.load` loads the same things and checks them first. Try it on one block of the model:

# %% id="state"
def one_block(model):
    holder = nn.Module()
    holder.layers = nn.ModuleList([deepcopy(model.model.layers[0]).float().cpu()])
    return holder


block = one_block(base)
layers.replace(block, "all", r=8, lora_alpha=16)  # the layers become LoRA layers and keep their weights
layers.mark_only_lora_as_trainable(block)
print(sum(p.requires_grad for p in block.parameters()), "of", len(list(block.parameters())), "tensors learn")

with torch.no_grad():
    for part in layers.lora_layers(block).values():
        part.lora_B.normal_(std=0.02)  # as if it had been trained
adapter = layers.lora_state_dict(block)

second = one_block(base)
layers.replace(second, "all", r=8, lora_alpha=16)
layers.load(second, lora=adapter)
print("the same adapter is back:", all(torch.equal(second.state_dict()[name], block.state_dict()[name])
                                       for name in block.state_dict()))

renamed = {name.replace("qkv_proj", "query"): value for name, value in adapter.items()}
other_base = one_block(base)
layers.replace(other_base, "all", r=8, lora_alpha=16)
with torch.no_grad():
    other_base.layers[0].mlp.down_proj.weight.mul_(-1)
for what, model, state in (("a renamed layer", second, renamed), ("another base", other_base, adapter)):
    model.load_state_dict(state, strict=False)
    print(f"{what}: strict=False says nothing")
    try:
        layers.load(model, lora=state)
    except LessonError as error:
        print(f"{what}: {error}\n")

# %% [markdown] id="factors-text" lang="vi"
# ### Hạng thấp nghĩa là gì?
#
# Với rank $r$, tích $BA$ chỉ có thể là ma trận hạng $r$ trở xuống. Nhưng *mọi* ma trận hạng $r$ đều viết được như thế, chính xác, không xấp xỉ. Bài tập: cho một cập nhật $\Delta W$ hạng $r$, tìm $A$, $B$ để LoRA tạo ra đúng nó.
# %% [markdown] id="factors-text" lang="en"
# ### What does low rank mean?
#
# At rank $r$ the product $BA$ can only be a matrix of rank $r$ or less. But *every* matrix of rank $r$ can be written so, exactly, not approximately. The exercise: given an update $\Delta W$ of rank $r$, find $A$ and $B$ so that LoRA produces just that.

# %% id="exercise-factors"
from lessonlib.exercises import lesson02

# Exercise 1. delta has the shape (out, in) and rank r. Return A (r, in) and B (out, r)
# so that (alpha / r) * B @ A equals delta. torch.linalg.svd(delta, full_matrices=False) gives U, S, Vh.
def factors(delta, r, alpha):
    return ...  # your A and B here


lesson02.factors.check(factors)

# %% id="exercise-factors-help"
lesson02.factors.help()

# %% [markdown] id="fused-text" lang="vi"
# ## 4. Lớp gộp: vì sao nửa mô hình không được học
#
# Llama có ba lớp riêng `q_proj`, `k_proj`, `v_proj` và hai lớp `gate_proj`, `up_proj`. Phi-3 gộp (*fuse*) chúng lại: **một** lớp `qkv_proj` và **một** lớp `gate_up_proj`. Nhân một ma trận lớn nhanh hơn nhân ba ma trận nhỏ. Hãy nhìn một khối:
# %% [markdown] id="fused-text" lang="en"
# ## 4. Fused layers: why half of the model did not learn
#
# Llama has three separate layers `q_proj`, `k_proj`, `v_proj`, and two, `gate_proj` and `up_proj`. Phi-3 *fuses* them: **one** layer `qkv_proj` and **one** layer `gate_up_proj`. One large product is faster than three small ones. Look at one block:

# %% id="block"
from lessonlib import lora

for path, module in lora.block_linears(base).items():
    if ".layers.0." in f".{path}":
        print(f"{path:38} {module.in_features} -> {module.out_features}")

# %% [markdown] id="cookbook-text" lang="vi"
# Còn đây là danh sách tên trong tài liệu gốc, vốn là danh sách của Llama. peft gắn adapter vào lớp nào **có tên khớp**, và chỉ báo lỗi khi *không tên nào* khớp. Ở đây hai tên khớp, năm tên không, và peft im lặng. Ta làm thử trên cấu hình thật của Phi-3-mini (thiết bị `meta`, không tốn bộ nhớ):
# %% [markdown] id="cookbook-text" lang="en"
# And this is the list of names in the source, which really is Llama's. peft puts adapters on the layers **whose names match**, and complains only where *no* name matches. Here two names match and five don't, and peft is silent. Let us try it on the real configuration of Phi-3-mini (on the `meta` device, which costs no memory):

# %% id="cookbook"
COOKBOOK = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def cookbook_lora():
    return LoraConfig(
        r=16, lora_alpha=32, lora_dropout=0.05, bias="none", task_type="CAUSAL_LM", target_modules=COOKBOOK
    )


lora.adapted(get_peft_model(models.skeleton("phi-3-mini"), cookbook_lora()))

# %% [markdown] id="cookbook-look" lang="vi"
# Hai dòng có `r = 0`: `qkv_proj` và `gate_up_proj`, tức là toàn bộ phần attention đọc vào và hai phần ba MLP, không học gì. 8,9 triệu tham số thay vì 25,2 triệu. Không lỗi, không cảnh báo, loss vẫn giảm. ([vllm#4915](https://github.com/vllm-project/vllm/issues/4915), [LLaMA-Factory#4020](https://github.com/hiyouga/LLaMA-Factory/issues/4020))
#
# `lora.lora_config` của lessonlib xem mô hình trước rồi mới nhận danh sách: tên nào không khớp lớp nào thì từ chối, lớp nào bị bỏ sót thì nêu tên.
# %% [markdown] id="cookbook-look" lang="en"
# Two rows have `r = 0`: `qkv_proj` and `gate_up_proj`, which is all that attention reads with and two thirds of the MLP, learn nothing. 8.9 million parameters instead of 25.2 million. No error, no warning, and the loss falls all the same. ([vllm#4915](https://github.com/vllm-project/vllm/issues/4915), [LLaMA-Factory#4020](https://github.com/hiyouga/LLaMA-Factory/issues/4020))
#
# `lora.lora_config` of lessonlib looks at the model before it takes a list: a name that matches no layer is refused, and a layer that is left out is named.

# %% id="refused"
import warnings

real = models.skeleton("phi-3-mini")
try:
    lora.lora_config(real, targets=COOKBOOK)
except LessonError as error:
    print("refused:", error)

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    lora.lora_config(real, targets=["o_proj", "down_proj"])
print("warned: ", caught[0].message)

# %% [markdown] id="mended-text" lang="vi"
# Cách chữa: `targets="all"` (mặc định), đọc tên lớp từ chính mô hình chứ không từ trí nhớ. Nhờ vậy nó đúng với BLOOM, Llama, Phi-3, Gemma-2 và mọi decoder khác. peft cũng có `target_modules="all-linear"` với cùng tác dụng, và mã mẫu trên trang Phi-3-mini dùng đúng cách đó.
# %% [markdown] id="mended-text" lang="en"
# The cure: `targets="all"` (the default) reads the names off the model, not out of memory. So it is right for BLOOM, Llama, Phi-3, Gemma-2 and any other decoder. peft has `target_modules="all-linear"` to the same effect, and the sample on Phi-3-mini's own page uses that.

# %% id="mended"
lora.adapted(get_peft_model(real, lora.lora_config(real, r=16, alpha=32, dropout=0.05)))

# %% [markdown] id="merged-layer-text" lang="vi"
# ### Gắn LoRA vào một phần của lớp gộp
#
# Bài báo LoRA gắn adapter riêng cho từng phần q, k, v. Với lớp gộp, loralib có `MergedLinear`: mỗi phần có $A$, $B$ của nó, `enable_lora` chọn phần nào được học. Bản của lessonlib làm đúng như thế. Gắn vào q và v mà bỏ k, thì phần cập nhật của $W_k$ phải bằng 0:
# %% [markdown] id="merged-layer-text" lang="en"
# ### LoRA on a part of a fused layer
#
# The LoRA paper adapts q, k and v each on its own. For fused layers loralib has `MergedLinear`: every part has an $A$ and a $B$, and `enable_lora` chooses the parts that learn. Lessonlib's does the same. Adapt q and v and leave k out, and the update of $W_k$ has to be zero:

# %% id="merged-layer"
qkv = deepcopy(base.model.layers[0].self_attn.qkv_proj).float().cpu()
partial = layers.MergedLinear.from_layer(qkv, r=4, lora_alpha=8, enable_lora=[True, False, True])
with torch.no_grad():
    partial.lora_B.normal_()
    for name, part in zip("qkv", partial.delta().chunk(3), strict=True):  # (3 x hidden, hidden) in thirds
        print(f"W_{name}: update of rank {torch.linalg.matrix_rank(part).item()}, largest {part.abs().max():.2f}")

# %% [markdown] id="missing-text" lang="vi"
# ### Phòng thí nghiệm phá hỏng: lớp gộp
#
# Viết hàm kiểm tra mà peft không có. Cẩn thận: `"up_proj" in "gate_up_proj"` là đúng, nhưng peft không khớp kiểu đó. Quy tắc của peft với một danh sách tên: đường dẫn *bằng* tên, hoặc *kết thúc bằng* dấu chấm cộng tên.
# %% [markdown] id="missing-text" lang="en"
# ### Break-it lab: the fused layer
#
# Write the check that peft lacks. Careful: `"up_proj" in "gate_up_proj"` is true, but that is not how peft matches. Its rule for a list of names: the path *equals* the name, or *ends in* a dot and the name.

# %% id="exercise-missing"
# Exercise 2. Return the targets that match none of these module paths, in the order of targets.
def missing(paths, targets):
    return ...  # your list here


lesson02.missing.check(missing)

# %% id="exercise-missing-help"
lesson02.missing.help()

# %% id="exercise-budget"
# Exercise 3. "Then give the two layers a larger rank!" Which rank r gives o_proj and down_proj alone
# at least as many LoRA parameters as rank 16 on all four? Phi-3-mini: qkv_proj 3072 -> 9216,
# o_proj 3072 -> 3072, gate_up_proj 3072 -> 16384, down_proj 8192 -> 3072.
rank = ...  # a whole number

lesson02.budget.check(rank)

# %% id="exercise-budget-help"
lesson02.budget.help()

# %% [markdown] id="data-text" lang="vi"
# ## 5. Dữ liệu hội thoại
#
# Mỗi dòng là một cuộc hội thoại: một danh sách `messages`, mỗi phần tử có `role` (`system`, `user`, `assistant`) và `content`. Đây là dạng chuẩn mà transformers, TRL và hầu hết dữ liệu trên Hub dùng.
#
# `chat_vi` là dữ liệu đi kèm: một trợ giảng của chính khóa học này, tiếng Việt và tiếng Anh, một hoặc nhiều lượt, có và không có system message. Nó được chia để phân biệt *thuộc* với *hiểu*: trong `test`, chủ đề thì đã học nhưng **kiểu hội thoại** về chủ đề đó thì chưa (đã học định nghĩa của LoRA khi hỏi thẳng, giờ bị hỏi bằng tiếng Việt mà phải đáp bằng tiếng Anh); `unseen_topics` là những chủ đề chưa từng học.
#
# Trên GPU bạn có thể chọn `ultrachat_200k`, dữ liệu của tài liệu gốc: nó được *stream* từ một revision cố định, chỉ tải đúng số dòng bạn cần (toàn bộ là hơn 200.000 hội thoại).
# %% [markdown] id="data-text" lang="en"
# ## 5. Conversations as data
#
# Each row is a conversation: a list `messages`, each with a `role` (`system`, `user`, `assistant`) and `content`. This is the standard form of transformers, TRL and most data on the Hub.
#
# `chat_vi` ships with the course: a teaching assistant of this very course, in Vietnamese and English, one turn or several, with and without system messages. Its splits tell *knowing by heart* from *understanding*: in `test` the topic was learnt but this **kind of conversation** about it was not (the definition of LoRA was learnt from plain questions, and is now asked for in Vietnamese with an order to answer in English); `unseen_topics` was never learnt at all.
#
# On a GPU you may choose `ultrachat_200k`, the source's data: it is *streamed* from a pinned revision, and only as many rows are downloaded as you ask for (there are over 200,000 conversations).

# %% id="data"
from lessonlib import data

DATA = "chat_vi"  # @param ["chat_vi", "ultrachat_200k"]
ULTRACHAT = ("HuggingFaceH4/ultrachat_200k", "8049631c405ae6576f93f445c6b8166f76f5505a")

splits = data.load_chats("chat_vi")
if DATA == "ultrachat_200k":  # the tests stay chat_vi's: they have right answers
    where, commit = ULTRACHAT
    splits["train"] = data.from_hub(where, revision=commit, split="train_sft", rows=400, columns=["messages"])
print({name: len(split) for name, split in splits.items()})
for message in splits["train"][0]["messages"]:
    print(f"{message['role']:10} {message['content']}")

# %% id="data-look"
import pandas as pd

frame = splits["test"].to_pandas()
pd.crosstab(frame["kind"], frame["language"]).T

# %% [markdown] id="mask-text" lang="vi"
# ### Chỉ tính loss trên lời của trợ lý
#
# Lúc dùng thật, system message và câu hỏi do người khác viết. Mô hình chỉ cần học **lời của trợ lý, và chỗ dừng** `<|end|>`. Với hội thoại nhiều lượt, phải tính loss ở *mọi* lượt của trợ lý, không chỉ lượt cuối.
#
# Trước hết làm bằng tay, cho template của Phi-3: đi qua từng token, bật cờ sau `<|assistant|>`, tắt sau `<|end|>`.
# %% [markdown] id="mask-text" lang="en"
# ### Loss on the assistant's words only
#
# In use, system message and question are written by others. What the model has to learn is **the assistant's words, and where to stop**, `<|end|>`. In a conversation of several turns *every* turn of the assistant counts, not only the last.
#
# First by hand, for Phi-3's template: walk over the tokens, switch on after `<|assistant|>`, off after `<|end|>`.

# %% id="mask-by-hand"
ASSISTANT, END = tokenizer.convert_tokens_to_ids(["<|assistant|>", "<|end|>"])


def labels_by_hand(ids):
    labels, speaking = [], False
    for token in ids:
        labels.append(token if speaking else -100)
        if token == ASSISTANT:
            speaking = True
        elif token == END:
            speaking = False
    return labels


conversation = max(splits["train"]["messages"], key=len)
ids = tokenizer(tokenizer.apply_chat_template(conversation, tokenize=False))["input_ids"]
by_hand = labels_by_hand(ids)
print(f"{len(conversation)} messages, {len(ids)} tokens, {sum(label != -100 for label in by_hand)} with loss")

# %% [markdown] id="encode-text" lang="vi"
# Cách trên chỉ đúng với Phi-3. `formatting.encode_chats` của lessonlib làm việc đó cho *bất kỳ* chat template nào: nó hỏi chính template xem mỗi lượt bắt đầu và kết thúc ở đâu, và kiểm tra rằng token mô hình thấy lúc huấn luyện đúng là token nó sẽ thấy lúc trả lời. (TRL có `assistant_only_loss=True`, nhưng cần template có đánh dấu `{% generation %}`; template công bố của Phi-3 không có. Với Phi-3, Llama 3 và Gemma, test so nhãn của ta với nhãn của TRL.)
#
# `formatting.usable_chats` tách trước những dòng hỏng kèm lý do; `long="cut_turns"` bỏ bớt các lượt cuối của hội thoại quá dài, không bao giờ cắt ngang một câu trả lời.
# %% [markdown] id="encode-text" lang="en"
# That works for Phi-3 alone. Lessonlib's `formatting.encode_chats` does it for *any* chat template: it asks the template itself where each turn begins and ends, and checks that the tokens of training are those which the model will see when it answers. (TRL has `assistant_only_loss=True`, which needs a template marked with `{% generation %}`; Phi-3's published one is not. For Phi-3, Llama 3 and Gemma tests compare our labels with TRL's.)
#
# `formatting.usable_chats` first sorts out broken rows, with the reason; `long="cut_turns"` leaves out the last turns of a conversation that is too long, and never cuts an answer in two.

# %% id="encode"
from lessonlib import formatting, views

MAX_LENGTH = rt.pick(rehearsal=256, t4=1024)
splits["train"], problems = formatting.usable_chats(splits["train"], tokenizer)  # what is found in data nobody looked through
print("rows that cannot be used:", len(problems))
rows = formatting.encode_chats(splits, tokenizer, max_length=MAX_LENGTH, long="cut_turns")  # cut: ultrachat has long ones
number = splits["train"]["messages"].index(conversation)
row = rows["train"][number]
end_of_text = tokenizer.eos_token_id  # the template's last token, after the last <|end|>
agree = [a == b for token, a, b in zip(ids, row["labels"], by_hand, strict=True) if token != end_of_text]
print("the same tokens:", row["input_ids"] == ids, "| the same labels:", all(agree))
views.token_mask(row, tokenizer)

# %% id="exercise-labels"
# Exercise 4. turns is a list of (role, ids). The ids of every turn begin with its role token and end with
# the end token. Return one flat list of labels: what the assistant says and its end token count, -100 elsewhere.
def labels(turns):
    return ...  # your list here


lesson02.labels.check(labels)

# %% id="exercise-labels-help"
lesson02.labels.help()

# %% [markdown] id="packing-text" lang="vi"
# ### Packing: ghép dòng thay vì đệm
#
# Các hội thoại dài ngắn khác nhau; gom thành batch thì phải đệm cho bằng nhau, và phần đệm là công tính bỏ đi. **Packing** nối nhiều hội thoại thành một dòng dài. Tài liệu gốc dùng packing với 2048 token. Đếm xem được lợi bao nhiêu:
# %% [markdown] id="packing-text" lang="en"
# ### Packing instead of padding
#
# Conversations differ in length; a batch has to be padded to one length, and what is spent on padding is lost. **Packing** joins several conversations into one long row. The source packs to 2048 tokens. Count what is gained:

# %% id="packing"
lengths = sorted(len(row["input_ids"]) for row in rows["train"])
content = sum(lengths)
shuffled = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(0)).tolist()
batches = [[lengths[i] for i in shuffled[start : start + 8]] for start in range(0, len(lengths), 8)]
print(f"padded to {MAX_LENGTH}:          {content / (MAX_LENGTH * len(lengths)):.0%} of the tokens are content")
print(f"padded to the batch's longest: {content / sum(max(batch) * len(batch) for batch in batches):.0%}")

from trl import pack_dataset

packed = pack_dataset(rows["train"], seq_length=MAX_LENGTH, strategy="bfd")
print(f"packed to {MAX_LENGTH}:          {content / (MAX_LENGTH * len(packed)):.0%}, in {len(packed)} rows instead of {len(lengths)}")

# %% [markdown] id="leak-text" lang="vi"
# ### Hàng xóm có đọc trộm nhau không?
#
# Ghép rồi thì token của hội thoại sau đứng sau token của hội thoại trước. Nếu attention không biết ranh giới, hội thoại sau sẽ *đọc* hội thoại trước. Với Llama, Phi-3 và Gemma-2, transformers nhận ra ranh giới từ `position_ids` đếm lại từ 0 ở đầu mỗi hội thoại. BLOOM thì không có `position_ids`. Đừng tin, hãy đo: chênh lệch logit lớn nhất của mỗi hội thoại khi nằm chung so với khi đứng một mình.
# %% [markdown] id="leak-text" lang="en"
# ### Do neighbours read each other?
#
# Once packed, the tokens of one conversation stand behind those of another. If attention doesn't know where one ends, the second *reads* the first. For Llama, Phi-3 and Gemma-2 transformers finds the borders by `position_ids` that start again at 0 with each conversation. BLOOM has no `position_ids`. Don't trust, measure: the largest difference of a logit between a conversation among others and the same one alone.

# %% id="leak"
from lessonlib import runtime
from lessonlib.evaluation import packing_leak
from transformers import AutoModelForCausalLM

neighbours = rows["train"].select(range(4))
bloom = AutoModelForCausalLM.from_pretrained(runtime.twin_dir("bloom"), dtype=torch.float32).eval()
any_ids = [{"input_ids": [token % bloom.config.vocab_size for token in row["input_ids"]]} for row in neighbours]
leaks = {"Phi-3": packing_leak(base, neighbours), "BLOOM": packing_leak(bloom, any_ids)}
for name, leak in leaks.items():
    print(f"{name}: neighbours change a logit by up to {leak:.2f}")
del bloom

# %% [markdown] id="leak-look" lang="vi"
# Phi-3 ghép được; BLOOM thì rò rỉ, và `training.trainer` của lessonlib từ chối `packing=True` với BLOOM.
# %% [markdown] id="leak-look" lang="en"
# Phi-3 may be packed; BLOOM leaks, and lessonlib's `training.trainer` refuses `packing=True` for it.

# %% [markdown] id="recipe-text" lang="vi"
# ## 6. Công thức huấn luyện, từng con số
#
# `training_config` và `peft_config` của mã mẫu trên trang Phi-3-mini, và cái ta dùng. Chữ đậm là chỗ đổi:
#
# | Khóa | Nguồn | Ta dùng | Vì sao |
# |---|---|---|---|
# | `bf16` | True | **theo máy** | cần compute capability 8 trở lên; T4 là 7.5: `sft_config` chọn fp16 |
# | `do_eval` | False | **`eval_strategy="steps"`** | không đo thì không biết lúc nào bắt đầu học vẹt |
# | `learning_rate` | 5e-6 | **2e-4** trên mô hình thật | 5e-6 hợp với fine-tuning toàn phần; $B$ bắt đầu từ 0, cần bước lớn hơn nhiều |
# | `lr_scheduler_type` | cosine | cosine | giảm êm về 0 |
# | `warmup_ratio` | 0.2 | **`warmup_steps=0.05`** | transformers 5 đã bỏ `warmup_ratio`; số nhỏ hơn 1 nghĩa là tỉ lệ; 20% số bước là dài |
# | `num_train_epochs` | 1 | **nhiều hơn** | dữ liệu của ta ít; có bản tốt nhất được giữ lại nên không sợ quá |
# | `per_device_train_batch_size` | 4 | theo máy | mục 8 tính |
# | `gradient_checkpointing` | True, `use_reentrant=False` | như vậy, trên GPU | bộ nhớ đổi lấy thời gian |
# | `gradient_accumulation_steps` | 1 | theo máy | trên T4: batch 2 cho vừa bộ nhớ, cộng dồn 4 lần thành 8 dòng mỗi bước |
# | `logging_steps` | 20 | **ít hơn** | dữ liệu ít bước |
# | `save_steps` / `save_total_limit` | 100 / 1 | **cùng nhịp với đánh giá / 2** | một bản duy nhất mà đang ghi dở thì bị ngắt là mất hết |
# | `overwrite_output_dir` | True | **bỏ** | không còn trong transformers 5; `training.fit` chạy tiếp từ thư mục cũ |
# | `max_steps` | -1 | -1 | -1 nghĩa là theo `num_train_epochs` |
# | `seed` | 0 | 42 | số nào cũng được, miễn là có |
# | `output_dir`, `log_level`, `logging_strategy` | thư mục, info, steps | thư mục trong `work`, mặc định | `sft_config` đặt thư mục vào nơi còn lại sau khi mất phiên |
# | `per_device_eval_batch_size` | 4 | mặc định (8) | đánh giá không cần gradient nên nhẹ hơn |
# | `remove_unused_columns` | True | mặc định | cột thừa bị bỏ trước khi vào mô hình |
# | `packing`, 2048 | True | **tùy dữ liệu** | ultrachat: có; chat_vi ghép lại chỉ còn 47 dòng, tức 12 bước mỗi epoch thay vì 54: quá ít lần cập nhật |
# | `r`, `lora_alpha`, `lora_dropout` | 16, 32, 0.05 | như vậy | hệ số 2 |
# | `bias`, `task_type` | none, CAUSAL_LM | như vậy | Phi-3 không có bias; nhiệm vụ là đoán token kế tiếp |
# | `target_modules` | all-linear | **đọc từ mô hình** | mục 4 |
# | `use_cache` | False khi huấn luyện | tự động | `training.fit` bật lại khi xong |
# | tokenizer | pad = unk, đệm bên phải | như vậy | lúc sinh văn bản thì đệm bên trái: `evaluation.answers` tự lo |
#
# Những khóa đã lỗi thời bị từ chối kèm cách viết mới:
# %% [markdown] id="recipe-text" lang="en"
# ## 6. The training recipe, number by number
#
# `training_config` and `peft_config` of the sample on Phi-3-mini's page, and ours. Bold is what differs:
#
# | Key | Source | Ours | Why |
# |---|---|---|---|
# | `bf16` | True | **by device** | takes compute capability 8; a T4 has 7.5: `sft_config` chooses fp16 |
# | `do_eval` | False | **`eval_strategy="steps"`** | who doesn't measure doesn't see when learning by rote begins |
# | `learning_rate` | 5e-6 | **2e-4** on the real model | 5e-6 suits full fine-tuning; $B$ starts from 0 and wants much larger steps |
# | `lr_scheduler_type` | cosine | cosine | falls smoothly to 0 |
# | `warmup_ratio` | 0.2 | **`warmup_steps=0.05`** | transformers 5 has no `warmup_ratio`; a number below 1 is a share; 20% of the steps is long |
# | `num_train_epochs` | 1 | **more** | our data is little, and the best state is kept |
# | `per_device_train_batch_size` | 4 | by device | section 8 computes it |
# | `gradient_checkpointing` | True, `use_reentrant=False` | the same, on GPUs | memory for time |
# | `gradient_accumulation_steps` | 1 | by device | on a T4: batches of 2 for the memory, 4 of them added up to 8 rows a step |
# | `logging_steps` | 20 | **fewer** | our run has few steps |
# | `save_steps` / `save_total_limit` | 100 / 1 | **with each evaluation / 2** | if the only copy is half-written when the session drops, all is lost |
# | `overwrite_output_dir` | True | **gone** | transformers 5 has no such key; `training.fit` goes on from the old folder |
# | `max_steps` | -1 | -1 | -1 means: go by `num_train_epochs` |
# | `seed` | 0 | 42 | any will do, as long as there is one |
# | `output_dir`, `log_level`, `logging_strategy` | a folder, info, steps | a folder in `work`, the defaults | `sft_config` puts it where a lost session doesn't take it |
# | `per_device_eval_batch_size` | 4 | the default (8) | evaluating needs no gradients and so less memory |
# | `remove_unused_columns` | True | the default | columns the model doesn't take are dropped |
# | `packing`, 2048 | True | **by data** | ultrachat: yes; chat_vi packs into 47 rows, which is 12 steps an epoch instead of 54: too few updates |
# | `r`, `lora_alpha`, `lora_dropout` | 16, 32, 0.05 | the same | a factor of 2 |
# | `bias`, `task_type` | none, CAUSAL_LM | the same | Phi-3 has no biases; the task is to guess the next token |
# | `target_modules` | all-linear | **read off the model** | section 4 |
# | `use_cache` | False while training | by itself | `training.fit` switches it on again |
# | tokenizer | pad = unk, padding on the right | the same | for generation it is the left: `evaluation.answers` sees to that |
#
# Outdated keys are refused, with what to write today:

# %% id="outdated"
from lessonlib import training

for key in ({"warmup_ratio": 0.2}, {"overwrite_output_dir": True}, {"tokenizer": tokenizer}):
    try:
        training.sft_config(rt, work / "none", **key)
    except LessonError as error:
        print(error)

# %% [markdown] id="tune-text" lang="vi"
# Một hàm cho mọi lượt chạy trong bài: gắn adapter, huấn luyện, hỏi các câu kiểm tra, lưu adapter, rồi **tháo adapter ra** (`unload`). Nhờ vậy chỉ cần *một* mô hình gốc trong bộ nhớ cho nhiều thí nghiệm. `load_best_model_at_end=True` giữ lại trạng thái có loss kiểm định thấp nhất, không phải trạng thái cuối.
#
# Câu trả lời được chấm ở **lượt cuối** của mỗi hội thoại: mô hình được đọc đúng những lượt trước như trong dữ liệu.
# %% [markdown] id="tune-text" lang="en"
# One function for every run of this lesson: put the adapters on, train, ask the test questions, save the adapter, and **take the adapters off** (`unload`). So *one* base model in memory serves several experiments. `load_best_model_at_end=True` keeps the state with the lowest validation loss, not the last one.
#
# What is scored is the **last turn** of each conversation: the model reads the turns before it as they stand in the data.

# %% id="tune"
from lessonlib import export
from transformers import set_seed

EPOCHS = rt.pick(rehearsal=8, t4=3) if DATA == "chat_vi" else 1
RATE = rt.pick(rehearsal=5e-3, t4=2e-4)  # a tiny model wants larger steps than a real one
EVERY = rt.pick(rehearsal=54, t4=16)  # steps from one evaluation and checkpoint to the next
RECIPE = dict(
    per_device_train_batch_size=rt.pick(rehearsal=4, t4=2), gradient_accumulation_steps=rt.pick(rehearsal=1, t4=4),
    num_train_epochs=EPOCHS, learning_rate=RATE, lr_scheduler_type="cosine", warmup_steps=0.05,
    logging_steps=rt.pick(rehearsal=10, t4=4), eval_strategy="steps", eval_steps=EVERY, save_steps=EVERY,
    load_best_model_at_end=True, metric_for_best_model="eval_loss", seed=42,
    packing=DATA == "ultrachat_200k", max_length=MAX_LENGTH,
)
tests = {name: splits[name] for name in ("test", "unseen_topics")}
prompts, references, answers, losses, histories = {}, {}, {}, {}, {}
for name, split in tests.items():
    prompts[name], references[name] = formatting.chat_prompts(split, tokenizer)


def examine(name, model):
    """What this model answers in every test, and its loss on the test conversations."""
    answers[name] = {
        test: evaluation.answers(model, tokenizer, asked, max_new_tokens=48) for test, asked in prompts.items()
    }
    losses[name] = evaluation.answer_loss(model, rows["test"])


def fine_tune(name, model, lora_settings, runtime=rt, **changes):
    """Train one adapter on `model`; returns the trainer, whose model still wears the adapter."""
    set_seed(42)
    config = training.sft_config(runtime, work / name, **(RECIPE | changes))
    adapted = get_peft_model(model, lora_settings)
    trainer = training.trainer(adapted, tokenizer, rows["train"], config=config, eval_dataset=rows["validation"])
    training.fit(trainer)
    histories[name] = training.history(trainer)
    return trainer


examine("base", base)
trainer = fine_tune("cookbook list", base, cookbook_lora())
examine("cookbook list", trainer.model)
base = trainer.model.unload()  # the base model as it was
print("layers with LoRA left:", sum(map(lora.has_lora, base.modules())))

# %% [markdown] id="all-text" lang="vi"
# Cùng dữ liệu, cùng số bước, cùng seed; chỉ khác là adapter có mặt ở cả bốn lớp:
# %% [markdown] id="all-text" lang="en"
# The same data, steps and seed; the only difference is that all four layers have adapters:

# %% id="all"
trainer = fine_tune("LoRA", base, lora.lora_config(base, r=16, alpha=32, dropout=0.05))
examine("LoRA", trainer.model)
export.save_adapter(trainer.model, tokenizer, work / "adapter")

best = trainer.state.best_model_checkpoint
print("evaluations:", len(histories["LoRA"]["eval_loss"].dropna()), "| best model kept from:", best.rsplit("/", 1)[-1])

# %% [markdown] id="resume-text" lang="vi"
# **Bị ngắt giữa chừng?** Chạy lại cùng ô: `training.fit` tìm checkpoint hoàn chỉnh mới nhất và đi tiếp (bài 1). Lượt đã xong thì không huấn luyện lại, mà nạp lại bản tốt nhất:
# %% [markdown] id="resume-text" lang="en"
# **Cut off half-way?** Run the same cell again: `training.fit` finds the newest whole checkpoint and goes on (lesson 1). A run that was finished isn't trained again; its best state is loaded:

# %% id="resume"
base = trainer.model.unload()
again = fine_tune("LoRA", base, lora.lora_config(base, r=16, alpha=32, dropout=0.05))
print("the same loss as before:", abs(evaluation.answer_loss(again.model, rows["test"]) - losses["LoRA"]) < 1e-3)
base = again.model.unload()

# %% [markdown] id="rate-text" lang="vi"
# Còn `learning_rate = 5e-6`? Twin cần bước lớn hơn mô hình thật, nên ta giảm cùng tỉ lệ: nguồn nhỏ hơn ta 40 lần (2e-4 / 5e-6), thì ở đây cũng nhỏ hơn 40 lần. Chạy một phần tám số bước là đủ thấy:
# %% [markdown] id="rate-text" lang="en"
# And `learning_rate = 5e-6`? A twin wants larger steps than the real model, so we keep the proportion: the source's rate is 40 times smaller than ours (2e-4 / 5e-6), so here it is 40 times smaller too. An eighth of the steps is enough to see it:

# %% id="rate"
slow = fine_tune(
    "the source's rate", base, lora.lora_config(base, r=16, alpha=32, dropout=0.05),
    learning_rate=RATE / 40, num_train_epochs=EPOCHS / 8,
)
base = slow.model.unload()
views.loss_curve(histories)

# %% [markdown] id="curves-look" lang="vi"
# Đường liền là loss huấn luyện, đường đứt là loss trên tập kiểm định. Danh sách của Llama học chậm hơn hẳn với cùng công sức; tốc độ 5e-6 hầu như đứng yên.
# %% [markdown] id="curves-look" lang="en"
# Solid lines are training loss, dashed ones loss on the validation split. Llama's list learns much more slowly for the same effort; at 5e-6 hardly anything moves.

# %% id="cost"
cost = pd.DataFrame({"loss on test": losses, "adapters on": {
    "base": "-", "cookbook list": "o_proj, down_proj", "LoRA": "all four"}})
cost.round(2)

# %% [markdown] id="qlora-text" lang="vi"
# ## 7. QLoRA: mô hình gốc chỉ còn 4 bit
#
# Mô hình gốc đứng yên, chỉ adapter học. Vậy có cần giữ nó ở 16 bit không? **QLoRA** ([Dettmers và cộng sự, 2023](https://arxiv.org/abs/2305.14314)) nén nó còn 4 bit:
#
# - **nf4**: mỗi trọng số được thay bằng một trong 16 mức. Các mức được đặt sao cho, với trọng số phân bố chuẩn, mỗi mức được dùng gần như nhau: dày quanh 0, thưa ở hai đầu.
# - **Theo khối 64**: mỗi khối 64 trọng số có thang đo riêng, là giá trị tuyệt đối lớn nhất của khối (*absmax*).
# - **Lượng tử hóa kép** (*double quantisation*): chính các absmax cũng được nén từ 32 xuống 8 bit.
# - Khi tính, từng ma trận được giải nén tạm về 16 bit; gradient đi xuyên qua nó để đến adapter.
# - **Bộ tối ưu phân trang** (*paged*): khi GPU đầy, trạng thái của AdamW được dời sang RAM.
#
# Viết nf4 bằng tay cho một ma trận của mô hình rồi so với bitsandbytes:
# %% [markdown] id="qlora-text" lang="en"
# ## 7. QLoRA: the base model in 4 bits
#
# The base model stands still, only the adapters learn. Must it be kept in 16 bits, then? **QLoRA** ([Dettmers et al., 2023](https://arxiv.org/abs/2305.14314)) compresses it to 4:
#
# - **nf4**: each weight is replaced by one of 16 levels. They are placed so that normally distributed weights use each of them about equally often: close together around 0, far apart at the ends.
# - **In blocks of 64**: each block of 64 weights has a scale of its own, its largest absolute value (*absmax*).
# - **Double quantisation**: the absmax values themselves are compressed from 32 bits to 8.
# - For computing, one matrix at a time is brought back to 16 bits; gradients pass through it to the adapters.
# - A **paged optimiser**: when the GPU is full, AdamW's states move to the computer's memory.
#
# Write nf4 by hand for one matrix of the model and compare it with bitsandbytes:

# %% id="nf4-by-hand"
from bitsandbytes.functional import dequantize_4bit, get_4bit_type, quantize_4bit

weight = base.model.layers[1].mlp.gate_up_proj.weight.detach()[:768].float().cpu()  # all rows of the twin
levels = get_4bit_type("nf4", device="cpu")  # the 16 values between -1 and 1
blocks = weight.reshape(-1, 64)  # (blocks, 64)
absmax = blocks.abs().amax(dim=1, keepdim=True)
nearest = (blocks / absmax).unsqueeze(-1).sub(levels).abs().argmin(dim=-1)  # 0 to 15: four bits
by_hand_nf4 = (levels[nearest] * absmax).reshape(weight.shape)

packed_weight, state = quantize_4bit(weight, blocksize=64, quant_type="nf4")
agreement = (dequantize_4bit(packed_weight, state) - by_hand_nf4).abs().max() < 1e-6
print("levels:", [round(level, 2) for level in levels.tolist()])
print(f"{weight.numel():,} weights in {packed_weight.numel():,} bytes; by hand equals bitsandbytes: {agreement}")

# %% id="exercise-bits"
# Exercise 5. How many bits does one weight cost in nf4 with double quantisation? 4 bits for the level;
# 8 bits of absmax for each block of 64; one more fp32 number for each 256 of those absmax values.
bits_per_weight = ...  # your number here

lesson02.bits.check(bits_per_weight)

# %% id="exercise-bits-help"
lesson02.bits.help()

# %% id="exercise-quantise"
# Exercise 6. The same for one block: block is a tensor of numbers, levels the 16 sorted levels.
# Return what is left of the block after 4 bits. A block of zeros has to give zeros.
def quantise(block, levels):
    return ...  # your tensor here


lesson02.quantise.check(quantise)

# %% id="exercise-quantise-help"
lesson02.quantise.help()

# %% [markdown] id="picture-text" lang="vi"
# Bốn bit làm gì với một ma trận? Bên trái: phân bố trọng số và 16 mức. Bên phải: sai số của từng khối. Khối nào có một giá trị lớn lạc lõng thì cả khối chịu thang đo thô: đó là lý do phải chia khối nhỏ.
# %% [markdown] id="picture-text" lang="en"
# What do four bits do to a matrix? On the left: the weights and the 16 levels. On the right: the error of each block. A block with one large stray value has a coarse scale for all its weights: that is why blocks are small.

# %% id="picture"
from lessonlib import views

views.quantisation_chart(weight)

# %% [markdown] id="errors-text" lang="vi"
# Cùng ma trận ấy qua vài cách nén. `fp4` là số thực dấu phẩy động 4 bit thông thường; khối 4096 là gần như không chia khối:
# %% [markdown] id="errors-text" lang="en"
# The same matrix compressed in several ways. `fp4` is an ordinary 4-bit floating-point number; blocks of 4096 are nearly no blocks at all:

# %% id="errors"
from lessonlib import models

ways = {"nf4, blocks of 64": ("nf4", 64), "fp4, blocks of 64": ("fp4", 64), "nf4, blocks of 4096": ("nf4", 4096)}
pd.concat({
    name: models.quantisation_error(weight, quant_type=kind, blocksize=size).set_index("double_quantisation")
    for name, (kind, size) in ways.items()
}).round(3)

# %% [markdown] id="load4-text" lang="vi"
# ### Huấn luyện trên mô hình 4 bit
#
# Chỉ đổi một chữ: `quantisation="nf4"`. `models.load` dựng `BitsAndBytesConfig` (nf4, lượng tử hóa kép, tính bằng kiểu số của máy). bitsandbytes chạy được cả trên CPU, nên ô này là QLoRA thật, không phải giả vờ.
#
# Một cái bẫy của bản 0.50.2: trên CPU có lệnh AVX512-BF16, lượt đánh giá đầu tiên *xếp lại trọng số ngay tại chỗ*, và huấn luyện sau đó đọc sai chúng, không báo lỗi. `models.load` tắt việc đó đi (và có test giữ).
#
# Tài liệu gốc gọi `prepare_model_for_kbit_training` trước. Hàm ấy nâng mọi thứ còn ở 16 bit (embedding, đầu ra, các lớp norm) lên 32 bit; với Phi-3-mini là thêm 0,4 GB cho thứ không được huấn luyện. Phần hữu ích của nó, gradient checkpointing, `sft_config` đã bật trên GPU; adapter luôn ở fp32 nhờ `training.trainer`.
# %% [markdown] id="load4-text" lang="en"
# ### Training on a 4-bit model
#
# One word changes: `quantisation="nf4"`. `models.load` makes the `BitsAndBytesConfig` (nf4, double quantisation, computing in the device's number format). bitsandbytes runs on CPUs too, so the cell below is real QLoRA and no make-believe.
#
# A trap of version 0.50.2: on CPUs with AVX512-BF16 the first evaluation *rearranges the weights in place*, and training then reads them wrongly, without an error. `models.load` switches that off (and a test holds it).
#
# The source calls `prepare_model_for_kbit_training` first. It raises all that is still in 16 bits (embeddings, output head, norms) to 32; for Phi-3-mini that is 0.4 GB more for what isn't trained. Its useful part, gradient checkpointing, is switched on by `sft_config` on GPUs; adapters are always fp32 thanks to `training.trainer`.

# %% id="load4"
import gc

untuned_logits = base(**tokenizer(prompts["test"][:1], return_tensors="pt").to(base.device)).logits.detach().float()


def free():
    """Give back what was deleted: on a T4 two copies of the real model are one too many."""
    gc.collect()
    torch.cuda.empty_cache()


del base, trainer, again, slow
free()

rt4 = runtime.detect(family="phi3", quantisation="nf4", backend="transformers", drive=USE_DRIVE)
base4, _ = models.load("phi-3-mini", rt4)
kinds = pd.Series([type(module).__name__ for module in base4.modules()]).value_counts()
print(kinds[kinds.index.str.contains("Linear")].to_dict(), "| output head:", type(base4.lm_head).__name__)
quantised_logits = base4(**tokenizer(prompts["test"][:1], return_tensors="pt").to(base4.device)).logits.detach().float()
print("4 bits change the logits:", (quantised_logits - untuned_logits).abs().max().item() > 0.01)

# %% id="qlora"
losses["base, 4 bits"] = evaluation.answer_loss(base4, rows["test"])
qlora = fine_tune(
    "QLoRA", base4, lora.lora_config(base4, r=16, alpha=32, dropout=0.05), runtime=rt4, optim="paged_adamw_8bit"
)
examine("QLoRA", qlora.model)
export.save_adapter(qlora.model, tokenizer, work / "qlora_adapter")
pd.Series(losses, name="loss on test").round(2).to_frame()

# %% [markdown] id="memory-text" lang="vi"
# ## 8. Có vừa T4 không? Tính trước khi tải
#
# `training.memory_plan` cộng từng phần cho **Phi-3-mini thật**, chỉ từ kiến trúc (không tải gì): trọng số, hằng số lượng tử hóa, adapter, gradient, bộ tối ưu, activation, logits. Trọng số, adapter và bộ tối ưu được đếm chính xác đến từng byte (có test so với tensor thật); activation và logits là ước lượng.
#
# Ba điều hay bị quên: adapter ở fp32 kéo theo gradient và hai trạng thái AdamW, 16 byte cho mỗi tham số học; **logits** của từ vựng 32.064 chiếm 12 byte × số token × 32.064; và gradient checkpointing đáng giá nhất ở chính chỗ này.
# %% [markdown] id="memory-text" lang="en"
# ## 8. Does it fit a T4? Compute before you download
#
# `training.memory_plan` adds up, part by part, what the **real Phi-3-mini** will take, from its architecture alone (nothing is downloaded): weights, quantisation constants, adapters, gradients, optimiser, activations, logits. Weights, adapters and optimiser are counted to the byte (tests compare them with real tensors); activations and logits are estimates.
#
# Three things are often forgotten: adapters in fp32 bring gradients and two AdamW states with them, 16 bytes for each number that learns; the **logits** of a vocabulary of 32,064 take 12 bytes × tokens × 32,064; and this is where gradient checkpointing pays most.

# %% id="memory"
from lessonlib import training

real = models.skeleton("phi-3-mini")
all_layers = lora.lora_config(real, r=16, alpha=32, dropout=0.05)
shape = dict(lora=all_layers, batch_size=1, length=2048, dtype="float16")
plans = {
    "LoRA fp16": training.memory_plan(real, **shape),
    "LoRA fp16, checkpointing": training.memory_plan(real, **shape, checkpointing=True),
    "QLoRA nf4": training.memory_plan(real, **shape, quantisation="nf4", optim="paged_adamw_8bit"),
    "QLoRA nf4, checkpointing": training.memory_plan(
        real, **shape, quantisation="nf4", optim="paged_adamw_8bit", checkpointing=True
    ),
}
for name, plan in plans.items():
    print(f"{name:25} {training.memory_verdict(plan, 14.7)}")
pd.DataFrame({name: plan.set_index("part")["gib"] for name, plan in plans.items()}).round(2)

# %% id="memory-bars"
views.memory_bars(plans, card=14.7)

# %% [markdown] id="memory-look" lang="vi"
# Đọc hình: LoRA 16 bit trên T4 chỉ vừa khi bật checkpointing. QLoRA để lại chỗ cho batch lớn hơn, dòng dài hơn, hoặc một mô hình to hơn. Đây là con số tính từ kiến trúc; khóa học chưa đo trên T4 thật (`benchmarks/gpu.py` là lệnh để đo).
# %% [markdown] id="memory-look" lang="en"
# Read the picture: 16-bit LoRA fits a T4 only with checkpointing. QLoRA leaves room for a larger batch, longer rows, or a larger model. These figures are computed from the architecture; the course has not measured them on a real T4 (`benchmarks/gpu.py` is the command to do so).

# %% [markdown] id="evaluate-text" lang="vi"
# ## 9. Đo: có khá hơn thật không?
#
# **Exact match** ở lượt cuối, với khoảng tin cậy 95%. Các hội thoại cùng chủ đề được tính chung một nhóm khi bốc lại (bootstrap), vì chúng không độc lập với nhau.
# %% [markdown] id="evaluate-text" lang="en"
# ## 9. Measure: is it really better?
#
# **Exact match** of the last turn, with 95% confidence intervals. Conversations about one topic are drawn together in the bootstrap, because they are not independent.

# %% id="evaluate"
order = ["base", "cookbook list", "LoRA", "QLoRA"]
results = {name: answers[name] for name in order}
topics = {name: [row["topic"] or row["id"] for row in split] for name, split in tests.items()}
comparison = evaluation.compare(results, references, metric="exact_match", groups=topics)
evaluation.table(comparison)

# %% [markdown] id="paired-text" lang="vi"
# Hai khoảng chạm nhau chưa có nghĩa là bằng nhau: các mô hình trả lời *cùng* những câu hỏi, nên hãy so từng câu một (so sánh cặp). Cột dưới đây là hiệu của hai mô hình; khoảng không chứa 0 thì sự khác biệt không phải do may rủi.
# %% [markdown] id="paired-text" lang="en"
# Two intervals that touch do not mean two equal models: all of them answer the *same* questions, so compare question by question (a paired comparison). The columns below are differences of two models; where an interval leaves out 0, the difference is not luck.

# %% id="paired"
def difference(first, second):
    two = {name: results[name] for name in (first, second)}
    return evaluation.table(evaluation.compare(two, references, metric="exact_match", groups=topics)).iloc[:, -1]


pd.concat([difference("cookbook list", "LoRA"), difference("LoRA", "QLoRA")], axis=1)

# %% id="thresholds"
# NBVAL_CHECK_OUTPUT
def interval(model):
    return comparison.loc["test", (model, "low")], comparison.loc["test", (model, "high")]


for model in ("LoRA", "QLoRA"):
    gain = comparison.loc["test", (model, "mean")] - comparison.loc["test", ("base", "mean")]
    print(f"{model}: gain of at least 0.25: {gain >= 0.25}; intervals apart: {interval(model)[0] > interval('base')[1]}")
print("loss on test, cookbook list > LoRA:", losses["cookbook list"] > losses["LoRA"] + 0.1)

# %% id="chrf"
evaluation.table(evaluation.compare(results, references, metric="chrf", groups=topics))

# %% [markdown] id="evaluate-look" lang="vi"
# - **LoRA trên mọi lớp** hơn danh sách của Llama: cùng dữ liệu, cùng số bước, chỉ sửa tên lớp.
# - **QLoRA** ở gần LoRA: 4 bit làm mô hình gốc hơi khác đi, và adapter học bù. Với 40 câu hỏi thì chưa phân biệt được hai bên.
# - **Chủ đề chưa học** thì không ai trả lời đúng. Kiến thức không có trong dữ liệu thì fine-tuning không tạo ra được.
#
# Điểm theo từng kiểu hội thoại cho biết mô hình yếu ở đâu:
# %% [markdown] id="evaluate-look" lang="en"
# - **LoRA on all layers** is ahead of Llama's list: the same data, the same steps, only the layer names were mended.
# - **QLoRA** is close to LoRA: 4 bits change the base a little, and the adapters make up for it. 40 questions cannot tell the two apart.
# - **Topics never learnt** nobody answers. Fine-tuning cannot make knowledge that the data does not hold.
#
# The scores by kind of conversation show where a model is weak:

# %% id="by-kind"
kinds = list(splits["test"]["kind"])
right = {name: evaluation.exact_match(answers[name]["test"], references["test"]) for name in order}
pd.DataFrame(right).groupby(kinds).mean().round(2)

# %% id="before-after"
shown = [kinds.index(kind) for kind in ("define", "follow_up", "language", "detail", "off_topic")]
asked_last = [splits["test"]["messages"][i][-2]["content"] for i in shown]
views.before_after(
    asked_last, {name: [answers[name]["test"][i] for i in shown] for name in order},
    reference=[references["test"][i] for i in shown],
)

# %% [markdown] id="merge-text" lang="vi"
# ## 10. Gộp một mô hình 4 bit cho đúng
#
# Adapter của QLoRA học trên một mô hình gốc *đã làm tròn*. Muốn có một mô hình liền khối thì có hai cách:
#
# - **cách thường thấy:** `merge_and_unload()` ngay trên mô hình 4 bit. peft giải nén, cộng $\frac{\alpha}{r}BA$, rồi **nén lại còn 4 bit**: phần cộng thêm vốn nhỏ bị làm tròn mất;
# - **cách đúng:** giải nén mô hình gốc 4 bit thành 16 bit *trước* (đúng bộ trọng số mà adapter đã học cùng), rồi mới gộp, và lưu ở 16 bit. Đừng gộp vào mô hình 16 bit gốc tải lại từ Hub: đó không phải bộ trọng số lúc huấn luyện.
#
# Đo sai số logit của mỗi cách so với mô hình vừa huấn luyện, tính theo phần trăm *tác dụng* của adapter:
# %% [markdown] id="merge-text" lang="en"
# ## 10. Merge a 4-bit model the right way
#
# QLoRA's adapters learnt beside a *rounded* base model. There are two ways to one whole model:
#
# - **the usual way:** `merge_and_unload()` on the 4-bit model. peft brings it back to 16 bits, adds $\frac{\alpha}{r}BA$, and **compresses to 4 bits again**: the addition is small, and the rounding eats it;
# - **the right way:** bring the 4-bit base back to 16 bits *first* (the very weights that the adapters learnt with), then merge, and save in 16 bits. Don't merge into the 16-bit original from the Hub: those are not the weights of the training.
#
# Measure the error of the logits of each way against the trained model, as a share of the adapters' *effect*:

# %% id="merge"
inputs = [tokenizer(prompt, return_tensors="pt").to(base4.device) for prompt in prompts["test"][:12]]


def logits(model):
    with torch.no_grad():
        return [model(**each).logits.float() for each in inputs]


def distance(first, second):
    return sum((a - b).abs().mean().item() for a, b in zip(first, second, strict=True)) / len(first)


trained = logits(qlora.model.eval())
with qlora.model.disable_adapter():
    effect = distance(logits(qlora.model), trained)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # peft warns of the rounding, too
    usual = deepcopy(qlora.model).merge_and_unload()
usual_error = distance(logits(usual), trained)
del usual
free()

export.merge(qlora.model, tokenizer, work / "merged")  # dequantises first
free()
merged = AutoModelForCausalLM.from_pretrained(work / "merged", dtype=rt4.torch_dtype).to(rt4.device).eval()
right_error = distance(logits(merged), trained)
print(f"usual way: error is {usual_error / effect:.0%} of the adapters' effect")
print(f"right way: error is {right_error / effect:.2%}")

# %% id="merge-thresholds"
# NBVAL_CHECK_OUTPUT
print("usual way loses over 5%:", usual_error / effect > 0.05)
print("right way loses under 1%:", right_error / effect < 0.01)

# %% id="parity"
same = evaluation.parity(qlora.model, merged, tokenizer, prompts["test"][:8])
same.raise_if_broken()
same

# %% [markdown] id="sizes-text" lang="vi"
# Ba thứ bạn có trong tay, và kích thước của chúng. Adapter chỉ dùng được cùng với mô hình gốc; bản gộp là một mô hình bình thường.
# %% [markdown] id="sizes-text" lang="en"
# What you now hold, and its size. An adapter works only beside its base model; the merged one is an ordinary model.

# %% id="sizes"
for folder in ("adapter", "qlora_adapter", "merged"):
    size = sum(file.stat().st_size for file in (work / folder).glob("*.safetensors"))
    print(f"{folder:14} {size:>12,} bytes of weights")

# %% id="ask"
CHAT = prompt_for("{question}")  # the chat template with a place for the question
views.ask(merged, tokenizer, questions=QUESTIONS, template=CHAT)

# %% id="metrics"
saved = evaluation.save_metrics(rt.work / "metrics.json", lesson="02", profile=rt.profile, comparison=comparison)
print(saved.name)

# %% [markdown] id="summary" lang="vi"
# ## Tóm tắt
#
# Kể lại cho đồng nghiệp bằng năm câu:
# 1. LoRA là $Wx + \frac{\alpha}{r}BAx$: mười dòng mã, và bốn bản khác nhau cho cùng kết quả sau mười bước.
# 2. Tên lớp là của từng kiến trúc: danh sách của Llama chỉ chạm tới 8,9 trên 25,2 triệu tham số của Phi-3, không báo lỗi. Hãy xem `lora.adapted` mỗi lần.
# 3. Với hội thoại, loss chỉ tính trên lời của trợ lý, ở mọi lượt, kể cả `<|end|>`; packing chỉ an toàn khi mô hình biết ranh giới.
# 4. QLoRA giữ mô hình gốc ở 4 bit: bộ nhớ trọng số còn chưa tới một phần ba, chất lượng gần như LoRA.
# 5. Muốn gộp mô hình 4 bit: giải nén trước, gộp sau, rồi so logits.
#
# ### Khi có trục trặc
#
# | Bạn thấy | Thường là do | Cách chữa |
# |---|---|---|
# | số tham số học ít hơn dự tính | danh sách `target_modules` của kiến trúc khác | `lora.lora_config(model)`, rồi `lora.adapted` |
# | `'DynamicCache' object has no attribute…` | mã cũ của Phi-3 tải từ Hub | bỏ `trust_remote_code` |
# | trả lời xong vẫn viết tiếp lượt của người dùng | `<|end|>` không được học, hoặc không nằm trong danh sách dừng | `formatting.encode_chats`; xem `generation_config.eos_token_id` |
# | loss giảm nhưng trả lời lẫn lộn các hội thoại | packing mà không có ranh giới | `packing_leak`; đừng packing với BLOOM, hay với attention eager của Gemma-2 khi chưa đo |
# | `Attempting to unscale FP16 gradients` | adapter ở fp16 | `training.trainer` giữ adapter ở fp32 |
# | `CUDA out of memory` | batch × độ dài × từ vựng | `training.memory_plan`; bật checkpointing; QLoRA |
# | bản gộp kém hơn lúc huấn luyện | gộp thẳng vào 4 bit | `export.merge` |
#
# **Đã chạy và chưa chạy.** Kết quả lưu trong notebook này do twin trên CPU tạo ra, kể cả QLoRA qua bitsandbytes. Cấu hình thật của Phi-3-mini được dựng trên `meta`; trọng số thật, T4 thật và việc tải `ultrachat_200k` từ Hub thì chưa chạy ở đây (đường tải được thử với một máy chủ giả lập Hub trong bộ test).
# %% [markdown] id="summary" lang="en"
# ## Summary
#
# Tell a colleague in five sentences:
# 1. LoRA is $Wx + \frac{\alpha}{r}BAx$: ten lines of code, and four implementations agree after ten steps.
# 2. Layer names belong to an architecture: Llama's list reaches 8.9 of Phi-3's 25.2 million parameters, without an error. Look at `lora.adapted` every time.
# 3. In conversations the loss counts the assistant's words only, in every turn, `<|end|>` included; packing is safe only where the model knows the borders.
# 4. QLoRA keeps the base in 4 bits: less than a third of the memory for weights, and nearly the quality of LoRA.
# 5. To merge a 4-bit model: dequantise first, merge then, and compare logits.
#
# ### When something goes wrong
#
# | You see | Usually it is | Cure |
# |---|---|---|
# | fewer trainable parameters than expected | a `target_modules` list of another architecture | `lora.lora_config(model)`, then `lora.adapted` |
# | `'DynamicCache' object has no attribute…` | Phi-3's old code from the Hub | leave out `trust_remote_code` |
# | the answer goes on with the user's next turn | `<|end|>` was not learnt, or is not among the stops | `formatting.encode_chats`; look at `generation_config.eos_token_id` |
# | the loss falls but answers mix conversations | packing without borders | `packing_leak`; don't pack BLOOM, nor Gemma-2 with eager attention before you have measured |
# | `Attempting to unscale FP16 gradients` | adapters in fp16 | `training.trainer` keeps adapters in fp32 |
# | `CUDA out of memory` | batch × length × vocabulary | `training.memory_plan`; checkpointing; QLoRA |
# | the merged model is worse than the trained one | merged straight into 4 bits | `export.merge` |
#
# **What was run and what was not.** The outputs stored in this notebook come from the twin on a CPU, QLoRA through bitsandbytes included. The real configuration of Phi-3-mini was built on `meta`; the real weights, a real T4, and the download of `ultrachat_200k` from the Hub were not run here (the download path is tried against a Hub-like server in the tests).
