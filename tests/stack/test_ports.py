"""A port that somebody asked for is taken or refused; any other may be replaced."""

import socket

import pytest

from labshop.errors import SetupError
from labshop.stack.ports import choose_port, free_port, http_url


def test_a_free_port_can_be_listened_on() -> None:
    """Nothing listens on it, and it lies below the ports of outgoing connections."""
    port = free_port()
    assert port < 32_768
    socket.create_server(("127.0.0.1", port)).close()


def test_a_taken_port_is_refused_only_when_it_was_asked_for() -> None:
    """An explicit port is strict, a preferred one gives way, and 0 is any free one."""
    with socket.create_server(("127.0.0.1", 0)) as grabber:
        taken = grabber.getsockname()[1]
        with pytest.raises(SetupError, match=f"Port {taken} is taken by another program"):
            choose_port("127.0.0.1", taken)
        assert choose_port("127.0.0.1", None, preferred=taken) != taken
        assert choose_port("127.0.0.1", 0, preferred=taken) not in {0, taken}
    assert choose_port("127.0.0.1", taken) == taken


def test_a_host_of_another_machine_is_refused() -> None:
    """An address that this machine does not have gives a sentence."""
    with pytest.raises(SetupError, match=r"Cannot listen on 192\.0\.2\.1, port 8000"):
        choose_port("192.0.2.1", 8000)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
    ],
)
def test_a_url_is_one_that_this_machine_can_open(host: str, url: str) -> None:
    """Listening everywhere is reached by the loopback address."""
    assert http_url(host, 80) == url
