"""The four official prompt files: names, columns and hashes."""

from typing import Literal, NamedTuple

from service.contracts.benchmarks.data import Language


class Keys(NamedTuple):
    """The keys in the JSON column of a row."""

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
    """A prompt file in the official repository."""

    language: Language
    length: Literal["short", "long"]
    sha256: str
    """SHA-256 of the newest version as of 2025-10-01."""

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return f"unigenbench-{self.language}" + ("-long" if self.length == "long" else "")

    @property
    def title(self) -> str:
        """Title of the benchmark."""
        return f"UniGenBench++, {'English' if self.language == 'en' else 'Chinese'}, {self.length} prompts"

    @property
    def path(self) -> str:
        """Path of the file in the official repository."""
        return f"data/test_prompts_{self.language}{'_long' if self.length == 'long' else ''}.csv"

    @property
    def columns(self) -> tuple[str, str, str]:
        """Names of the index, prompt and JSON columns."""
        return "index", f"prompt_{self.language}", f"sub_dims_{self.language}"


FILES = (
    OfficialFile("en", "short", "f82e8ce854985ef963378eaaf8ce12f2e3a57dd6f53e1aea84a61fbeadfe4459"),
    OfficialFile("en", "long", "5d2c3d642cc4923504b662ad15b425c2d161a137884701881e00c2691a697253"),
    OfficialFile("zh", "short", "7ff2d2131e68e6182f43a28ecf03d070f7735788f3c5420db3f83141492e8cb3"),
    OfficialFile("zh", "long", "6e281a5781878584db932a3bfd16dc51afb195566eb7a30c17fb9c09fd3b1776"),
)
