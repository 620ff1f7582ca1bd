"""Images of requests: from data, and from hosts that are allowed by name."""

import asyncio
import http.server
import threading
from collections.abc import Iterator

import pytest

from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import RefusedInputError
from pipelines.serving import images
from pipelines.serving.images import ImageReader
from pipelines.serving.recipe import HttpSection
from tests.running_server import data_uri
from tests.tiny_backbone import image


class Pages(http.server.BaseHTTPRequestHandler):
    """An image, a redirect to it, and a large file."""

    def do_GET(self) -> None:
        self.send_response(302 if self.path == "/moved.png" else 200)
        if self.path == "/moved.png":
            self.send_header("Location", "/a.png")
        self.end_headers()
        self.wfile.write(b"\0" * 200_000 if self.path == "/large.png" else image(1))

    def log_message(self, *arguments: object) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


def read(url: str, *hosts: str) -> bytes:
    async def reading() -> bytes:
        limits = InputLimits(max_image_bytes=100_000)
        return await ImageReader.of(HttpSection(image_hosts=hosts), limits).read(url)

    return asyncio.run(reading())


def test_data_and_allowed_hosts_are_read(site: str) -> None:
    assert read(data_uri(image(1))) == image(1)
    assert read(f"{site}/a.png", "127.0.0.1") == image(1)


@pytest.mark.parametrize(
    ("path", "host"),
    [("/a.png", "localhost"), ("/moved.png", "127.0.0.1"), ("/large.png", "127.0.0.1")],
)
def test_other_hosts_redirects_and_large_files_are_refused(site: str, path: str, host: str) -> None:
    with pytest.raises(RefusedInputError):
        read(site + path, host)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/hostname", "s3://bucket/a.png", "/etc/hostname", "data:image/png,x", "http://"],
)
def test_nothing_of_the_host_can_be_named(url: str) -> None:
    with pytest.raises(RefusedInputError) as refused:
        read(url, "")
    assert "data:image" in refused.value.message


def test_a_host_that_does_not_answer_is_no_fault_of_ours() -> None:
    with pytest.raises(RefusedInputError, match="cannot be fetched"):
        read("http://127.0.0.1:9/a.png", "127.0.0.1")


def test_images_that_take_too_long_take_no_place_of_other_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are refused in time, and no further one is decoded before one of them has ended."""
    ends, begun = threading.Event(), list[str]()

    def slow(data: bytes, **options: object) -> None:
        begun.append(threading.current_thread().name)
        ends.wait(60)

    monkeypatch.setattr(images, "decode_image", slow)

    async def reading() -> None:
        reader = ImageReader.of(HttpSection(image_timeout_s=0.05), InputLimits())
        url = data_uri(image(1))
        try:
            for _ in range(4):
                with pytest.raises(RefusedInputError, match="longer than"):
                    await reader.read(url)
            fifth = asyncio.create_task(reader.read(url))
            for _ in range(20):
                await asyncio.to_thread(int)  # other work goes on
            assert len(begun) == 4
        finally:
            ends.set()
        assert await fifth == image(1)

    asyncio.run(reading())
    assert len(begun) == 5
    assert all(name.startswith("images") for name in begun)
