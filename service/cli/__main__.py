"""Run the `g2rpo` command line as `python -m service.cli`."""

from service.cli import app

app()
