"""`python -m service.cli`: the same as `g2rpo`."""

from service.cli import app

app()
