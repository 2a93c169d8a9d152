"""Bursar."""
