"""HTTP helpers of all routes: errors, pagination, content negotiation, uploads, the response cache."""
