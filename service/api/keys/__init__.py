"""API keys: creation, listing and revocation, and the permissions of each key."""
