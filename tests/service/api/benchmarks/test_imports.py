"""Import of a checkout: benchmarks, or a report of all its problems."""

import json
from pathlib import Path

import pytest

from service.api.benchmarks.imports import Report, examine
from service.contracts.benchmarks.dimensions import CHINESE, SUB
from service.contracts.benchmarks.official import FILES
from tests.service.unigenbench import CONFIG, EN, TEMPLATE, ZH, about, prompts_csv, rows, script, write_checkout

SCRIPT = "eval/src/eval_common.py"


def faults(directory: Path, **files: str | bytes | None) -> str:
    """The faults in a checkout with these files."""
    report = examine(write_checkout(directory, files))
    assert report.benchmarks(allow_bad_rows=True) == []
    return "\n".join(report.faults)


class TestGood:
    def test_all_four_sets_have_the_judge_prompt_of_their_language(self, tmp_path: Path) -> None:
        report = examine(write_checkout(tmp_path))
        assert not report.faults and not report.bad_rows
        found = {one.name: one for one in report.benchmarks(allow_bad_rows=False)}
        assert list(found) == [file.name for file in FILES]
        english, chinese = found[EN.name].judge, found[ZH.name].judge
        assert (english.template, english.definitions_heading) == (TEMPLATE, "What they mean")
        assert list(english.definitions) == list(SUB)
        assert list(chinese.definitions) == list(CHINESE.values())
        assert chinese.descriptions_heading == "所指"
        assert english.template_sha256 != chinese.template_sha256

    def test_the_judge_prompts_may_be_in_any_script(self, tmp_path: Path) -> None:
        source = script().replace("ASK_EN", "OTHER").replace("EXPLAINED_EN", "MORE")
        report = examine(write_checkout(tmp_path, {SCRIPT: None, "eval/src/elsewhere.py": source}))
        assert len(report.benchmarks(allow_bad_rows=False)) == 4

    def test_a_script_that_imports_them_is_ignored(self, tmp_path: Path) -> None:
        using = "from eval_common import LANG_CONFIGS\nLANG_CONFIGS['en'] = {}\n"
        assert not examine(write_checkout(tmp_path, {"eval/src/using.py": using})).faults


class TestNoCheckout:
    @pytest.mark.parametrize("files", [{}, {"data/x.csv": "a"}, {"README.md": "# Another project"}])
    def test_the_fault_names_the_expected_files(self, tmp_path: Path, files: dict[str, str]) -> None:
        for path, content in files.items():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(content)
        [fault] = examine(tmp_path).faults
        assert f"{tmp_path} is not a checkout of UniGenBench" in fault
        assert "data/test_prompts_en.csv" in fault and "LANG_CONFIGS" in fault

    def test_all_missing_files_are_reported(self, tmp_path: Path) -> None:
        found = faults(tmp_path, **{EN.path: None, ZH.path: None, SCRIPT: None})
        assert found.count("cannot be read: No such file") == 2
        assert f"exactly one Python file in {tmp_path}/eval/src must assign LANG_CONFIGS; found: none" in found

    def test_a_directory_in_place_of_a_file(self, tmp_path: Path) -> None:
        (tmp_path / EN.path).mkdir(parents=True)
        assert "cannot be read: Is a directory" in faults(tmp_path, **{EN.path: None})


class TestScripts:
    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("LANG_CONFIGS = ", "invalid Python"),
            ("LANG_CONFIGS = load()", "is not a string, a mapping or a name"),
            ("LANG_CONFIGS = 'en'", "LANG_CONFIGS['en']: missing, or not a mapping"),
            (script("\nLANG_CONFIGS = {'en': {'system_prompt_template': ASK_EN}}"), "must be nonempty strings"),
            (
                script(CONFIG.replace('"explanation_dict": EXPLAINED_EN', '"explanation_dict": ASK_EN')),
                "must map dimensions to strings",
            ),
            (script(CONFIG.replace("EXPLAINED_EN", "NOWHERE")), "NOWHERE is not assigned"),
            (script(ASK_EN=""), "must be nonempty strings"),
            (
                script(ASK_EN="{prompt} {testpoint} {seed}"),
                "unknown template fields 'seed'; allowed: explanation,",
            ),
            (script(ASK_EN="{prompt.__class__} {prompt} {testpoint}"), "unknown template fields 'prompt.__class__'"),
            (script(ASK_EN="{prompt!r} {testpoint}"), "must have no conversion or format"),
            (script(ASK_EN="{prompt:>{testpoint}}"), "must have no conversion or format"),
            (script(ASK_EN="{prompt} {"), "invalid template"),
            (script(ASK_EN="{explanation}"), "template fields missing: prompt, testpoint"),
            (script(ASK_EN="{prompt} {testpoint} \x00"), "a NUL character"),
            (script(ASK_EN="{prompt} {testpoint} \ud800"), "a lone surrogate"),
            (script(EXPLAINED_EN={"Smell": "of roses"}), "unknown dimensions: Smell"),
            (
                script(EXPLAINED_EN={"Style": "how"}),
                "do not define these dimensions of data/test_prompts_en.csv: Action",
            ),
        ],
    )
    def test_unreadable_judge_prompts(self, tmp_path: Path, source: str, message: str) -> None:
        assert message in faults(tmp_path, **{SCRIPT: source})

    def test_two_scripts_with_judge_prompts(self, tmp_path: Path) -> None:
        assert "found: eval_common.py, other.py" in faults(tmp_path, **{"eval/src/other.py": script()})

    def test_bad_rows_are_reported_without_judge_prompts(self, tmp_path: Path) -> None:
        report = examine(write_checkout(tmp_path, {SCRIPT: None, EN.path: prompts_csv(EN, [["x", "", ""]])}))
        assert report.bad_rows == 1


class TestBadRows:
    @pytest.fixture
    def report(self, tmp_path: Path) -> Report:
        body = rows(EN)
        body[2][2], body[7][2] = "{", json.dumps(about(["Smell"], "en"))
        return examine(write_checkout(tmp_path, {EN.path: prompts_csv(EN, body)}))

    def test_nothing_is_imported_unless_bad_rows_are_allowed(self, report: Report) -> None:
        assert report.benchmarks(allow_bad_rows=False) == []
        found = report.benchmarks(allow_bad_rows=True)
        assert [len(one.prompts) for one in found] == [8, 10, 10, 10]
        assert [(one.row, one.index) for one in found[0].left_out] == [(4, 2), (9, 7)]

    def test_they_are_reported_by_number(self, report: Report) -> None:
        problems = [str(problem) for one in report.files for problem in one.reading.problems]
        assert problems[0].startswith("row 4 (index 2): invalid JSON")
        assert "row 9 (index 7): test point 1 has the unknown dimension 'Smell'" in problems

    def test_a_file_without_a_valid_row_prevents_the_import(self, tmp_path: Path) -> None:
        assert "data/test_prompts_en.csv has no valid row" in faults(tmp_path, **{EN.path: "index\n"})
