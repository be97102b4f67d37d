"""What the rules of the claims read: configurations with their facts and metrics, and why two may not be compared.

Tokenizers take part by their kind and their params: those of SEMANTIC kinds against those of PIXEL kinds. `encoder:
random` and `input_noise` make controls, and so do codebooks of another size: they are compared where bits per image or
PSNR match.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from math import hypot, log2, nan
from typing import Any

from stages.report.gather import Metrics, Reports, read_evaluations
from stages.report.replicates import Configuration, Training, configurations
from stages.report.sides import SIGMAS, Read, Side, Value, by_tokenizer, side
from stages.report.tables import differences, protocol_of

SEMANTIC, PIXEL = ("kmeans", "cluster", "vqkd"), ("vqgan", "fsq")  # kinds of tokenizers
MIN_PROBE_ACCURACY = 0.6  # of a linear probe of the encoder's features on val
MIN_CLASS_ACCURACY = 0.9  # of reconstructions
MIN_SKILL = 0.1  # of samples: class accuracy rescaled to 0 at chance and 1 at 1
MAX_DIFFERENCE = {"rate": 0.1, "psnr": 1.0, "sizes": 0.1}  # share of the larger number of bits; dB; share of codes
EXTRACTORS = ("inception", "efficientnet_lite0", "classifier")  # of Fréchet distances that favor no tokenizer here


@dataclass(frozen=True)
class Candidate:
    """A configuration with the kinds and sizes by which rules choose it."""

    configuration: Configuration
    tokenizer: dict[str, Any]  # its section of params.yaml
    decoder_kind: str
    generator_kind: str
    sizes: dict[str, int]  # num_codes, and codes per image
    bits: float  # per image, by an exact likelihood; 0 without one
    psnr_db: float

    @property
    def kind(self) -> str:
        """The kind of tokenizer."""
        return self.tokenizer.get("kind", "")

    @property
    def random_encoder(self) -> bool:
        """Its codes are clusters of an untrained network's features."""
        return self.tokenizer.get("encoder") == "random"

    @property
    def semantic(self) -> bool:
        """Its codes are clusters of trained features."""
        return self.kind in SEMANTIC and not self.random_encoder

    @property
    def pixel(self) -> bool:
        """Its codes are learned from clean pixels."""
        return self.kind in PIXEL and not self.tokenizer.get("input_noise")

    @property
    def code_bits(self) -> float:
        """Bits per image without a model of the codes."""
        return self.sizes["codes"] * log2(self.sizes["num_codes"])


class Bench:
    """Everything measured on the page's images. The main decoder is the one of the first evaluation."""

    def __init__(self, reports: Reports):
        self.reports, self.evaluations = reports, read_evaluations(reports)
        self.configurations = configurations(reports, self.evaluations)
        self.main_decoder = self.configurations[0].first.decoder

    @cached_property
    def candidates(self) -> list[Candidate]:
        """All configurations: pairs of tokenizer and decoder, and their generators."""
        return [self.candidate(one) for one in self.configurations]

    def candidate(self, configuration: Configuration) -> Candidate:
        """A configuration with its facts."""
        first = configuration.first
        made = self.evaluations[f"{first.tokenizer}-{first.decoder}"].reconstruction
        section = {"kind": made["tokenizer"]["kind"], **self.section("codebook", first.tokenizer)}
        decoder, generator = self.section("decoder", first.decoder), self.section("generator", first.generator)
        sizes = {name: made["tokenizer"][name] for name in ("num_codes", "codes")}
        kinds = decoder.get("kind", ""), generator.get("kind", "")
        return Candidate(configuration, section, *kinds, sizes, self.bits(first), made["reconstruction"]["psnr_db"])

    def section(self, owner: str, name: str) -> dict[str, Any]:
        """The params with which something was made; empty without a record."""
        return self.reports.params.get(f"{owner}.{name}") or {}

    def bits(self, first: Training) -> float:
        """Bits per image by the first generator with an exact likelihood."""
        drawn = self.evaluations[f"{first.tokenizer}-{first.decoder}"]
        found = (drawn.generation[name].get("likelihood", {}) for name in drawn.generators)
        return next((one["val_bits_per_image"] for one in found if one.get("bound") == "exact"), 0.0)

    def tokenizers(self) -> list[Candidate]:
        """Every tokenizer with the main decoder."""
        return [one for one in self.candidates if self.is_main(one) and not one.configuration.first.generator]

    def autoregressive(self) -> list[Candidate]:
        """Every tokenizer with the main decoder and the first generator of kind `ar`."""
        drawn = [one for one in self.candidates if self.is_main(one) and one.generator_kind == "ar"]
        return [one for one in drawn if one.configuration.first.generator == drawn[0].configuration.first.generator]

    def is_main(self, candidate: Candidate) -> bool:
        """It was measured with the main decoder."""
        return candidate.configuration.first.decoder == self.main_decoder

    def metrics(self, stage: str, name: str) -> Metrics:
        """What a member of a stage measured; empty if it did not, or if there is no such stage."""
        return self.reports.metrics(stage).get(name, {}) if stage in self.reports.stages else {}

    def group(self, training: Training) -> tuple[Metrics, Metrics]:
        """Metrics and protocol of a training's samples or, without a generator, of its reconstructions."""
        one = self.evaluations[f"{training.tokenizer}-{training.decoder}"]
        whole = one.generation if training.generator else one.reconstruction
        name = training.generator or "reconstruction"
        return whole.get(name, {}), protocol_of(whole, name)

    def read(self, metric: str) -> Read:
        """Reads a metric of samples or reconstructions."""
        return lambda training: value(self.group(training)[0], metric)

    def distance(self, letter: str) -> str:
        """rfid or gfid in the first feature space that favors no tokenizer and was measured."""
        spaces = {space for one in self.configurations for space in self.group(one.first)[0]}
        return next((f"{letter}fid[{one}]" for one in EXTRACTORS if f"{letter}fid[{one}]" in spaces), "")

    def changed(self, level: str, metric: str, training: Training) -> Value | None:
        """Share of codes that change under noise, with the deviation between noise seeds and over images."""
        found = self.metrics("noise_robustness", training.tokenizer).get(level, {})
        spreads = hypot(found.get(f"{metric}_std", nan), found.get(f"{metric}_image_std", nan))
        return (found[metric], spreads) if metric in found else None

    def side(self, one: Candidate, metric: str) -> Side | None:
        """A metric of the trainings of a tokenizer."""
        return side(one.configuration, self.read(metric), by_tokenizer)

    def objection(self, better: Candidate, worse: Candidate, samples: bool) -> str:
        """The gravest reason against comparing two tokenizers, "" without one."""
        return next(self.objections(better, worse, samples), "")

    def objections(self, better: Candidate, worse: Candidate, samples: bool) -> Iterator[str]:
        """Protocols that differ; for samples, classes that nothing can see."""
        trainings = [training for one in (better, worse) for training in one.configuration.trainings]
        first, *others = (self.group(training)[1] for training in trainings)
        if apart := [found for other in others for found in differences(first, other)]:
            yield f"measured under different protocols: {apart[0]}"
        if samples:
            yield from self.classes_unseen(trainings)
            yield from self.at_chance(better, worse)

    def classes_unseen(self, trainings: list[Training]) -> Iterator[str]:
        """The encoder, or one of the decoders, keeps too little of the classes."""
        if self.metrics("probe", "").get("encoder", {}).get("clean", 1.0) < MIN_PROBE_ACCURACY:
            yield f"probe accuracy of the encoder is below {MIN_PROBE_ACCURACY}"
        for one in trainings:
            made = self.group(Training(one.tokenizer, one.decoder))[0]
            if made.get("class_accuracy", 1.0) < MIN_CLASS_ACCURACY:
                yield f"class accuracy of {one.tokenizer} reconstructions is below {MIN_CLASS_ACCURACY}"

    def at_chance(self, better: Candidate, worse: Candidate) -> Iterator[str]:
        """The samples of both sides, or of a control of other sizes, hardly show the class that was asked for."""
        skills = [skill(*self.group(one.configuration.first)) for one in (better, worse)]
        if unequal_sizes(better, worse) and skills[1] and skills[1][0] <= SIGMAS * skills[1][1]:
            yield f"class accuracy of {worse.configuration.name} samples is at chance"
        known = [one for one in skills if one]
        if len(known) == len(skills) and max(known)[0] < MIN_SKILL:
            yield "class accuracy of both samples is near chance"


def value(metrics: Metrics, name: str) -> Value | None:
    """A metric and its deviation, nan if that is unknown."""
    return (metrics[name], metrics.get(f"{name}_std", nan)) if name in metrics else None


def skill(metrics: Metrics, protocol: Metrics) -> tuple[float, float] | None:
    """Class accuracy of samples, rescaled to 0 at chance and 1 at 1, and its deviation; None without classes.

    Chance is the share of the class drawn most often.
    """
    if not protocol.get("per_class") or "class_accuracy" not in metrics:
        return None
    chance = protocol["per_class"]["max"] / protocol["count"]
    left = max(1 - chance, 1e-9)
    return (metrics["class_accuracy"] - chance) / left, metrics.get("class_accuracy_std", 0.0) / left


def matched(one: Candidate, other: Candidate) -> bool:
    """Two tokenizers may be compared: equal sizes, or else as many bits per image, or the same PSNR."""
    rate = all((one.bits, other.bits)) and max(one.bits, other.bits) * (1 - MAX_DIFFERENCE["rate"]) <= min(
        one.bits, other.bits
    )
    return not unequal_sizes(one, other) or rate or abs(one.psnr_db - other.psnr_db) <= MAX_DIFFERENCE["psnr"]


def unequal_sizes(one: Candidate, other: Candidate) -> list[str]:
    """The sizes in which two tokenizers differ."""
    differ = partial(unlike, one, other)
    return [name for name in ("num_codes", "codes") if differ(name)]


def unlike(one: Candidate, other: Candidate, name: str) -> bool:
    """A size differs by more than it may."""
    counts = one.sizes[name], other.sizes[name]
    return max(counts) * (1 - MAX_DIFFERENCE["sizes"]) > min(counts)
