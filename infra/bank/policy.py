"""The section `growth` of a recipe: when files are merged, and which bank versions stay."""

from dataclasses import dataclass

from liveedit_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class GrowthPolicy:
    """Upkeep of the tables of a store; rows are never changed by it."""

    every_windows: int = 20
    """Windows between two rounds of upkeep; 0 leaves it to `liveedit bank compact`."""
    fragment_bytes: int = 128 * 1024 * 1024
    """Small files are merged up to this size."""
    keep_versions: int = 100
    """So many of the newest bank versions stay whatever their age; 0 keeps all of them."""
    keep_days: float = 7.0
    """Versions younger than this stay, however many there are. Tagged and registered versions stay
    for ever."""

    def __post_init__(self) -> None:
        """Refuse negative numbers and files too small to be worth it."""
        for name, least in (("every_windows", 0), ("keep_versions", 0), ("fragment_bytes", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0.0 <= self.keep_days < float("inf"):
            raise ConfigError(f"keep_days must be 0 or more, got {self.keep_days}")
