"""Tables of speed hold what was measured."""

from tests.benchmarks.tables import written


def test_tables_of_speed_are_those_of_the_results() -> None:
    for path, text in written().items():
        wanted = "run `python -m tests.benchmarks.tables`"
        assert path.read_text(encoding="utf-8") == text, f"{path}: {wanted}"
