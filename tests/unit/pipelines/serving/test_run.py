"""Connections that nobody limits by a recipe."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.responses import PlainTextResponse

from pipelines.serving.recipe import ServeRecipe
from pipelines.serving.run import server_config

_MEGABYTE = 1_000_000


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server that says "there" to everybody."""
    server = uvicorn.Server(server_config(PlainTextResponse("there"), ServeRecipe(port=0)))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def sent_of(start: bytes, num_bytes: int, connection: socket.socket) -> int:
    """How much of an endless header a server takes before it hangs up."""
    connection.sendall(start)
    num_sent = 0
    try:
        while num_sent < num_bytes:
            num_sent += connection.send(b"a" * _MEGABYTE)
    except ConnectionError:
        pass
    return num_sent


def test_endless_headers_are_refused(port: int) -> None:
    start = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: "
    with socket.create_connection(("127.0.0.1", port)) as short:
        short.sendall(start + b"a\r\n\r\n")
        assert short.recv(1000).startswith(b"HTTP/1.1 200")
    with socket.create_connection(("127.0.0.1", port)) as endless:
        assert sent_of(start, 100 * _MEGABYTE, endless) < 50 * _MEGABYTE
