"""The engine: trains, samples, scores and evaluates. It uses neither Celery nor SQL."""
