"""The PostgreSQL that comes with the service, for when no DATABASE_URL is given."""

from balance.embedded.cluster import EmbeddedError, EmbeddedPostgres

__all__ = ["EmbeddedError", "EmbeddedPostgres"]
