"""Who sends a request, and what they may do: API keys, scopes, rate limits and quotas."""
