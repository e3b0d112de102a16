"""Random streams that are functions of what they are for, not of what ran before.

Every stream's seed is derived from the run's seed and the words that say what the stream serves (a parameter's name, a
site and a step). A run that is stopped and continued, or split over machines, therefore draws the same numbers.
"""

import hashlib

import torch


def derive_seed(*words: object) -> int:
    """A 63-bit seed from words such as ``(seed, "batches", "ankle", 3)``; the same on every machine.

    >>> derive_seed(0, "batches") == derive_seed(0, "batches") != derive_seed(0, "augmentation")
    True
    """
    digest = hashlib.blake2b("\x1f".join(map(str, words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*words: object) -> torch.Generator:
    """A CPU generator for one stream of random numbers."""
    return torch.Generator().manual_seed(derive_seed(*words))
