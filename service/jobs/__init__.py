"""What all kinds of jobs share: queue, validation, capacity, views, long polling."""
