"""A measured server in a process of its own: `python -m bench.launch ours|bare|bare-redis`, started and asked by `bench.served`.

It prints its URL, then answers each line on its standard input with one line: `cpu` (seconds of CPU time so far, all
threads), `memory` (resident bytes, after a garbage collection). The end of its input ends it.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import threading
import time
from pathlib import Path

from bench import bare
from bench.bare_redis import with_redis
from bench.sampling import Samples


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _answer_questions() -> None:
    for line in sys.stdin:
        match line.strip():
            case "cpu":
                print(time.process_time(), flush=True)
            case "memory":
                gc.collect()
                print(resident(), flush=True)
            case other:
                print(f"unknown question: {other}", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


def _ready(url: str) -> None:
    print(url, flush=True)
    threading.Thread(target=_answer_questions, daemon=True).start()


def _ours(config: Path, samples: Samples | None) -> int:
    from sidecar import logs
    from sidecar.config import read
    from sidecar.server import run

    def ready(url: str) -> None:
        if samples is not None:
            samples.start()  # here, so that the start is left out
        _ready(url)

    settings = read(config, environment={})
    logs.configure(settings.logging.level, settings.logging.format, redact=settings.redact)
    return run(settings, ready)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.launch")
    parser.add_argument("server", choices=("ours", "bare", "bare-redis"))
    parser.add_argument("--config", type=Path, help="the sidecar's YAML")
    parser.add_argument("--redis", help="bare-redis: the URL")
    parser.add_argument("--profile", type=Path, help="ours: where to write samples of the stack at the end")
    asked = parser.parse_args()
    if asked.server != "ours":
        return bare.run(with_redis(asked.redis) if asked.redis else bare.alone(), _ready)
    if asked.profile is None:
        return _ours(asked.config, None)
    samples = Samples()
    status = _ours(asked.config, samples)
    samples.stop()
    samples.write(asked.profile)
    return status


if __name__ == "__main__":
    sys.exit(main())
