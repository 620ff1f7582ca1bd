"""Requests and rejections as the log gets them."""

from liveedit_core.inputs.rejects import Rejected
from liveedit_core.schema import EditRequest


def request(image: str, target: str = "yes") -> EditRequest:
    return EditRequest(
        image_bytes=image.encode(),
        prompt="What is it?",
        target=target,
        image_uri=f"s3://bucket/{image}",
        submitter="someone",
    )


def refusal(line: int, message: str = "bad", *, edit_id: str = "") -> Rejected:
    return Rejected(
        line_number=line, error_type="NotJson", message=message, raw="{" * 9, edit_id=edit_id
    )
