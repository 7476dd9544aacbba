"""Tests without a database or a server."""
