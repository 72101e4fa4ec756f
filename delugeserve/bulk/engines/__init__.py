"""What labels: a running server, an exported version in this process, or a Ray cluster."""
