"""Reading of catalog files. Error messages state the file, entry, field, value and allowed values."""

from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from service.contracts.validation_errors import describe, did_you_mean
from service.contracts.yaml_file import load_yaml

NOUNS = ("models", "rewards", "prompt_sets", "judges")
"""The lists in a catalog."""
_MAX_ERRORS = 20


class CatalogError(ValueError):
    """The file is not a valid catalog. The message has one line per error."""


def read(path: Path, bundled: Path, contract: type[BaseModel]) -> dict[str, Any]:
    """Read the fields of `contract` from the file, merged with the bundled file if it sets `extends: bundled`.

    An entry with the name of a bundled entry replaces it completely, at the same position; other entries are appended.
    Raises CatalogError if the file is invalid, and OSError if it cannot be read.
    """
    contents = _mapping(path)
    refuse_repeated(path, contents)
    extends = contents.pop("extends", None)
    if extends is None:
        return contents
    if extends != "bundled":
        raise CatalogError(f"{path}: extends: {extends!r} is unknown; allowed: `bundled`")
    if unknown := [noun for noun in contents if noun not in contract.model_fields]:
        hint = did_you_mean(str(unknown[0]), NOUNS)
        raise CatalogError(f"{path}: Unknown field {unknown[0]!r}{hint}; allowed: extends, {', '.join(NOUNS)}")
    base = _mapping(bundled)
    return {noun: _merge(base.get(noun) or [], contents.get(noun) or []) for noun in NOUNS}


def replaced(path: Path, bundled: Path) -> list[str]:
    """Return the bundled entries that the file replaces, each as `LIST: NAME`."""
    contents = _mapping(path)
    if contents.get("extends") != "bundled":
        return []
    base = _mapping(bundled)
    return [
        f"{noun}: {name}" for noun in NOUNS for name in _names(base.get(noun)) if name in _names(contents.get(noun))
    ]


def refuse_repeated(path: Path, contents: dict[str, Any]) -> None:
    """Raise CatalogError if a name occurs more than once in a list."""
    for noun in NOUNS:
        repeated = [name for name, times in Counter(_names(contents.get(noun))).items() if times > 1]
        if repeated:
            raise CatalogError(f"{path}: {noun}: the name {repeated[0]!r} occurs more than once")


def explain(path: Path, error: ValidationError, contents: dict[str, Any], contract: type[BaseModel]) -> CatalogError:
    """Convert the errors from validating `contents` to a CatalogError."""
    found = describe(error.errors(include_url=False), contract)
    lines = [f"{path}: {_field(one.loc, contents)}: {one.msg}" for one in found[:_MAX_ERRORS]]
    more = [f"{path}: and {len(found) - _MAX_ERRORS} more"] if len(found) > _MAX_ERRORS else []
    return CatalogError("\n".join(lines + more))


def _field(loc: tuple[int | str, ...], contents: dict[str, Any]) -> str:
    """Return the path of a field, such as `models[1] (mine).source.hub`."""
    path, here = "", contents
    for part in loc:
        try:
            here = here[part]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            here = {}
        if isinstance(part, int):
            name = here.get("name") if isinstance(here, dict) else None
            path += f"[{part}]" + (f" ({name})" if name else "")
        else:
            path += f".{part}" if path else part
    return path or "the file"


def _mapping(path: Path) -> dict[str, Any]:
    try:
        contents = load_yaml(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        position = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise CatalogError(f"{path}{position}: {error.problem or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CatalogError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(contents, dict):
        raise CatalogError(f"{path}: not a catalog; expected a mapping with the lists {', '.join(NOUNS)}")
    return contents


def _names(entries: Any) -> list[str]:
    listed = entries if isinstance(entries, list) else []
    return [str(entry["name"]) for entry in listed if isinstance(entry, dict) and "name" in entry]


def _merge(base: list[Any], own: Any) -> Any:
    if not isinstance(own, list):
        return own  # validation reports the error
    by_name = {str(entry.get("name")): entry for entry in own if isinstance(entry, dict)}
    bundled = _names(base)
    merged = [by_name.get(name, entry) for name, entry in zip(bundled, base, strict=True)]
    return merged + [entry for entry in own if not isinstance(entry, dict) or str(entry.get("name")) not in bundled]
