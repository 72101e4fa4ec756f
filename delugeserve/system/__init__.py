"""This machine: hardware, files, memory."""
