"""Whatever bytes come in become cases, requests or rejects, and nothing else."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from liveedit_core.inputs.datasets import load_cases, load_requests
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.schema import Case, EditRequest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    (tmp_path / "red.png").write_bytes(buffer.getvalue())
    return tmp_path


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["image", "prompt", "target", "edit", "probes", "kind"])
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
_near_case = st.fixed_dictionaries(
    {
        "edit": st.fixed_dictionaries(
            {"image": st.just("red.png") | _json, "prompt": st.text(), "target": _json}
        )
    },
    optional={"probes": st.lists(_json, max_size=3) | _json},
)
_lines = st.lists(
    st.binary(max_size=60)
    | (_json | _near_case).map(lambda value: json.dumps(value).encode())
    | (_json | _near_case).map(
        lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
    ),
    max_size=6,
)


@settings(
    max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(lines=_lines)
def test_any_bytes_become_cases_or_rejects(folder: Path, lines: list[bytes]) -> None:
    path = folder / "fuzz.jsonl"
    content = b"\n".join(lines)
    path.write_bytes(content)
    num_lines = sum(1 for line in content.split(b"\n") if line.strip())
    for load, good in ((load_cases, Case), (load_requests, EditRequest)):
        items: list[Any] = list(load(path))
        assert len(items) == num_lines
        assert all(isinstance(item, good | Rejected) for item in items)
        assert all(item.message for item in items if isinstance(item, Rejected))
