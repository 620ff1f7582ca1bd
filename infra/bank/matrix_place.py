"""Where a reader of a bank version keeps the matrices of its experts."""

from typing import Literal

MatrixPlace = Literal["auto", "resident", "on_demand"]
"""In memory ("resident"), in the store until an input keeps their expert ("on_demand"), or in
memory up to `RESIDENT_BYTES` and in the store beyond ("auto")."""

RESIDENT_BYTES = 1 << 30
"""So many bytes of matrices are read at once under "auto"."""
