"""The PostgreSQL that the service starts itself when no DATABASE_URL is given."""

from balance.storage.embedded.cluster import EmbeddedPostgres
from balance.storage.embedded.files import EmbeddedError
from balance.storage.embedded.supervisor import Supervisor

__all__ = ["EmbeddedError", "EmbeddedPostgres", "Supervisor"]
