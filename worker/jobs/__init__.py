"""One attempt at a job: claim, lease, child process, events to rows, outcome."""
