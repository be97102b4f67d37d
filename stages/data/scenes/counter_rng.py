"""Counter-based random numbers for whole batches of images: each depends on (seed, purpose, image number) alone.

SplitMix64 (Steele, Lea & Flood 2014): a hash of seed, purpose and image number names a stream; a hash of the stream and
a position is the number at that position.
"""

import numpy as np

from stages.core.distributed import seed_of

GOLDEN = 0x9E3779B97F4A7C15
MASK = 2**64 - 1


class ImageRng:
    """The streams of the images `numbers` (integers [B]); those of an image do not depend on the rest of the batch."""

    def __init__(self, seed: int, numbers: np.ndarray):
        self.seed, self.numbers = seed, np.asarray(numbers).astype(np.uint64)

    def uniform(self, purpose: str, *shape: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """float32 [B, *shape], uniform in low ... high (excluded)."""
        count = int(np.prod(shape, dtype=np.int64))
        key = np.uint64(seed_of("scenes", self.seed, purpose))
        steps = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN)) & np.uint64(MASK)
        bits = mix(mix(self.numbers ^ key)[:, None] + steps)
        unit = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
        return (unit * np.float32(high - low) + np.float32(low)).reshape(len(self.numbers), *shape)

    def normal(self, purpose: str, *shape: int) -> np.ndarray:
        """float32 [B, *shape] of mean 0 and variance 1: the sum of three uniforms, never past ± 3."""
        return self.uniform(purpose, *shape, 3).sum(-1, dtype=np.float32) * 2 - 3

    def below(self, purpose: str, high: int, *shape: int) -> np.ndarray:
        """int64 [B, *shape], uniform in 0 ... high - 1."""
        return (self.uniform(purpose, *shape) * high).astype("int64")


def mix(bits: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64, on uint64 of any shape."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
