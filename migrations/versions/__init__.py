"""The migrations, with one file per revision."""
