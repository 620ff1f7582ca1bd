"""Layers and the one home of each heavy SDK (contracts in pyproject.toml)."""

import sys
from pathlib import Path

from tests.architecture.project import (
    imported_modules,
    imported_paths,
    package_files,
    parse,
    python_files,
    run,
)


def test_import_contracts_are_kept() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    done = run(lint_imports, "--no-cache", "--no-logo")
    assert done.returncode == 0, done.stdout + done.stderr


def test_open_clip_is_imported_in_one_file() -> None:
    homes = [str(path) for path in package_files() if "open_clip" in imported_modules(parse(path))]
    assert len(homes) == 1, f"open_clip must have exactly one home, has {homes}"


def test_no_package_module_imports_the_tests() -> None:
    offenders = [str(path) for path in package_files() if "tests" in imported_modules(parse(path))]
    assert offenders == []


def test_no_test_module_imports_another() -> None:
    """What several tests share lies in a support module or a conftest."""
    offenders = {
        str(path): shared
        for path in python_files()
        if path.parts[0] == "tests"
        and (shared := sorted(name for name in imported_paths(parse(path)) if is_test(name)))
    }
    assert offenders == {}


def is_test(name: str) -> bool:
    return name.startswith("tests.") and name.rpartition(".")[2].startswith("test_")
