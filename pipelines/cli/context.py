"""What every `liveedit` command works on: options, output, and the store that --store names."""

import argparse
from functools import cached_property

from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from liveedit_core.errors import ConfigError, InputError
from pipelines.cli.output import Output
from pipelines.job.entry import current_user


class CommandContext:
    """One call of `liveedit`; bank and request log are opened when first used."""

    def __init__(self, options: argparse.Namespace, output: Output) -> None:
        self.options = options
        self.output = output

    @cached_property
    def store(self) -> ObjectStore:
        return ObjectStore(self.options.store)

    @cached_property
    def request_log(self) -> RequestLog:
        return RequestLog(self.store)

    @property
    def bank_names(self) -> list[str]:
        return sorted({key.split("/")[1] for key in self.store.list("banks/")})

    @cached_property
    def bank(self) -> ExpertBank:
        """The bank of --bank, or the only one of the store."""
        if self.options.bank:
            return ExpertBank.open(self.store, self.options.bank)
        names = self.bank_names
        if not names:
            raise InputError(f"there is no bank in {self.store.root_uri}")
        if len(names) > 1:
            raise ConfigError(f"name the bank: --bank, one of {', '.join(names)}")
        return ExpertBank.open(self.store, names[0])

    def version(self, text: str | None) -> int:
        """A version of the bank by number or tag; None for the newest."""
        newest = self.bank.version
        if text is None:
            return newest
        tags = self.bank.versions.tags()
        if text in tags:
            return tags[text]
        if text.isdigit() and 1 <= int(text) <= newest:
            return int(text)
        known = ", ".join(tags) or "none"
        raise InputError(
            f"bank {self.bank.name!r} has no version {text!r}; the newest is {newest}, "
            f"tags: {known}"
        )

    @property
    def author(self) -> str:
        """--author, or the current user."""
        return self.options.author or current_user()

    @property
    def limit(self) -> int | None:
        return self.options.limit or None
