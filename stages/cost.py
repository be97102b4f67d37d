"""What the main stages cost with the values of params.yaml, before any work: operations, bytes of data and memory.

Run:    python -m stages.cost [--params params.yaml] [--images TRAIN VAL CLASSES]
Expect: JSON, seconds: "peak_flops" of this processor per second; "stages": what, flops, disk_bytes, memory_bytes.
        `semtok cost` adds times. Without --images those of data.source are counted, a folder's by listing it.

"flops" are those of matrix products and convolutions; a multiplication with an addition counts as two. A training step
counts three forward passes, a masked generator's all positions, ar_bits one step per code. Not counted: evaluations,
the start of k-means, text models, studies except recognition. "disk_bytes" leaves out weights, checkpoints and DVC's
cache. "memory_bytes" are those of one process, at most: stages/cost_memory.py.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from stages.codebook import params as codebook
from stages.core import UserError
from stages.core.hardware import peak_flops
from stages.core.params import Machine, load, load_list
from stages.core.schemas import Optim
from stages.cost_captions import bytes_of_captions
from stages.cost_extractors import pretrained_flops
from stages.cost_generators import sample_flops, step_flops
from stages.cost_images import Images, images_of
from stages.cost_losses import loss_flops
from stages.cost_memory import Memory
from stages.cost_networks import PASSES, Codes, Networks
from stages.cost_recognition import trainings
from stages.data.params import Params as Data
from stages.data.writer import bytes_per_image
from stages.decoder import params as decoder
from stages.encoder.params import EncoderParams
from stages.evaluate.classifier import Classifier
from stages.evaluate.params import PRETRAINED, ClassifierParams, ReferenceParams
from stages.evaluate.reference import peak_bytes
from stages.features.params import Params as Features
from stages.generator import alternating_params as alternating
from stages.generator import params as generator
from stages.tokens.params import Params as Tokens


@dataclass(frozen=True)
class Cost:
    """Of one stage; `flops` is 0 where no network computes."""

    what: str
    flops: int = 0
    disk_bytes: int = 0
    memory_bytes: int = 0  # of one process, at its peak


def steps_of(optim: Optim, flops: int, memory: int) -> Cost:
    """The cost of a training with so many operations per image and step."""
    steps, batch = optim.total_steps, optim.batch_size
    return Cost(f"{steps:,} steps of {batch} images", steps * batch * flops, memory_bytes=memory)


class Costs:
    """The costs of every stage of one params file, in the order of the graph."""

    def __init__(self, path: Path, images: Images | None):
        self.path, self.data, self.features = path, load("data", Data, path), load("features", Features, path)
        self.images, self.reference = images or images_of(self.data), load("reference", ReferenceParams, path)
        train = self.images.train
        self.feature_images = min(train, self.features.max_train_images or train) + self.images.val
        self.reference_images = min(train, self.reference.max_images or train)  # to compare with
        self.classifier, encoder = load("classifier", ClassifierParams, path), load("encoder", EncoderParams, path)
        self.networks = Networks(encoder, self.features, self.data.img_px, path)
        self.memory = Memory(self.networks, load("machine", Machine, path))
        self.tokenizers = {name: self.networks.codes(name) for name in load_list("tokenizers", path)}
        self.decoders, self.generators = (load_list(key, path) for key in ("decoders", "generators"))
        self.alternating = load_list(alternating.LIST, path, empty=True)

    def stages(self) -> Iterator[tuple[str, Cost]]:
        """(name, cost) of each stage of the main path."""
        yield "data", self.of_data()
        yield "features", self.of_features()
        captions = self.images.train + self.images.val  # one per image
        for name, size in bytes_of_captions(self.path).items():
            yield f"text@{name}", Cost(f"{captions:,} captions", 0, captions * size)
        for name, codes in self.tokenizers.items():
            yield f"codebook@{name}", self.of_codebook(name, codes)
            yield f"tokens@{name}", self.of_tokens(name, codes)
            for one in self.decoders:
                yield f"decoder@{name}-{one}", self.of_decoder(codes, one)
            for one in self.generators:
                yield f"generator@{name}-{one}", self.of_generator(codes, one)
                yield f"samples@{name}-{one}", self.of_samples(codes, one)
            for one in self.alternating:
                yield f"alternating_generator@{name}-{one}", self.of_alternating(codes, one)
                yield f"{alternating.SAMPLES_STAGE}@{name}-{one}", self.of_samples(codes, one)
        yield "classifier", self.of_classifier()
        yield "reference", self.of_reference()
        for name, codes in self.tokenizers.items():
            for one in self.decoders:
                yield f"reconstruction@{name}-{one}", self.of_reconstruction(codes, one)
                yield f"generation@{name}-{one}", self.of_generation(codes, one)
        for name, section, flops, memory in trainings(self.networks, self.tokenizers, self.images.classes):
            yield name, steps_of(section.optim, flops, memory)

    def of_data(self) -> Cost:
        """As the stage itself estimates."""
        count, side = self.images.train + self.images.val, self.data.img_px
        memory = self.memory.data(self.images.decode_bytes)
        return Cost(f"{count:,} images of {side} px", 0, count * bytes_per_image(self.data), memory)

    def of_features(self) -> Cost:
        count, (side, dim) = self.feature_images, self.networks.stored_map
        flops = count * self.networks.encode_flops([self.features.block])
        return Cost(f"{count:,} images", flops, count * side**2 * dim * 2, self.memory.features())

    def of_codebook(self, name: str, codes: Codes) -> Cost:
        section = codebook.load_params(name, self.path)
        if isinstance(section, codebook.Kmeans):
            vectors = (self.feature_images - self.images.val) * codes.grid**2
            used = min(vectors, section.max_vectors or vectors)
            flops = 2 * used * codes.num_codes * codes.dim * section.iterations * section.redo
            own = self.feature_images * codes.network_flops if self.networks.reads_other_features(section) else 0
            what, memory = f"{used:,} vectors, {section.iterations} iterations", self.memory.codebook(name, codes, used)
            return Cost(what, flops + own, 4 * codes.num_codes * codes.dim, memory)
        step = codes.search_flops * (1 + (not isinstance(section, codebook.Fsq) and section.revive_dead_codes))
        if isinstance(section, codebook.Vqkd):
            step += PASSES * (codes.network_flops + self.networks.feature_decoder_flops(section))
            step += self.networks.encode_flops([self.features.block])
        elif not isinstance(section, codebook.Cluster):
            decoder_flops = self.networks.convolutional_decoder_flops(codes, section.widths, section.blocks)
            step += PASSES * (codes.network_flops + decoder_flops) + loss_flops(self.networks, section)
        return steps_of(section.optim, step, self.memory.codebook(name, codes, 0))

    def of_tokens(self, name: str, codes: Codes) -> Cost:
        views = load("tokens", Tokens, self.path).views
        count = self.images.train * views + self.images.val
        disk, memory = count * codes.count * codes.bytes, self.memory.tokens(name, codes)
        return Cost(f"{count:,} views", count * codes.encode_flops, disk, memory)

    def of_decoder(self, codes: Codes, name: str) -> Cost:
        section = decoder.load_params(name, self.path)
        step = PASSES * self.networks.pass_flops(codes, name) + codes.encode_flops
        if isinstance(section, decoder.RenderParams):
            step += self.networks.pixel(name).encode_flops
        else:
            step += loss_flops(self.networks, section)
        return steps_of(section.optim, step, self.memory.decoder(codes, name))

    def of_generator(self, codes: Codes, name: str) -> Cost:
        flops = PASSES * self.networks.generator_flops(codes, name, self.images.classes)
        params, memory = generator.load_params(name, self.path), self.memory.generator(codes, name, self.images.classes)
        return steps_of(params.training, flops, memory)

    def of_alternating(self, codes: Codes, name: str) -> Cost:
        flops = step_flops(self.networks, codes, name, self.images.classes)
        memory = self.memory.alternating(codes, name, self.images.classes)
        return steps_of(alternating.load_alternating(name, self.path).optim, flops, memory)

    @property
    def draws(self) -> tuple[int, int]:
        """Samples per seed, and seeds."""
        draws = load("samples.draws", generator.SampleDraws, self.path)
        return draws.per_class * max(1, self.images.classes), len(draws.seeds)

    def of_samples(self, codes: Codes, name: str) -> Cost:
        flops, (count, seeds) = sample_flops(self.networks, codes, name, self.images.classes), self.draws
        drawn, memory = seeds * count, self.memory.samples(codes, name, self.images.classes)
        return Cost(f"{seeds} x {count:,} samples", int(drawn * flops), drawn * codes.count * codes.bytes, memory)

    @property
    def classifier_flops(self) -> int:
        """Of one image; none without classes."""
        if self.images.classes < 2:
            return 0
        sizes = self.classifier.model_dump(include={"img_px", "widths"}) | {"num_classes": self.images.classes}
        return self.networks.on_image(partial(Classifier, **sizes), "classifier")

    def of_classifier(self) -> Cost:
        return steps_of(self.classifier.optim, PASSES * self.classifier_flops, self.classifier.peak_bytes())

    @property
    def extract_flops(self) -> int:
        """Of one image through the extractors of the evaluation."""
        own = self.networks.encode_flops([-1]) + self.classifier_flops
        return own + sum(map(pretrained_flops, self.reference.extractors))

    @property
    def extracted_dim(self) -> int:
        """Features of an image by all extractors of the evaluation."""
        pretrained = sum(PRETRAINED[name].dim for name in self.reference.extractors)
        own = 2 * self.classifier.widths[-1] if self.images.classes > 1 else 0
        return self.networks.encoder.dim + own + pretrained

    def compared_bytes(self, images: int) -> int:
        """Memory of comparing so many images."""
        return peak_bytes(images, self.extracted_dim, self.reference.pixel_px)

    def of_reference(self) -> Cost:
        used, values = self.reference_images + self.images.val, self.extracted_dim + 3 * self.reference.pixel_px**2
        return Cost(f"{used:,} images", used * self.extract_flops, used * 4 * values, self.compared_bytes(used))

    def of_reconstruction(self, codes: Codes, name: str) -> Cost:
        flops = codes.encode_flops + self.networks.decode_flops(codes, name) + self.extract_flops
        images, memory = self.images.val, self.compared_bytes(max(self.reference_images, self.images.val))
        return Cost(f"{images:,} images", images * flops, memory_bytes=memory)

    def of_generation(self, codes: Codes, name: str) -> Cost:
        images = len([*self.generators, *self.alternating]) * self.draws[0] * self.draws[1]
        flops = self.networks.decode_flops(codes, name) + self.extract_flops
        memory = self.compared_bytes(max(self.reference_images, self.images.val, self.draws[0]))
        return Cost(f"{images:,} samples", images * flops, memory_bytes=memory)


def costs_of(path: Path, images: list[int] | None) -> dict[str, Cost]:
    """The cost of each stage; `UserError` for numbers or networks that cannot be."""
    if images and (min(images[:2]) < 1 or images[2] < 0):
        raise UserError(f"--images {' '.join(map(str, images))}: expected 1 or more train and val images")
    try:
        return dict(Costs(path, Images(*images) if images else None).stages())
    except (RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:  # of networks of odd sizes
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"{path}: a network with these values cannot be built: {why}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--images", nargs=3, type=int, metavar=("TRAIN", "VAL", "CLASSES"))
    options = parser.parse_args()
    try:
        costs = costs_of(options.params, options.images)
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    stages = {stage: asdict(cost) for stage, cost in costs.items()}
    print(json.dumps({"peak_flops": peak_flops(torch.device("cpu")), "stages": stages}))


if __name__ == "__main__":
    main()
