"""The words both sides speak: specs, schedules, plans, events, statuses and the catalog. Pydantic and PyYAML alone."""
