"""The four official files: what they are called, how their columns are, and what they hash to."""

from typing import Literal, NamedTuple

from service.contracts.benchmarks.data import Language


class Keys(NamedTuple):
    """Names in the JSON of a row, by language."""

    category: str
    subcategory: str
    subject: str
    sentence_structure: str
    points: str
    descriptions: str


KEYS: dict[Language, Keys] = {
    "en": Keys(
        *("Primary Categories", "Secondary Categories", "Subjects", "Sentence Structure"),
        *("Testpoints", "Testpoint Description"),
    ),
    "zh": Keys("一级垂类", "二级垂类", "主体", "句式", "考点", "考点对应描述"),
}


class OfficialFile(NamedTuple):
    """A file of prompts in the official repository."""

    name: str
    title: str
    path: str
    language: Language
    length: Literal["short", "long"]
    sha256: str
    """Of the file as of 2025-10-01, the newest."""

    @property
    def columns(self) -> tuple[str, str, str]:
        """Of its number, prompt and JSON."""
        return "index", f"prompt_{self.language}", f"sub_dims_{self.language}"


FILES = (
    OfficialFile(
        name="unigenbench-en",
        title="UniGenBench++, English, short prompts",
        path="data/test_prompts_en.csv",
        language="en",
        length="short",
        sha256="f82e8ce854985ef963378eaaf8ce12f2e3a57dd6f53e1aea84a61fbeadfe4459",
    ),
    OfficialFile(
        name="unigenbench-en-long",
        title="UniGenBench++, English, long prompts",
        path="data/test_prompts_en_long.csv",
        language="en",
        length="long",
        sha256="5d2c3d642cc4923504b662ad15b425c2d161a137884701881e00c2691a697253",
    ),
    OfficialFile(
        name="unigenbench-zh",
        title="UniGenBench++, Chinese, short prompts",
        path="data/test_prompts_zh.csv",
        language="zh",
        length="short",
        sha256="7ff2d2131e68e6182f43a28ecf03d070f7735788f3c5420db3f83141492e8cb3",
    ),
    OfficialFile(
        name="unigenbench-zh-long",
        title="UniGenBench++, Chinese, long prompts",
        path="data/test_prompts_zh_long.csv",
        language="zh",
        length="long",
        sha256="6e281a5781878584db932a3bfd16dc51afb195566eb7a30c17fb9c09fd3b1776",
    ),
)
