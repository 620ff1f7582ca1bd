"""Settings of a bank in recipes: when it is compacted, and where its matrices are kept."""

from typing import Literal

from liveedit_core.settings import Amount, Count, PositiveInt, Settings

MatrixPlace = Literal["auto", "resident", "on_demand"]
"""In memory ("resident"), in the store until an input keeps their expert ("on_demand"), or in
memory up to `RESIDENT_BYTES` and in the store beyond ("auto")."""

RESIDENT_BYTES = 1 << 30


class GrowthPolicy(Settings):
    """Section `growth` of a recipe: compaction of the tables of a store; rows never change."""

    every_windows: Count = 20
    """Windows between two compactions; 0 leaves it to `liveedit bank compact`."""
    fragment_bytes: PositiveInt = 128 * 1024 * 1024
    """Small files of a bank are merged up to this size."""
    keep_versions: Count = 100
    """This many of the newest bank versions stay whatever their age; 0 keeps all of them."""
    keep_days: Amount = 7.0
    """Younger versions stay, however many there are; tagged and registered ones always stay."""
