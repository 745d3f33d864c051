"""The contracts between API and workers: specs, plans, events, job statuses, catalog.

The package depends on pydantic and PyYAML only.
"""
