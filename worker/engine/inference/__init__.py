"""Image generation and scoring on request, with models and rewards that stay loaded between requests."""
