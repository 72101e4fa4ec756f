"""Envoy in front of the servers: routing, retries, limits, authentication."""
