"""UniGenBench++ without models and judges: data, parsing of answers, scores, leaderboard rules."""
