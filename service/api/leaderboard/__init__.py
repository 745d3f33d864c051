"""The leaderboard: models ranked on a benchmark, as numbers, tables and a figure."""
