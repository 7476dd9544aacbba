"""Alarms on balances: a client of the feed that evaluates rules and sends what begins and what ends.

It is a client like any other: it knows the service by its address alone, and imports nothing of it but the contract.
docs/alarms.md describes rules, messages and promises.
"""
