"""Alembic migrations for the service's database."""
