"""The leaderboard: model rankings on a benchmark as JSON, tables and a figure."""
