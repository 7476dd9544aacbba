"""Servers, clients and checks that the tests use."""
