"""Operators' commands: what they do, wherever the parts are (`docs/operations.md`).

`perform` carries one out on parts that are open, for the running server; `run` opens the parts itself. Both yield lines:
`{"progress": {"done", "total"}}` and `{"row": {…}}`, any number, and at the end `{"result": {…}}` or
`{"error": {"message", "remedy"}}`. No line holds content. The commands and their arguments: `sidecar.operations.commands`.
"""

from sidecar.operations.alone import run
from sidecar.operations.commands import DESTRUCTIVE, TO_THE_END, perform
from sidecar.operations.work import Live

__all__ = ["DESTRUCTIVE", "TO_THE_END", "Live", "perform", "run"]
