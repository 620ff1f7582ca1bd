"""Manage expert banks and the edits in them.

    liveedit edits list --store runs/quickstart/store --submitter anna
    liveedit bank remove --store s3://bucket/prefix --submitter anna --reason "wrong catalogue"
    liveedit bank verify --store s3://bucket/prefix --json

Prints tables for people, or with --json one document for programs.
"""

import argparse
import sys

from liveedit_core.errors import ConfigError
from liveedit_core.inputs.text import check_encodable
from pipelines.cli.options import parse_arguments
from pipelines.job.entry import exit_code_of


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(__doc__ or "", arguments)
    return exit_code_of(lambda: run_command(options))


def run_command(options: argparse.Namespace) -> int:
    """Run the command of the options; ConfigError if no store is named."""
    if not options.store:
        raise ConfigError("name the store: --store file:///folder or s3://bucket/prefix")
    for name, value in vars(options).items():  # bytes of a shell that are no UTF-8
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                check_encodable(text, name)
    from pipelines.cli.context import CommandContext, Output

    if options.group == "bank":
        from pipelines.cli.bank import BANK_COMMANDS as COMMANDS
    else:
        from pipelines.cli.edits import EDITS_COMMANDS as COMMANDS
    output = Output(is_json=options.json)
    code = COMMANDS[options.command](CommandContext(options, output))
    output.close()
    return code


if __name__ == "__main__":
    sys.exit(main())
