"""What the licence of a base model asks of who publishes a model made from it; so far Llama's.

Llama 3.2 Community License Agreement, https://www.llama.com/llama3_2/license, wants
    1.b.i    a copy of the agreement beside the model (LICENSE.txt in the base model's repository), "Built
             with Llama" in a prominent place, and a model name that begins with "Llama"
    1.b.iii  a sentence of attribution in a text file called Notice
It holds for whoever distributes the model or makes it available. This is no legal advice.
"""

from lessonlib.runtime._language import LessonError, tr

_LLAMA = "llama"  # how the Hub's identifiers of Meta's licences begin: llama3.2
BUILT_WITH = "Built with Llama"
NOTICE_FILE = "NOTICE"


def is_llama(licence: str) -> bool:
    """Whether this is one of Meta's, by the Hub's identifier."""
    return licence.startswith(_LLAMA)


def notice(licence: str) -> str:
    """The sentence that the licence (1.b.iii) wants in a text file beside every copy."""
    version = licence.removeprefix(_LLAMA)
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
            "The licence {licence} (1.b.i) demands a model name that begins with 'Llama'; {name!r} does "
            "not. Call it 'Llama-3.2-{name}', say.",
            licence=licence, name=name,
        )


def terms(licence: str) -> str:
    """What a model card says of the licence, in the current language."""
    if not is_llama(licence):
        return tr("{licence}, as the base model.", licence=licence)
    place = f"https://www.llama.com/{licence.replace('.', '_')}"
    return f"{notice(licence)}\n\n" + tr(
        "Use and redistribution under Meta's [licence agreement]({place}/license) and [acceptable use "
        "policy]({place}/use-policy).",
        place=place,
    )
