"""Objects below a prefix of an S3 bucket, and the time limits of every request to S3.

Each request ends after `request_timeout_s` and is retried by its client (boto3, or Lance for
tables), so a server that never answers becomes a `StorageUnavailableError`.
"""

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from typing import Any

from infra.storage.disk import MissingObjectError, ObjectEntry, too_large
from liveedit_core.errors import ConfigError, InputError, StorageUnavailableError

TIMEOUT_VARIABLE = "LIVEEDIT_S3_TIMEOUT_S"
"""Seconds that one request may take; raise it for links too slow for one file in 30 s."""

_DEFAULT_TIMEOUT_S = 30.0
_MAX_CONNECT_TIMEOUT_S = 5.0
_MAX_RETRY_S = 20.0
_MISSING_CODES = frozenset({"NoSuchKey", "404", "NotFound"})
_EXISTS_CODES = frozenset({"PreconditionFailed", "412"})
_CONTENDED_CODES = frozenset({"ConditionalRequestConflict", "409"})
_OUTAGE_CODES = _CONTENDED_CODES | {
    "BandwidthLimitExceeded",
    "InternalError",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "RequestTimeTooSkewed",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
"""Answers after which the same request may succeed, whatever their status."""
_OUTAGE_STATUSES = frozenset({0, 408, 429})
"""And every status from 500 on; 0 is an answer without one."""
_STATUS = re.compile(r"status\D{0,20}([1-5]\d\d)\b")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_CREDENTIAL_CODES = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)


class StorageRefusedError(StorageUnavailableError):
    """The store refused this request: a retry would be refused too."""

    retryable = False


class CredentialsRefusedError(StorageRefusedError):
    """The store does not accept the credentials: every request will be refused."""

    ends_job = True


def request_timeout_s() -> float:
    """Seconds from LIVEEDIT_S3_TIMEOUT_S, 30 by default; ConfigError if it is not a duration."""
    text = os.environ.get(TIMEOUT_VARIABLE, "")
    try:
        timeout_s = float(text) if text else _DEFAULT_TIMEOUT_S
    except ValueError:
        timeout_s = 0.0
    if not 0.0 < timeout_s < float("inf"):
        raise ConfigError(f"{TIMEOUT_VARIABLE} must be a number of seconds above 0, got {text!r}")
    return timeout_s


def default_endpoint() -> str:
    """The S3 endpoint of the AWS environment; "" for Amazon's own."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")


def table_options(endpoint: str, timeout_s: float) -> dict[str, str]:
    """Options of Lance's S3 client, without credentials.

    Refused requests are retried five times within 20 s. A stalled request has used up that time
    when it ends (`client_retry_timeout` is shorter than `timeout`), so only Lance's own five
    retries remain; otherwise the two would multiply.
    """
    options = {
        "timeout": f"{round(1000 * timeout_s)}ms",
        "connect_timeout": f"{round(1000 * _connect_timeout_s(timeout_s))}ms",
        "client_max_retries": "5",
        "client_retry_timeout": str(int(min(_MAX_RETRY_S, timeout_s / 1.5))),
    }
    if endpoint:
        options["aws_endpoint"] = endpoint
        options["allow_http"] = str(endpoint.startswith("http:")).lower()
    return options


def _connect_timeout_s(timeout_s: float) -> float:
    return min(timeout_s, _MAX_CONNECT_TIMEOUT_S)


@functools.cache
def _s3_client(endpoint: str, access_key_id: str, timeout_s: float) -> Any:
    """One client per process and environment; boto3 itself reads the credentials."""
    import boto3  # slow to import, and stores on disk do not need it
    from botocore.config import Config

    config = Config(
        connect_timeout=_connect_timeout_s(timeout_s),
        read_timeout=timeout_s,
        retries={"mode": "standard", "total_max_attempts": 4},
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    return boto3.session.Session().client("s3", config=config, endpoint_url=endpoint or None)


class S3Backend:
    """Objects below a prefix of a bucket; `endpoint` "" reads the environment at each request."""

    def __init__(self, bucket: str, prefix: str, endpoint: str, timeout_s: float) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._bucket = bucket
        self._base = f"{prefix}/" if prefix else ""

    @property
    def _client(self) -> Any:
        with self._errors("the bucket"):
            access_key_id = os.environ.get("AWS_ACCESS_KEY_ID", "")
            return _s3_client(self._endpoint or default_endpoint(), access_key_id, self._timeout_s)

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Convert boto3's exceptions to ours; the S3 error code stays in the message."""
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            NoCredentialsError,
            ParamValidationError,
            PartialCredentialsError,
        )

        try:
            yield
        except ClientError as error:
            code = _error_code(error)
            if code in _MISSING_CODES:
                raise MissingObjectError from None
            raise _kind_of(error)(
                f"s3://{self._bucket}: {key!r} was refused with {code or 'no code'} ({error}); "
                "check the AWS_* environment: endpoint, region, credentials and the bucket's name"
            ) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise CredentialsRefusedError(
                f"s3://{self._bucket}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or give this machine a role"
            ) from error
        except ParamValidationError as error:
            raise InputError(f"s3://{self._bucket} with key {key!r}: {error}") from error
        except (BotoCoreError, OSError) as error:
            raise StorageUnavailableError(
                f"s3://{self._bucket}: no complete response for {key!r}: {error}"
            ) from error

    def put(self, key: str, data: bytes) -> None:
        with self._errors(key):
            self._client.put_object(Bucket=self._bucket, Key=self._base + key, Body=data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create an object by a conditional PUT; False when it exists."""
        from botocore.exceptions import ClientError

        with self._errors(key):
            try:
                self._client.put_object(
                    Bucket=self._bucket, Key=self._base + key, Body=data, IfNoneMatch="*"
                )
            except ClientError as error:
                code = _error_code(error)
                if code in _EXISTS_CODES:
                    return False
                if code in _CONTENDED_CODES and self.exists(key):
                    return False
                raise
        return True

    def get(self, key: str, max_bytes: int | None) -> bytes:
        """Read an object; the body of one that is too large is not read."""
        with self._errors(key):
            response = self._client.get_object(Bucket=self._bucket, Key=self._base + key)
            with contextlib.closing(response["Body"]) as body:
                if max_bytes is not None and response["ContentLength"] > max_bytes:
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

    def entries(self, prefix: str, is_flat: bool) -> list[ObjectEntry]:
        flat = {"Delimiter": "/"} if is_flat else {}
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._base + prefix, **flat
            )
            return [
                ObjectEntry(
                    entry["Key"].removeprefix(self._base), entry["Size"], entry["LastModified"]
                )
                for page in pages
                for entry in page.get("Contents", [])
            ]

    def delete(self, key: str) -> None:
        with self._errors(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._base + key)


def _kind_of(error: Any) -> type[StorageUnavailableError]:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0
    return _sorted(_error_code(error), int(status))


def kind_of_text(message: str) -> type[StorageUnavailableError]:
    """The same for the message of a client that gives status and code in words."""
    status = _STATUS.search(message)
    codes = (code for code in _CODE.findall(message) if code in _CREDENTIAL_CODES | _OUTAGE_CODES)
    return _sorted(next(codes, ""), int(status.group(1)) if status else 0)


def _sorted(code: str, status: int) -> type[StorageUnavailableError]:
    """An outage only by the list: a job that waits out anything else would wait for ever."""
    if code in _CREDENTIAL_CODES:
        return CredentialsRefusedError
    if code in _OUTAGE_CODES or status in _OUTAGE_STATUSES or status >= 500:
        return StorageUnavailableError
    return StorageRefusedError


def _error_code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
