"""Finds the changes of schemas that break senders or receivers."""
