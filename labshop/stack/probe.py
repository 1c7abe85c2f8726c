"""Asks a process, from outside and without a client library, whether it is alive.

The problem: an open port proves little; another program may hold it, and a frozen server's
system still accepts connections for it. The idea: only an answer counts, within a deadline, and
a Redis server's answer carries its own process id. It does not promise that the process lives
a moment after it has answered.
"""

import http.client
import socket
from urllib.parse import urlsplit

from labshop.stack.ports import LOOPBACK

_LARGEST_BODY_BYTES = 65_536


def ask_redis(port: int, command: str, timeout_s: float = 0.5) -> str:
    """Send one inline command to a Redis server on this machine and return its reply.

    Args:
        port: where it listens on the loopback address.
        command: such as ``PING`` or ``INFO replication``.
        timeout_s: deadline of each step: connect, send, receive.

    Raises:
        OSError: nobody listens, or no answer came in time (`TimeoutError`).
    """
    with socket.create_connection((LOOPBACK, port), timeout=timeout_s) as connection:
        connection.sendall(command.encode() + b"\r\n")
        with connection.makefile("rb") as reply:
            head = reply.readline(_LARGEST_BODY_BYTES).decode(errors="replace").rstrip()
            if head.startswith("$") and head[1:].isdecimal():
                return reply.read(int(head[1:])).decode(errors="replace")
            return head


def redis_info(port: int, section: str, timeout_s: float = 0.5) -> dict[str, str]:
    """Return one section of a Redis server's INFO as its fields.

    Raises:
        OSError: nobody listens, or no answer came in time.
    """
    lines = ask_redis(port, f"INFO {section}", timeout_s).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def answering_pid(port: int, timeout_s: float = 0.5) -> int | None:
    """Return the process id of the Redis server that serves commands on a port.

    None says that nobody listens there, or that the server is still loading its data.

    Raises:
        TimeoutError: somebody listens but does not answer, as a frozen server.
    """
    try:
        if ask_redis(port, "PING", timeout_s) != "+PONG":
            return None
        return int(redis_info(port, "server", timeout_s).get("process_id", 0)) or None
    except TimeoutError:
        raise
    except OSError:
        return None


def http_get(url: str, timeout_s: float = 2.0) -> tuple[int, str]:
    """Return the status and body that a server on this machine answers to GET.

    A proxy that the environment names is not asked: it cannot know this machine's loopback.

    Raises:
        OSError: nobody listens, or no answer came in time.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or LOOPBACK, parts.port, timeout_s)
    try:
        connection.request("GET", parts.path or "/")
        answer = connection.getresponse()
        return answer.status, answer.read(_LARGEST_BODY_BYTES).decode(errors="replace")
    except http.client.HTTPException as error:
        raise ConnectionError(f"{url} does not speak HTTP: {error}") from error
    finally:
        connection.close()
