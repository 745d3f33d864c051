"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

DATA_DIR = Path(".g2rpo")

Data = Annotated[
    Path, typer.Option("--data", envvar="G2RPO_DATA_DIR", help="Directory for the database, queue, images and logs.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, envvar="G2RPO_PORT", help="TCP port; 0 for a free port.")]
File = Annotated[Path | None, typer.Option("--file", "-f", help="YAML or JSON spec; - for standard input.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Override a field, such as training.max_steps=20; repeatable."),
]
Limit = Annotated[int, typer.Option(min=1, help="Maximum number of results.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Follow the job until it ends.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
Resamples = Annotated[int | None, typer.Option(min=0, help="Bootstrap resamples; 0 for no intervals.")]
Dimension = Annotated[
    list[str] | None, typer.Option(help="Only prompts with a test point in this dimension; repeatable.")
]
