"""The frame of every entry script: options that all jobs have, and errors as exit codes.

A script reads its arguments before anything heavy is imported, so nothing heavy is imported here.
"""

import argparse
import atexit
import errno
import getpass
import io
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, get_args

from liveedit_core.backbones.load_options import PromptProtocol
from liveedit_core.errors import ConfigError, LiveEditError
from liveedit_core.inputs.text import escaped
from liveedit_core.settings import field_at
from pipelines.job.recipe_loader import Recipe, RecipeT, load_recipe, to_toml
from pipelines.job.sections import BenchmarkName, EvaluationSplit, MissingImages

BACKBONE = (
    "--backbone",
    "backbone.name",
    "NAME",
    '"builtin", a checkpoint folder, or owner/model[@revision] of the Hugging Face hub',
)
STORE = ("--store", "store", "URI", "file:///folder or s3://bucket/prefix")
RUN_NAME = ("--run-name", "run_name", "NAME", "folder of the run under run_root")
"""Options of several jobs, for `add_settings`."""

FAILED = 1
WRONG_SETTING = 2


def job_parser(
    description: str | None,
    exit_codes: str = "",
    *,
    parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """A parser whose help is the script's docstring and its exit codes, as they are written."""
    return parser_class(
        description=description,
        epilog=exit_codes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_settings(parser: "argparse._ActionsContainer", *rows: tuple[str, str, str, str]) -> None:
    """Add options that set a recipe field; each row is option, dotted field, metavar and help."""
    for option, field, metavar, about in rows:
        parser.add_argument(option, dest=field, metavar=metavar, help=about)


def add_benchmark_options(
    parser: argparse.ArgumentParser, sources: "argparse._MutuallyExclusiveGroup | None" = None
) -> None:
    """Add the options of a benchmark; `--benchmark` joins the exclusive `sources`."""
    (sources or parser).add_argument(
        "--benchmark",
        dest="benchmark.name",
        choices=get_args(BenchmarkName),
        help="cases of a built-in or published benchmark",
    )
    parser.add_argument(
        "--split",
        dest="benchmark.split",
        choices=get_args(EvaluationSplit),
        help="of a built-in benchmark; a look at test is announced and recorded",
    )
    add_settings(
        parser,
        ("--data", "benchmark.data", "DIR", "folder with the files of a published one"),
        ("--images", "benchmark.images", "ROOT", "where image paths start from (found in --data)"),
    )
    parser.add_argument(
        "--protocol",
        dest="benchmark.protocol",
        choices=get_args(PromptProtocol),
        help="how prompts reach the model: by its chat template, or raw as the paper's code does",
    )
    parser.add_argument(
        "--missing-images",
        dest="benchmark.missing_images",
        choices=get_args(MissingImages),
        help="begin nothing when images are missing or unreadable, or leave their records out",
    )


def parse_job(
    parser: argparse.ArgumentParser,
    arguments: list[str] | None,
    *,
    recipe: Path | None = None,
    recipe_help: str = "settings",
    dry_run_help: str = "print the resolved recipe and end",
) -> argparse.Namespace:
    """Add what every job takes, and read the command line; `recipe` is the default one."""
    parser.add_argument(
        "--recipe", metavar="FILE.toml", type=Path, default=recipe, help=recipe_help
    )
    parser.add_argument("--dry-run", action="store_true", help=dry_run_help)
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings over the recipe's"
    )
    return parser.parse_intermixed_args(arguments)


def resolve(
    recipe_class: type[RecipeT], options: argparse.Namespace, *, defaults: Sequence[str] = ()
) -> RecipeT:
    """The recipe, then overrides, then the options whose `dest` is the dotted name of a setting:
    the later one wins. The job prefers `defaults` (overrides too) to the recipe's values."""
    named = [f"{name}={value}" for name, value in _settings_of(recipe_class, options).items()]
    recipe = load_recipe(recipe_class, options.recipe, [*defaults, *options.overrides, *named])
    recipe.check_start()
    return recipe


def given_settings(recipe_class: type[Recipe], options: argparse.Namespace) -> dict[str, str]:
    """Values set on the command line by dotted name; an option wins over an override."""
    pairs = [item.partition("=")[::2] for item in options.overrides]
    settings = {name.strip(): value.strip() for name, value in pairs}
    return settings | _settings_of(recipe_class, options)


def _settings_of(recipe_class: type[Recipe], options: argparse.Namespace) -> dict[str, str]:
    return {
        name: str(value)
        for name, value in vars(options).items()
        if value is not None and field_at(recipe_class, name.split("."))[1] is not None
    }


def run_entry(
    load: Callable[[], RecipeT],
    run: Callable[[RecipeT], int],
    *,
    is_dry_run: bool,
    wrong_setting: int = WRONG_SETTING,
) -> int:
    """Print the recipe (`is_dry_run`) or run the job; `wrong_setting` is a ConfigError's code."""

    def job() -> int:
        recipe = load()
        if is_dry_run:
            print(to_toml(recipe), end="")
            return 0
        return run(recipe)

    return exit_code_of(job, wrong_setting=wrong_setting)


def exit_code_of(run: Callable[[], int], *, wrong_setting: int = WRONG_SETTING) -> int:
    """Do something; errors of this project become one line and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows ASCII only
            stream.reconfigure(errors="backslashreplace")
    try:
        return run()
    except LiveEditError as error:
        print(f"error: {escaped(error.message)}", file=sys.stderr)
        return wrong_setting if isinstance(error, ConfigError) else FAILED
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not is_full and not isinstance(error.filename, (str, bytes)):
            raise
        where = f" at {escaped(str(error.filename))}" if error.filename else ""
        cure = "make room" if is_full else "name another place, or let this user use it"
        print(
            f"error: {error.strerror}{where}: {cure}; the same command goes on where this one "
            "ended, and what was finished is in the store",
            file=sys.stderr,
        )
        return FAILED


def leave(code: int) -> NoReturn:
    """End this process as Python does, but leave its memory to the system: taking torch and its
    objects apart takes a second and a half."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        sys.exit(code)  # Python says what is wrong with its output
    os._exit(code)


def current_user() -> str:
    """User and host, as far as they are known; for audit log and bank history."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
