"""Read constants of a Python source file from its syntax tree, without executing any code."""

import ast
from collections import Counter
from typing import Any


class Unreadable(ValueError):
    """The source is invalid, or a constant has no value that can be read from the syntax tree."""


class Constants:
    """The module-level constants of a Python source file.

    A value may be a string, a mapping, a concatenation of strings, or the name of another constant. Other values, and
    constants that are changed after their assignment, raise Unreadable when they are read.
    """

    def __init__(self, source: bytes) -> None:
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise Unreadable(f"invalid Python: {str(error)[:200] or type(error).__name__}") from None
        self._values: dict[str, ast.expr] = {}
        self._changes: Counter[str] = Counter()
        for statement in tree.body:
            match statement:
                case (
                    ast.Assign(targets=[ast.Name(id=name)], value=value)
                    | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
                ):
                    self._values[name] = value
                    self._changes[name] += 1
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    pass  # the body has its own scope
                case _:
                    self._changes.update(_changed_names(statement))

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def value(self, name: str, parents: tuple[str, ...] = ()) -> Any:
        """Return the value of a constant, a string or a mapping. Raises Unreadable.

        `parents` are the constants whose evaluation led to this one; they reveal circular references.
        """
        if name not in self._values:
            raise Unreadable(f"{name} is not assigned at the top level of the module")
        if name in parents:
            raise Unreadable(f"{name} refers to itself")
        if self._changes[name] > 1:
            raise Unreadable(f"{name} is changed after its assignment")
        return self._evaluate(self._values[name], (*parents, name))

    def _evaluate(self, node: ast.expr, parents: tuple[str, ...]) -> Any:
        match node:
            case ast.Constant(value=str() as text):
                return text
            case ast.Name(id=name):
                return self.value(name, parents)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                parts = [self._evaluate(part, parents) for part in (left, right)]
                if all(isinstance(part, str) for part in parts):
                    return "".join(parts)
            case ast.Dict(keys=keys, values=values):
                names = [self._evaluate(key, parents) if key is not None else None for key in keys]
                if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
                    raise Unreadable(f"line {node.lineno}: the keys of a mapping must be different strings")
                return {name: self._evaluate(value, parents) for name, value in zip(names, values, strict=True)}
        raise Unreadable(f"line {node.lineno}: {ast.unparse(node)[:80]!r} is not a string, a mapping or a name")


def _changed_names(statement: ast.stmt) -> set[str]:
    """Return the names that a statement may change, by assigning or deleting them or calling their methods."""
    names = set()
    for node in ast.walk(statement):
        match node:
            case (
                ast.Name(id=name, ctx=ast.Store() | ast.Del())
                | ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del())
                | ast.Call(func=ast.Attribute(value=ast.Name(id=name)))
            ):
                names.add(name)
    return names
