"""Peak memory of one process of each main stage in bytes, by the formulas whose result the stages print at their start.

Measured on a CPU (docs/log/speed.md). On a GPU networks and activations are in its memory, and in that of the process
is what its driver and libraries take.
"""

from functools import partial

from stages.codebook import params as codebook
from stages.core.params import Machine
from stages.cost_generators import build
from stages.cost_networks import Codes, Networks, built_size, size_of
from stages.data import writer
from stages.decoder import params as decoder
from stages.decoder.training import widths_from
from stages.features import params as features
from stages.generator import alternating_params as alternating
from stages.generator import params as generator
from stages.tokens import params as tokens

FP32 = 4  # bytes


class Memory:
    """By the networks of one params file and its section `machine`."""

    def __init__(self, networks: Networks, machine: Machine):
        self.networks, self.machine, self.path = networks, machine, networks.params

    def data(self, decode_bytes: int) -> int:
        """`decode_bytes`: of one image, as the source knows it."""
        return writer.peak_bytes(decode_bytes, self.machine)

    def features(self) -> int:
        encoder = self.networks.encoder
        return features.peak_bytes(FP32 * size_of(encoder), encoder.config, self.networks.features.block, self.machine)

    def codebook(self, name: str, codes: Codes, vectors: int) -> int:
        """`vectors`: those that k-means clusters."""
        section, encoder = codebook.load_params(name, self.path), self.networks.encoder
        if isinstance(section, codebook.Kmeans):
            layers = len(section.blocks) if section.layers == "concat" else 1
            block = (section.blocks or [self.networks.features.block])[0]
            return section.peak_bytes(vectors, encoder.maps[block][1] * max(1, layers))
        if isinstance(section, codebook.Cluster):
            return section.peak_bytes(codes.count, codes.dim)
        if isinstance(section, codebook.Vqkd):
            return section.peak_bytes(codes.count, encoder.config)
        return section.peak_bytes(section.widths, self.networks.img_px, encoder.config, section.optim.batch_size)

    def tokens(self, name: str, codes: Codes) -> int:
        section = codebook.load_params(name, self.path)
        channels = section.widths[-1] if isinstance(section, codebook.AutoencoderParams) else 3
        weights = FP32 * (codes.parameters + codes.num_codes * codes.dim)
        return tokens.peak_bytes(weights, codes.count * codes.dim, self.networks.img_px**2 * channels, self.machine)

    def decoder(self, codes: Codes, name: str) -> int:
        section = decoder.load_params(name, self.path)
        images = section.optim.images_at_once(self.machine)
        if isinstance(section, decoder.RenderParams):
            size, pixel = built_size(partial(self.networks.render, codes, name, section)), self.networks.pixel(name)
            return section.peak_bytes(size, codes.count, pixel.count, pixel.num_codes, images)
        widths = widths_from(codes.grid, self.networks.img_px, section.widths)
        return section.peak_bytes(widths, self.networks.img_px, self.networks.encoder.config, images)

    def generator(self, codes: Codes, name: str, classes: int) -> int:
        params = generator.load_params(name, self.path)
        size = built_size(partial(self.networks.generator, codes, name, classes))
        images = params.training.images_at_once(self.machine)
        return params.peak_bytes(size, codes.count, codes.num_codes, images)

    def samples(self, codes: Codes, name: str, classes: int) -> int:
        if alternating.is_alternating(name, self.path):
            size, shape, kind = self.alternating_size(codes, name, classes), {}, alternating.kind_at(name, self.path)
        else:
            params = generator.load_params(name, self.path)
            size = built_size(partial(self.networks.generator, codes, name, classes))
            shape, kind = params.model.network(), params.training.kind
        return generator.sampling_bytes(size, shape, codes.count, codes.num_codes, kind, self.machine)

    def alternating(self, codes: Codes, name: str, classes: int) -> int:
        section = alternating.load_alternating(name, self.path)
        sizes = self.alternating_size(codes, name, classes), codes.count, codes.num_codes
        return section.peak_bytes(*sizes, section.optim.images_at_once(self.machine))

    def alternating_size(self, codes: Codes, name: str, classes: int) -> int:
        section = alternating.load_alternating(name, self.path)
        return built_size(partial(build, self.networks, codes, section, classes))
