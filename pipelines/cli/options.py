"""The options of `liveedit`; nothing heavy is imported to read them."""

import argparse
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

EXIT_CODES = """exit codes:
  0  done, also when there was nothing to do
  1  an error; the message says what to do
  2  a wrong option or setting
  3  the bank is damaged (verify), or is still damaged (repair)
  4  done, but some lines of the file were refused (edits add)

LIVEEDIT_STORE names the store where --store is not given. An edit is named by its id or by the
first characters of it (four at least), a bank version by its number or its tag.
"""

_Add = Callable[[argparse.ArgumentParser], None]


def parse_arguments(description: str, arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line.

    Args:
        description: What the program is.
        arguments: The words; those of the process by default.
    """
    parser = argparse.ArgumentParser(
        prog="liveedit",
        description=description,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    groups = parser.add_subparsers(dest="group", required=True, metavar="{bank,edits}")
    for name, about, commands in (
        ("bank", "look at a bank, change it, check it", _BANK),
        ("edits", "hand in edit requests, list and follow them", _EDITS),
    ):
        group = groups.add_parser(name, help=about, description=about)
        subparsers = group.add_subparsers(dest="command", required=True, metavar="COMMAND")
        for command, (summary, adders) in commands.items():
            leaf = subparsers.add_parser(
                command,
                help=summary,
                description=summary,
                epilog=EXIT_CODES,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            for add in (_common, *adders):
                add(leaf)
    return parser.parse_args(arguments)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store",
        metavar="URI",
        default=os.environ.get("LIVEEDIT_STORE", ""),
        help="file:///folder, a plain path or s3://bucket/prefix",
    )
    parser.add_argument(
        "--bank", metavar="NAME", default="", help="of the store; needed where there are several"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")


def _when(text: str) -> datetime:
    """A time; without an offset it is taken as UTC."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--limit", metavar="N", type=int, default=50, help="show so many; 0 shows all (default 50)"
    )


def _filter(parser: argparse.ArgumentParser) -> None:
    when = "2026-11-25 or 2026-11-25T14:00+01:00; without an offset in UTC"
    parser.add_argument("--submitter", metavar="NAME", default="", help="of this submitter")
    parser.add_argument(
        "--since", metavar="TIME", type=_when, help=f"submitted then or later; {when}"
    )
    parser.add_argument("--until", metavar="TIME", type=_when, help="submitted before")


def _selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("edits", nargs="*", metavar="EDIT", help="edit ids")
    _filter(parser)
    parser.add_argument(
        "--from",
        dest="file",
        metavar="FILE",
        type=Path,
        help='edits of a file: ids, one a line, or the JSONL that was handed in; "-" is stdin',
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="list what would be changed, and change nothing"
    )
    parser.add_argument(
        "--queue",
        action="store_true",
        help="write the decision down for the job that runs on this bank, which carries it out "
        "before its next window; without it this command becomes the writer of the bank and such "
        "a job stops",
    )


def _reason(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", metavar="TEXT", default="", help="kept with the new version")
    parser.add_argument("--author", metavar="NAME", default="", help="by default the user")


def _version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "version", nargs="?", metavar="VERSION", help="number or tag; by default the newest"
    )


def _one(name: str, about: str) -> _Add:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(name, metavar=name.upper(), help=about)

    return add


def _flag(name: str, about: str) -> _Add:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(name, action="store_true", help=about)

    return add


def _recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe",
        metavar="FILE.toml",
        type=Path,
        help="of the editing job: its models, actors and growth",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings over the recipe's"
    )


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.jsonl", type=Path, help="requests, one a line")
    parser.add_argument(
        "--submitter", metavar="NAME", default="", help="of lines that name none themselves"
    )


def _state(parser: argparse.ArgumentParser) -> None:
    states = ("held", "pending", "superseded", "removed", "refused")
    parser.add_argument("--state", choices=states, help="only edits in this state")


_Commands = dict[str, tuple[str, tuple[Any, ...]]]

_BANK: _Commands = {
    "log": ("versions of a bank, newest first: what, when, who, why", (_limit,)),
    "show": ("one version: how it came to be, and the edits that it holds", (_version, _limit)),
    "diff": (
        "edits that differ between two versions",
        (_one("old", "number or tag"), _one("new", "number or tag"), _limit),
    ),
    "remove": (
        "withdraw edits: the new version answers as if they had never been",
        (_selection, _reason),
    ),
    "restore": ("take removals back", (_selection, _reason)),
    "rollback": (
        "make the newest version hold what an older one holds",
        (_one("version", "number or tag"), _reason),
    ),
    "tag": (
        "name a version, which also keeps it from being cleaned up",
        (_one("name", "of the tag"), _version, _flag("--delete", "take the name away")),
    ),
    "verify": (
        "read every file and row of a version and compare them with what was written",
        (_version,),
    ),
    "repair": (
        "drop damaged files, keep unharmed rows, write lost experts again from the log",
        (_reason, _recipe),
    ),
    "compact": (
        "merge small files and clean up versions that the recipe does not keep",
        (_recipe,),
    ),
}

_EDITS: _Commands = {
    "add": ("write requests down in the log; the next editing job teaches them", (_add_file,)),
    "list": ("requests of the log and what became of them", (_filter, _state, _limit)),
    "history": ("all that happened to one edit", (_one("edit", "edit id"),)),
}
