"""What the licence of a base model asks of who publishes a model made from it; so far Llama's.

Llama 3.2 Community License Agreement, https://www.llama.com/llama3_2/license, wants
    1.b.i    a copy of the agreement beside the model (LICENSE.txt in the base model's repository), "Built
             with Llama" in a prominent place, and a model name that begins with "Llama"
    1.b.iii  a sentence of attribution in a text file called Notice
It holds for whoever distributes the model or makes it available. This is no legal advice.
"""

from lessonlib.runtime._language import LessonError, text

LLAMA = "llama"  # how the Hub's identifiers of Meta's licences begin: llama3.2
BUILT_WITH = "Built with Llama"
NOTICE_FILE = "NOTICE"


def is_llama(licence: str) -> bool:
    """Whether this is one of Meta's, by the Hub's identifier."""
    return licence.startswith(LLAMA)


def notice(licence: str) -> str:
    """The sentence that the licence (1.b.iii) wants in a text file beside every copy."""
    version = licence.removeprefix(LLAMA)
    return (
        f"Llama {version} is licensed under the Llama {version} Community License, "
        "Copyright © Meta Platforms, Inc. All Rights Reserved."
    )


def check_name(repo_id: str, licence: str) -> None:
    """See that a model's name is one its base's licence allows.

    Raises:
        LessonError: a Llama licence, and a name that does not begin with "Llama" (1.b.i).
    """
    name = repo_id.rpartition("/")[2]
    if is_llama(licence) and not name.startswith("Llama"):
        raise LessonError(
            vi=f"Giấy phép {licence} (mục 1.b.i) buộc tên mô hình phải bắt đầu bằng 'Llama'; {name!r} thì "
            f"không. Hãy đặt tên như 'Llama-3.2-{name}'.",
            en=f"The licence {licence} (1.b.i) demands a model name that begins with 'Llama'; {name!r} does "
            f"not. Call it 'Llama-3.2-{name}', say.",
        )


def terms(licence: str) -> str:
    """What a model card says of the licence, in the current language."""
    if not is_llama(licence):
        return text(vi=f"{licence}, theo mô hình gốc.", en=f"{licence}, as the base model.")
    place = f"https://www.llama.com/{licence.replace('.', '_')}"
    return f"{notice(licence)}\n\n" + text(
        vi=f"Dùng và phân phối theo [thỏa thuận giấy phép]({place}/license) và [quy định sử dụng]"
        f"({place}/use-policy) của Meta.",
        en=f"Use and redistribution under Meta's [licence agreement]({place}/license) and [acceptable use "
        f"policy]({place}/use-policy).",
    )
