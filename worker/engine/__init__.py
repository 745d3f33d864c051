"""The engine: training, sampling, scoring and evaluation. It depends on neither Celery nor SQL."""
