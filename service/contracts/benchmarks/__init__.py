"""UniGenBench++ without a model or a judge: its data, what answers say, scores, leaderboard rules."""
