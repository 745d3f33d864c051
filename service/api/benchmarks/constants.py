"""Constants of a Python source, read from its syntax: nothing of it is executed."""

import ast
from collections import Counter
from typing import Any


class Unreadable(ValueError):
    """The source does not say what a constant is in a form that can be read."""


class Constants:
    """The module-level constants of a source: texts, mappings of texts, sums of texts, and names of other constants.

    Raises Unreadable, naming the line, for whatever else an assignment holds, and for a name that is changed after its
    assignment.
    """

    def __init__(self, source: bytes) -> None:
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise Unreadable(f"this is no Python: {str(error)[:200] or type(error).__name__}") from None
        self._values: dict[str, ast.expr] = {}
        self._touched: Counter[str] = Counter()
        for statement in tree.body:
            self._look_at(statement)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def value(self, name: str) -> Any:
        """What the constant is: a text or a mapping."""
        return self._named(name, ())

    def _look_at(self, statement: ast.stmt) -> None:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                self._values[name] = value
                self._touched[name] += 1
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                pass  # done when it is called, and nothing is
            case _:
                # Whatever a statement may do to a name that it says, beside reading it, makes the name unknown.
                self._touched.update(_changed(statement))

    def _named(self, name: str, on_the_way: tuple[str, ...]) -> Any:
        if name not in self._values:
            raise Unreadable(f"{name} is not assigned at the top of the module")
        if name in on_the_way:
            raise Unreadable(f"{name} is made of itself")
        if self._touched[name] > 1:
            raise Unreadable(f"{name} is changed after it was assigned, so that only running the module would tell it")
        return self._read(self._values[name], (*on_the_way, name))

    def _read(self, node: ast.expr, on_the_way: tuple[str, ...]) -> Any:
        match node:
            case ast.Constant(value=str() as text):
                return text
            case ast.Name(id=name):
                return self._named(name, on_the_way)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                parts = [self._read(one, on_the_way) for one in (left, right)]
                if all(isinstance(part, str) for part in parts):
                    return "".join(parts)
            case ast.Dict(keys=keys, values=values):
                made: dict[str, Any] = {}
                for key, value in zip(keys, values, strict=True):
                    word = self._read(key, on_the_way) if key is not None else None
                    if not isinstance(word, str) or word in made:
                        raise Unreadable(f"line {node.lineno}: a mapping must have texts for its keys, each once")
                    made[word] = self._read(value, on_the_way)
                return made
        raise Unreadable(f"line {node.lineno}: {ast.unparse(node)[:80]!r} is neither a text nor a mapping nor a name")


def _changed(statement: ast.stmt) -> set[str]:
    """Names that a statement may change: those it writes to, and those whose methods it calls."""
    found = set()
    for node in ast.walk(statement):
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                found.add(name)
            case (
                ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del())
                | ast.Call(func=ast.Attribute(value=ast.Name(id=name)))
            ):
                found.add(name)
    return found
