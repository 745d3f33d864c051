"""Small changes of source text that tests should detect, and a seeded sample of them."""

import ast
import copy
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("worker/engine/grpo", "worker/engine/training", "service/contracts")
_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.RShift: ast.LShift,
    ast.LShift: ast.RShift,
}
_PAIRS = (("min", "max"), ("amin", "amax"), ("minimum", "maximum"), ("any", "all"), ("floor", "ceil"))
_OPPOSITE = dict(_PAIRS) | {b: a for a, b in _PAIRS}
_GENERIC = {"Callable", "Literal", "Iterator", "Mapping", "Sequence", "TypeVar", "dict", "list", "tuple", "type"}
_SILENT = {"log", "logger", "logging", "warnings", "print", "sys.stderr.write", "super"}
"""Calls that are not mutated, by their name or the first part of it."""
_TEXTS = {"description", "examples", "title", "json_schema_extra", "strict"}
"""Keyword arguments with descriptions, and `strict` of `zip`, which states an invariant."""
_IDENTIFIER = re.compile(r"[A-Za-z][\w./-]*")


@dataclass(frozen=True)
class Mutant:
    """One change in a line of that `text`, at a `column` of it, both without its indentation.

    `start` and `end` are offsets in the encoded file; lines `first` to `last` are the statement's.
    """

    package: str
    file: str
    function: str
    line: int
    text: str
    column: int
    first: int
    last: int
    at_import: bool
    operator: str
    before: str
    after: str
    start: int
    end: int
    id: str = ""

    @property
    def becomes(self) -> str:
        """The changed line; of a change over several lines, the first with all of it."""
        line = self.text.encode()
        rest = line[self.column + len(self.before.encode()) :]
        return (line[: self.column] + self.after.encode() + rest).decode()

    def apply(self, source: bytes) -> bytes:
        """The changed source. Raises ValueError if it is not the source of the mutant."""
        if source[self.start : self.end].decode() != self.before:
            raise ValueError(f"{self.file} is not the source of mutant {self.id}; sample again")
        return source[: self.start] + self.after.encode() + source[self.end :]


class _Finder(ast.NodeVisitor):
    """Collects all mutants of one file."""

    def __init__(self, package: str, file: str, source: str) -> None:
        self.package, self.file, self.source = package, file, source.encode()
        self.starts = [0]
        for line in self.source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.scope: list[str] = []
        self.depth = 0
        """Number of enclosing functions; 0: the code runs at import."""
        self.span = (0, 0)
        self.found: dict[tuple[int, int, str], Mutant] = {}
        self.visit(ast.parse(source))

    def add(self, node: ast.AST, operator: str, after: str) -> None:
        """Add the replacement of `node` by the text `after`."""
        start = self.starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        end = self.starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        line: int = node.lineno  # type: ignore[attr-defined]
        text = self.source[self.starts[line - 1] : self.starts[line]].rstrip()
        indented = len(text) - len(text.lstrip())
        where = (line, text[indented:].decode(), start - self.starts[line - 1] - indented)
        place = (self.package, self.file, ".".join(self.scope), *where, *self.span, self.depth == 0)
        mutant = Mutant(*place, operator, self.source[start:end].decode(), after, start, end)
        self.found.setdefault((start, end, after), mutant)

    def change(self, node: ast.expr, operator: str, **fields: object) -> None:
        """Add the replacement of `node` by one with other `fields`."""
        changed = copy.copy(node)
        for name, value in fields.items():
            setattr(changed, name, value)
        self.add(node, operator, f"({ast.unparse(changed)})")

    def visit(self, node: ast.AST) -> None:
        """Record the lines of the statement that contains a node, or of its header if the statement is compound."""
        if not isinstance(node, ast.stmt):
            super().visit(node)
            return
        before, body = self.span, getattr(node, "body", None)
        last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or node.lineno
        self.span = (node.lineno, last)
        super().visit(node)
        self.span = before

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                self.visit(default)
        self.scope.append(node.name)
        self.depth += 1
        for statement in node.body:
            self.visit(statement)
        self.depth -= 1
        self.scope.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.scope.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self.scope.pop()

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.depth += 1
        self.visit(node.body)
        self.depth -= 1

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.removal(node, [node.target])
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets):
            return
        self.removal(node, node.targets)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.removal(node, [node.target])
        if (other := _ARITHMETIC.get(type(node.op))) is not None:
            changed = copy.copy(node)
            changed.op = other()
            self.add(node, "arithmetic", ast.unparse(changed))
        self.generic_visit(node)

    def removal(self, node: ast.stmt, targets: list[ast.expr]) -> None:
        """Add the removal of an assignment that changes an object."""
        flat = [each for target in targets for each in (target.elts if isinstance(target, ast.Tuple) else [target])]
        if any(isinstance(target, ast.Attribute | ast.Subscript) for target in flat):
            self.add(node, "removed statement", "pass")

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return
        if isinstance(node.value, ast.Call) and not _silent(node.value):
            self.add(node, "removed statement", "pass")
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self.add(node, "return None", "return None")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" not in ast.unparse(node.test):
            self.condition(node.test)
            self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self.condition(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.condition(node.test)
        self.generic_visit(node)

    def condition(self, test: ast.expr) -> None:
        """Add the negation of a condition without an operator."""
        if not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant):
            self.add(test, "negated condition", f"(not ({ast.unparse(test)}))")

    def visit_Raise(self, node: ast.Raise) -> None:
        """Messages of exceptions are not changed."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """Assertions state invariants."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Skip f-strings, in which Python 3.11 provides no positions."""

    def visit_Subscript(self, node: ast.Subscript) -> None:
        name = ast.unparse(node.value)
        if name in _GENERIC:
            return
        if name == "Annotated":
            for part in node.slice.elts if isinstance(node.slice, ast.Tuple) else []:
                if isinstance(part, ast.Call):
                    self.visit(part)
            return
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if _silent(node):
            return
        name = ast.unparse(node.func).rpartition(".")[2]
        if name in _OPPOSITE:
            changed = copy.copy(node.func)
            setattr(changed, "id" if isinstance(changed, ast.Name) else "attr", _OPPOSITE[name])
            self.add(node.func, "min and max", ast.unparse(changed))
        self.visit(node.func)
        for argument in node.args[name in {"cast", "TypeVar", "NewType"} :]:
            self.visit(argument)
        for keyword in node.keywords:
            if keyword.arg in {"min", "max"}:
                other = ast.keyword(_OPPOSITE[keyword.arg], keyword.value)
                self.add(keyword, "min and max", ast.unparse(other))
            if keyword.arg not in _TEXTS or (keyword.arg == "strict" and name != "zip"):
                self.visit(keyword.value)

    def visit_Compare(self, node: ast.Compare) -> None:
        for place, operator in enumerate(node.ops):
            for other in _COMPARISONS[type(operator)]:
                self.change(node, "comparison", ops=[*node.ops[:place], other(), *node.ops[place + 1 :]])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.change(node, "and and or", op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub | ast.Invert):
            self.add(node, "removed not or minus", f"({ast.unparse(node.operand)})")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        texts = any(isinstance(part, ast.JoinedStr) or _is_text(part) for part in (node.left, node.right))
        of_types = isinstance(node.op, ast.BitOr) and not self.depth
        if type(node.op) in _ARITHMETIC and not texts and not of_types:
            self.change(node, "arithmetic", op=_ARITHMETIC[type(node.op)]())
        self.generic_visit(node)

    def visit_Slice(self, node: ast.Slice) -> None:
        for bound in (node.lower, node.upper):
            if bound is not None:
                self.add(bound, "slice bound", f"({ast.unparse(bound)}) + 1")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.add(node, "constant", str(not value))
        elif isinstance(value, int | float):
            self.add(node, "constant", repr(type(value)(1 - value) if value in (0, 1) else value + 1))
        elif isinstance(value, str) and _IDENTIFIER.fullmatch(value):
            self.add(node, "constant", repr(f"XX{value}"))


def _silent(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    return name in _SILENT or name.partition(".")[0] in _SILENT or name.startswith("super()")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def mutants_of(package: str, file: str, source: str) -> list[Mutant]:
    """All mutants of a file, in the order of their positions."""
    return sorted(_Finder(package, file, source).found.values(), key=lambda each: (each.start, each.end, each.after))


def sample(tree: Path, package: str, count: int, seed: int) -> Iterator[Mutant]:
    """`count` different mutants of a package: lines in a random order, and one of each line's mutants."""
    by_line: dict[tuple[str, int], list[Mutant]] = {}
    for path in sorted((tree / package).rglob("*.py")):
        file = path.relative_to(tree).as_posix()
        for mutant in mutants_of(package, file, path.read_text(encoding="utf-8")):
            by_line.setdefault((file, mutant.line), []).append(mutant)
    draw = random.Random(f"{seed}:{package}")
    number = 0
    while by_line and number < count:
        lines = sorted(by_line)
        draw.shuffle(lines)
        for line in lines[: count - number]:
            mutant = by_line[line].pop(draw.randrange(len(by_line[line])))
            number += 1
            yield Mutant(**{**vars(mutant), "id": f"{package.rpartition('/')[2]}-{number:03d}"})
        by_line = {line: left for line, left in by_line.items() if left}
