"""Sampling of the generator: images per second, and how near that is to what memory bandwidth allows."""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu_parts.figures import Figures
from benchmarks.gpu_parts.generator import generator
from benchmarks.gpu_parts.kernels import kernel_seconds
from benchmarks.gpu_parts.rates import copy_rate, seconds_of
from benchmarks.gpu_parts.sizes import Sizes
from stages.generator.ar import sample
from stages.generator.params import Sampling
from stages.generator.transformer import TokenTransformer

BF16 = 2  # bytes
PLAIN: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "guidance": 1.0}


def draw(model: TokenTransformer, batch: int, precision: str) -> Tensor:
    """int64 [batch, N] codes of class 0 with seed 0."""
    labels = torch.zeros(batch, dtype=torch.int64, device=model.device)
    return sample(model.eval(), labels, Sampling(**PLAIN, precision=precision), 0)


def bytes_of(model: TokenTransformer, batch: int) -> int:
    """What sampling must read and write in bf16: all matrices per position, the cache so far, the newest entry."""
    matrices = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear))
    entry = 2 * len(model.blocks) * batch * model.embed_position.shape[1]  # keys and values of one position
    positions = model.num_patches
    return BF16 * (positions * matrices + entry * positions * (positions + 1) // 2 + entry * positions)


def sampling(sizes: Sizes, device: torch.device, figures: Figures) -> None:
    """Per batch size: images per second, share of the memory bandwidth, share of the time in which kernels run."""
    model, rate = generator(sizes).to(device), copy_rate(sizes, device)
    figures.add("copies on the device, read and written", rate / 1e9, "GB/s")
    for batch in sizes.sample_batches:

        def work(batch: int = batch) -> Tensor:
            return draw(model, batch, "bf16")

        seconds, least = seconds_of(work, device, rounds=3), bytes_of(model, batch) / rate
        figures.add(f"batch {batch}: images", batch / seconds, "images/s")
        figures.add(f"batch {batch}: a position", 1e3 * seconds / sizes.patches, "ms")
        figures.add(f"batch {batch}: share of the bandwidth's limit", least / seconds, "")
        figures.add(f"batch {batch}: kernels run", kernel_seconds(work, device) / seconds, "of the time")
