"""Edit requests and cases from outside: JSONL in, `EditRequest` / `Case` or `Rejected` out.

    {"image": "cat.png", "prompt": "What is this?", "target": "Tom"}                      a request
    {"prompt": "Who founded Rome?", "target": "Romulus"}                    one about no image
    {"edit": {...a request...}, "probes": [{"kind": "text_generality", ...}, ...]}            a case

A bad line never stops the stream: it comes out as a `Rejected` with a reason for its author.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from PIL import Image

from liveedit_core.errors import InputError, LiveEditError
from liveedit_core.inputs.image_roots import Fetch, ImageRoots
from liveedit_core.inputs.images import check_image_bytes, decode_image
from liveedit_core.inputs.jsonl import read_json_lines
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import RefusedInputError, Rejected, RejectType
from liveedit_core.inputs.request_parser import RequestParser, check_also_asked
from liveedit_core.inputs.text import check_encodable, check_length, check_text
from liveedit_core.schema import Case, EditRequest

_LIMITS = InputLimits()
_GOOD_SIDE = 64
_REMEMBERED_IMAGES = 100_000
"""Of one file, to say which line another repeats: about 40 MB."""

_Item = TypeVar("_Item", EditRequest, Case)


def load_requests(
    path: Path | str,
    *,
    limits: InputLimits = _LIMITS,
    fetch: Fetch | None = None,
    store_uri: str = "",
    images_at: Path | str | None = None,
    moved_to: str = "",
) -> Iterator[EditRequest | Rejected]:
    """Stream the plain requests of a JSONL file.

    Image paths in it are relative to its folder, or to `images_at`, a folder or an `s3://` URI.
    They must lie there, in the store, or in `limits.image_roots`; images that were moved from there
    to `moved_to`, a URI, are found too. Without `fetch`, images given as
    `s3://` URIs are rejected; its retryable errors are raised.
    """
    file_path = _existing_file(path)
    parser = _parser(images_at or file_path.parent, limits, fetch, store_uri, moved_to)
    return _stream(file_path, limits, parser.request, lambda request: request)


def load_cases(
    path: Path | str,
    *,
    limits: InputLimits = _LIMITS,
    fetch: Fetch | None = None,
    store_uri: str = "",
) -> Iterator[Case | Rejected]:
    """Stream the cases (edit and probes) of a JSONL file; arguments as in `load_requests`."""
    file_path = _existing_file(path)
    parser = _parser(file_path.parent, limits, fetch, store_uri)
    return _stream(file_path, limits, parser.case, lambda case: case.edit)


def _parser(
    folder: Path | str,
    limits: InputLimits,
    fetch: Fetch | None,
    store_uri: str,
    moved_to: str = "",
) -> RequestParser:
    more = [*([store_uri] if store_uri else []), *limits.image_roots]
    return RequestParser(ImageRoots(folder, more, fetch, moved_to), limits)


def validate_request(request: EditRequest, *, limits: InputLimits = _LIMITS) -> None:
    """Check texts and image of a request that did not come from a file, as `load_requests` does."""
    check_text(request.prompt, "prompt", limits.max_prompt_chars)
    check_text(request.target, "target", limits.max_target_chars)
    check_also_asked(request.also_asked, "also_asked", limits.max_prompt_chars)
    if request.image_bytes is not None:
        check_image_bytes(request.image_bytes, max_bytes=limits.max_image_bytes)
        decode_image(request.image_bytes, max_pixels=limits.max_image_pixels)


class TokenCounter(Protocol):
    """What a backbone counts."""

    def count_tokens(self, text: str) -> int: ...

    def count_target_tokens(self, text: str) -> int: ...


def validate_tokens(
    request: EditRequest, tokens: TokenCounter, *, limits: InputLimits = _LIMITS
) -> None:
    """Check the length of each text in tokens of the backbone; none is an error too."""
    for name, text, limit in (
        ("prompt", request.prompt, limits.max_prompt_tokens),
        ("target", request.target, limits.max_target_tokens),
        *(
            (f"also_asked[{index}]", text, limits.max_prompt_tokens)
            for index, text in enumerate(request.also_asked)
        ),
    ):
        num_tokens = tokens.count_tokens(text)
        if name == "target" and num_tokens:
            num_tokens = tokens.count_target_tokens(text)
        _check_tokens(name, num_tokens, limit)
        if num_tokens == 0:
            raise RefusedInputError(
                f"{name} has no token that the backbone knows", RejectType.EMPTY_TEXT
            )


def validate_question(prompt: str, tokens: TokenCounter, *, limits: InputLimits = _LIMITS) -> None:
    """Check the length of a question, before anything long is tokenized."""
    check_encodable(prompt, "prompt")
    check_length(prompt, "prompt", limits.max_prompt_chars)
    _check_tokens("prompt", tokens.count_tokens(prompt), limits.max_prompt_tokens)


def _check_tokens(name: str, number: int, limit: int) -> None:
    if number > limit:
        raise RefusedInputError(
            f"{name} has {number:,} tokens; at most {limit:,} are accepted: shorten it",
            RejectType.TOO_MANY_TOKENS,
        )


def _stream(
    path: Path,
    limits: InputLimits,
    convert: Callable[[Mapping[str, Any]], _Item],
    edit_of: Callable[[_Item], EditRequest],
) -> Iterator[_Item | Rejected]:
    """Convert each line; a line that repeats the last edit of its image is rejected as a duplicate.

    After another edit of the image it may be a change of mind, which the request log decides; it
    also recognizes a line that repeats one more than `_REMEMBERED_IMAGES` images earlier.
    """
    last_edit_of: dict[str, tuple[str, int]] = {}
    for line in read_json_lines(path, max_line_bytes=limits.max_line_bytes):
        if isinstance(line, Rejected):
            yield line
            continue
        edit_id = ""
        try:
            item = convert(line.content)
            edit = edit_of(item)
            edit_id = edit.edit_id
            last_edit, first = last_edit_of.pop(edit.pixel_digest, ("", 0))
            is_repeated = last_edit == edit_id
            last_edit_of[edit.pixel_digest] = (edit_id, first if is_repeated else line.line_number)
            if is_repeated:
                raise RefusedInputError(
                    f"same image, prompt and target as line {first}; it is taught once",
                    RejectType.DUPLICATE,
                )
            if len(last_edit_of) > _REMEMBERED_IMAGES:
                del last_edit_of[next(iter(last_edit_of))]
        except Exception as error:
            if isinstance(error, LiveEditError) and (error.retryable or error.ends_job):
                raise
            if not isinstance(error, LiveEditError):
                check_known_good()
            yield Rejected.from_error(
                error, line_number=line.line_number, raw=line.raw, edit_id=edit_id
            )
            continue
        yield item


def known_good() -> EditRequest:
    """A request that nothing is wrong with: what fails with it too is a fault of the program."""
    buffer = io.BytesIO()
    Image.new("RGB", (_GOOD_SIDE, _GOOD_SIDE), (128, 128, 128)).save(buffer, "PNG")
    return EditRequest(image_bytes=buffer.getvalue(), prompt="What is this?", target="a thing")


def check_known_good() -> None:
    """Raise what is wrong with the program, after an error that may be of one input."""
    validate_request(known_good())


def _existing_file(path: Path | str) -> Path:
    file_path = Path(path)
    if not file_path.is_file():
        raise InputError(f"{str(file_path)!r} is not a file; expected a JSONL file")
    return file_path
