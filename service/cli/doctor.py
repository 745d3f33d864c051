"""`g2rpo doctor`: what is wrong, and what to do about it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.console import console

if TYPE_CHECKING:
    from service.http.errors import ReadinessCheck

SICK = 1
"""Exit status when anything is wrong; doubts are no reason."""


def doctor(
    data: Annotated[
        Path, typer.Option("--data", envvar="G2RPO_DATA_DIR", help="The data directory of the service.")
    ] = Path(".g2rpo"),
    port: Annotated[int, typer.Option(min=0, max=65535, envvar="G2RPO_PORT", help="The port `up` would use.")] = 8000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look at everything the service needs, and say what to mend. Exit status 1: something is wrong."""
    from service.local.doctor.examination import examine

    checks = examine(data, port)
    found = list(checks if as_json else _told(checks))
    well = all(check.ok for check in found)
    if as_json:
        print(json.dumps({"ok": well, "checks": [check.model_dump() for check in found]}, indent=2))
    raise typer.Exit(0 if well else SICK)


def _told(checks: "Iterator[ReadinessCheck]") -> "Iterator[ReadinessCheck]":
    """The findings, each printed as it comes."""
    for check in checks:
        mark, style = ("✗", "bold red") if not check.ok else ("!", "bold yellow") if check.hint else ("✓", "green")
        console.print(mark, style=style, end=" ")
        console.print(f"{check.name}: {check.detail}", markup=False, highlight=False, soft_wrap=True)
        if check.hint:
            console.print(f"  → {check.hint}", markup=False, highlight=False, soft_wrap=True)
        yield check
