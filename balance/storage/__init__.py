"""PostgreSQL: the only package that uses psycopg."""
