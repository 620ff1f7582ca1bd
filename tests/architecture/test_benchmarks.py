"""Tables of benchmarks hold what was measured."""

import json
from pathlib import Path

import pytest

from tests.benchmarks import trained_editors
from tests.benchmarks.tables import written

BENCHMARKS = Path(trained_editors.__file__).parent


def test_tables_of_speed_are_those_of_the_results() -> None:
    for path, text in written().items():
        wanted = "run `python -m tests.benchmarks.tables`"
        assert path.read_text(encoding="utf-8") == text, f"{path}: {wanted}"


def test_the_table_of_trained_editors_is_that_of_the_results() -> None:
    summary = json.loads((BENCHMARKS / "trained_editors.json").read_text(encoding="utf-8"))
    page = trained_editors.README.read_text(encoding="utf-8")
    assert trained_editors.table_of(summary) in page
    for row in summary["rows"]:
        for value in row["values"]:
            low, high = value["interval"]
            assert low <= value["mean"] <= high, (row["editor"], value)


@pytest.mark.parametrize(
    ("means", "halves", "expected"),
    [
        ((-0.04, 0.0, 0.01), (0.15, 0.15, 0.15), (-0.01, -0.0966, 0.0766)),
        ((0.0, 0.02), (0.0, 0.02), (0.01, 0.0, 0.02)),
        ((1.0, 1.0), (0.0, 0.0), (1.0, 1.0, 1.0)),
    ],
)
def test_the_interval_of_several_orders_holds_their_mean(
    means: tuple[float, ...], halves: tuple[float, ...], expected: tuple[float, float, float]
) -> None:
    """Backward transfer may be negative; shares stay in [0, 1], as those of each order do."""
    items = [
        {"mean": mean, "interval": [mean - half, mean + half], "n": 27}
        for mean, half in zip(means, halves, strict=True)
    ]
    found = trained_editors.joined(items)
    assert (found["mean"], *found["interval"]) == pytest.approx(expected, abs=1e-4)
    assert found["n"] == 27 * len(means)
