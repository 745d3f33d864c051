"""Catalog files: contents, merging and errors."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from service.contracts.catalog import BUNDLED, RewardEntry, Source, load_catalog
from service.contracts.catalog_file import CatalogError, replaced

DOCS = Path(__file__).parents[3] / "docs"
FLUX = load_catalog(DOCS / "reference" / "catalogs" / "flux.yaml")
EMPTY = "models: []\nrewards: []\nprompt_sets: []\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "catalog.yaml"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("models:\n  - name: a: b", ", line 2, column 12: mapping values are not allowed"),
        (
            "extends: bundled\nrewards:\n  - {name: mine, kind: http, url: 'http://h/'}\nrewards: []\n",
            ", line 4, column 1: the key 'rewards' occurs more than once, first in line 2",
        ),
        (
            "extends: bundled\nrewards:\n- {name: a, kind: http, url: 'http://h/',\n   'name': b}\n",
            ", line 4, column 4: the key 'name' occurs more than once, first in line 3",
        ),
        ("- 1", ": not a catalog; expected a mapping with the lists models, rewards, prompt_sets, judges"),
        ("models: []\nprompt_sets: []\n", ": rewards: Missing field 'rewards'"),
        (EMPTY + "model: []\n", ": model: Unknown field 'model'. Did you mean 'models'?"),
        ("extends: mine\n", ": extends: 'mine' is unknown; allowed: `bundled`"),
        ("extends: bundled\nmodel: []\n", ": Unknown field 'model' (did you mean 'models'?); allowed: extends, models"),
        (
            "extends: bundled\nrewards: [{name: a, kind: clp, source: {bundled: b}}]\n",
            ": rewards[4] (a).kind: Unknown kind 'clp' (did you mean 'clip'?). Available: clip, hps",
        ),
        (
            "extends: bundled\nrewards: [{name: a, kind: clip, source: {hubs: o/n}}]\n",
            ": rewards[4] (a).source.hubs: Unknown field 'hubs' in rewards[4].source. Did you mean 'hub'?",
        ),
        (
            "extends: bundled\nrewards: [{name: a, kind: clip, source: {hub: name}}]\n",
            ": rewards[4] (a).source.hub: Invalid value 'name': must match pattern",
        ),
        ("extends: bundled\nrewards: [{name: a, kind: clip}]\n", "reward a: kind `clip` needs a `source`"),
        (
            "extends: bundled\njudges: [{name: a, kind: perception}, {name: a, kind: perception}]\n",
            ": judges: the name 'a' occurs more than once",
        ),
        ("extends: bundled\njudges: 1\n", ": judges: Invalid value 1: must be a list"),
    ],
)
def test_an_error_contains_file_entry_field_and_value(file: Path, written: str, expected: str) -> None:
    file.write_text(written)
    with pytest.raises(CatalogError) as raised:
        load_catalog(file)
    assert f"{file}" in str(raised.value) and expected in str(raised.value)


def test_all_errors_are_reported(file: Path) -> None:
    file.write_text("models: [{name: a}]\nrewards: [{name: b}]\nprompt_sets: []\n")
    with pytest.raises(CatalogError) as raised:
        load_catalog(file)
    assert "models[0] (a).family" in str(raised.value) and "rewards[0] (b).kind" in str(raised.value)


def test_a_missing_file_is_an_os_error(file: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        load_catalog(file)


def test_a_file_without_extends_has_only_its_entries(file: Path) -> None:
    file.write_text(EMPTY)
    assert load_catalog(file).models == ()


def test_entries_replace_or_follow_the_bundled_ones(file: Path) -> None:
    file.write_text(
        "extends: bundled\nrewards:\n- {name: mine, kind: http, url: http://h/}\n"
        "- {name: clip_score, kind: clip, source: {hub: o/n}}\n"
    )
    mixed, bundled = load_catalog(file), load_catalog(BUNDLED)
    assert [one.name for one in mixed.rewards] == [*(one.name for one in bundled.rewards), "mine"]
    assert mixed.reward("clip_score").source.hub == "o/n" and mixed.reward("clip_score").description == ""
    assert (mixed.models, mixed.prompt_sets, mixed.judges) == (bundled.models, bundled.prompt_sets, bundled.judges)
    assert replaced(file, BUNDLED) == ["rewards: clip_score"]


def test_the_file_is_read_on_every_load(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("G2RPO_CATALOG", str(file))
    file.write_text(EMPTY)
    load_catalog()
    file.write_text(EMPTY + "judges: [{name: eye, kind: perception}]\n")
    assert load_catalog().judge("eye")


class TestDocumentedCatalog:
    def test_rewards_have_the_documented_sources(self) -> None:
        blocks = re.findall(r"```yaml\n(- name: .*?)```", (DOCS / "reference" / "rewards.md").read_text(), re.DOTALL)
        documented = [RewardEntry.model_validate(entry) for block in blocks for entry in yaml.safe_load(block)]
        assert fetched(FLUX.rewards) == fetched(documented)
        assert fetched(documented).keys() == {"hps", "clip", "pickscore", "image_reward"}

    def test_every_hub_source_is_pinned_to_a_revision(self) -> None:
        sources = [one for of_kind in fetched(FLUX.rewards).values() for one in of_kind if one is not None]
        assert [one.hub for one in sources if not one.revision] == []


def fetched(rewards: Iterable[RewardEntry]) -> dict[str, tuple[Source, Source | None]]:
    """Sources of weights and tokenizer by kind of reward."""
    return {one.kind: (one.source, one.tokenizer) for one in rewards if one.source and one.source.hub}
