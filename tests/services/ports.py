"""Ports that nobody else takes, also while the server that they are for is down."""

from __future__ import annotations

import socket
import sys

HOST = "127.0.0.1"


class ReservedPort:
    """A free port, bound but not listened on until it is closed. A server that sets SO_REUSEADDR, as all do, can listen on it.

    The kernel gives it to nobody else meanwhile, neither to a bind to port 0 nor to an outgoing connection; so a server that
    was killed finds its port again, and connecting to it while nothing listens is refused, as it would be without.
    Elsewhere than on Linux such a port could not be listened on: there it is merely one that was free.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((HOST, 0))
        self.number: int = self._socket.getsockname()[1]
        if sys.platform != "linux":
            self._socket.close()

    def close(self) -> None:
        self._socket.close()
