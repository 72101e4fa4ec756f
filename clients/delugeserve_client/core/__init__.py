"""The client's decisions, without input or output: what is sent where, when, and how often.

Nothing here opens a connection, starts a thread or reads a clock. Both classifiers drive the same
code, and tests drive it through years of failures in milliseconds.
"""
