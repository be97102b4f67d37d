"""How params name a block of an encoder: numbers from 0, negative ones from the end."""

from stages.core.params import impossible


def block_number(key: str, block: int, depth: int) -> int:
    """The block's number from 0; one that an encoder of `depth` blocks has not is a `UserError` that names `key`."""
    if not -depth <= block < depth:
        raise impossible(key, block, f"the encoder has {depth} blocks: expected {-depth} … {depth - 1}")
    return block % depth
