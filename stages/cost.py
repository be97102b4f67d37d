"""What each stage costs with the values of params.yaml, before any work: images, operations, bytes on disk.

Run:    python -m stages.cost [--params params.yaml] [--images TRAIN VAL CLASSES]
Expect: JSON, {stage: {"what": text, "flops": number, "disk_bytes": number}}; seconds. `semtok cost` adds times.
        Without --images the images of data.source are counted, a folder's by listing it.

"flops" are those of matrix products and convolutions. A training step counts three forward passes, one for each of
forward, gradients of activations, gradients of weights. Stages that are studies count none.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from stages.codebook import params as codebook
from stages.core import UserError
from stages.core.params import load, load_list
from stages.core.schemas import ReconstructionLossConfig
from stages.cost_networks import Codes, Networks
from stages.data.params import Params as Data
from stages.data.writer import SOURCES, TAR_BYTES
from stages.decoder import params as decoder
from stages.encoder.params import EncoderParams
from stages.evaluate.classifier import Classifier
from stages.evaluate.params import ClassifierParams, ReferenceParams
from stages.features.params import Params as Features
from stages.generator import params as generator
from stages.tokens.params import Params as Tokens

PASSES = 3  # of a training step


@dataclass(frozen=True)
class Cost:
    """Of one stage, which works on so many items: images, views, vectors, samples or steps; `what` says which."""

    what: str
    items: int
    flops: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True)
class Images:
    """How many there are."""

    train: int
    val: int
    classes: int


def images_of(params: Data) -> Images:
    """The images of the source, usable or not."""
    source = SOURCES[params.source](params)
    return Images(len(source.splits["train"]), len(source.splits["val"]), len(source.classes))


class Costs:
    """The costs of every stage of one params file, in the order of the graph."""

    def __init__(self, path: Path, images: Images | None):
        self.path, self.data, self.features = path, load("data", Data, path), load("features", Features, path)
        self.images = images or images_of(self.data)
        encoder = load("encoder", EncoderParams, path)
        self.networks = Networks(encoder, self.features, self.data.img_px, path)
        self.tokenizers = {name: self.networks.codes(name) for name in load_list("tokenizers", path)}
        self.decoders, self.generators = load_list("decoders", path), load_list("generators", path)

    @property
    def all_images(self) -> int:
        return self.images.train + self.images.val

    def stages(self) -> Iterator[tuple[str, Cost]]:
        """(name, cost) of each stage of the main path."""
        yield "data", self.of_data()
        yield "features", self.of_features()
        for name, codes in self.tokenizers.items():
            yield f"codebook@{name}", self.of_codebook(name, codes)
        for name, codes in self.tokenizers.items():
            yield f"tokens@{name}", self.of_tokens(codes)
        for name, codes in self.tokenizers.items():
            for one in self.decoders:
                yield f"decoder@{name}-{one}", self.of_decoder(codes, one)
        for name, codes in self.tokenizers.items():
            for one in self.generators:
                yield f"generator@{name}-{one}", self.of_generator(codes, one)
                yield f"samples@{name}-{one}", self.of_samples(codes, one)
        yield "classifier", self.of_classifier()
        yield "reference", self.of_reference()
        for name, codes in self.tokenizers.items():
            for one in self.decoders:
                yield f"reconstruction@{name}-{one}", self.of_reconstruction(codes, one)
                yield f"generation@{name}-{one}", self.of_generation(codes, one)

    def of_data(self) -> Cost:
        """As the stage itself estimates: PNG at no compression, JPEG at a sixth."""
        image = self.data.img_px**2 * 3 // (1 if self.data.format == "png" else 6) + TAR_BYTES
        return Cost(f"{self.all_images:,} images of {self.data.img_px} px", self.all_images, 0, self.all_images * image)

    @property
    def feature_images(self) -> int:
        return min(self.images.train, self.features.max_train_images or self.images.train) + self.images.val

    def of_features(self) -> Cost:
        count, encoder = self.feature_images, self.networks.encoder
        flops = self.networks.encode_flops([self.features.block])
        return Cost(f"{count:,} images", count, count * flops, count * encoder.grid**2 * encoder.dim * 2)

    def of_codebook(self, name: str, codes: Codes) -> Cost:
        section, grid = codebook.load_params(name, self.path), self.networks.encoder.grid
        if isinstance(section, codebook.Kmeans):
            vectors = (self.feature_images - self.images.val) * grid**2
            used = min(vectors, section.max_vectors or vectors)
            flops = 2 * used * codes.num_codes * codes.dim * section.iterations * section.redo
            read = section.blocks or section.encoder == "random"  # features of its own, not those of the stage
            own = self.feature_images * codes.encode_flops if read else 0
            what = f"{used:,} vectors, {section.iterations} iterations"
            return Cost(what, used, flops + own, 4 * codes.num_codes * codes.dim)
        steps, batch = section.optim.total_steps, section.optim.batch_size
        step = PASSES * codes.encode_flops
        if isinstance(section, codebook.Cluster):
            step = 2 * PASSES * grid**2 * codes.num_codes * codes.dim
        elif isinstance(section, codebook.Vqkd):
            step += self.networks.encode_flops([self.features.block])
        else:
            step += PASSES * self.networks.convolutional_decoder_flops(codes, section.widths, section.blocks)
            step += self.loss_flops(section)
        return Cost(f"{steps:,} steps of {batch} images", steps, steps * batch * step)

    def of_tokens(self, codes: Codes) -> Cost:
        views = load("tokens", Tokens, self.path).views
        count, width = self.images.train * views + self.images.val, 2 if codes.num_codes <= 2**16 else 4
        return Cost(f"{count:,} views", count, count * codes.encode_flops, count * codes.count * width)

    def loss_flops(self, section: ReconstructionLossConfig) -> int:
        """Of the perceptual distance and the discriminator, per image and step, the latter from its first step on."""
        flops = 0
        if section.perceptual_weight:  # both images forward, one of them backward to its pixels
            flops += 3 * self.networks.perceptual_flops(section)
        if section.gan.weight:  # the term: forward, backward; its own step: both images forward and backward
            active = max(0, section.optim.total_steps - section.gan.start_step) / section.optim.total_steps
            flops += int(active * (2 + 2 * PASSES) * self.networks.discriminator_flops(section.gan.width))
        return flops

    def of_decoder(self, codes: Codes, name: str) -> Cost:
        section = decoder.load_params(name, self.path)
        step = PASSES * self.networks.pass_flops(codes, name) + codes.encode_flops
        if isinstance(section, decoder.RenderParams):
            step += self.networks.pixel(name).encode_flops
        else:
            step += self.loss_flops(section)
        steps, batch = section.optim.total_steps, section.optim.batch_size
        return Cost(f"{steps:,} steps of {batch} images", steps, steps * batch * step)

    def of_generator(self, codes: Codes, name: str) -> Cost:
        training = generator.load_params(name, self.path).training
        flops = PASSES * self.networks.generator_flops(codes, name, self.images.classes)
        what = f"{training.total_steps:,} steps of {training.batch_size} images"
        return Cost(what, training.total_steps, training.total_steps * training.batch_size * flops)

    @property
    def draws(self) -> tuple[int, int]:
        """Samples per seed, and seeds."""
        draws = load("samples.draws", generator.Draws, self.path)
        return draws.per_class * max(1, self.images.classes), len(draws.seeds)

    def of_samples(self, codes: Codes, name: str) -> Cost:
        kind = generator.load_params(name, self.path).training.kind
        sampling, (count, seeds) = generator.load_sampling(name, kind, self.path), self.draws
        passes = sampling.steps if isinstance(sampling, generator.MaskedSampling) else 1
        passes *= 2 if sampling.guidance != 1 and self.images.classes else 1
        flops = passes * self.networks.generator_flops(codes, name, self.images.classes)
        return Cost(
            f"{seeds} x {count:,} samples", seeds * count, seeds * count * flops, seeds * count * codes.count * 4
        )

    @property
    def classifier_flops(self) -> int:
        """Of one image; none without classes."""
        if self.images.classes < 2:
            return 0
        params = load("classifier", ClassifierParams, self.path)
        classes = self.images.classes
        return self.networks.on_image(
            lambda: Classifier(img_px=params.img_px, widths=params.widths, num_classes=classes), "classifier"
        )

    def of_classifier(self) -> Cost:
        optim = load("classifier", ClassifierParams, self.path).optim
        flops = PASSES * optim.total_steps * optim.batch_size * self.classifier_flops
        return Cost(f"{optim.total_steps:,} steps of {optim.batch_size} images", optim.total_steps, flops)

    @property
    def extract_flops(self) -> int:
        """Of one image through the extractors of the evaluation."""
        return self.networks.encode_flops([-1]) + self.classifier_flops

    def of_reference(self) -> Cost:
        params = load("reference", ReferenceParams, self.path)
        used = min(self.images.train, params.max_images or self.images.train) + self.images.val
        values = self.networks.encoder.dim + 3 * params.pixel_px**2
        return Cost(f"{used:,} images", used, used * self.extract_flops, used * 4 * values)

    def of_reconstruction(self, codes: Codes, name: str) -> Cost:
        flops = codes.encode_flops + self.networks.decode_flops(codes, name) + self.extract_flops
        return Cost(f"{self.images.val:,} images", self.images.val, self.images.val * flops)

    def of_generation(self, codes: Codes, name: str) -> Cost:
        images = len(self.generators) * self.draws[0] * self.draws[1]
        return Cost(
            f"{images:,} samples", images, images * (self.networks.decode_flops(codes, name) + self.extract_flops)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--images", nargs=3, type=int, metavar=("TRAIN", "VAL", "CLASSES"))
    options = parser.parse_args()
    try:
        images = Images(*options.images) if options.images else None
        costs = {stage: asdict(cost) for stage, cost in Costs(options.params, images).stages()}
    except UserError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(costs))


if __name__ == "__main__":
    main()
