"""What a part wants and this machine lacks."""

from __future__ import annotations


class Missing(Exception):
    """The text says what is not there, and how to get it. What needs it is left out of the table by name, with this reason."""
