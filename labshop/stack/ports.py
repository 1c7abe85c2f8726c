"""Which port to listen on.

The problem: two labs, a test suite and a forgotten server share one machine. The idea: a port
that somebody asked for is taken or refused, never silently replaced; a port that nobody asked
for may be any free one. It does not promise that a free port is still free a moment later: who
starts a server must be ready to try another.
"""

import errno
import random
import socket

from labshop.errors import SetupError

LOOPBACK = "127.0.0.1"
_TRIES = 200
# Below the ports that systems hand to outgoing connections (from 32768 on Linux, from 49152 on
# macOS): a client that retries a dead server's port from there can connect to itself, and then
# the server cannot come back on it.
_FIRST, _LAST = 12_000, 32_000


def free_port(host: str = LOOPBACK) -> int:
    """Return a port on which nothing listens at this moment.

    Raises:
        SetupError: the host is not one of this machine's, or no port was free.
    """
    chooser = random.SystemRandom()
    for _ in range(_TRIES):
        port = chooser.randint(_FIRST, _LAST)
        if _is_free(host, port):
            return port
    raise SetupError(f"No free port was found on {host} in {_TRIES} tries.")


def choose_port(host: str, asked: int | None, preferred: int = 8000) -> int:
    """Return the port for a server that people will type into a browser.

    Args:
        host: the address to listen on.
        asked: a port that must be this one; 0 is any free one, None leaves the choice open.
        preferred: what None takes if it is free.

    Raises:
        SetupError: the port that was asked for cannot be used.
    """
    if asked is None:
        return preferred if _is_free(host, preferred) else free_port(host)
    if asked == 0:
        return free_port(host)
    if not _is_free(host, asked):
        raise SetupError(
            f"Port {asked} is taken by another program; stop that one, or choose another port "
            "by --port or LABSHOP_API_PORT (0 takes any free one)."
        )
    return asked


def http_url(host: str, port: int) -> str:
    """Return the URL under which this machine reaches a server that listens on `host`."""
    reachable = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104  # recognised, not bound
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _is_free(host: str, port: int) -> bool:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as listener:
            # As servers do it: connections that a former server left behind do not count.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise SetupError(f"Cannot listen on {host}, port {port}: {error.strerror}.") from None
    return True
