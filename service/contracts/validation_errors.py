"""Messages for pydantic's errors. They state the value, what is allowed, and a suggestion for a typo."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel

Loc = tuple[str | int, ...]
_MAX_SUGGESTIONS = 20
"""Errors with a suggestion per request, because the search takes a millisecond each."""
_MAX_LENGTH = 80
_RULE = re.compile(r"(?:Value error, )?(?:Input|String|Tuple|List|Dictionary|Set|Value|Data) should (.*)", re.DOTALL)
_DETAILS = re.compile(r", (?:unable|invalid|unexpected|input|got|not \d).*| after validation.*", re.DOTALL)
_TERMS = {
    "a valid tuple": "a list",
    "a valid dictionary": "an object",
    "a valid boolean": "true or false",
    r"match pattern '^[a-z0-9][a-z0-9._-]{0,62}$'": "be 1 to 63 lowercase letters, digits, dots, hyphens or "
    "underscores, starting with a letter or digit",
    r"match pattern '^[^\x00]*$'": "not contain NUL",
}
"""Replacements for pydantic's terms."""


class Described(NamedTuple):
    """An error. Its location does not contain the names of union members, unlike pydantic's."""

    loc: Loc
    msg: str
    type: str


def similar(name: str, known: Iterable[str]) -> list[str]:
    """Return the most similar known name, or one whose words have the initials `name`; empty if there is none."""
    if len(name) > _MAX_LENGTH:
        return []
    known = list(known)
    initials = [one for one in known if "".join(word[:1] for word in one.split("_")) == name]
    return (get_close_matches(name, known, n=1) or initials)[:1]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a remark with the most similar known name, or an empty string if there is none."""
    return "".join(f" (did you mean {one!r}?)" for one in similar(name, known))


def describe(errors: Iterable[Mapping[str, Any]], annotation: Any, noun: str = "field") -> list[Described]:
    """Describe pydantic's errors for a value of the type `annotation`, one per field.

    pydantic has an error for each member of a union, and for a list that is too short without its invalid items.
    """
    found: dict[Loc, list[Mapping[str, Any]]] = {}
    types: dict[Loc, list[Any]] = {}
    for error in errors:
        loc, here = _locate(error, annotation)
        found.setdefault(loc, []).append(error)
        types[loc] = here
    outer = {loc[:length] for loc in found for length in range(len(loc))}
    described: list[Described] = []
    for loc, members in found.items():
        kind = members[0]["type"]
        if kind == "too_short" and loc in outer and len(members[0]["input"]) >= members[0]["ctx"]["min_length"]:
            continue
        if kind == "extra_forbidden":
            msg = _unknown(loc, types[loc], annotation if len(described) < _MAX_SUGGESTIONS else None, noun)
        elif kind == "missing":
            msg = f"Missing {noun} {loc[-1]!r}" if loc else "Missing JSON body"
        else:
            msg = _invalid(members, types[loc])
        described.append(Described(loc, msg, kind))
    return described


def _unknown(loc: Loc, parents: list[Any], root: Any, noun: str) -> str:
    name, allowed = str(loc[-1]), dict.fromkeys(field for one in parents for field in _fields(one))
    unknown = f"Unknown {noun} {name[:_MAX_LENGTH]!r}" + (f" in {_path(loc[:-1])}" if loc[:-1] else "")
    here = re.sub(r"\[\d+\]", "[]", _path(loc[:-1]))
    paths = dict.fromkeys([] if root is None else _paths(root))
    elsewhere = [path for path in paths if path.rpartition(".")[0] != here]
    ends = dict.fromkeys(path.rpartition(".")[2] for path in elsewhere)
    found = [] if root is None else similar(name, allowed)
    last = [name] if name in ends else [] if found else similar(name, ends)
    found += [path for path in elsewhere if path.rpartition(".")[2] in last and not (found and "[]" in path)][:2]
    if found:
        return f"{unknown}. Did you mean {' or '.join(map(repr, found))}?"
    return f"{unknown}. Allowed: {', '.join(allowed) or 'none'}"


def _invalid(errors: list[Mapping[str, Any]], types: list[Any]) -> str:
    rules = [match[1] for error in errors if (match := _RULE.fullmatch(error["msg"]))]
    if len(rules) < len(errors):  # the message of a validator
        return str(errors[0]["msg"]).removeprefix("Value error, ")
    value = errors[0]["input"]
    for index, rule in enumerate(rules):
        rules[index] = _DETAILS.sub("", rule)
        if errors[index]["type"] in ("model_type", "model_attributes_type"):
            rules[index] = f"be an object with the fields {', '.join(field for one in types for field in _fields(one))}"
        for term, replacement in _TERMS.items():
            rules[index] = rules[index].replace(term, replacement)
    allowed = " or ".join(dict.fromkeys([rules[0], *(rule.removeprefix("be ") for rule in rules[1:])]))
    options = [option for one in errors for option in re.findall("'(.*?)'", str(one.get("ctx", {}).get("expected")))]
    hint = "".join(f". Did you mean {one!r}?" for one in similar(value, options)) if isinstance(value, str) else ""
    return f"Invalid value {_shown(value)}: must {allowed}{hint}"


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple | set | dict) and value:
        return f"{'{…}' if isinstance(value, dict) else '[…]'} of length {len(value)}"
    if isinstance(value, str):
        return repr(value[:_MAX_LENGTH]) + ("…" if len(value) > _MAX_LENGTH else "")
    text = json.dumps(value, default=str)
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}…"


def _locate(error: Mapping[str, Any], annotation: Any) -> tuple[Loc, list[Any]]:
    """Return the location of an error without the names of union members, and the types of the value there.

    For an unknown field, returns the types of its object.
    """
    here, loc = list(_members(annotation)), []
    for index, part in enumerate(error["loc"]):
        inner = [member for one in here for member in _inner(one, part)]
        known_object = index == len(error["loc"]) - 1 and error["type"] in ("extra_forbidden", "missing")
        if inner or known_object or not here or isinstance(part, int):
            loc.append(part)
            here = inner if not known_object or inner else here
        else:  # the name of a union member
            here = [one for one in here if part in _names(one)] or here
    return tuple(loc), here


def _members(annotation: Any) -> Iterator[Any]:
    """Yield the members of a union, or the type itself, without metadata."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        yield from _members(arguments[0])
    elif arguments and get_origin(annotation) not in (Literal, dict, list, tuple, set):
        for argument in arguments:
            yield from _members(argument)
    elif annotation not in (None, type(None)):
        yield annotation


def _inner(one: Any, part: str | int) -> Iterator[Any]:
    """Yield the types of a field or item."""
    origin, arguments = get_origin(one), get_args(one)
    if one is Any:
        yield Any
    elif isinstance(part, str) and part in _fields(one):
        yield from _members(_fields(one)[part])
    elif (origin is dict and isinstance(part, str)) or (origin in (list, tuple, set) and isinstance(part, int)):
        for argument in arguments[1 if origin is dict else 0 :]:
            yield from _members(argument)


def _fields(one: Any) -> dict[str, Any]:
    """Return the types of a model's fields by name; empty if `one` is not a model."""
    fields = one.model_fields if isinstance(one, type) and issubclass(one, BaseModel) else {}
    return {field.alias or name: field.annotation for name, field in fields.items()}


def _names(one: Any) -> set[str]:
    """Return the names by which pydantic may call a member of a union: its class or the values of its literals."""
    values = [
        value
        for annotation in _fields(one).values()
        if get_origin(annotation) is Literal
        for value in get_args(annotation)
    ]
    return {getattr(one, "__name__", ""), *values}


def _paths(annotation: Any, prefix: str = "") -> Iterator[str]:
    """Yield the paths of all fields, such as `training.max_steps` and `rewards[].name`."""
    for one in _members(annotation):
        if get_origin(one) in (list, tuple):
            yield from _paths(get_args(one)[0], f"{prefix}[]")
        for name, inner in _fields(one).items():
            path = f"{prefix}.{name}" if prefix else name
            yield path
            yield from _paths(inner, path)


def _path(loc: Loc) -> str:
    """Return a location as a path, such as `rewards[0].name`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")
