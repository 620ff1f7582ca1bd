"""Images of the user's traffic, by which a bank's visual filter is calibrated.

traffic/<sha256>.safetensors   their unit vectors, [M, R] float32

A file is named by its bytes and never changes; records of versions name it. The images themselves
are not stored.
"""

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from infra.storage.checksums import sha256_of
from infra.storage.object_store import ObjectStore
from liveedit_core.errors import IntegrityError

_NAME = "unit_MR"


def traffic_key(sha256: str) -> str:
    """Key of a file in the store."""
    return f"traffic/{sha256}.safetensors"


def check_unit_vectors(unit_MR: NDArray[np.float32]) -> None:
    """Raise IntegrityError for what no images have."""
    if unit_MR.ndim != 2 or unit_MR.dtype != np.float32 or not np.isfinite(unit_MR).all():
        raise IntegrityError(
            f"traffic: {unit_MR.dtype} of shape {unit_MR.shape}, or not finite; "
            "expected finite float32, one unit vector of each image"
        )


def write_traffic(store: ObjectStore, unit_MR: NDArray[np.float32]) -> str:
    """Store the unit vectors of some images; returns the sha256 of the file."""
    check_unit_vectors(unit_MR)
    data = save({_NAME: np.ascontiguousarray(unit_MR)})
    sha256 = sha256_of(data)
    store.put(traffic_key(sha256), data)  # also in place of a damaged one
    return sha256


def read_traffic(store: ObjectStore, sha256: str) -> NDArray[np.float32]:
    """Unit vectors, [M, R]; IntegrityError when the file is missing or damaged."""
    data = store.get(traffic_key(sha256))
    if sha256_of(data) != sha256:
        raise IntegrityError(
            f"{traffic_key(sha256)} in {store.root_uri} is altered, its sha256 differs; "
            "`liveedit bank calibrate --images` on the same images writes it again"
        )
    unit_MR: NDArray[np.float32] = load(data)[_NAME].copy()
    check_unit_vectors(unit_MR)
    return unit_MR
