"""timm's networks as encoders: which of them can be one, and what an encoder's config says of them.

A plain vision transformer has one grid of patches from its first block to its last; patch_px, dim, depth describe it.
Any other network is described by `maps`, the side and width of each of its intermediate feature maps.
"""

import sys
from typing import Any

import timm
import torch
from torch import nn

from stages.core import UserError
from stages.core.params import impossible
from stages.encoder.encoder import Encoder, create
from stages.encoder.hub import quickgelu_name
from stages.encoder.params import EncoderParams

EXPECTED = "expected a network of timm that gives a square grid of features after each block or stage"


def describe(params: EncoderParams, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The network on torch's meta device, where numbers take no memory, and its part of the config.

    `arguments` are those of its builder in timm. `UserError` for a network that cannot be an encoder at this size.
    """
    if not timm.is_model(params.name):
        raise impossible("encoder.name", params.name, "neither in weights/ nor in timm; see timm.list_models()")
    try:
        with torch.device("meta"):
            network = create(params.name, params.img_px, arguments).eval()
            refuse_uneven(params, patch_of(network))
            facts = sizes(network, params.img_px) | of_images(network, arguments)
            compare(Encoder(network, {**facts, "img_px": params.img_px, "precision": "fp32"}))
    except UserError:
        raise
    except Exception as error:  # networks of other kinds fail anywhere in between
        raise impossible(
            "encoder.name", params.name, f"{EXPECTED}, at {params.img_px} px ({one_line(error)})"
        ) from None
    return network, facts


def of_images(network: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Mean and std of images as timm states them, and what the network was built with."""
    known = network.pretrained_cfg
    return {"mean": list(known["mean"]), "std": list(known["std"]), **({"arguments": arguments} if arguments else {})}


def patch_of(network: Any) -> int:
    """The side of a transformer's patches; 1 for other networks."""
    size = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    return size[0] if isinstance(size, tuple) and hasattr(network, "blocks") else 1


def sizes(network: Any, img_px: int) -> dict[str, Any]:
    """How an encoder's config describes the network."""
    pixels, patch_px = torch.empty(1, 3, img_px, img_px), patch_of(network)
    try:
        found = network.forward_intermediates(pixels, output_fmt="NLC", intermediates_only=True)
        shape = (1, (img_px // patch_px) ** 2, network.embed_dim)
        if [tuple(one.shape) for one in found] == [shape] * len(network.blocks):
            return {"patch_px": patch_px, "dim": network.embed_dim, "depth": len(network.blocks)}
    except (AssertionError, AttributeError, TypeError):  # not a plain vision transformer
        pass
    activations = Activations(network)
    found = network.forward_intermediates(pixels, output_fmt="NCHW", intermediates_only=True)
    activations.stop()
    if odd := [tuple(one.shape) for one in found if one.ndim != 4 or one.shape[2] != one.shape[3]]:
        raise ValueError(f"features of shapes {odd}")
    maps = [[one.shape[2], one.shape[1]] for one in found]
    return {"maps": maps, "dim": maps[-1][1], "depth": len(maps), "activations": activations.counts}


class Activations:
    """Counts the values per image that the network's layers give: of all, and the most that one reads and gives."""

    def __init__(self, network: nn.Module):
        self.counts = {"all": 0, "largest": 0}
        layers = [module for module in network.modules() if not [*module.children()]]
        self.hooks = [layer.register_forward_hook(self.count) for layer in layers]

    def count(self, _: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        sizes = [sum(one.numel() for one in part if isinstance(one, torch.Tensor)) for part in (given, [made])]
        self.counts = {"all": self.counts["all"] + sizes[1], "largest": max(self.counts["largest"], sum(sizes))}

    def stop(self) -> None:
        """No further counting."""
        for hook in self.hooks:
            hook.remove()


def compare(encoder: Encoder) -> None:
    """`ValueError` if blocks that are asked for by number are not those that the network gives when asked for all."""
    pixels, numbers = torch.empty(1, 3, encoder.img_px, encoder.img_px), list(range(len(encoder.maps)))
    for chosen in (numbers, [len(numbers) // 2]):
        found = [tuple(one.shape) for one in encoder.outputs(pixels, chosen)]
        wanted = [(1, encoder.maps[block][0] ** 2, encoder.maps[block][1]) for block in chosen]
        if found != wanted:
            raise ValueError(f"blocks {chosen} have features of shapes {found}, not {wanted}")


def refuse_uneven(params: EncoderParams, patch_px: int) -> None:
    """Raise unless the image size is a multiple of the patch size."""
    if params.img_px % patch_px:
        raise impossible("encoder.img_px", params.img_px, f"expected a multiple of the patch size, {patch_px} px")


def warn_of_activation(name: str) -> None:
    """Say so if the weights of this name were trained with another activation than the network computes."""
    if other := quickgelu_name(name):
        print(
            f"warning: encoder.name = {name!r}: these weights were trained with another activation (QuickGELU) "
            f"than this network computes. Use {other!r}.",
            file=sys.stderr,
        )


def one_line(error: Exception) -> str:
    """The start of an error's text."""
    return " ".join(str(error).split())[:300]
