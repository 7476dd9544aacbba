-- Why: a failover or a restore can take back rows of the feed. balance_epoch records after which seq each epoch of the
-- feed began, so that a position is good if and only if no later epoch began before it. balance_feed has the timeline
-- and the system of PostgreSQL of its epoch, since the statement that saves locks this row anyway.
-- Locks: balance_feed for a moment; balance_snapshot while one index is built, a second or two for a million rows.

CREATE TABLE balance_epoch (
    epoch     uuid        PRIMARY KEY,
    number    integer     NOT NULL UNIQUE,         -- 1, 2, 3 … in the order in which they began
    after_seq bigint      NOT NULL,                -- the last row of the epochs before that it has
    timeline  text,                                -- on which it began: eight hex digits; NULL: not known
    system_id text,                                -- as in pg_control_system(); NULL: not known
    began_at  timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT number_is_positive CHECK (number >= 1),
    CONSTRAINT after_seq_is_not_negative CHECK (after_seq >= 0)
);

INSERT INTO balance_epoch (epoch, number, after_seq) SELECT epoch, 1, 0 FROM balance_feed;

ALTER TABLE balance_feed ADD timeline text, ADD system_id text;

-- The JSON of a snapshot as watchers receive it: the bytes of Snapshot.to_wire in balance/snapshot.py. One expression,
-- so that PostgreSQL inlines it. No name of an asset has a space.
CREATE FUNCTION balance_snapshot_json(
    id uuid, seq bigint, ts timestamptz, pid bigint, onchain jsonb, onsite jsonb
) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
    RETURN format(
        '{"id":"%s","seq":%s,"ts":"%s","pid":%s,%s}',
        id,
        seq,
        to_char(
            ts AT TIME ZONE 'UTC',
            CASE WHEN date_trunc('milliseconds', ts) = ts
                THEN 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'
                ELSE 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
            END
        ),
        coalesce(pid::text, 'null'),
        replace(format('"onchain":%s,"onsite":%s', onchain, onsite), ' ', '')
    );

-- The last snapshot of each pid; snapshots without a pid are not in it.
CREATE INDEX balance_snapshot_last_of_pid ON balance_snapshot (pid, seq DESC) WHERE pid IS NOT NULL;
