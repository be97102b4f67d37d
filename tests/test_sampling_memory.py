"""What sampling keeps while the network runs: nothing as large as the logits of the step before.

Run: uv run pytest tests/test_sampling_memory.py
"""

import gc
from collections.abc import Callable

import alternating
import pytest
import torch
from torch import nn

from stages.generator import addp, masked, parallel_ar
from stages.generator.params import KINDS
from stages.generator.random_order import RandomOrderTransformer
from stages.generator.transformer import TokenTransformer

CODES, CLASSES = 999, torch.arange(3)  # no other size is 999
SHAPE = {"num_codes": CODES, "num_classes": 3, "num_patches": 16, "grid": 4, **alternating.SIZES}


def plain(kind: str):
    """The kind's plain sampling, in four steps."""
    return KINDS[kind].plain.model_copy(update={"steps": 4})


def of_masked() -> tuple[nn.Module, Callable[[], object]]:
    network = TokenTransformer(**SHAPE, causal=False).eval()
    return network.blocks[0], lambda: masked.sample(network, CLASSES, plain("masked"), 0)


def of_parallel_ar() -> tuple[nn.Module, Callable[[], object]]:
    network = RandomOrderTransformer(**SHAPE).eval()
    return network.blocks[0], lambda: parallel_ar.sample(network, CLASSES, plain("parallel_ar"), 0)


def of_addp() -> tuple[nn.Module, Callable[[], object]]:
    made = alternating.model(CODES)
    return made.network.blocks[0], lambda: addp.sample(made, CLASSES, alternating.setting(steps=4), 0)


def large() -> list[torch.Size]:
    """Shapes of the living tensors with a value for each code, at more than one position."""
    tensors = [each for each in gc.get_objects() if type(each) is torch.Tensor and each.ndim > 1]
    return [each.shape for each in tensors if each.shape[-1] == CODES and each.numel() > CODES]


@pytest.mark.parametrize("kind", [of_masked, of_parallel_ar, of_addp])
def test_neither_logits_nor_probabilities_live_through_the_next_pass_of_the_network(kind):
    block, sample = kind()
    passes = []
    block.register_forward_pre_hook(lambda *_: passes.append(large()))
    sample()
    assert passes == [[]] * 4
