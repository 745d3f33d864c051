"""The contracts between API and workers: specs, plans, events, statuses, catalog. Depends on pydantic and PyYAML."""
