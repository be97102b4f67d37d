"""Floating-point operations of the networks that params.yaml describes, counted by torch on tensors without numbers.

A multiplication with an addition counts as two operations; activations, norms and sums count as none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stages.codebook import params as codebook
from stages.codebook.vqkd_encoder import FeatureDecoder, VqkdEncoder
from stages.core import UserError, artifact
from stages.core.code import import_kind
from stages.core.metrics import code_dtype
from stages.core.networks import ConvDecoder, ConvEncoder
from stages.cost_captions import given_to
from stages.decoder import params as decoder
from stages.decoder.render import RenderTransformer
from stages.decoder.training import widths_from
from stages.decoder.unet import UNet
from stages.encoder.encoder import Encoder
from stages.encoder.params import EncoderParams, check_equal_maps
from stages.encoder.timm_networks import describe
from stages.encoder.vit import build_vit
from stages.features.params import Params as Features
from stages.generator import params as generator
from stages.generator.transformer import build_network

PASSES = 3  # of a training step: forward, gradients of activations, gradients of weights
EMBEDDED = Path("weights")  # as in dvc.yaml


def count(run: Callable[[], Any]) -> int:
    """Operations of what `run` computes on the meta device."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def size_of(network: nn.Module) -> int:
    """Number of its parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def built_size(build: Callable[[], nn.Module]) -> int:
    """Number of parameters of a network that is built without values."""
    with torch.device("meta"):
        return size_of(build())


def ints(*shape: int) -> Tensor:
    """Codes without values."""
    return torch.zeros(shape, dtype=torch.int64)


@dataclass(frozen=True)
class Codes:
    """What a tokenizer makes of an image: `count` codes of `num_codes`, `grid` per side in each of `codebooks`."""

    grid: int
    codebooks: int
    num_codes: int
    dim: int
    parameters: int  # of the network up to the vectors
    network_flops: int  # of it, per image
    search_flops: int  # per image: the nearest code of each vector

    @property
    def bytes(self) -> int:
        """Per stored code."""
        return np.dtype(code_dtype(self.num_codes)).itemsize

    @property
    def encode_flops(self) -> int:
        """Per image, from pixels to codes."""
        return self.network_flops + self.search_flops

    @property
    def count(self) -> int:
        """Codes per image."""
        return self.codebooks * self.grid**2


class Networks:
    """The networks of one params file; operations are per image unless said otherwise."""

    def __init__(self, encoder: EncoderParams, features: Features, img_px: int, params: Path):
        self.params, self.img_px, self.encoder_params, self.features = params, img_px, encoder, features
        self.known: dict[tuple[Any, ...], int] = {}

    def once(self, run: Callable[[], Any], *key: Any) -> int:
        """The operations of `run`, counted at the first call with this key."""
        if key not in self.known:
            self.known[key] = count(run)
        return self.known[key]

    @cached_property
    def encoder(self) -> Encoder:
        """The frozen encoder on the meta device."""
        with torch.device("meta"):
            return Encoder(*self.open_encoder())

    def open_encoder(self) -> tuple[Any, dict[str, Any]]:
        """Its network, without weights, and what `Encoder` reads of its config."""
        name, img_px = self.encoder_params.name, self.encoder_params.img_px
        if (EMBEDDED / name / artifact.CONFIG).is_file():
            trained = artifact.read_config(EMBEDDED / name, "encoder")
            vit: Any = build_vit(**{**trained["shape"], "img_px": img_px}, seed=trained["seed"])
            return vit, {**trained, "img_px": img_px}
        network, config = describe(self.encoder_params, {})
        return network, {**config, "img_px": img_px}

    @property
    def stored_map(self) -> tuple[int, int]:
        """Side and width of the features that the stage `features` stores."""
        return self.encoder.maps[self.features.block]

    def encode_flops(self, blocks: list[int]) -> int:
        """The frozen encoder up to the last of `blocks`, which may count from the end."""
        last = max(block % self.encoder.config["depth"] for block in blocks)
        side = self.encoder.img_px
        return self.once(lambda: self.encoder.outputs(torch.empty(1, 3, side, side), [last]), "encoder", last)

    def codes(self, name: str) -> Codes:
        """The codes of a tokenizer."""
        section, own, (grid, width) = codebook.load_params(name, self.params), size_of(self.encoder), self.stored_map
        if isinstance(section, codebook.Kmeans):
            blocks = section.blocks or [self.features.block]
            apart, joined = (len(blocks), 1) if section.layers == "separate" else (1, len(blocks))
            check_equal_maps(f"codebook.{name}.blocks", blocks, self.encoder.maps)
            grid, width = self.encoder.maps[blocks[0]]
            dim = section.pca_dim or joined * width
            search = 2 * apart * grid**2 * section.num_codes * dim
            return Codes(grid, apart, apart * section.num_codes, dim, own, self.encode_flops(blocks), search)
        if isinstance(section, codebook.Cluster):
            search = 2 * grid**2 * section.num_codes * width
            flops = self.encode_flops([self.features.block])
            return Codes(grid, 1, section.num_codes, width, own, flops, search)
        if isinstance(section, codebook.Vqkd):
            search = 2 * grid**2 * section.num_codes * section.dim
            build = partial(self.vqkd_encoder, section)
            flops = self.on_image(build, "vqkd", str(section))
            return Codes(grid, 1, section.num_codes, section.dim, built_size(build), flops, search)
        return self.autoencoder_codes(section)

    def reads_other_features(self, section: codebook.Kmeans) -> bool:
        """Whether k-means computes features of its own instead of reading those of the stage `features`."""
        depth = self.encoder.config["depth"]
        blocks = [block % depth for block in section.blocks]
        return section.encoder == "random" or blocks not in ([], [self.features.block % depth])

    def vqkd_encoder(self, section: codebook.Vqkd) -> VqkdEncoder:
        """The trained encoder of a vqkd tokenizer."""
        shape = {"img_px": self.img_px, "patch_px": self.img_px // self.stored_map[0], **section.encoder.model_dump()}
        return VqkdEncoder({**shape, "seed": 0}, section.dim)

    def feature_decoder_flops(self, section: codebook.Vqkd) -> int:
        """The decoder of a vqkd tokenizer, from codes to the features of the frozen encoder."""
        (side, width), own = self.stored_map, section.encoder
        patches = side**2
        sizes = {"width": own.dim, "depth": section.decoder_depth, "heads": own.heads, "dim_out": width}
        build = partial(FeatureDecoder, section.dim, patches, **sizes)
        return self.once(lambda: build()(torch.empty(1, patches, section.dim)), "feature decoder", str(section))

    def autoencoder_codes(self, section: codebook.Vqgan | codebook.Fsq) -> Codes:
        """The codes of a vqgan or fsq tokenizer, which has a convolutional encoder of its own."""
        grid = self.img_px >> (len(section.widths) - 1)
        rounds = isinstance(section, codebook.Fsq)  # and searches for no nearest code
        num_codes, dim = (prod(section.levels), len(section.levels)) if rounds else (section.num_codes, section.dim)
        build = partial(ConvEncoder, dim, section.widths, section.blocks)
        flops = self.on_image(build, "autoencoder", dim, *section.widths, section.blocks)
        search = 0 if rounds else 2 * grid**2 * num_codes * dim
        return Codes(grid, 1, num_codes, dim, built_size(build), flops, search)

    def on_image(self, build: Callable[[], nn.Module], *key: Any) -> int:
        """A network that takes an image."""
        return self.once(lambda: build()(torch.empty(1, 3, self.img_px, self.img_px)), *key)

    def convolutional_decoder_flops(self, codes: Codes, widths: list[int], blocks: int) -> int:
        """A convolutional decoder of all codes at once."""
        channels = codes.codebooks * codes.dim
        grid, build = torch.empty(1, channels, codes.grid, codes.grid, device="meta"), partial(ConvDecoder, channels)
        return self.once(lambda: build(widths, blocks)(grid), "decoder", channels, codes.grid, *widths, blocks)

    def pass_flops(self, codes: Codes, name: str) -> int:
        """One forward pass of the network that training a decoder trains."""
        section = decoder.load_params(name, self.params)
        if isinstance(section, decoder.RenderParams):
            given, pixels = codes.count, self.pixel(name).count
            return self.once(lambda: self.render(codes, name, section)(ints(1, given), ints(1, pixels)), codes, name)
        widths = widths_from(codes.grid, self.img_px, section.widths)
        if isinstance(section, decoder.DiffusionParams):
            return self.once(lambda: self.denoise(codes, section, widths), codes, name)
        return self.convolutional_decoder_flops(codes, widths, section.blocks)

    def denoise(self, codes: Codes, section: decoder.DiffusionParams, widths: list[int]) -> None:
        """One step of a diffusion decoder."""
        channels, side = codes.codebooks * codes.dim, self.img_px
        network = UNet(channels, widths, section.blocks, section.conditioning)
        network(torch.empty(1, 3, side, side), torch.zeros(1), torch.empty(1, channels, codes.grid, codes.grid))

    def render(self, codes: Codes, name: str, section: decoder.RenderParams) -> RenderTransformer:
        """The transformer of a render decoder."""
        pixel = self.pixel(name)
        sizes = {"num_given": codes.num_codes, "given_patches": codes.count}
        sizes |= {"num_codes": pixel.num_codes, "num_patches": pixel.count}
        model = section.model.model_dump(exclude={"label_smoothing"})
        return RenderTransformer(**sizes, **model, causal=section.method == "ar")

    def pixel(self, name: str) -> Codes:
        """The codes of the pixel tokenizer of a render decoder."""
        return self.codes(decoder.load_pixel_tokenizers(self.params)[name])

    def decode_flops(self, codes: Codes, name: str) -> int:
        """All that decoding an image takes."""
        section, once = decoder.load_params(name, self.params), self.pass_flops(codes, name)
        if isinstance(section, decoder.DiffusionParams):
            return once * section.sampling.steps
        if not isinstance(section, decoder.RenderParams):
            return once
        joint = codebook.load_params(decoder.load_pixel_tokenizers(self.params)[name], self.params)
        if not isinstance(joint, codebook.Vqgan | codebook.Fsq):
            raise UserError(f"{self.params}: pixel_tokenizer.{name}: expected a tokenizer of kind vqgan or fsq")
        pixels = self.convolutional_decoder_flops(self.pixel(name), joint.widths, joint.blocks)
        return once * (section.sampling.steps if section.method == "masked" else 1) + pixels

    def generator(self, codes: Codes, name: str, classes: int) -> Any:
        """The network of a generator."""
        params = generator.load_params(name, self.params)
        kind, given = import_kind(generator.KINDS[params.training.kind].module), given_to(name, classes, self.params)
        sizes = {"num_codes": codes.num_codes, "num_patches": codes.count, "grid": codes.grid, **given}
        return build_network(kind, sizes | params.model.network() | {"causal": kind.CAUSAL})

    def generator_flops(self, codes: Codes, name: str, classes: int) -> int:
        """One forward pass over all codes of an image; with its cache, sampling takes as much."""

        def forward() -> None:
            network = self.generator(codes, name, classes)
            network(network.null(1) if getattr(network, "prefix", None) else ints(1), ints(1, codes.count))

        return self.once(forward, "generator", codes, name)
