# %% [markdown] id="title" lang="vi"
# # Bài 2. Kế tiếp
# %% [markdown] id="title" lang="en"
# # Lesson 2. Next

# %% id="setup"

# %% id="sum"
1 + 1
