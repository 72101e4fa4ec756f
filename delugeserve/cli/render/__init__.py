"""Consoles, tables and reports of the command line."""
