"""Looks at the sealed test splits: each one is announced, and recorded beside the data.

Whoever has seen test scores can choose settings by them. So a command that reads a test split says
who looked before, and adds itself to a file that is committed with the code.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from liveedit_core.builtin.benchmark import BENCHMARK_FILE, BuiltinBenchmark, load_builtin_cases
from liveedit_core.schema import Case

LOOKS_FILE = BENCHMARK_FILE.with_name("test_looks.jsonl")


@dataclass(frozen=True, kw_only=True)
class Look:
    """One reading of a test split."""

    date: str
    benchmark: str
    reader: str
    """The command, and what it scored."""

    def __str__(self) -> str:
        return f"{self.date} {self.reader} ({self.benchmark})"


def read_looks() -> list[Look]:
    """All looks so far, the oldest first."""
    if not LOOKS_FILE.exists():
        return []
    return [
        Look(**json.loads(line)) for line in LOOKS_FILE.read_text(encoding="utf-8").splitlines()
    ]


def load_test_cases(
    benchmark: BuiltinBenchmark, reader: str, say: Callable[[str], None]
) -> list[Case]:
    """The cases of a sealed test split; announces and records the look."""
    looks = [look for look in read_looks() if look.benchmark == benchmark]
    say(
        f"{benchmark}: this is the sealed test split; a setting chosen on its scores makes them "
        f"worthless. Looked at before: {'; '.join(map(str, looks)) or 'never'}"
    )
    if all(look.reader != reader for look in looks):
        today = datetime.now(UTC).date().isoformat()
        line = json.dumps(asdict(Look(date=today, benchmark=benchmark, reader=reader)))
        with LOOKS_FILE.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    return load_builtin_cases("test", benchmark, is_look=True)
