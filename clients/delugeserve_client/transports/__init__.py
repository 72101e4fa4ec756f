"""Connections to servers over gRPC and HTTP, and the two reactors that drive them."""
