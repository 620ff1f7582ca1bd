"""The folder of a run: what it was configured with, by which code, and its log.

runs/<run_name>/config.toml    the resolved recipe of the newest start
runs/<run_name>/starts.jsonl   one line a start: time, command, git commit, versions, seed
runs/<run_name>/log.txt        warnings and messages
runs/<run_name>/report.html    written at the end
"""

import json
import logging
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from liveedit_core.errors import ConfigError
from liveedit_core.masking import masked
from liveedit_core.whole_files import write_whole
from pipelines.job.recipe_loader import load_recipe, to_toml
from pipelines.job.sections import FolderRecipe, RunRecipe

_logger = logging.getLogger(__name__)
_PACKAGES = ("torch", "transformers", "ray", "pylance", "mlflow", "open_clip_torch")


def enter_run_folder(config: RunRecipe, *, must_exist: bool = False) -> bool:
    """Create or re-enter the folder of a run and write down this start; returns whether the run
    existed, so that this start resumes it. ConfigError if the settings in `fixed_settings` differ,
    or if there is no run where it `must_exist`."""
    folder = config.run_folder
    recipe_file = folder / "config.toml"
    exists = recipe_file.exists()
    if exists:
        _check_same(load_recipe(type(config), recipe_file), config)
    elif must_exist:
        raise ConfigError(f"--resume: there is no run in {str(folder)!r}")
    write_recipe(config)
    argv = [masked(argument) for argument in sys.argv]
    try:
        with (folder / "starts.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({**run_facts(), "seed": config.seed, "argv": argv}) + "\n")
    except OSError as error:
        raise ConfigError(f"run folder {str(folder)!r} cannot be written: {error}") from error
    return exists


def write_recipe(config: FolderRecipe, name: str = "config.toml") -> None:
    """Write the resolved recipe to the run's folder, which is made."""
    folder = config.run_folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / name, to_toml(config))
    except OSError as error:
        raise ConfigError(f"run folder {str(folder)!r} cannot be written: {error}") from error


class _Masking(logging.Formatter):
    """Without the secrets of URIs, also those in tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


class _RunLog(logging.FileHandler):
    """A log on a full disk stops nothing: it says so once, and goes on when there is room."""

    _num_lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        num_lost = self._num_lost
        super().emit(record)
        if num_lost and self._num_lost == num_lost:
            self._num_lost = 0
            _logger.warning("%d lines may be missing in %s", num_lost, self.baseFilename)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        self._num_lost += 1
        if self._num_lost == 1:
            error = sys.exc_info()[1]
            print(f"warning: {self.baseFilename} cannot be written: {error}", file=sys.stderr)


def log_to_file(folder: Path) -> None:
    """Send everything that is logged to the run's log, and warnings to the terminal as well."""
    to_file = _RunLog(folder / "log.txt", encoding="utf-8")
    to_file.setFormatter(_Masking("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    to_terminal = logging.StreamHandler()
    to_terminal.setLevel(logging.WARNING)
    to_terminal.setFormatter(_Masking("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[to_file, to_terminal], force=True)


def run_facts() -> dict[str, str]:
    """Time, code and versions of this start."""
    return {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{f"{name}_version": _version(name) for name in _PACKAGES},
    }


def git_commit() -> str:
    """Commit of the project's folder, with "+changes" where files differ; "" outside git."""
    folder = Path(__file__).resolve().parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit + ("+changes" if changes else "")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _check_same(before: RunRecipe, now: RunRecipe) -> None:
    old = before.fixed_settings()
    differences = [
        f"{name} was {old[name]!r}, is now {value!r}"
        for name, value in now.fixed_settings().items()
        if old[name] != value
    ]
    if differences:
        raise ConfigError(
            f"run {now.run_name!r} exists with other settings: {'; '.join(differences)}. "
            "Give the new run another name with --run-name"
        )
