"""A synthetic checkout with the layout of the official repository and our own texts."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from service.contracts.benchmarks.csv_reader import read_prompts
from service.contracts.benchmarks.data import Benchmark, JudgePrompt, Language
from service.contracts.benchmarks.dimensions import CHINESE, SUB
from service.contracts.benchmarks.official import FILES, KEYS, OfficialFile

EN, EN_LONG, ZH, ZH_LONG = FILES
PROMPTS = 10
TEMPLATE = "Look at the image of «{prompt}» for {testpoint}. {explanation} {test_explanation} Say <score>[…]</score>."
CONFIG = """
LANG_CONFIGS = {
    "en": {
        "explanation_dict": EXPLAINED_EN,
        "system_prompt_template": ASK_EN,
        "prompt_column": "prompt_en",
        "checkpoint_header": "What they mean",
        "checkpoint_desc_header": "Definitions",
    },
    "zh": {
        "explanation_dict": EXPLAINED_ZH,
        "system_prompt_template": ASK_ZH,
        "prompt_column": "prompt_zh",
        "checkpoint_header": "意思",
        "checkpoint_desc_header": "所指",
    },
}
"""


def spelled(dimension: str, language: Language) -> str:
    """The spelling of a dimension in files of the given language."""
    return dimension if language == "en" else CHINESE[dimension]


def about(dimensions: Sequence[str], language: Language, **changes: Any) -> dict[str, Any]:
    """The mapping of a row with the given test points; `changes` replaces entries, or removes them (None)."""
    keys = KEYS[language]
    value = {
        keys.category: "Trees",
        keys.subcategory: "Oaks",
        keys.subject: "Tree",
        keys.sentence_structure: "Descriptive",
        keys.points: [spelled(one, language) for one in dimensions],
        keys.descriptions: [f"what {place} is" for place in range(len(dimensions))],
    }
    return {key: one for key, one in (value | changes).items() if one is not None}


def dimensions_of(index: int) -> tuple[str, ...]:
    """The dimensions of prompt `index`: ten prompts have every sub-dimension once."""
    return SUB[index::PROMPTS]


def text_of(index: int, file: OfficialFile) -> str:
    """The text of prompt `index`."""
    return f"tree number {index} of {file.name}"


def rows(file: OfficialFile) -> list[list[str]]:
    """Ten valid rows."""
    return [
        [
            str(index),
            text_of(index, file),
            json.dumps(about(dimensions_of(index), file.language), ensure_ascii=False),
        ]
        for index in range(PROMPTS)
    ]


def csv_text(heading: Iterable[str], body: Iterable[Sequence[str]]) -> str:
    """Rows under a heading as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([list(heading), *body])
    return text.getvalue()


def prompts_csv(file: OfficialFile, body: Iterable[Sequence[str]] | None = None) -> str:
    """A file of prompts."""
    return csv_text(file.columns, rows(file) if body is None else body)


def script(config: str = CONFIG, **constants: Any) -> str:
    """The Python source with the judge prompts."""
    values = {
        "EXPLAINED_EN": {one: f"{one} is as it should be" for one in SUB},
        "EXPLAINED_ZH": {CHINESE[one]: "对的" for one in SUB},
        "ASK_EN": TEMPLATE,
        "ASK_ZH": "看「{prompt}」：{testpoint}，{explanation}，{test_explanation}。",
    } | constants
    return "import os\n\n" + "\n".join(f"{name} = {value!r}" for name, value in values.items()) + config


def write_checkout(directory: Path, files: Mapping[str, str | bytes | None] | None = None) -> Path:
    """Create the checkout; `files` replaces files by path, or removes them if the value is None."""
    made: dict[str, str | bytes | None] = {file.path: prompts_csv(file) for file in FILES}
    made["eval/src/eval_common.py"] = script()
    made["eval/src/other.py"] = "print('never run')\nraise SystemExit(1)\n"
    for path, content in (made | dict(files or {})).items():
        if content is not None:
            target = directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)
    return directory


def benchmark(data: bytes | None = None, file: OfficialFile = EN) -> Benchmark:
    """The benchmark in the bytes of a prompt file, by default with ten valid rows."""
    reading = read_prompts(prompts_csv(file).encode() if data is None else data, file)
    assert not reading.problems, reading.problems
    return Benchmark(
        name=file.name,
        title=file.title,
        language=file.language,
        length=file.length,
        file=file.path,
        data_sha256=reading.sha256,
        pinned=reading.pinned,
        prompts=tuple(reading.prompts),
        repairs=tuple(reading.repairs),
        judge=JudgePrompt(template=TEMPLATE, definitions={}, definitions_heading="A", descriptions_heading="B"),
    )


def answer(scores: Sequence[int]) -> str:
    """The text of a judge's answer."""
    analysis = [f"I looked at {place}" for place in range(len(scores))]
    return f"<description><analysis>{analysis}</analysis>\n<score>{list(scores)}</score></description>"


def result_row(
    index: int, image_index: int, scores: Sequence[int], file: OfficialFile = EN, /, **changes: Any
) -> dict[str, Any]:
    """A row in the format of the official script."""
    points = [spelled(one, file.language) for one in dimensions_of(index)]
    result = {"prompt": "…", "testpoint": points, "analysis": ["…"] * len(points), "score": list(scores)}
    row = {
        "index": str(index),
        "prompt": text_of(index, file),
        "testpoint": str(points),
        "output": answer(scores),
        "result_json": json.dumps(result, ensure_ascii=False, indent=4),
        "img_path": f"../eval_data/en/oak/{index}_{image_index}.png",
    }
    return row | changes


def results_csv(body: Iterable[Mapping[str, Any]]) -> str:
    """A result file."""
    columns = ("index", "prompt", "testpoint", "output", "result_json", "img_path")
    return csv_text(columns, ([str(row.get(column) or "") for column in columns] for row in body))
