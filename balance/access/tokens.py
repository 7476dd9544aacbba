"""The text of a token: `bal_<role>_<22 characters>_<check>`.

The 22 characters are 128 random bits, so that a hash without salt and without iterations protects them. The check
detects a mistyped or truncated token, and lets a scanner for secrets recognise one. The role is for the reader of a
configuration; the stored one counts.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib

from balance.auth import TOKEN_ROLES, Role

PREFIX = "bal_"
ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
RANDOM_BITS, RANDOM_LENGTH, CHECK_LENGTH = 128, 22, 6  # 62**22 > 2**128 and 62**6 > 2**32

_CHARACTER = "[0-9A-Za-z]"
_TOKEN = re.compile(
    rf"({PREFIX}(?:{'|'.join(TOKEN_ROLES)})_{_CHARACTER}{{{RANDOM_LENGTH}}})_({_CHARACTER}{{{CHECK_LENGTH}}})"
)


def new_token(role: Role) -> str:
    """Make a token. It is the only copy: what is stored is its digest."""
    body = f"{PREFIX}{role}_{_base62(secrets.randbits(RANDOM_BITS), RANDOM_LENGTH)}"
    return f"{body}_{_check(body)}"


def is_token(text: str) -> bool:
    """Return whether a text is a token whose check fits; whether it is known is another question."""
    found = _TOKEN.fullmatch(text)
    return found is not None and _check(found[1]) == found[2]


def digest(credential: str) -> bytes:
    """Return the SHA-256 of a credential, by which it is stored and looked up."""
    return hashlib.sha256(credential.encode(errors="replace")).digest()


def _check(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), CHECK_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))
