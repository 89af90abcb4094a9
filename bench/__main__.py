"""`python -m bench`: the whole run, under ten minutes; `--quick` for about one; `--profile` says where a draft's time goes."""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
from pathlib import Path

from bench.link import LinkClosed
from bench.pair import BenchFailed
from bench.plan import FULL, QUICK
from bench.profiling import profile
from bench.report import PARTS, run

RESULTS = Path(__file__).parent / "results"


def _more_files() -> None:
    """Thousands of sockets need as many descriptors, here and in the servers, which inherit the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, about a minute")
    parser.add_argument("--only", metavar="PARTS", default="".join(PARTS), help="such as ac: these parts alone")
    parser.add_argument("--profile", action="store_true", help="instead: where the server's time goes")
    parser.add_argument("--people", type=int, default=32, help="with --profile: how many edit (32)")
    asked = parser.parse_args()
    unknown = set(asked.only) - set(PARTS)
    if unknown or not asked.only:
        parser.error(f"--only takes letters of {''.join(PARTS)}")
    if asked.people < 1:
        parser.error("--people takes a number from 1")
    plan = QUICK if asked.quick else FULL
    _more_files()
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            if asked.profile:
                print(runner.run(profile(plan, asked.people)))
            else:
                path, _ = runner.run(run(plan, RESULTS, list(asked.only)))
                print(f"written to {path}", file=sys.stderr)
        except (BenchFailed, LinkClosed) as error:
            print(f"the bench failed: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
