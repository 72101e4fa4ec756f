"""Bulk labelling: from files, shards and object stores to one output that can be resumed."""
