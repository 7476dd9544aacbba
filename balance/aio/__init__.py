"""Asyncio primitives; they import nothing of ours but each other."""
