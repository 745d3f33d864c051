"""HTTP clients of the catalog's servers: judges and remote rewards."""
