"""The database: models, sessions, migrations, and the artifact store.

The API and the workers share this package and `service.contracts`.
"""
