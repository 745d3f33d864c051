"""The database: mappings, sessions, migrations, and the artifact store whose keys the rows hold.

The API and the workers both build on this package; a worker needs nothing else of the service but `service.contracts`.
"""
