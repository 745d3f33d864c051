"""A process with all libraries loaded, from which each mutant's tests run in a fork: `python -P warm.py TREE PACKAGE`.

It does not import tests.mutation, so that it runs in a copy of any tree of the project. The first line of standard
input is the list of test files. Each other line is a JSON request {file, source, stages: [{tests, limit}]}, answered by
a line on standard output.
"""

import ast
import contextlib
import ctypes
import importlib
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest

_OPTIONS = ("-x", "-q", "--strict-markers", "--import-mode=importlib", "-o", "addopts=", "--tb=line", "--no-header")
_PLUGINS = ("-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:pytest_cov")
_BECOME_SUBREAPER = 36
_PAST = 400_000_000
"""Age in seconds of the mutants' files."""


class _Chosen:
    """Run only the selected tests, module by module, and report the failed test."""

    def __init__(self, tests: list[str], tell: Callable[..., None]) -> None:
        self.tests, self.tell = {test: place for place, test in enumerate(tests)}, tell

    def pytest_collection(self) -> None:
        """Stop property tests at the first failing example, because shrinking takes minutes."""
        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        hypothesis.settings.register_profile("mutation", parent=hypothesis.settings(), phases=phases)
        hypothesis.settings.load_profile("mutation")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Iterator[None]:
        """Select the tests, with modules in the order of their first tests."""
        yield
        first: dict[str, int] = {}
        for test, place in self.tests.items():
            first.setdefault(test.partition("::")[0], place)
        items[:] = [item for item in items if item.nodeid in self.tests]
        items.sort(key=lambda item: first[item.nodeid.partition("::")[0]])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Report the first failure."""
        if report.failed:
            self.tell(by=report.nodeid)


def _independent(tree: Path, package: str) -> set[str]:
    """Modules of the project that do not import `package`, directly or indirectly."""
    imports: dict[str, set[str]] = {}
    for path in (path for top in ("service", "worker") for path in (tree / top).rglob("*.py")):
        name = ".".join(path.relative_to(tree).with_suffix("").parts).removesuffix(".__init__")
        found = {name.rpartition(".")[0]}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        imports[name] = found
    reached = {name for name in imports if (name + ".").startswith(package.replace("/", ".") + ".")}
    while more := {name for name, found in imports.items() if found & reached} - reached:
        reached |= more
    return set(imports) - reached


def _preload(tree: Path, package: str, files: list[str]) -> None:
    """Import what the tests in `files` import, except for what depends on the package."""
    read, write = os.pipe()
    if os.fork() == 0:
        code = pytest.main(["--collect-only", *_OPTIONS[1:], *_PLUGINS, *files])
        with os.fdopen(write, "w") as file:
            json.dump(None if code else list(sys.modules), file)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        names = json.loads(file.read())
    os.wait()
    assert names is not None, "without a mutant some tests of the map cannot be collected; map again"
    allowed, own = _independent(tree, package), {path.name for path in tree.iterdir()} | {"conftest", "__main__"}
    for name in names:
        if name in allowed or name.partition(".")[0] not in own:
            with contextlib.suppress(BaseException):
                importlib.import_module(name)
    loaded = [name for name in sys.modules if name.startswith(package.replace("/", "."))]
    assert not loaded, f"{loaded} would not be loaded again"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _child(stages: list[dict[str, Any]], write: int) -> None:
    """Run stage after stage until a test fails."""

    def tell(**what: Any) -> None:
        os.write(write, json.dumps(what).encode() + b"\n")

    for place, stage in enumerate(stages):
        tell(stage=place)
        files = list(dict.fromkeys(test.partition("::")[0] for test in stage["tests"]))
        code = pytest.main([*_OPTIONS, *_PLUGINS, *files], plugins=[_Chosen(stage["tests"], tell)])
        if code == pytest.ExitCode.NO_TESTS_COLLECTED:
            tell(outcome="error", by="none of the tests was found")
            return
        if code:
            tell(outcome="killed")
            return
    tell(outcome="survived", by=None)


def _perform(tree: Path, request: dict[str, Any], number: int) -> dict[str, Any]:
    path = tree / request["file"]
    original, stat = path.read_bytes(), path.stat()
    if request["source"] is not None:
        path.write_text(request["source"], encoding="utf-8")
        os.utime(path, (number, number))  # a unique time, so that no compiled file of another mutant is used
    began, used = time.monotonic(), _cpu()
    read, write = os.pipe()
    sys.stdout.flush()
    if (pid := os.fork()) == 0:
        try:
            os.close(read)
            os.setsid()
            _child(request["stages"], write)
        finally:
            os._exit(0)
    os.close(write)
    reply: dict[str, Any] = {"outcome": "crashed", "by": "collection", "stage": 0}
    try:
        _listen(read, reply, [stage["limit"] for stage in request["stages"]])
    finally:
        os.close(read)
        _end(pid)
        path.write_bytes(original)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return reply | {"seconds": round(time.monotonic() - began, 1), "cpu": round(_cpu() - used, 1)}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _listen(read: int, reply: dict[str, Any], limits: list[float]) -> None:
    """Read messages of the child process until it ends or a stage times out."""
    until, text = time.monotonic() + limits[0], b""
    while True:
        if not select.select([read], [], [], max(0.0, until - time.monotonic()))[0]:
            reply |= {"outcome": "timeout", "by": "timeout"}
            return
        if not (more := os.read(read, 65536)):
            return
        *lines, text = (text + more).split(b"\n")
        for line in lines:
            update = json.loads(line)
            reply |= update
            if "stage" in update:
                until = time.monotonic() + limits[update["stage"]]


def _end(pid: int) -> None:
    """End the child process and its remaining descendants."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, 0)[0]:
            pass


def main() -> None:
    """Serve requests until standard input ends."""
    tree, package = Path(sys.argv[1]), sys.argv[2]
    os.chdir(tree)
    ctypes.CDLL(None).prctl(_BECOME_SUBREAPER, 1)
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    _preload(tree, package, json.loads(sys.stdin.readline()))
    for number, line in enumerate(sys.stdin, start=int(time.time()) - _PAST):
        replies.write(json.dumps(_perform(tree, json.loads(line), number)) + "\n")


if __name__ == "__main__":
    main()
