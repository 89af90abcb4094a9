"""`python -m bench`: the whole run; `--quick` for about two minutes; `--profile` says where a draft's time goes."""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
from pathlib import Path

from bench.editing import BenchFailed
from bench.link import LinkClosed
from bench.missing import Missing
from bench.plan import FULL, QUICK
from bench.profiling import profile
from bench.report import PARTS, run

RESULTS = Path(__file__).parent / "results"


def _more_files() -> None:
    """Thousands of sockets need as many descriptors, here and in the servers, which inherit the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _parts(text: str) -> list[str]:
    """Names with commas between, such as peers,steady; or letters, such as ef."""
    letters = {part.name: letter for letter, part in PARTS.items()}
    found = [
        letter for word in text.split(",") for letter in ([letters[word]] if word in letters else list(word.strip()))
    ]
    if not found or not set(found) <= set(PARTS):
        raise argparse.ArgumentTypeError(f"{text!r}: write letters or names")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, about two minutes")
    parser.add_argument(
        "--only",
        metavar="PARTS",
        type=_parts,
        default=list(PARTS),
        help=f"these alone, by name or letter: {', '.join(f'{part.name} ({key})' for key, part in PARTS.items())}",
    )
    parser.add_argument("--profile", action="store_true", help="instead: where the server's time goes")
    parser.add_argument("--people", type=int, default=32, help="with --profile: how many edit (32)")
    parser.add_argument("--redis", action="store_true", help="with --profile: with the cache in Redis")
    asked = parser.parse_args()
    if asked.people < 1:
        parser.error("--people takes a number from 1")
    plan = QUICK if asked.quick else FULL
    _more_files()
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            if asked.profile:
                print(runner.run(profile(plan, asked.people, shared=asked.redis)))
            else:
                path, _ = runner.run(run(plan, RESULTS, asked.only))
                print(f"written to {path}", file=sys.stderr)
        except (BenchFailed, LinkClosed, Missing, TimeoutError) as error:
            print(f"the bench failed: {error or type(error).__name__}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
