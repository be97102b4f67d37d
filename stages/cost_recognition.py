"""What recognition costs: a step of a task on a network, and its memory. Folders count as if they held the scenes."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from stages.core import UserError
from stages.core.code import import_kind
from stages.core.params import load_list
from stages.cost_generators import build, look_flops
from stages.cost_networks import PASSES, Codes, Networks, built_size, count, size_of
from stages.generator.alternating_params import load_alternating
from stages.recognition import params as recognition


def trainings(networks: Networks, codes: dict[str, Codes], classes: int) -> Iterator[tuple[str, Any, int, int]]:
    """(stage, section, operations per image and step, bytes of memory) of every task on every network."""
    path, img_px = networks.params, networks.img_px
    for task in load_list(recognition.TASKS, path, empty=True):
        section = recognition.load_task(task, path)
        for name in load_list(recognition.NETWORKS, path, empty=True):
            network = recognition.load_network(name, path)
            maps, flops, size = shape_of(networks, codes, network, classes)
            pixels = isinstance(section, recognition.Segmentation)
            values = classes + pixels
            with torch.device("meta"):
                head = import_kind(recognition.KINDS[section.kind].module).build_head(section, maps, values, img_px)
            step = (PASSES if section.tuning else 1) * flops + PASSES * head_flops(head, maps, section)
            memory = section.peak_bytes(size, size_of(head), maps, img_px, pixels * values)
            yield f"recognition@{task}-{name}", section, step, memory


def shape_of(
    networks: Networks, codes: dict[str, Codes], network: recognition.Network, classes: int
) -> tuple[recognition.Maps, int, int]:
    """Maps, operations of a forward pass and parameters of a network; all blocks of a generator count."""
    if isinstance(network, recognition.Pixels):
        dim, grid = 3 * network.patch_px**2, networks.img_px // network.patch_px
        return recognition.Maps([dim], grid), 2 * dim**2 * grid**2, dim**2 + dim
    if not isinstance(network, recognition.GeneratorNetwork):
        encoder = networks.encoder
        if not encoder.plain:
            raise UserError("recognition needs a plain vision transformer as encoder")
        maps = recognition.Maps([encoder.dim] * len(network.blocks), encoder.grid)
        return maps, networks.encode_flops(network.blocks), size_of(encoder)
    own, name = codes[network.tokenizer], network.generator
    if network.kind == "alternating":
        section = load_alternating(name, networks.params)
        size = built_size(lambda: build(networks, own, section, classes).encoder)
        maps = recognition.Maps([section.encoder.dim] * len(network.blocks), own.grid)
        return maps, look_flops(networks, own, section, classes), size
    made = partial(networks.generator, own, name, classes)
    with torch.device("meta"):
        dim = made().norm.weight.numel() * own.codebooks
    flops = own.encode_flops + networks.generator_flops(own, name, classes)
    return recognition.Maps([dim] * len(network.blocks), own.grid), flops, built_size(made)


def head_flops(head: nn.Module, maps: recognition.Maps, section: Any) -> int:
    """One forward pass of a head; of a detector the pyramid, the proposals and the boxes that are trained."""
    given = [torch.empty(2, dim, maps.grid, maps.grid, device="meta") for dim in maps.dims]
    if not isinstance(section, recognition.Detection):
        return count(lambda: head(given)) // 2
    boxes: Any = head
    pooled = torch.empty(section.samples, boxes.classify.box_head.fc6.in_features, device="meta")
    return count(lambda: boxes.propose.head(boxes.pyramid(given))) // 2 + count(lambda: boxes.classify.box_head(pooled))
