"""The options of `liveedit`; nothing heavy is imported to read them."""

import argparse
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

EXIT_CODES = """exit codes:
  0  done, also when there was nothing to do
  1  an error; the message says what to do
  2  a wrong option or setting
  3  the bank is damaged (verify), or still damaged (repair)
  4  done, but some lines of the file were rejected (edits add)

LIVEEDIT_STORE names the store if --store is not given. An edit is named by its id or by the first
characters of it (at least four), a bank version by its number or its tag.
"""


def _time(text: str) -> datetime:
    """A time; UTC if it has no offset."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _count(text: str) -> int:
    """A number of rows."""
    if not re.fullmatch("[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"expected a number from 0 on, got {text[:20]!r}")
    return int(text)


def _text(metavar: str, about: str) -> dict[str, Any]:
    return {"metavar": metavar, "default": "", "help": about}


def _flag(about: str) -> dict[str, Any]:
    return {"action": "store_true", "help": about}


_LOG_STATES = ("held", "pending", "superseded", "removed", "refused")
_EXPERT_STATES = ("written", "verified", "refined", "weak")

_ARGUMENTS: dict[str, dict[str, Any]] = {
    "--limit": {
        "metavar": "N",
        "type": _count,
        "default": 50,
        "help": "show at most N; 0 for all (default 50)",
    },
    "--submitter": _text(
        "NAME", "only edits of this submitter; for `edits add`: of lines that name no submitter"
    ),
    "--since": {
        "metavar": "TIME",
        "type": _time,
        "help": "submitted at this time or later; 2026-11-25 or 2026-11-25T14:00+01:00, UTC if no "
        "offset is given",
    },
    "--until": {"metavar": "TIME", "type": _time, "help": "submitted before this time"},
    "--state": {
        "choices": (*_LOG_STATES, *_EXPERT_STATES),
        "help": "only edits in this state; the last four say how a held edit was written, and weak "
        "ones may be refused too",
    },
    "--from": {
        "metavar": "FILE",
        "dest": "file",
        "type": Path,
        "help": 'edits of a file: ids, one per line, or a JSONL file of requests; "-" for stdin',
    },
    "--dry-run": _flag("list what would change, and change nothing"),
    "--queue": _flag(
        "leave the change to the job that runs on this bank, which applies it before its next "
        "window; without it this command becomes the writer of the bank and such a job stops"
    ),
    "--reason": _text("TEXT", "stored with the new version"),
    "--author": _text("NAME", "stored with the new version; default: the current user"),
    "--false-activation": {
        "metavar": "SHARE",
        "type": float,
        "help": "of questions about other images that may keep an edit: above 0, at most 0.5; "
        "default: as before",
    },
    "--images": {
        "metavar": "FOLDER",
        "type": Path,
        "help": "unlabelled images of the user's traffic, by which the visual filter is calibrated "
        "in place of the bank's own; needs --recipe. Only features of them are stored",
    },
    "--no-images": _flag("calibrate by the bank's own edits again"),
    "--audit": {
        "metavar": "URI",
        "nargs": "?",
        "const": "",
        "help": "check the audit log of this operations store (default: --store), and the champion "
        "on MLFLOW_TRACKING_URI",
    },
    "--delete": _flag("delete the tag"),
    "--partial": _flag(
        "leave out edits without an image, and what experts answer beside their facts; without it "
        "a version with such is not exported"
    ),
    "--recipe": {
        "metavar": "FILE.toml",
        "type": Path,
        "help": "recipe of the editing job: models, workers and compaction",
    },
    "overrides": {
        "metavar": "section.key=value",
        "nargs": "*",
        "help": "settings over the recipe's",
    },
    "edits": {"metavar": "EDIT", "nargs": "*", "help": "edit ids"},
    "edit": {"metavar": "EDIT", "help": "edit id"},
    "output": {"metavar": "FILE.safetensors", "type": Path, "help": "where they are written"},
    "file": {"metavar": "FILE.jsonl", "type": Path, "help": "requests, one per line"},
    "name": {"metavar": "NAME", "help": "of the tag"},
    "old": {"metavar": "OLD", "help": "number or tag"},
    "new": {"metavar": "NEW", "help": "number or tag"},
    "target": {"metavar": "VERSION", "help": "number or tag"},
    "version": {"metavar": "VERSION", "nargs": "?", "help": "number or tag; default: the newest"},
}

_FILTER = "--submitter --since --until"
_SELECTION = f"edits {_FILTER} --from --dry-run --queue --reason --author"
_COMMANDS = {
    "bank": {
        "log": ("list the versions of a bank, newest first", "--limit"),
        "show": (
            "show one version: its commit, its edits and its budget of false activations; with "
            "--recipe, whose models wrote it, also how strict the visual filter is",
            "version --limit --recipe overrides",
        ),
        "export": (
            "write the experts of a version as safetensors for other runtimes; --recipe names the "
            "models that wrote it",
            "output version --partial --recipe overrides",
        ),
        "diff": ("show the edits that differ between two versions", "old new --limit"),
        "remove": ("remove edits: a new version, bit for bit as if never edited", _SELECTION),
        "restore": ("undo removals", _SELECTION),
        "rollback": (
            "make a new version that holds what an older one holds",
            "target --reason --author",
        ),
        "calibrate": (
            "set how rarely an image that was never edited may keep an edit, and by which images "
            "that is calibrated, as a new version",
            "--false-activation --images --no-images --reason --author --recipe overrides",
        ),
        "tag": ("name a version, which also protects it from clean-up", "name version --delete"),
        "verify": (
            "read every file and row of a version, or with --audit the log of promotions, and "
            "report damage",
            "version --audit",
        ),
        "repair": (
            "drop damaged files, keep intact rows, write lost experts again from the request log",
            "--reason --author --recipe overrides",
        ),
        "compact": (
            "merge small files and delete old versions as the recipe says",
            "--recipe overrides",
        ),
    },
    "edits": {
        "add": (
            "add requests to the log; the next editing job applies them. With --dry-run: list the "
            "edits of the bank that they would supersede, by the models of --recipe",
            "file --submitter --dry-run --recipe overrides",
        ),
        "list": ("list requests and their state", f"{_FILTER} --state --limit"),
        "history": ("show everything that happened to one edit", "edit"),
    },
}
_GROUPS = {
    "bank": "look at a bank, change it, check it",
    "edits": "add edit requests, list and track them",
}


def parse_arguments(description: str, arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; None reads that of the process."""
    frame: dict[str, Any] = {
        "epilog": EXIT_CODES,
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }
    parser = argparse.ArgumentParser(prog="liveedit", description=description, **frame)
    groups = parser.add_subparsers(dest="group", required=True, metavar="{bank,edits}")
    for name, commands in _COMMANDS.items():
        group = groups.add_parser(name, help=_GROUPS[name], description=_GROUPS[name])
        subparsers = group.add_subparsers(dest="command", required=True, metavar="COMMAND")
        for command, (summary, names) in commands.items():
            leaf = subparsers.add_parser(command, help=summary, description=summary, **frame)
            _add_common(leaf)
            for argument in names.split():
                leaf.add_argument(argument, **_ARGUMENTS[argument])
    return parser.parse_args(arguments)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store",
        metavar="URI",
        default=os.environ.get("LIVEEDIT_STORE", ""),
        help="file:///folder, a plain path or s3://bucket/prefix",
    )
    parser.add_argument(
        "--bank", metavar="NAME", default="", help="needed if the store has several banks"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
