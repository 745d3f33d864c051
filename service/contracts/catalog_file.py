"""Reading a catalog's file: what is wrong is told by file, entry, field and value, with what is allowed."""

from collections import Counter
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

NOUNS = ("models", "rewards", "prompt_sets", "judges")
"""The lists of a catalog's file."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MOST_ERRORS = 20


class CatalogError(ValueError):
    """The file is no catalog; a line for each thing that is wrong."""


def read(path: Path, bundled: Path, contract: type[BaseModel]) -> dict[str, Any]:
    """What the file says, as fields of `contract`; with `extends: bundled`, put over the bundled file's entries.

    An entry replaces the bundled one of its name as a whole and in its place; others follow. Raises CatalogError, and
    OSError where the file cannot be read.
    """
    said = _mapping(path)
    refuse_repeated(path, said)
    extends = said.pop("extends", None)
    if extends is None:
        return said
    if extends != "bundled":
        raise CatalogError(f"{path}: extends: {extends!r} is nothing to extend; allowed is `bundled`, or leave it out")
    if unknown := [noun for noun in said if noun not in contract.model_fields]:
        raise CatalogError(f"{path}: {unknown[0]}: there is no such field; allowed are extends, {', '.join(NOUNS)}")
    base = _mapping(bundled)
    return {noun: _over(base.get(noun) or [], said.get(noun) or []) for noun in NOUNS}


def replaced(path: Path, bundled: Path) -> list[str]:
    """The names of the bundled entries that the file puts its own in place of."""
    said = _mapping(path)
    if said.get("extends") != "bundled":
        return []
    base = _mapping(bundled)
    return [f"{noun}: {name}" for noun in NOUNS for name in _names(base.get(noun)) if name in _names(said.get(noun))]


def refuse_repeated(path: Path, said: dict[str, Any]) -> None:
    """Raise CatalogError where a name stands twice within a noun."""
    for noun in NOUNS:
        twice = [name for name, times in Counter(_names(said.get(noun))).items() if times > 1]
        if twice:
            raise CatalogError(f"{path}: {noun}: the name {twice[0]!r} stands more than once; each may stand once")


def explain(path: Path, error: ValidationError, said: dict[str, Any], contract: type[BaseModel]) -> CatalogError:
    """What `error` found wrong with `said`, in words."""
    found = error.errors(include_url=False, include_context=False)
    lines = [_line(one["loc"], one["type"], one["msg"], one["input"], said, contract) for one in found[:_MOST_ERRORS]]
    more = [f"and {len(found) - _MOST_ERRORS} more"] if len(found) > _MOST_ERRORS else []
    return CatalogError("\n".join(f"{path}: {line}" for line in lines + more))


def _line(
    loc: tuple[int | str, ...], kind: str, message: str, value: Any, said: dict[str, Any], contract: type[BaseModel]
) -> str:
    place = _place(loc, said)
    if kind == "extra_forbidden":
        allowed = _fields(contract, loc[:-1])
        meant = get_close_matches(str(loc[-1]), allowed, n=1)
        hint = f" (meant: {meant[0]}?)" if meant else ""
        return f"{place}: there is no such field{hint}; allowed are {', '.join(allowed)}"
    if kind == "missing":
        return f"{place}: is missing"
    shown = "" if isinstance(value, dict | list | tuple) else f"{value!r}: "
    return f"{place}: {shown}{message.removeprefix('Value error, ')}"


def _place(loc: tuple[int | str, ...], said: dict[str, Any]) -> str:
    """A field in words: `models[1] (mine).source.hub`."""
    words, here = "", said
    for part in loc:
        try:
            here = here[part]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            here = {}
        if isinstance(part, int):
            name = here.get("name") if isinstance(here, dict) else None
            words += f"[{part}]" + (f" ({name})" if name else "")
        else:
            words += f".{part}" if words else part
    return words or "the file"


def _fields(contract: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The fields of the model at `loc`."""
    model: type[BaseModel] = contract
    for part in loc:
        if isinstance(part, str):
            model = _model(model.model_fields[part].annotation) or model
    extends = ["extends"] if model is contract else []
    return [*extends, *model.model_fields]


def _model(annotation: Any) -> type[BaseModel] | None:
    """The model in `Model | None` or `tuple[Model, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model(part)) is not None), None)


def _mapping(path: Path) -> dict[str, Any]:
    try:
        said = yaml.load(path.read_text(encoding="utf-8"), _LOADER)  # noqa: S506, a safe loader either way
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise CatalogError(f"{path}{place}: {error.problem or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CatalogError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(said, dict):
        raise CatalogError(f"{path}: is no Catalog: it must be a mapping with the lists {', '.join(NOUNS)}")
    return said


def _names(entries: Any) -> list[str]:
    listed = entries if isinstance(entries, list) else []
    return [str(one["name"]) for one in listed if isinstance(one, dict) and "name" in one]


def _over(base: list[Any], own: Any) -> Any:
    if not isinstance(own, list):
        return own  # validation says what it should be
    by_name = {str(one.get("name")): one for one in own if isinstance(one, dict)}
    kept = _names(base)
    merged = [by_name.get(name, one) for name, one in zip(kept, base, strict=True)]
    return merged + [one for one in own if not isinstance(one, dict) or str(one.get("name")) not in kept]
