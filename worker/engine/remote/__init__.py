"""Servers of the catalog that are asked over HTTP: judges and remote rewards."""
