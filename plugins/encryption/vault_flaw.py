"""Something that is wrong with a Vault, and what mends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sidecar import Finding, StartRefused


@dataclass(frozen=True, slots=True)
class Flaw:
    code: str
    says: str
    remedy: str
    fatal: bool = False
    """With this the plugin must not be used."""
    severity: Literal["error", "warning", "note"] = "warning"
    """Of one that is not fatal."""

    def finding(self) -> Finding:
        """As `doctor` says it."""
        return Finding(self.code.replace("_", "-"), "error" if self.fatal else self.severity, self.says, self.remedy)

    def __str__(self) -> str:
        return f"{self.says}: {self.remedy}"


def refuse(findings: Sequence[Flaw]) -> None:
    """Raises `StartRefused` with the fatal ones."""
    fatal = [str(finding) for finding in findings if finding.fatal]
    if fatal:
        raise StartRefused("encryption", "; ".join(fatal))
