"""Authentication: tokens, JWTs and tickets, and the caller that each names. What a caller may do is in `balance.auth`.

The modules: `tokens` (the text of a token), `jwt` (tokens of an identity provider), `tickets` (for event streams),
`authenticator` (finds the caller of a credential), `refresh` (keeps all of it current, and ends what is revoked).
"""
