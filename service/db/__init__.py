"""Access to the database and the artifact store: models, sessions and migrations.

Both the API and the workers use this package and `service.contracts`.
"""
