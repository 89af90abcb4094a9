"""Where the server's time goes while people edit, told by our modules and functions."""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from bench import sampling
from bench.cores import Cores, assign, on_core
from bench.crowd import Crowd, Rounds
from bench.drafts import Drafts
from bench.plan import Plan
from bench.redis_server import RedisServer
from bench.served import ROOT, ours
from bench.service import Service
from bench.services import sidecar

_LINES = 45
_LAUNCH = "bench/"


def _home_of(file: str) -> str:
    """The module that a place belongs to: our file, or the package."""
    path = Path(file)
    if "site-packages" in path.parts:
        return path.parts[path.parts.index("site-packages") + 1]
    if path.is_relative_to(ROOT):
        return str(path.relative_to(ROOT))
    return f"stdlib {path.parent.name if path.stem == '__init__' or path.parent.name == 'asyncio' else path.stem}"


async def profile(plan: Plan, people: int = 32, *, shared: bool = False) -> str:
    """A report: microseconds per draft, by module and by function; `shared`: with the cache in Redis."""
    cores = assign() if plan.pinned else Cores()
    rounds = Rounds()
    seconds = max(plan.seconds, 2.0) * 3
    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as folder, on_core(cores.generator):
        home, figures = Path(folder), Path(folder) / "samples"
        with ExitStack() as stack:
            if shared:
                redis = stack.enter_context(RedisServer(home / "redis", cores.redis))
                running = stack.enter_context(sidecar(home / "ours", redis, cores.server, profile=figures))
            else:
                redis, running = None, stack.enter_context(ours(home / "ours", cores.server, profile=figures))
            service = Service([running], redis, cores.shared(1))
            async with Crowd.gathered(service, people, Drafts()) as crowd:
                await crowd.edit(seconds, rounds)
        samples = sampling.read(figures)
    return _report(samples, rounds, people)


def _report(samples: sampling.Samples, rounds: Rounds, people: int) -> str:
    own: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for stack, count in samples.stacks.items():
        homes = [_home_of(file) for file, _, _ in stack]
        # The loop itself has no frame of its own: what it does, reading and writing sockets, shows as the launcher's.
        own["the event loop (uvloop)" if homes[0].startswith(_LAUNCH) or "runners" in stack[0][0] else homes[0]] += (
            count
        )
        lines[f"{homes[0]}:{stack[0][2]} {stack[0][1]}"] += count
        for place in {f"{home} {function}" for home, (_, function, _) in zip(homes, stack, strict=True)}:
            within[place] += count
    whole = sum(own.values())
    # The samples' sum is the time under load and a little before and after it; the cost is measured on its own.
    each = rounds.cost[0] * 1e6 / whole

    def ranked(counts: Counter[str], title: str) -> list[str]:
        found = [f"{count * each:8.1f}  {count / whole:6.1%}  {name}" for name, count in counts.most_common(_LINES)]
        return ["", f"{title}, µs per draft", *found]

    head = (
        f"{rounds.rate[0]:.0f} drafts per second with {people} people, {rounds.cost[0] * 1e6:.0f} µs of the server's CPU time for each "
        f"and {rounds.redis_cost[0] * 1e6:.0f} of Redis' (shares of a core: server {rounds.server[0]:.0%}, Redis {rounds.redis[0]:.0%}, "
        f"load generator {rounds.generator[0]:.0%}), {whole} samples"
    )
    return "\n".join(
        [
            head,
            *ranked(own, "by module, without what it calls"),
            *ranked(within, "by function, with all that it calls"),
            *ranked(lines, "by line"),
        ]
    )
