"""The table: a row for each figure, with its goal and whether it was met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.figures import ratios, spread
from bench.missing import Missing


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of ours beside the one it is compared with."""

    part: str
    """`a` to `k`."""
    what: str
    ours: str
    beside: str = ""
    """The bare loop's figure, or the one with few chats."""
    ratio: str = ""
    goal: str = ""
    met: bool | None = None
    """None: a figure without a goal."""

    @classmethod
    def compared(
        cls, part: str, what: str, ours: Sequence[float], beside: Sequence[float], goal: float | None = None
    ) -> Row:
        """A figure of each round, beside the other's of the same round; `goal`: at least so many times that."""
        relative = ratios(ours, beside)
        return cls(
            part,
            what,
            f"{spread(ours):.0f}",
            f"{spread(beside):.0f}",
            f"{relative:.2f}",
            "" if goal is None else f"≥ {goal}",
            None if goal is None else relative.middle >= goal,
        )

    @classmethod
    def left_out(cls, part: str, what: str, missing: Missing) -> Row:
        """In place of figures that this machine cannot give."""
        return cls(part, what, f"skipped: {missing}")


_HEADS = ("", "what", "ours", "beside", "ratio (min–max)", "goal", "")


def _cells(row: Row) -> tuple[str, ...]:
    verdict = "" if row.met is None else "met" if row.met else "MISSED"
    return (row.part, row.what, row.ours, row.beside, row.ratio, row.goal, verdict)


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table whose columns are aligned, so that it reads on a terminal too."""
    lines = [_HEADS, *(_cells(row) for row in rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(_HEADS))]

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))} |"

    return "\n".join([line(_HEADS), line(["-" * width for width in widths]), *(line(each) for each in lines[1:])])
