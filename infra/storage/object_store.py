"""Objects under one root URI: a folder on disk or a prefix in an S3 bucket, with one behaviour.

Keys are relative paths with "/" between their parts. Everything that is not a table goes through
here: checkpoints, writer epochs, images by URI. S3 endpoint, region and credentials come from the
standard AWS environment. A store that is sent to another process takes its endpoint along, never
credentials: those are the other process's own.
"""

import contextlib
import functools
import os
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from infra.storage.disk import (
    TEMPORARY_PREFIX,
    Backend,
    DiskBackend,
    MissingObjectError,
    ObjectEntry,
    too_large,
)
from infra.storage.s3_timeouts import connect_timeout_s, request_timeout_s, table_timeouts
from liveedit_core.errors import InputError, IntegrityError, StorageUnavailableError

_PROBE_CONTENDERS = 4
_MAX_PROBES = 5
_MISSING_CODES = frozenset({"NoSuchKey", "404", "NotFound"})
_EXISTS_CODES = frozenset({"PreconditionFailed", "412"})
_CONTENDED_CODES = frozenset({"ConditionalRequestConflict", "409"})
_REFUSED_CODES = frozenset(
    {
        "403",
        "AccessDenied",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "InvalidAccessKeyId",
        "InvalidBucketName",
        "NoSuchBucket",
        "PermanentRedirect",
        "SignatureDoesNotMatch",
    }
)
"""Answers that stay the same until a person changes something."""


class StorageRefusedError(StorageUnavailableError):
    """The store answers, and says no: credentials, permissions or the bucket's name."""

    retryable = False


class UnsafeStoreError(StorageUnavailableError):
    """The store cannot keep two writers apart; nothing may be committed there."""

    retryable = False


class ObjectStore:
    """The one way to objects; picklable, holds no credentials."""

    def __init__(self, root_uri: str | Path, endpoint: str = "", timeout_s: float = 0.0) -> None:
        """Name the root; nothing is read or written yet.

        Args:
            root_uri: `file:///folder`, a plain path, or `s3://bucket/prefix`.
            endpoint: URL of the S3 server; "" takes that of the AWS environment.
            timeout_s: Of one request to it; 0 takes LIVEEDIT_S3_TIMEOUT_S, or 30.

        Raises:
            InputError: The scheme is neither of these, or the bucket is missing.
            ConfigError: The environment gives a timeout that is none.
        """
        self.root_uri = _normalized_root(root_uri)
        self._given_endpoint = endpoint
        self._timeout_s = timeout_s or request_timeout_s()

    def __reduce__(self) -> tuple[type["ObjectStore"], tuple[str, str, float]]:
        """Pickle root, endpoint and timeout: clients are made anew where the store arrives.

        The endpoint goes along, as it does in `table_options`: objects and tables of one store must
        not end up on two servers because a node has another environment than the driver.
        """
        return ObjectStore, (self.root_uri, self._endpoint, self._timeout_s)

    @property
    def _endpoint(self) -> str:
        return self._given_endpoint or _endpoint()

    @functools.cached_property
    def _backend(self) -> Backend:
        parts = urlsplit(self.root_uri)
        if parts.scheme == "s3":
            return self._s3_backend(parts.netloc, parts.path.strip("/"))
        return DiskBackend(Path(unquote(parts.path)))

    def _s3_backend(self, bucket: str, prefix: str) -> Backend:
        return _S3Backend(bucket, prefix, self._given_endpoint, self._timeout_s)

    def put(self, key: str, data: bytes) -> None:
        """Write an object whole or not at all, replacing what was there."""
        self._backend.put(_checked(key), data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create an object exclusively.

        Args:
            key: Where to.
            data: The content.

        Returns:
            Whether this call created it. After a lost answer from an S3 server the repeated request
            finds its own object and False is returned: whoever must tell puts a token in `data`.
        """
        return self._backend.put_if_absent(_checked(key), data)

    def get(self, key: str, max_bytes: int | None = None) -> bytes:
        """Read an object.

        Args:
            key: Which one.
            max_bytes: Refuse a larger one without reading it all.

        Raises:
            IntegrityError: There is no such object.
            InputError: It is larger than `max_bytes`.
        """
        try:
            return self._backend.get(_checked(key), max_bytes)
        except MissingObjectError:
            raise IntegrityError(f"object {key!r} is missing in {self.root_uri}") from None

    def exists(self, key: str) -> bool:
        """Whether there is an object of this key."""
        return self._backend.exists(_checked(key))

    def list(self, prefix: str = "") -> list[str]:
        """All keys that begin with the prefix, sorted."""
        return sorted(entry.key for entry in self._backend.entries(prefix))

    def entries(self, prefix: str = "") -> Sequence[ObjectEntry]:
        """All objects whose keys begin with the prefix, the oldest first, then by key."""
        found = self._backend.entries(prefix)
        return sorted(found, key=lambda entry: (entry.modified_at, entry.key))

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is fine."""
        self._backend.delete(_checked(key))

    def fetch(self, uri: str, max_bytes: int) -> bytes:
        """Read any object by its full URI, as requests name their images.

        Args:
            uri: `s3://bucket/key` of any bucket that the credentials open, or `file:///path`.
            max_bytes: Refuse a larger one without reading it all.

        Raises:
            InputError: Another scheme, no such object, no file, or too large.
            StorageUnavailableError: The store did not answer, or refused the credentials.
        """
        scheme, _, rest = uri.partition("://")
        host, _, path = rest.partition("/")
        is_s3 = scheme == "s3" and host != ""
        is_file = scheme == "file" and host in ("", "localhost")
        key = (unquote(path) if is_file else path).lstrip("/")
        if not key or not (is_s3 or is_file):
            raise InputError(
                f"cannot fetch {uri[:200]!r}: give s3://bucket/key or file:///path "
                "(http and https are not fetched; copy the image into the store first)"
            )
        backend: Backend = DiskBackend(Path("/"))
        if is_s3:
            backend = self._s3_backend(host, "")
        try:
            return backend.get(key, max_bytes)
        except MissingObjectError:
            raise InputError(f"{uri[:200]!r} does not exist or is no file") from None

    def check_exclusive_create(self) -> None:
        """Prove that conditional creation is exclusive here, as some S3 servers ignore it.

        Raises:
            UnsafeStoreError: Two writers could both believe that they created one object.
            StorageUnavailableError: So many answers were lost that nothing is proven.
        """
        for _ in range(_MAX_PROBES):
            if self._probe_once():
                return
        raise StorageUnavailableError(
            f"{self.root_uri}: {_MAX_PROBES} times the answer to the winner of a conditional PUT "
            "was lost; whether the store creates objects exclusively is not proven"
        )

    def _probe_once(self) -> bool:
        """Let several contenders create one object; False when the winner's answer was lost."""
        key = f"probes/exclusive-{uuid.uuid4().hex}"
        contents = [f"contender {index}".encode() for index in range(_PROBE_CONTENDERS)]
        try:
            with ThreadPoolExecutor(_PROBE_CONTENDERS) as pool:
                won = list(pool.map(lambda data: self.put_if_absent(key, data), contents))
            won_late = self.put_if_absent(key, b"late")
            stored = self.get(key)
        finally:
            self.delete(key)
        winners = [data for data, has_won in zip(contents, won, strict=True) if has_won]
        if not winners and not won_late and stored in contents:
            return False
        if won_late or winners != [stored]:
            raise UnsafeStoreError(
                f"{self.root_uri} does not create objects exclusively: of {_PROBE_CONTENDERS + 1} "
                f"conditional PUTs (If-None-Match: *) of one key {len(winners) + won_late} "
                "succeeded, one should have. Concurrent writers would lose data; use another "
                "server or a newer version of it"
            )
        return True

    def table_uri(self, name: str) -> str:
        """Where a Lance table of this name lives: a path, or an s3:// URI."""
        root = urlsplit(self.root_uri)
        base = self.root_uri if root.scheme == "s3" else unquote(root.path)
        return f"{base}/{_checked(name)}"

    def table_options(self) -> dict[str, str]:
        """Lance storage options that the AWS environment implies (no credentials)."""
        if not self.root_uri.startswith("s3://"):
            return {}
        endpoint = self._endpoint
        options = table_timeouts(self._timeout_s)
        if endpoint:
            options["aws_endpoint"] = endpoint
            options["allow_http"] = str(endpoint.startswith("http:")).lower()
        return options


def _normalized_root(root_uri: str | Path) -> str:
    text = str(root_uri)
    if "://" not in text:
        return Path(text).absolute().as_uri()
    parts = urlsplit(text)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path)).as_uri()
    if parts.scheme == "s3" and parts.netloc and not parts.query and not parts.fragment:
        return text.rstrip("/")
    raise InputError(f"store root {text!r}: expected file:///folder, a path or s3://bucket/prefix")


def _checked(key: str) -> str:
    parts = key.split("/")
    if any(part in ("", ".", "..") or part.startswith(TEMPORARY_PREFIX) for part in parts):
        raise InputError(f"key {key!r} is not a relative path of plain names")
    return key


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")


@functools.cache
def _s3_client(endpoint: str, access_key_id: str, timeout_s: float) -> Any:
    """One client a process, a new one when the environment changes.

    Args:
        endpoint: URL of the server; "" for Amazon's.
        access_key_id: Only tells environments apart: boto3 reads it, and all else, by itself.
        timeout_s: Of one request.
    """
    import boto3  # slow, and stores on disk do without it
    from botocore.config import Config

    config = Config(
        connect_timeout=connect_timeout_s(timeout_s),
        read_timeout=timeout_s,
        retries={"mode": "standard", "total_max_attempts": 4},
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    return boto3.session.Session().client("s3", config=config, endpoint_url=endpoint or None)


class _S3Backend:
    """Objects below a prefix of a bucket."""

    def __init__(self, bucket: str, prefix: str, endpoint: str, timeout_s: float) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._bucket = bucket
        self._base = f"{prefix}/" if prefix else ""

    @property
    def _client(self) -> Any:
        with self._errors("the bucket"):
            access_key_id = os.environ.get("AWS_ACCESS_KEY_ID", "")
            return _s3_client(self._endpoint or _endpoint(), access_key_id, self._timeout_s)

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Turn what boto3 raises into our errors; the code of a refusal stays in the message."""
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            HTTPClientError,
            IncompleteReadError,
            NoCredentialsError,
            ParamValidationError,
            PartialCredentialsError,
        )

        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _MISSING_CODES:
                raise MissingObjectError from None
            kind = StorageRefusedError if code in _REFUSED_CODES else StorageUnavailableError
            raise kind(
                f"s3://{self._bucket}: {key!r} was refused with {code or 'no code'} ({error}); "
                "check the AWS_* environment: endpoint, region, credentials and the bucket's name"
            ) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise StorageRefusedError(
                f"s3://{self._bucket}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or give this machine a role"
            ) from error
        except ParamValidationError as error:
            raise InputError(f"s3://{self._bucket} with key {key!r}: {error}") from error
        except (BotoCoreError, HTTPClientError, IncompleteReadError, OSError) as error:
            raise StorageUnavailableError(
                f"s3://{self._bucket}: no whole answer for {key!r}: {error}"
            ) from error

    def put(self, key: str, data: bytes) -> None:
        with self._errors(key):
            self._client.put_object(Bucket=self._bucket, Key=self._base + key, Body=data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        with self._errors(key):
            try:
                self._client.put_object(
                    Bucket=self._bucket, Key=self._base + key, Body=data, IfNoneMatch="*"
                )
            except ClientError as error:
                code = str(error.response.get("Error", {}).get("Code", ""))
                if code in _EXISTS_CODES:
                    return False
                if code in _CONTENDED_CODES and self.exists(key):
                    return False
                raise
        return True

    def get(self, key: str, max_bytes: int | None) -> bytes:
        with self._errors(key):
            answer = self._client.get_object(Bucket=self._bucket, Key=self._base + key)
            with contextlib.closing(answer["Body"]) as body:
                if max_bytes is not None and answer["ContentLength"] > max_bytes:
                    raise too_large(f"s3://{self._bucket}/{self._base}{key}", max_bytes)
                data: bytes = body.read()
        return data

    def exists(self, key: str) -> bool:
        try:
            with self._errors(key):
                self._client.head_object(Bucket=self._bucket, Key=self._base + key)
        except MissingObjectError:
            return False
        return True

    def entries(self, prefix: str) -> list[ObjectEntry]:
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._base + prefix
            )
            return [
                ObjectEntry(
                    key=entry["Key"].removeprefix(self._base),
                    num_bytes=entry["Size"],
                    modified_at=entry["LastModified"],
                )
                for page in pages
                for entry in page.get("Contents", [])
            ]

    def delete(self, key: str) -> None:
        with self._errors(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._base + key)
