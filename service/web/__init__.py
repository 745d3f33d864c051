"""The web dashboard: static pages that use the public API."""
