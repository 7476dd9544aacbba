"""Tests of the running service: its routes, events, settings and commands."""
