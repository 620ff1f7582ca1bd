"""The jobs can be started in three ways, and answer --help without loading the heavy libraries."""

import os
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from tests.architecture.project import ROOT, entry_scripts, package_files, run

HEAVY = (
    "torch",
    "torchvision",
    "transformers",
    "timm",
    "open_clip",
    "deepspeed",
    "ray",
    "mlflow",
    "lance",
    "pyarrow",
    "boto3",
    "matplotlib",
    "pandas",
)

RUN_HELP = """
import runpy, sys
script, *heavy = sys.argv[1:]
sys.argv = [script, "--help"]
sys.path[0] = script.rpartition("/")[0]
status = 0
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as error:
    status = error.code or 0
print("loaded:", *sorted(set(heavy) & set(sys.modules)), file=sys.stderr)
sys.exit(status)
"""

SCRIPTS = entry_scripts()
WITHOUT_RECIPE = {"convert_benchmark", "convert_checkpoint"}
"""They turn one file into another; all others are jobs."""

WITHOUT_STORE = WITHOUT_RECIPE | {
    "compare_editors",
    "final_numbers",
    "reproduce_paper",
    "train_editor",
}
"""What needs none: comparisons hold their editors in memory, final numbers keep their own, and
other editors are trained in minutes, with checkpoints in the run's folder."""


def test_the_main_job_is_an_entry_script() -> None:
    assert Path("pipelines/lifelong_edit.py") in SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_help_needs_no_heavy_library(script: Path) -> None:
    done = run(sys.executable, "-c", RUN_HELP, ROOT / script, *HEAVY)
    assert done.returncode == 0, done.stderr
    assert ("--recipe" in done.stdout) != (script.stem in WITHOUT_RECIPE)
    assert done.stderr.splitlines()[-1].strip() == "loaded:", done.stderr


def test_help_of_liveedit_needs_no_heavy_library() -> None:
    code = (
        "import sys; from pipelines.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(*sorted(set(sys.argv[1:]) & set(sys.modules)), file=sys.stderr)"
    )
    done = run(sys.executable, "-c", code, *HEAVY, check=True)
    assert "liveedit bank verify" in done.stdout
    assert done.stderr.strip() == ""


@pytest.mark.parametrize(
    "script", [s for s in SCRIPTS if s.stem not in WITHOUT_STORE], ids=lambda script: script.stem
)
def test_every_job_takes_a_store_by_option_over_one_by_override(script: Path) -> None:
    field = "keep.store" if script.stem == "train_generator" else "store"
    given = ("--store", "s3://bucket/prefix", f"{field}=elsewhere")
    done = run(sys.executable, ROOT / script, *given, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert 'store = "s3://bucket/prefix"' in done.stdout.splitlines()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_scripts_run_on_their_own(script: Path) -> None:
    """`ray job submit pipelines/X.py` needs the execute bit and a first line that says how."""
    path = ROOT / script
    assert os.access(path, os.X_OK), f"chmod +x {script}"
    assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env python")


def test_jobs_shadow_nothing() -> None:
    """pipelines/ is first on sys.path when a job runs: its file names must be nobody else's."""
    installed = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    modules = [path.stem for path in package_files() if path.parent == Path("pipelines")]
    shadowing = [
        name
        for name in modules
        if name in sys.stdlib_module_names or PathFinder.find_spec(name, installed)
    ]
    assert shadowing == []
