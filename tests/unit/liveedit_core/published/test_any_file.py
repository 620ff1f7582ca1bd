"""Whatever a benchmark file holds, it is converted or refused with a reason."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from liveedit_core.errors import LiveEditError
from liveedit_core.published.benchmark import open_benchmark
from liveedit_core.published.conversion import write_cases
from liveedit_core.published.layout import LAYOUTS
from tests.published_files import MAKERS, draw_images, neighbours, record

_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_json = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["image", "src", "pred", "alt", "port_new", "port_type", "Q&A", "pid"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_json_is_converted_or_refused(tmp_path: Path, name: str, data: Any) -> None:
    make = MAKERS.get(name, record)
    good = [make(0), make(1) | neighbours(2, 2)]
    root = tmp_path / "images"
    if not root.exists():
        draw_images(root, good)
    contents: Any = [dict(item) for item in good]
    for _ in range(data.draw(st.integers(0, 3))):
        key = data.draw(st.sampled_from(sorted(contents[1])) | st.text(max_size=4))
        contents[data.draw(st.integers(0, 1))][key] = data.draw(_json)
    if data.draw(st.integers(0, 9)) == 0:
        contents = data.draw(_json)
    text = json.dumps(contents).encode()
    if data.draw(st.integers(0, 9)) == 0:
        text = text[: data.draw(st.integers(0, len(text)))] + data.draw(st.binary(max_size=4))
    files = [tmp_path / file for file in ("eval.json", LAYOUTS[name].samples_file) if file]
    for file in files:
        file.write_text(json.dumps(good))
    data.draw(st.sampled_from(files)).write_bytes(text)
    missing = data.draw(st.sampled_from(["fatal", "skipped"]))
    with contextlib.suppress(LiveEditError):
        benchmark = open_benchmark(name, files, root, missing_images=missing, has_derived=True)
        assert write_cases(benchmark, tmp_path / "cases.jsonl") == len(benchmark)
