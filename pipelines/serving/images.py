"""Images of requests: data URIs, and http(s) from hosts that are allowed by name."""

import asyncio
import base64
import binascii
import http.client
import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

from liveedit_core.inputs.images import check_image_bytes, decode_image
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import RefusedInputError, RejectType
from pipelines.serving.recipe import HttpSection

_MAX_AT_ONCE = 4
"""Images that are decoded at one time."""


@dataclass(frozen=True)
class ImageReader:
    """Turns `image_url` into checked bytes; nothing of the host can be named."""

    http: HttpSection
    limits: InputLimits
    _threads: ThreadPoolExecutor
    """Of its own: an image that nobody waits for any more takes no thread of other requests."""
    _places: asyncio.Semaphore

    @classmethod
    def of(cls, http: HttpSection, limits: InputLimits) -> "ImageReader":
        threads = ThreadPoolExecutor(_MAX_AT_ONCE, thread_name_prefix="images")
        return cls(http, limits, threads, asyncio.Semaphore(_MAX_AT_ONCE))

    async def read(self, url: str) -> bytes:
        """RefusedInputError for what is not an image that is accepted."""
        await self._places.acquire()
        reading = asyncio.get_running_loop().run_in_executor(self._threads, self._read, url)
        reading.add_done_callback(lambda _: self._places.release())
        try:
            async with asyncio.timeout(self.http.image_timeout_s):
                return await asyncio.shield(reading)
        except TimeoutError:
            raise RefusedInputError(
                f"the image took longer than {self.http.image_timeout_s:g} s to fetch and decode",
                RejectType.IMAGE_UNREACHABLE,
            ) from None

    def _read(self, url: str) -> bytes:
        data = self._of_data_uri(url) if url[:5].lower() == "data:" else self._fetched(url)
        check_image_bytes(data, max_bytes=self.limits.max_image_bytes)
        decode_image(data, max_pixels=self.limits.max_image_pixels)
        return data

    def _of_data_uri(self, url: str) -> bytes:
        head, comma, text = url.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise _unreadable("an image must be data:image/...;base64,...")
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise _unreadable(f"the image is not base64 ({error})") from error

    def _fetched(self, url: str) -> bytes:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise _unreadable("the address of the image is not valid") from error
        if parts.scheme not in ("http", "https") or host not in self.http.image_hosts:
            raise RefusedInputError(
                "images are given as data:image/...;base64,...; an http(s) address is fetched only "
                "from hosts that the server allows by name (http.image_hosts)",
                RejectType.IMAGE_UNREACHABLE,
            )
        timeout_s = self.http.image_timeout_s
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=timeout_s, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        try:
            connection.request("GET", parts._replace(scheme="", netloc="", fragment="").geturl())
            answer = connection.getresponse()
            if answer.status != 200:  # redirects included
                raise RefusedInputError(
                    f"{host} answered {answer.status}; redirects are not followed",
                    RejectType.IMAGE_UNREACHABLE,
                )
            return answer.read(self.limits.max_image_bytes + 1)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise RefusedInputError(
                f"the image cannot be fetched from {host}", RejectType.IMAGE_UNREACHABLE
            ) from error
        finally:
            connection.close()


def _unreadable(message: str) -> RefusedInputError:
    return RefusedInputError(message, RejectType.IMAGE_UNREADABLE)
