-- Why: balance_snapshot is the log of everything that was saved, and balance_feed the one row that numbers it:
-- each batch locks that row first, so seq is contiguous and is commit order, also with several writers.
-- Locks: nothing that exists already; it only creates.

-- The rule for one ledger, the twin of the protocol's schemas: an object that has the required assets, every amount
-- in it a number that is 0 or within 1e-30 … 1e30 (the lower bound keeps 1e-9999 from growing to 10,000 digits).
-- One expression, so that PostgreSQL inlines it into the CHECKs. `strict`, because lax paths look inside arrays and
-- would take {"rlb": [1]} for {"rlb": 1}. NaN and Infinity can not occur in jsonb.
CREATE FUNCTION balance_ledger_is_valid(ledger jsonb, required text[]) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN jsonb_typeof(ledger) = 'object'
        AND ledger ?& required
        AND NOT ledger @? 'strict $.* ? (!(@.type() == "number" && (@ == 0 || (@ >= 1e-30 && @ <= 1e30))))';

CREATE TABLE balance_snapshot (
    seq         bigint      PRIMARY KEY,
    id          uuid        NOT NULL UNIQUE,
    ts          timestamptz NOT NULL,
    pid         bigint,
    onchain     jsonb       NOT NULL,
    onsite      jsonb       NOT NULL,
    received_at timestamptz NOT NULL,

    CONSTRAINT seq_is_positive CHECK (seq >= 1),
    -- The years 1000 to 2999 of the schema and a day on either side, which is what a zone can shift.
    CONSTRAINT ts_is_in_range CHECK (ts >= '0999-12-31 00:00:00+00' AND ts < '3000-01-02 00:00:00+00'),
    -- 2^53 - 1: the largest integer that every JSON reader keeps exact.
    CONSTRAINT pid_is_in_range CHECK (pid BETWEEN 0 AND 9007199254740991),
    CONSTRAINT onchain_is_valid CHECK (balance_ledger_is_valid(onchain, '{rlb,usdt}')),
    CONSTRAINT onsite_is_valid CHECK (balance_ledger_is_valid(onsite, '{rlb,usd}'))
);

-- The list, newest first; seq decides between equal ts, and with it a cursor names one place.
CREATE INDEX balance_snapshot_newest ON balance_snapshot (ts DESC, seq DESC);
CREATE INDEX balance_snapshot_newest_of_pid ON balance_snapshot (pid, ts DESC, seq DESC);

CREATE TABLE balance_feed (
    only_row boolean PRIMARY KEY DEFAULT true,
    epoch    uuid    NOT NULL,
    last_seq bigint  NOT NULL,

    CONSTRAINT there_is_one_row CHECK (only_row),
    CONSTRAINT last_seq_is_not_negative CHECK (last_seq >= 0)
);

-- epoch names this very feed: a position from a database that was since reset is then never trusted.
INSERT INTO balance_feed (epoch, last_seq) VALUES (gen_random_uuid(), 0);
