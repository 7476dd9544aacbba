"""The time for which snapshots are kept, as text."""

from __future__ import annotations

import re
from datetime import timedelta

UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
MAX = timedelta(days=36_525)


def parse_keep(text: str) -> timedelta:
    """Return the time that a text such as `90d` names. Raises ValueError with the reason."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([hdw])", text)
    if found is None or (time := int(found[1]) * UNITS[found[2]]) > MAX:
        raise ValueError("is not a time such as 12h, 90d or 8w, of up to 100 years")
    return time
