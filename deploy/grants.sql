-- The least grants of the role as which the service runs. Run it by psql as balance_owner, after each migration.
-- The role can read tokens; `token create` and `token revoke` are run as balance_owner.

GRANT USAGE ON SCHEMA public TO balance_role;
GRANT SELECT ON schema_migration TO balance_role;
GRANT SELECT, UPDATE ON balance_feed TO balance_role;
GRANT SELECT, INSERT ON balance_epoch TO balance_role;
GRANT SELECT, INSERT ON balance_snapshot TO balance_role;
GRANT SELECT, UPDATE (last_used_at) ON balance_token TO balance_role;
GRANT EXECUTE ON FUNCTION balance_ledger_is_valid(jsonb, text[]) TO balance_role;
GRANT EXECUTE ON FUNCTION balance_snapshot_json(uuid, bigint, timestamptz, bigint, jsonb, jsonb) TO balance_role;

-- For `--keep` too:
-- GRANT DELETE ON balance_snapshot TO balance_role;
-- GRANT UPDATE (first_seq, pruned) ON balance_feed TO balance_role;
