"""Layers and the one home of each heavy SDK (contracts in pyproject.toml)."""

import subprocess
import sys
from pathlib import Path

from tests.architecture.project import ROOT, imported_modules, package_files, parse


def test_import_contracts_are_kept() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run(
        [lint_imports, "--no-cache", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_open_clip_is_imported_in_one_file() -> None:
    homes = [str(path) for path in package_files() if "open_clip" in imported_modules(parse(path))]
    assert len(homes) == 1, f"open_clip must have exactly one home, has {homes}"


def test_no_package_module_imports_the_tests() -> None:
    offenders = [str(path) for path in package_files() if "tests" in imported_modules(parse(path))]
    assert offenders == []
