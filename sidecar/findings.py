"""What `sidecar doctor` says of a part. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""The worst first."""

_SKEW = timedelta(seconds=5)
_SKEW_THAT_BREAKS = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that an operator should mend, or know. No secret and no content stands in it."""

    code: str
    """A short word for it, the same in every release: `eviction`, `token-not-renewable`."""
    severity: Severity
    """`error`: something does not work, or people's texts are in danger; `warning`: it will, or may be; `note`: worth knowing."""
    says: str
    """What is wrong, in one line."""
    remedy: str
    """What mends it, in one line: the key to set, the command to run."""


def clock_finding(whose: str, theirs: datetime, ours: datetime) -> Finding | None:
    """A finding where the clock of another server (`Vault`) and this host's are apart; both times aware."""
    apart = abs(theirs - ours)
    if apart < _SKEW:
        return None
    way = "ahead of" if theirs > ours else "behind"
    return Finding(
        "clock",
        "error" if apart >= _SKEW_THAT_BREAKS else "warning",
        f"the clock of {whose} is {apart.total_seconds():.0f} s {way} this host's",
        "let NTP set the clocks of both hosts",
    )
