"""What a store answers is an outage, a refusal of one request, or one of the credentials."""

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from infra.storage.s3 import (
    CredentialsRefusedError,
    S3Backend,
    StorageRefusedError,
    kind_of_text,
)
from infra.storage.tables import storage_errors
from liveedit_core.errors import StorageUnavailableError

OUTAGES = [
    (503, "SlowDown"),
    (500, "InternalError"),
    (502, ""),
    (599, "Odd"),
    (408, "Whatever"),
    (429, "Whatever"),
    (400, "RequestTimeout"),
    (403, "RequestTimeTooSkewed"),
    (400, "ThrottlingException"),
    (409, "OperationAborted"),
    (409, "ConditionalRequestConflict"),
    (200, "InternalError"),
]
REFUSALS = [
    (400, "KeyTooLongError"),
    (403, "InvalidObjectState"),
    (400, "InvalidRequest"),
    (400, "InvalidArgument"),
    (405, "MethodNotAllowed"),
    (403, "AccessDenied"),
    (403, "403"),
    (301, "PermanentRedirect"),
    (418, "NeverHeardOf"),
]
CREDENTIALS = [
    (400, "ExpiredToken"),
    (400, "InvalidToken"),
    (403, "InvalidAccessKeyId"),
    (403, "SignatureDoesNotMatch"),
]
KINDS = [
    *((*case, StorageUnavailableError) for case in OUTAGES),
    *((*case, StorageRefusedError) for case in REFUSALS),
    *((*case, CredentialsRefusedError) for case in CREDENTIALS),
]


@pytest.mark.parametrize(("status", "code", "kind"), KINDS)
def test_answers_of_a_store(status: int, code: str, kind: type[StorageUnavailableError]) -> None:
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    backend = S3Backend("bucket", "", "", 1.0)
    with pytest.raises(kind) as caught, backend._errors("key"):
        raise ClientError(response, "GetObject")  # type: ignore[arg-type]
    assert type(caught.value) is kind
    assert caught.value.retryable == (kind is StorageUnavailableError)
    assert caught.value.ends_job == (kind is CredentialsRefusedError)


@pytest.mark.parametrize(("status", "code", "kind"), [row for row in KINDS if row[0] != 200])
def test_answers_as_lance_words_them(
    status: int, code: str, kind: type[StorageUnavailableError]
) -> None:
    text = (
        "Generic S3 error: Error performing GET http://127.0.0.1:8333/b/k in 3ms - Server returned "
        f"non-2xx status code: {status} Some Reason: <Error><Code>{code}</Code></Error>"
    )
    assert kind_of_text(text) is kind
    with pytest.raises(kind), storage_errors("s3://b/k"):
        raise OSError(text)


def test_no_answer_is_an_outage_and_no_credentials_end_the_job() -> None:
    backend = S3Backend("bucket", "", "", 1.0)
    with pytest.raises(StorageUnavailableError) as away, backend._errors("key"):
        raise EndpointConnectionError(endpoint_url="http://127.0.0.1:9")
    assert away.value.retryable
    with pytest.raises(CredentialsRefusedError), backend._errors("key"):
        raise NoCredentialsError
    assert kind_of_text("Generic S3 error: connection refused") is StorageUnavailableError
