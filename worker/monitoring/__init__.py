"""Monitoring of a worker: devices, statistics, health check."""
