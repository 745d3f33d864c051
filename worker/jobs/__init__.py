"""The steps of one attempt at a job: claim, lease, child process, ingestion of events, and outcome."""
