"""Search docstrings, comments, messages, documentation and OpenAPI texts for listed phrases.

The list is `phrases.toml`. Output: a line for each match, and the share of docstrings with a match. Exit status 1 when
there is a match. Spelling is codespell's job.
"""

import ast
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.app import create_app
from service.core.settings import Settings

ROOT = Path(__file__).parents[2]
CODE = ("service", "worker", "tests", "benchmarks", "migrations")
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs")
ALLOWED = "# language: ok"


@dataclass(frozen=True)
class Text:
    """A piece of prose, and where it is."""

    path: str
    line: int
    text: str
    docstring: bool = False


def main() -> int:
    """Print every match; return the exit status."""
    listed = tomllib.loads(Path(__file__).with_name("phrases.toml").read_text(encoding="utf-8"))["phrases"]
    # One expression with a group per phrase is several times as fast as one pass per phrase.
    groups = "|".join(f"({re.sub(r'[(](?![?])', '(?:', phrase)})" for phrase in listed)
    phrases, instead = re.compile(rf"\b(?:{groups})", re.IGNORECASE), list(listed.values())
    docstrings, matches, matched = 0, 0, 0
    for text in (*python_texts(), *documents(), *openapi_texts()):
        docstrings += text.docstring
        found = list(phrases.finditer(text.text))
        matches += len(found)
        matched += text.docstring and bool(found)
        for match in found:
            line = text.line + text.text.count("\n", 0, match.start())
            print(f"{text.path}:{line}: {match[0]!r}: {instead[match.lastindex - 1]}")
    print(
        f"{matches} matches; {matched} of {docstrings} docstrings ({matched / docstrings:.1%}) contain a listed phrase"
    )
    return 1 if matches else 0


def python_texts() -> Iterator[Text]:
    """Docstrings, comments and string literals with a space (messages) of the project's Python files."""
    for folder in CODE:
        for file in sorted((ROOT / folder).rglob("*.py")):
            if file.is_relative_to(Path(__file__).parent):
                continue
            source = file.read_text(encoding="utf-8")
            path, lines = str(file.relative_to(ROOT)), source.splitlines()
            for text in (*_literals(path, source), *_comments(path, source)):
                if not lines[text.line - 1].endswith(ALLOWED):
                    yield text


def _literals(path: str, source: str) -> Iterator[Text]:
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node, clean=False) is not None
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield Text(path, node.lineno, node.value, id(node) in docstrings)


def _comments(path: str, source: str) -> Iterator[Text]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text(path, token.start[0], token.string)


def documents() -> Iterator[Text]:
    """Documentation, without code blocks and inline code."""
    for name in DOCUMENTS:
        files = [ROOT / name] if (ROOT / name).is_file() else sorted((ROOT / name).rglob("*.md"))
        for file in files:
            text = file.read_text(encoding="utf-8")
            prose = re.sub(r"```.*?```|`[^`\n]*`", lambda code: re.sub(r"[^\n]", "", code[0]), text, flags=re.DOTALL)
            yield Text(str(file.relative_to(ROOT)), 1, prose)


def openapi_texts() -> Iterator[Text]:
    """Every title, summary and description of the OpenAPI document."""
    document = create_app(Settings(database_url="postgresql+psycopg://localhost/none")).openapi()
    stack: list[tuple[str, object]] = [("openapi.json", document)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, dict):
            for key, value in node.items():
                if key in ("title", "summary", "description") and isinstance(value, str):
                    yield Text(path, 1, value)
                elif key not in ("example", "examples"):
                    stack.append((f"{path}/{key}", value))
        elif isinstance(node, list):
            stack.extend((f"{path}/{index}", value) for index, value in enumerate(node))


if __name__ == "__main__":
    sys.exit(main())
