-- Why: snapshots that are old enough may be deleted. first_seq is the seq from which on the feed is complete: below it
-- rows are missing, but for those that are the last of their pid. pruned is the number of deleted rows, so that the
-- number of all snapshots, last_seq - pruned, takes no count.
-- Locks: balance_feed for a moment; it has one row, which is not written anew.

ALTER TABLE balance_feed
    ADD first_seq bigint NOT NULL DEFAULT 1,
    ADD pruned    bigint NOT NULL DEFAULT 0,
    -- Every deleted row is before first_seq.
    ADD CONSTRAINT pruned_is_in_range CHECK (pruned BETWEEN 0 AND first_seq - 1);
