-- Why: the rule for ledgers becomes that of two domains. PostgreSQL reads the CHECKs of a table from their text in every
-- statement that writes to it, and inlines the function of the rule each time: a fifth of the time of a save that is
-- alone. It keeps the CHECKs of a domain ready for a whole session.
-- Locks: balance_snapshot for a moment. No row is read or written: a domain without a CHECK is the type itself, and
-- NOT VALID leaves out the rows that are stored, all of which have passed the same rule. New values are checked.

CREATE DOMAIN balance_onchain AS jsonb;
CREATE DOMAIN balance_onsite AS jsonb;

ALTER TABLE balance_snapshot
    DROP CONSTRAINT onchain_is_valid,
    DROP CONSTRAINT onsite_is_valid,
    ALTER onchain TYPE balance_onchain,
    ALTER onsite TYPE balance_onsite;

ALTER DOMAIN balance_onchain
    ADD CONSTRAINT onchain_is_valid CHECK (balance_ledger_is_valid(VALUE, '{rlb,usdt}')) NOT VALID;
ALTER DOMAIN balance_onsite
    ADD CONSTRAINT onsite_is_valid CHECK (balance_ledger_is_valid(VALUE, '{rlb,usd}')) NOT VALID;
