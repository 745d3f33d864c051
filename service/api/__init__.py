"""The routes: one package per noun, with `router.py`, `service.py` (rules and queries), `schemas.py`."""
