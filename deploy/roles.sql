-- A database of your own with two roles: one that migrates, and one as which the service runs (grants.sql).
-- Run it by psql as a superuser. Give both roles passwords with \password, or authenticate them otherwise.

CREATE ROLE balance_owner LOGIN;
CREATE ROLE balance_role LOGIN;
CREATE DATABASE balance OWNER balance_owner ENCODING 'UTF8' TEMPLATE template0;
\connect balance
REVOKE ALL ON DATABASE balance FROM PUBLIC;
GRANT CONNECT ON DATABASE balance TO balance_role;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO balance_owner;
