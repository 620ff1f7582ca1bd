"""Secrets of URIs are masked; everything else stays as it is."""

import pytest

from liveedit_core.errors import LiveEditError
from liveedit_core.masking import masked


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "MLflow at http://anna:s3cret@host:5000/x: gone",
            "MLflow at http://***@host:5000/x: gone",
        ),
        ("http://token@host", "http://***@host"),
        ("http://anna:p@ss@host/x", "http://***@host/x"),
        ("http://h?mail=a@b.org", "http://h?mail=a@b.org"),
        ("postgresql+psycopg2://u:p%40w@db/mlflow", "postgresql+psycopg2://***@db/mlflow"),
        ("s3://b/k?X-Amz-Signature=ab12&x=1", "s3://b/k?X-Amz-Signature=***&x=1"),
        ("https://h/?a=1&access_token=zz'", "https://h/?a=1&access_token=***'"),
        ("s3://bucket/anna@home.png", "s3://bucket/anna@home.png"),
        ("write to anna@example.org", "write to anna@example.org"),
        ("sqlite:////runs/mlflow.db", "sqlite:////runs/mlflow.db"),
    ],
)
def test_secrets_are_masked(text: str, expected: str) -> None:
    assert masked(text) == expected
    assert LiveEditError(text).message == str(LiveEditError(text)) == expected
