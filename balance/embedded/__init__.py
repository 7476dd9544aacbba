"""The PostgreSQL that comes with the service, for when no DATABASE_URL is given."""

from balance.embedded.cluster import EmbeddedPostgres
from balance.embedded.files import EmbeddedError
from balance.embedded.supervisor import Supervisor

__all__ = ["EmbeddedError", "EmbeddedPostgres", "Supervisor"]
