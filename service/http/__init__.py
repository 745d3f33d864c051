"""What every route shares: errors, routing, pagination, content negotiation, uploads, OpenAPI helpers."""
