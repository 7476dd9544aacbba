"""Tests of what client teams take away."""
