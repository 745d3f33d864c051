"""The 10 primary dimensions and 27 sub-dimensions of UniGenBench++, and their spellings in files."""

from collections.abc import Mapping
from types import MappingProxyType

PRIMARY = (
    *("Style", "World Knowledge", "Attribute", "Action", "Relationship"),
    *("Logical Reasoning", "Grammar", "Compound", "Entity Layout", "Text Generation"),
)
"""The primary dimensions, in the order of the paper's Table 2."""

CHINESE = {
    "Style": "风格",
    "World Knowledge": "世界知识",
    "Attribute - Color": "属性-颜色",
    "Attribute - Expression": "属性-表情",
    "Attribute - Material": "属性-材质",
    "Attribute - Quantity": "属性-数量",
    "Attribute - Shape": "属性-形状",
    "Attribute - Size": "属性-大小",
    "Action - Animal": "动作-动物动作",
    "Action - Contact Interaction": "动作-实体间有接触互动",
    "Action - Full-body (Character/Anthropomorphic)": "动作-人物/拟人全身动作",
    "Action - Hand (Character/Anthropomorphic)": "动作-人物/拟人手部动作",
    "Action - Non-contact Interaction": "动作-实体间无接触互动",
    "Action - State": "动作-状态",
    "Relationship - Comparison": "关系-比较关系",
    "Relationship - Composition": "关系-构成关系",
    "Relationship - Inclusion": "关系-包含关系",
    "Relationship - Similarity": "关系-相似关系",
    "Logical Reasoning": "逻辑推理",
    "Grammar - Consistency": "语法-统一性",
    "Grammar - Negation": "语法-否定",
    "Grammar - Pronoun Reference": "语法-代词指代",
    "Compound - Feature Matching": "复合考点-不同实体特征匹配",
    "Compound - Imagination": "复合考点-想象力",
    "Entity Layout - Three-Dimensional Space": "实体布局-三维空间",
    "Entity Layout - Two-Dimensional Space": "实体布局-二维空间",
    "Text Generation": "文本生成",
}
"""Chinese names of the sub-dimensions by English name, matched by test point positions in the official files."""
SUB = tuple(CHINESE)


def tidy(name: str) -> str:
    """Normalize whitespace in `name`, and write the first hyphen, after the primary dimension, as ` - `."""
    primary, hyphen, rest = " ".join(name.split()).partition("-")
    return f"{primary.strip()} - {rest.strip()}" if hyphen else primary.strip()


def primary_of(dimension: str) -> str:
    """Return the primary dimension of a sub-dimension."""
    return dimension.partition(" - ")[0]


_BY_SPELLING: Mapping[str, str] = MappingProxyType(
    {tidy(spelled): english for english, chinese in CHINESE.items() for spelled in (english, chinese)}
)
_PRIMARY_BY_SPELLING: Mapping[str, str] = MappingProxyType(
    {primary_of(spelled): primary_of(english) for spelled, english in _BY_SPELLING.items()}
)


def dimension_of(name: str) -> str | None:
    """Return the English name of the sub-dimension spelled `name`, ignoring extra whitespace, or None if unknown."""
    return _BY_SPELLING.get(tidy(name))


def primary_named(name: str) -> str | None:
    """Return the English name of the primary dimension spelled `name`, or None if unknown. Ignores extra whitespace."""
    return _PRIMARY_BY_SPELLING.get(tidy(name))
