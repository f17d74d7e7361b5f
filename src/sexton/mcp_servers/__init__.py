"""MCP servers: sessions, pool, leases."""
