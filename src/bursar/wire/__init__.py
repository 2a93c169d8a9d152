"""Bytes to core and back, without I/O: one module per provider dialect, and the providers as rows of data."""
