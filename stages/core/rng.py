"""Randomness with a name: a seed for each (purpose, step), so that resuming needs no generator state."""

import hashlib


def seed_of(*names: str | int) -> int:
    """63 bits from the names, such as ("decoder", 0, "batch", 17); equal on every machine and Python."""
    text = "/".join(map(str, names)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
