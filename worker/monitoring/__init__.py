"""Worker monitoring: devices, statistics and health check."""
