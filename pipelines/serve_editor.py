#!/usr/bin/env python
"""Serve the edited model: OpenAI's chat API, edits over HTTP, and a page for people.

    serve_editor.py                              the champion, else the quickstart's bank
    serve_editor.py --local --teach              one process without Ray that also teaches
    serve_editor.py --store s3://bucket/prefix --port 8080
    serve_editor.py replicas.max_replicas=4 replicas.num_gpus=1

Prints the address. Keys are in the environment: LIVEEDIT_API_KEY reads, LIVEEDIT_EDIT_KEY also
changes what is known; without them only this machine is served.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # the packages lie one folder above this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pipelines.job import entry
from pipelines.serving.recipe import ServeRecipe

EXIT_CODES = """exit codes:
  0    ended by Ctrl-C or SIGTERM, after the answers in progress
  1    an error; the message says what to do
  2    a wrong option or setting, or keys that are missing
"""


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    return entry.run_entry(
        lambda: entry.resolve(ServeRecipe, options), run_job, is_dry_run=options.dry_run
    )


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = entry.job_parser(__doc__, EXIT_CODES)
    for option, field, about in (
        ("--local", "is_local", "one process, without Ray"),
        ("--teach", "teach.is_on", "run the editing loop beside the server"),
    ):
        parser.add_argument(option, dest=field, action="store_const", const="true", help=about)
    entry.add_settings(
        parser,
        entry.STORE,
        entry.BACKBONE,
        ("--host", "host", "ADDRESS", "default 127.0.0.1; others need both keys"),
        ("--port", "port", "N", "default 8000; 0 takes a free one (--local)"),
    )
    return entry.parse_job(parser, arguments)


def run_job(recipe: ServeRecipe) -> int:
    from pipelines.job.ray_session import prepare_environment

    prepare_environment(recipe.ray)
    from pipelines.serving.run import serve

    return serve(recipe, lambda text: print(text, flush=True))


if __name__ == "__main__":
    sys.exit(main())
