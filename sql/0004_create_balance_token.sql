-- Why: balance_token has the tokens by which callers are known, as SHA-256 of 128 random bits, which needs no salt and no
-- slow hash. A token that is revoked stays, so that the last one that is revoked does not open the service to anyone.
-- Locks: nothing that exists already; it only creates.

CREATE TABLE balance_token (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text        NOT NULL,
    role         text        NOT NULL,
    sha256       bytea       NOT NULL UNIQUE,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,                      -- NULL: it does not expire
    revoked_at   timestamptz,                      -- NULL: it is not revoked
    last_used_at timestamptz,                      -- to the minute; NULL: never

    CONSTRAINT name_is_short CHECK (length(name) BETWEEN 1 AND 100),
    CONSTRAINT role_is_known CHECK (role IN ('reader', 'writer', 'admin')),
    CONSTRAINT sha256_is_a_digest CHECK (length(sha256) = 32)
);

-- A name is that of one token, until it is revoked.
CREATE UNIQUE INDEX balance_token_name ON balance_token (name) WHERE revoked_at IS NULL;
