"""Finds the changes of schemas that break senders or receivers; `diff` is the entry."""
