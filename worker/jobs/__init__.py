"""Everything that makes up one attempt at a job: claim, lease, child process, ingestion of events, and outcome."""
