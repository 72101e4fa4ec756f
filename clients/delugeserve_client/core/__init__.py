"""The client's decisions, without input or output: what is sent where, when, and how often.

Nothing here opens a connection, starts a thread or reads a clock. Both classifiers drive the same
code. Tests simulate failures without waiting.
"""
