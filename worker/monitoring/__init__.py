"""What a worker tells of itself: devices, statistics, health."""
