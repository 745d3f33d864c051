"""The API routes, one package per resource: `router.py`, `service.py` (rules and queries) and `schemas.py`."""
