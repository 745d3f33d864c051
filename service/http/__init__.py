"""HTTP helpers shared by all routes: errors, pagination, content negotiation, uploads and the response cache."""
