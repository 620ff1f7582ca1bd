"""The frame of the entry scripts: what a setting is taken from, and what an error becomes."""

import argparse
import errno
import subprocess
import sys
from pathlib import Path

import pytest

from liveedit_core.errors import ConfigError, InputError
from pipelines import nightly_evaluation
from pipelines.job.entry import job_parser, parse_job, resolve, run_entry
from pipelines.operations.recipe import PromotionRecipe


def options_of(*arguments: str) -> argparse.Namespace:
    parser = job_parser("What it does.", "exit codes:\n  0  fine\n")
    parser.add_argument("--store")
    return parse_job(parser, list(arguments))


def resolved(*arguments: str) -> PromotionRecipe:
    options = options_of(*arguments)
    return resolve(PromotionRecipe, options)


def test_an_option_beats_an_override_and_an_override_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('store = "of-the-recipe"\nseed = 1\n')
    assert resolved("--recipe", str(recipe)).store == "of-the-recipe"
    assert resolved("--recipe", str(recipe), "store=of-an-override").store == "of-an-override"
    given = resolved("store=of-an-override", "--store", "given", "seed=5", "--recipe", str(recipe))
    assert (given.store, given.seed) == ("given", 5)


def test_help_is_the_docstring_and_the_exit_codes_as_they_are_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        options_of("--help")
    shown = capsys.readouterr().out
    assert "What it does." in shown
    assert shown.endswith("exit codes:\n  0  fine\n")


def test_a_full_disk_is_one_line_and_other_faults_of_the_system_are_not_hidden(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(recipe: PromotionRecipe) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "/runs/x")

    def broken(recipe: PromotionRecipe) -> int:
        raise OSError(errno.EBADF, "Bad file descriptor")

    assert run_entry(PromotionRecipe, fail, is_dry_run=False) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: No space left on device at /runs/x: make room")
    with pytest.raises(OSError, match="Bad file"):
        run_entry(PromotionRecipe, broken, is_dry_run=False)


def test_a_place_that_cannot_be_used_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert nightly_evaluation.main([f"run_root={file / 'runs'}"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: Not a directory at {file}/runs/")
    assert said.count("\n") == 1


def test_errors_of_ours_are_one_line_and_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(recipe: PromotionRecipe) -> int:
        raise InputError("there is no such file")

    assert run_entry(PromotionRecipe, fail, is_dry_run=False) == 1
    assert capsys.readouterr().err == "error: there is no such file\n"

    def refuse() -> PromotionRecipe:
        raise ConfigError("seed must be a whole number")

    assert run_entry(refuse, fail, is_dry_run=False) == 2
    assert run_entry(refuse, fail, is_dry_run=False, wrong_setting=1) == 1
    assert run_entry(PromotionRecipe, lambda recipe: 3, is_dry_run=False) == 3


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    def fail(recipe: PromotionRecipe) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_entry(PromotionRecipe, fail, is_dry_run=False)


def test_a_dry_run_prints_the_recipe_and_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(recipe: PromotionRecipe) -> int:
        raise AssertionError("nothing may be done")

    assert run_entry(lambda: resolved("seed=7"), fail, is_dry_run=True) == 0
    assert "seed = 7\n" in capsys.readouterr().out


def test_a_process_that_leaves_ends_what_it_began() -> None:
    program = """
import atexit, threading, time
from pipelines.job.entry import leave

def late():
    time.sleep(0.3)
    print("thread")

atexit.register(print, "handler")
threading.Thread(target=late).start()
print("main")
leave(3)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stdout.split() == ["main", "thread", "handler"]
    assert not done.stderr
