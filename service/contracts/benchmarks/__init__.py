"""The parts of UniGenBench++ that need no models: data, parsing of judge answers, scores and leaderboard rules."""
