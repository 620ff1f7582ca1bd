"""Where the project's files are; shared by the architecture tests."""

import ast
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipelines", "workers", "infra", "liveedit_core")


@cache
def project_files() -> tuple[Path, ...]:
    """Every file that git tracks or would track, as paths relative to the root."""
    options = ("-z", "--cached", "--others", "--exclude-standard")
    listing = run("git", "ls-files", *options, check=True)
    paths = sorted({Path(name) for name in listing.stdout.split("\0") if name})
    return tuple(path for path in paths if (ROOT / path).is_file())


def python_files() -> list[Path]:
    """Every Python file of the packages and the tests, relative to the root."""
    return [path for path in project_files() if path.suffix == ".py"]


def package_files() -> list[Path]:
    """Every Python file of the four packages, relative to the root."""
    return [path for path in python_files() if path.parts[0] in PACKAGES]


@cache
def parse(path: Path) -> ast.Module:
    """Syntax tree of a file given relative to the root."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))


def imported_paths(tree: ast.AST) -> set[str]:
    """Dotted names of all that a file imports, at its head or inside a function.

    `from a.b import c` counts as `a.b` and `a.b.c`, as c may be a module.
    """
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def imported_modules(tree: ast.AST) -> set[str]:
    """Top-level names of the modules that a file imports."""
    return {name.partition(".")[0] for name in imported_paths(tree)}


def is_entry_script(path: Path) -> bool:
    """Whether a file has an `if __name__ == "__main__"` block."""
    return any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        for node in parse(path).body
    )


def entry_scripts() -> list[Path]:
    """The jobs: files directly in pipelines/ that are meant to be run."""
    return [
        path
        for path in package_files()
        if path.parent == Path("pipelines") and is_entry_script(path)
    ]


def run(*command: str | Path, check: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command in the project's folder."""
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=check
    )
