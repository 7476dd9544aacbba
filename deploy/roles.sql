-- Two roles for a database of your own: one that migrates, and one with the least grants, as which the service runs.
-- Run it by psql as a superuser, in two parts. Give both roles passwords with \password, or authenticate them otherwise.

CREATE ROLE balance_owner LOGIN;
CREATE ROLE balance_role LOGIN;
CREATE DATABASE balance OWNER balance_owner ENCODING 'UTF8' TEMPLATE template0;
\connect balance
REVOKE ALL ON DATABASE balance FROM PUBLIC;
GRANT CONNECT ON DATABASE balance TO balance_role;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO balance_owner;

-- After `balance-server migrate` as balance_owner, and again after each migration that adds a table:
GRANT USAGE ON SCHEMA public TO balance_role;
GRANT SELECT ON schema_migration TO balance_role;
GRANT SELECT, UPDATE ON balance_feed TO balance_role;
GRANT SELECT, INSERT ON balance_epoch TO balance_role;
GRANT SELECT, INSERT ON balance_snapshot TO balance_role;
GRANT EXECUTE ON FUNCTION balance_ledger_is_valid(jsonb, text[]) TO balance_role;
GRANT EXECUTE ON FUNCTION balance_snapshot_json(uuid, bigint, timestamptz, bigint, jsonb, jsonb) TO balance_role;
