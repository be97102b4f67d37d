"""How codes are stored and counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def code_dtype(num_codes: int) -> str:
    """uint16 holds up to 65,536 codes, uint32 the rest."""
    return "uint16" if num_codes <= 2**16 else "uint32"


def count_codes(codes: np.ndarray, num_codes: int) -> np.ndarray:
    """int64 [num_codes]: how often each code occurs in an array (a memory map, say) [images, N], a part at a time."""
    import numpy as np

    counts = np.zeros(num_codes, np.int64)
    for start in range(0, len(codes), 10_000):
        counts += np.bincount(codes[start : start + 10_000].ravel(), minlength=num_codes)
    return counts
