"""HTTP clients for the servers in the catalog: judges and remote rewards."""
