"""Arrays as a message's record holds them, for tests that write or read one."""

from collections.abc import Mapping

import numpy as np
from flwr.app import Array, ArrayRecord

from mtmd_core.wire import PACKED, pack_arrays, unpack_arrays


def record_of(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """A record of arrays."""
    return record_of_bytes(pack_arrays(arrays))


def record_of_bytes(data: bytes) -> ArrayRecord:
    """A record whose bytes may be anything."""
    return ArrayRecord({PACKED: Array("uint8", (len(data),), PACKED, data)})


def arrays_in(record: ArrayRecord) -> dict[str, np.ndarray]:
    """The arrays of a record, by name."""
    return unpack_arrays(record[PACKED].data)
