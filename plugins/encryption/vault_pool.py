"""The threads in which hvac blocks, few and bounded, each call with its deadline."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import TypeVar

from hvac.exceptions import (
    BadGateway,
    InternalServerError,
    RateLimitExceeded,
    UnexpectedError,
    VaultDown,
    VaultError,
    VaultNotInitialized,
)

from plugins.encryption.vault_adapter import WireAdapter
from plugins.encryption.vault_circuit import Circuit
from plugins.encryption.vault_wire import Exchange, NoAnswer, Wire, WireFailure
from sidecar import Unavailable

T = TypeVar("T")

THREADS = 16
_CLOSE_SECONDS = 1.0
_CANNOT_SERVE = (VaultDown, VaultNotInitialized, BadGateway, RateLimitExceeded)
"""Answers that say that Vault can serve nobody now."""
_FAILED_INSIDE = (InternalServerError, UnexpectedError)
"""Answers that say so of this call alone."""


class Pool:
    """Carries out calls of hvac. Belongs to one event loop; a call that hangs takes one of 16 threads, for its deadline at most."""

    def __init__(self, wire: Wire, *, namespace: str | None, timeout: float) -> None:
        """`timeout`: seconds for a call, waiting for a thread included."""
        self.circuit = Circuit()
        self._wire = wire
        self._namespace = namespace
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="vault")
        self._running: set[Exchange] = set()
        self._closed = False

    async def run(self, ask: Callable[[WireAdapter], T], token: str | None) -> T:
        """What `ask` returns, asked under this token in a thread.

        Raises `VaultError` where Vault refused, and `Unavailable` where it gave no answer, cannot serve, or is left alone for
        a moment. A caller that is cancelled breaks its call off.
        """
        if self._closed:
            raise Unavailable("encryption", "it is closed")
        self.circuit.enter()
        began = monotonic()
        exchange = Exchange(self._timeout)
        adapter = WireAdapter(self._wire, exchange, token, self._namespace)
        self._running.add(exchange)
        try:
            async with asyncio.timeout(self._timeout):
                answer = await asyncio.wrap_future(self._threads.submit(_carry_out, ask, adapter))
        except TimeoutError:
            exchange.break_off()
            raise self._failed(began, "Vault did not answer in time") from None
        except WireFailure as error:
            raise self._failed(began, str(error)) from None
        except _CANNOT_SERVE as error:
            raise self._failed(began, _cannot_serve(error)) from None
        except _FAILED_INSIDE as error:
            self.circuit.answered()
            raise Unavailable("encryption", _cannot_serve(error), retry_after=1.0) from None
        except VaultError:
            self.circuit.answered()
            raise
        except BaseException:
            exchange.break_off()
            raise
        finally:
            self._running.discard(exchange)
        self.circuit.answered()
        return answer

    def _failed(self, began: float, reason: str) -> Unavailable:
        self.circuit.failed(began, reason)
        return Unavailable("encryption", reason, retry_after=0.5)

    async def close(self) -> None:
        """Breaks off what is under way, and ends the threads."""
        self._closed = True
        for exchange in self._running:
            exchange.break_off()
        self._threads.shutdown(wait=False, cancel_futures=True)
        # A thread that hangs where nothing wakes it, as in the resolver, must not hold up the end of the process.
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        threading.Thread(target=_shut_down, args=(self._threads, loop, ended), name="vault end", daemon=True).start()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await ended.wait()
        except TimeoutError:
            pass
        self._wire.close()


def _carry_out(ask: Callable[[WireAdapter], T], adapter: WireAdapter) -> T:
    try:
        return ask(adapter)
    except (KeyError, TypeError, AttributeError, ValueError):
        # hvac and we take apart what came; its parts are never repeated, they may be keys.
        raise NoAnswer("the answer of Vault is not understood") from None


def _cannot_serve(error: VaultError) -> str:
    said = " ".join(error.errors or ())
    match error:
        case VaultDown():
            return (
                "Vault is sealed: unseal it" if "sealed" in said else "Vault is down for maintenance or standby (503)"
            )
        case VaultNotInitialized():
            return "Vault is not initialised: run vault operator init"
        case RateLimitExceeded():
            return "Vault limits the rate of calls (429); see its rate limit quotas"
        case BadGateway():
            return "what stands before Vault does not reach it (502)"
        case _:
            return f"Vault failed inside ({type(error).__name__}); see its log"


def _shut_down(threads: ThreadPoolExecutor, loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    threads.shutdown()
    try:
        loop.call_soon_threadsafe(ended.set)
    except RuntimeError:
        pass  # nobody waits any more
