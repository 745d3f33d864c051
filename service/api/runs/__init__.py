"""Alignment runs: accepting, listing, showing, cancelling."""
