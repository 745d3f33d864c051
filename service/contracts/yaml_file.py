"""Loading of YAML in which the keys of a mapping must be unique."""

from typing import Any

import yaml
from yaml.constructor import ConstructorError

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE = "tag:yaml.org,2002:merge"


def load_yaml(text: str) -> Any:
    """Parse a YAML document of plain data.

    Raises yaml.YAMLError, with the position of the error, if it is invalid or a mapping has a key more than once.
    """
    loader = _LOADER(text)
    try:
        node = loader.get_single_node()
        _refuse_duplicates(loader, node)
        return None if node is None else loader.construct_document(node)
    except (ValueError, AttributeError, RecursionError) as error:  # an impossible date, or deep nesting
        raise yaml.YAMLError(f"invalid value: {error}") from error
    finally:
        loader.dispose()


def _refuse_duplicates(loader: Any, root: yaml.Node | None) -> None:
    nodes, seen = [root], set()
    while nodes:
        node = nodes.pop()
        if not isinstance(node, yaml.CollectionNode) or node in seen:
            continue
        seen.add(node)
        if not isinstance(node, yaml.MappingNode):
            nodes += node.value
            continue
        lines: dict[Any, int] = {}
        for key, value in node.value:
            nodes += (key, value)
            if isinstance(key, yaml.ScalarNode):
                name = key.value if key.tag == _MERGE else loader.construct_object(key)
                if name in lines:
                    problem = f"the key {name!r} occurs more than once, first in line {lines[name]}"
                    raise ConstructorError(None, None, problem, key.start_mark)
                lines[name] = key.start_mark.line + 1
