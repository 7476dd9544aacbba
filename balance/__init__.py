"""The Balance Snapshot System: saves what trading bots hold, and shows it to everyone who watches."""

__version__ = "0.1.0"
