#!/usr/bin/env python
"""Edit a frozen vision-language model with a stream of facts, and evaluate it on the way.

    lifelong_edit.py                             the quickstart: 100 built-in facts
    lifelong_edit.py --requests facts.jsonl      your own facts
    lifelong_edit.py --cases cases.jsonl --store s3://bucket/prefix
    lifelong_edit.py --benchmark evqa --data DIR     a published benchmark (--help lists them)
    lifelong_edit.py --follow --store s3://bucket/prefix     facts that arrive in inbox/*.jsonl

The same command resumes an interrupted run.
"""

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # the packages lie one folder above this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pipelines.editing.recipe import QUICKSTART, LifelongEditRecipe
from pipelines.job import entry

if TYPE_CHECKING:
    from rich.console import Console

    from pipelines.editing.job import JobResult

EXIT_CODES = """exit codes:
  0    all requests are in the bank
  1    an error; the message says what to do
  2    a wrong option or setting
  3    done, but the newest version was not promoted (--promote); every gate that failed is listed
  4    done, but some requests were refused (see the report and the table `rejects`)
  0    with --follow: drained after Ctrl-C or SIGTERM; rejected lines are in the receipts
  130  stopped by Ctrl-C, 143 by SIGTERM, after a window; the same command resumes the run
"""


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    return entry.run_entry(
        lambda: resolve_recipe(options),
        lambda config: run_job(config, must_exist=options.resume),
        is_dry_run=options.dry_run,
    )


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = entry.job_parser(__doc__, EXIT_CODES)
    source = parser.add_mutually_exclusive_group()
    entry.add_settings(
        source,
        ("--requests", "requests.path", "FILE.jsonl", "facts, one a line"),
        ("--cases", "requests.cases", "FILE.jsonl", "facts with probes, one a line"),
    )
    entry.add_benchmark_options(parser, source)
    source.add_argument(
        "--follow",
        dest="follow.is_on",
        action="store_const",
        const="true",
        help="keep running: edit with the files that arrive in the inbox (follow.inbox, by default "
        "`inbox` in the store) until Ctrl-C or SIGTERM, then drain",
    )
    entry.add_settings(parser, entry.BACKBONE, entry.STORE, entry.RUN_NAME)
    parser.add_argument(
        "--resume", action="store_true", help="resume this run; fail if it does not exist"
    )
    parser.add_argument(
        "--promote",
        dest="promotion.at_end",
        action="store_const",
        const="true",
        help="at the end, make the newest version the champion if it passes every gate",
    )
    return entry.parse_job(
        parser,
        arguments,
        recipe_help="settings; default: the quickstart, or plain defaults with your own facts",
    )


def resolve_recipe(options: argparse.Namespace) -> LifelongEditRecipe:
    """The recipe; the quickstart where neither a recipe nor requests are named."""
    inputs = {"requests.path", "requests.cases", "benchmark.name", "follow.is_on"}
    given = entry.given_settings(LifelongEditRecipe, options)
    if options.recipe is None and not inputs & given.keys():
        options.recipe = QUICKSTART
    return entry.resolve(LifelongEditRecipe, options)


def run_job(config: LifelongEditRecipe, *, must_exist: bool) -> int:
    """Enter the run's folder, run the job and report its end."""
    from rich.console import Console

    from pipelines.job.run_folder import enter_run_folder, log_to_file

    console = Console()
    start_s = time.perf_counter()
    is_resumed = enter_run_folder(config, must_exist=must_exist)
    log_to_file(config.run_folder)
    console.print(
        f"run {config.run_name!r} in {config.run_folder}" + (", resumed" if is_resumed else ""),
        highlight=False,
        soft_wrap=True,
    )
    from pipelines.job.ray_session import open_session

    job = "pipelines.editing.job"
    with contextlib.ExitStack() as session:
        session.enter_context(
            open_session(config.ray, needed_cpus=config.needed_cpus, meanwhile=job)
        )
        from pipelines.editing.job import do_job

        result = do_job(config, console, session=session, start_s=start_s)
    code = print_result(result, console, is_following=config.follow.is_on)
    if not config.promotion.at_end or result.outcome.was_stopped:
        return code
    from pipelines.operations.promote_at_end import promote_at_end

    return promote_at_end(config, console) or code


def print_result(result: "JobResult", console: "Console", *, is_following: bool = False) -> int:
    """Print the tables and the last lines; returns the exit code. Rejected lines are expected in
    --follow mode: exit 0."""
    from pipelines.evaluation.result_table import (
        detail_tables,
        outcome_tables,
        result_tables,
        retention_tables,
    )
    from pipelines.job.progress import say_on

    outcome = result.outcome
    tables = result_tables(outcome.evaluations, result.protocols)
    for evaluation in outcome.evaluations[-1:]:
        tables += detail_tables(evaluation, result.protocols)
    for table in tables + result_tables(outcome.curve, result.protocols, note=", over groups"):
        console.print(table)
    for table in [*retention_tables(outcome.curve), *outcome_tables(result.outcomes)]:
        console.print(table)
    say = say_on(console)
    if result.report:
        say(f"report: {result.report}")
    say(f"mlflow: {result.tracking_uri}")
    if result.num_record_failures:
        say(f"{result.num_record_failures} records for MLflow wait for the next start")
    if outcome.was_stopped:
        say(f"stopped with {outcome.num_edits} edits in the bank; the same command resumes")
        return result.stop_code
    num_new = outcome.num_edits - outcome.num_edits_before
    if outcome.timings.num_processed:
        ending = f"{outcome.num_edits} edits in the bank, {num_new} of them new"
        if num_replaced := outcome.num_replaced:
            ending += f"; replaced by later edits of the same question: {num_replaced}"
    else:
        ending = f"{outcome.num_edits} edits already in the bank, nothing to do"
    if outcome.intake.num_duplicates:
        ending += f"; {outcome.intake.num_duplicates} repeated lines"
    if result.num_rejected:
        say(f"{ending}; {result.num_rejected} requests refused, see the report")
        return 0 if is_following else 4
    say(f"{ending}; none refused")
    return 0


if __name__ == "__main__":
    entry.leave(main())
