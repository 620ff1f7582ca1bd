"""Settings of the continuous mode: where requests arrive, and how long they may wait."""

from dataclasses import dataclass

from liveedit_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class FollowSection:
    """The inbox that `--follow` watches until it is told to stop."""

    is_on: bool = False
    """Keep running and teach what arrives, instead of ending with the input."""
    inbox: str = ""
    """Folder or s3:// URI of the JSONL files to take in; empty: `inbox` in the store."""
    window_s: float = 10.0
    """A window is closed when its oldest request has waited so long, or when it is full
    (`bank.window_edits`)."""
    poll_s: float = 2.0
    """Pause between two looks into the inbox."""
    settle_s: float = 1.0
    """On disk a file is taken only when it has not changed for so long: it may be half written."""
    max_file_bytes: int = 268_435_456
    """Larger files are left where they are, and named."""
    wait_s: float = 60.0
    """Longest pause between two tries while the store does not answer."""
    drain_s: float = 60.0
    """After Ctrl-C or SIGTERM: time for the windows of what was taken in already."""
    report_s: float = 60.0
    """How often to say that nothing has come."""
    register_s: float = 3600.0
    """How often the newest bank version is registered for nightly jobs; at the end it always is."""
    stop_when_idle_s: float = 0.0
    """End when nothing has come for so long; 0 never ends."""

    def __post_init__(self) -> None:
        """Refuse negative times and an inbox in a place that cannot be read."""
        for name in ("window_s", "settle_s", "drain_s", "stop_when_idle_s"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("poll_s", "wait_s", "report_s", "register_s"):
            if not 0.01 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be at least 0.01, got {getattr(self, name)}")
        if self.max_file_bytes < 1:
            raise ConfigError(f"max_file_bytes must be at least 1, got {self.max_file_bytes}")
        scheme, separator, _ = self.inbox.partition("://")
        if separator and scheme not in ("file", "s3"):
            raise ConfigError(
                f"inbox must be a folder, file:///... or s3://..., got {self.inbox!r}"
            )

    def inbox_uri(self, store_uri: str) -> str:
        """Where files arrive.

        Args:
            store_uri: Root of the store, the default's parent.
        """
        return self.inbox or f"{store_uri.rstrip('/')}/inbox"
