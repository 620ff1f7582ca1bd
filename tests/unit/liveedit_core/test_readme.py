"""The example in the README does what the README says."""

import contextlib
import io
import re
from pathlib import Path

import pytest

import liveedit_core


@pytest.mark.slow
def test_the_example_prints_what_the_page_says() -> None:
    page = (Path(liveedit_core.__path__[0]) / "README.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(from [^`]*open_model[^`]*)```\s+```\n([^`]*)```", page)
    assert found is not None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(found[1], "README.md", "exec"), {})
    assert printed.getvalue() == found[2]
