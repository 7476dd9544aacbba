"""Primitives for asyncio: fairness, limits, single flight, threads. They import no other module of the service."""
