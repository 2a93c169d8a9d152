"""Time zones by name, from the system's or the package's database."""

from __future__ import annotations

from datetime import timezone, tzinfo
from zoneinfo import ZoneInfo

__all__ = ["zone_of"]


def zone_of(name: str) -> tzinfo:
    """The time zone of an IANA name. Raises ValueError."""
    if name in ("UTC", "utc"):
        return timezone.utc
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"no time zone {name!r}") from error
