"""Metrics of a whole run with three trainings of everything, in memory, for tests of the claims."""

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from stages.report.gather import Metrics, Reports, Stage

KMEANS = {"kind": "kmeans", "encoder": "pipeline", "blocks": [1], "num_codes": 256}
VQGAN = {"kind": "vqgan", "num_codes": 256, "revive_dead_codes": True}
TOKENIZERS: dict[str, dict[str, Any]] = {
    "kmeans": KMEANS,
    "random": {**KMEANS, "encoder": "random"},
    "shallow": {**KMEANS, "blocks": [0]},
    "few": {**KMEANS, "num_codes": 64},
    "cluster": {"kind": "cluster", "num_codes": 256},
    "vqkd": {"kind": "vqkd", "num_codes": 256},
    "vqgan": VQGAN,
    "vq_rate": {**VQGAN, "num_codes": 24},
    "vq_plain": {**VQGAN, "revive_dead_codes": False},
}
DEFAULTS: dict[str, dict[str, float]] = {  # by tokenizer
    "gfid": {"kmeans": 5, "random": 8, "shallow": 6, "few": 7, "cluster": 4, "vqkd": 3, "vqgan": 9, "vq_rate": 9},
    "rfid": {"vqgan": 1.0, "vq_rate": 1.5, "vq_plain": 1.2},  # others: 2
    "psnr": {"vqgan": 30.0, "few": 20.0, "vq_plain": 28.0},  # others: 25 dB
    "bits": {"vqgan": 200.0, "few": 60.0},  # others: 100
    "change": {"kmeans": 0.1, "random": 0.2, "vq_rate": 0.3, "vqgan": 0.4},
    "usage": {"vq_plain": 0.3},  # others: .99
    "teacher": {"kmeans": 0.9, "few": 0.9, "shallow": 0.7, "random": 0.3},
    "num_codes": {}, "made": {}, "drawn": {}, "count": {},
    "steps": {"steps_1": 1.2, "steps_3": 1.0, "steps_10": 1.1},
}  # fmt: skip
COMPRESSED = ("kmeans", "few")  # tokenizers of which diffusion decoders exist


@dataclass(frozen=True)
class Written(Reports):
    """Reports whose metrics are in memory."""

    by_stage: dict[str, dict[str, Metrics]] = field(default_factory=dict)

    def metrics(self, stage: str) -> dict[str, Metrics]:
        """{name: metrics} of a stage."""
        return self.by_stage.get(stage, {})


class Run:
    """The metrics of every stage, with `changes` to DEFAULTS."""

    def __init__(self, seeds: int, decoders: list[str], generators: list[str], changes: dict[str, Any]):
        self.values = {key: {**known, **changes.get(key, {})} for key, known in DEFAULTS.items()}
        self.decoders, self.generators = decoders, generators
        kept = [name for name in TOKENIZERS if name not in changes.get("left_out", [])]
        self.trainings = {name_of(name, seed): (name, seed) for name in kept for seed in range(seeds)}

    def of(self, key: str, name: str, default: float = 0.0, step: float = 0.0) -> float:
        """A value of a training: that of its tokenizer, and `step` more for each seed."""
        base, seed = self.trainings[name]
        return self.values[key].get(base, default) + seed * step

    def reconstruction(self, name: str, decoder: str) -> Metrics:
        """Of a tokenizer and decoder."""
        num_codes = self.values["num_codes"].get(self.trainings[name][0], self.section(name)["num_codes"])
        made = {
            "psnr_db": self.of("psnr", name, 25.0), "psnr_db_std": 0.1, "class_accuracy": self.of("made", name, 0.99),
            "rfid[classifier]": self.fid("rfid", name, decoder, 2.0), "rfid[classifier]_std": 0.05,
            "code_usage": {"live_fraction": self.of("usage", name, 0.99, 0.001)},
        }  # fmt: skip
        facts = {"kind": self.section(name)["kind"], "num_codes": num_codes, "codes": 64}
        return {"tokenizer": facts, "reconstruction": made, "protocol": [{"of": "reconstruction", "count": 297}]}

    def fid(self, key: str, name: str, decoder: str, default: float) -> float:
        """A distance, smaller by a fifth with diffusion, and by half for the fewest bits."""
        share = (0.5 if self.trainings[name][0] == "few" else 0.8) if decoder.startswith("diffusion") else 1.0
        known = self.values[key].get(decoder)
        return self.of(key, name, default, 0.1) * share if known is None else known

    def generation(self, name: str, decoder: str) -> Metrics:
        """Of the samples of every generator; addp is better than the others."""
        found: Metrics = {"protocol": []}
        for generator in self.generators if self.trainings[name][0] != "vq_plain" else []:
            gfid = self.fid("gfid", name, decoder, 9.0) * (0.5 if generator == "addp" else 1)
            accuracy = {"class_accuracy": self.of("drawn", name, 0.9), "class_accuracy_std": 0.01}
            likelihood = {"bound": "exact", "val_bits_per_image": self.of("bits", name, 100.0)}
            found[generator] = {"gfid[classifier]": gfid, "gfid[classifier]_std": 0.05, **accuracy}
            found[generator]["likelihood"] = likelihood
            count = self.of("count", name, 500)
            found["protocol"].append({"of": generator, "count": count, "per_class": {"max": 50}})
        return found

    def noise(self, name: str) -> Metrics:
        """At 20 dB."""
        change = self.of("change", name, 0.5, 0.01)
        spreads = {"change_std": 0.001, "change_image_std": 0.001}
        return {"snr_20_db": {"change": change, **spreads}, "protocol": [{"of": "noise_robustness"}]}

    def section(self, name: str) -> dict[str, Any]:
        """The params of a tokenizer."""
        base, seed = self.trainings[name]
        return {**TOKENIZERS[base], "seed": seed}

    def params(self) -> dict[str, Any]:
        """As dvc.lock records them."""
        found = {f"codebook.{name}": self.section(name) for name in self.trainings}
        for number, name in enumerate(self.decoders):
            found[f"decoder.{name}"] = {"kind": name.partition("_")[0], "optim": {"seed": number}}
        for number, name in enumerate(self.generators):
            found |= {f"generator.{name}": {"kind": name.partition("_")[0], "seed": number}, f"samples.{name}": {}}
        return found

    def pairs(self) -> list[tuple[str, str]]:
        """Tokenizers and their decoders."""
        found = product(self.trainings, self.decoders)
        return [
            (name, decoder) for name, decoder in found
            if not decoder.startswith("diffusion") or self.trainings[name][0] in COMPRESSED
        ]  # fmt: skip

    def stages(self) -> dict[str, dict[str, Metrics]]:
        """{stage: {member: metrics}}."""
        pairs = {f"{name}-{decoder}": (name, decoder) for name, decoder in self.pairs()}
        steps = {step: {"rfid[classifier]": value, "rfid[classifier]_std": 0.01}
                 for step, value in self.values["steps"].items()}  # fmt: skip
        toy = {"sigma_0": 0.7, "sigma_0_std": 0.01}
        return {
            "reconstruction": {member: self.reconstruction(*pair) for member, pair in pairs.items()},
            "generation": {member: self.generation(*pair) for member, pair in pairs.items()},
            "noise_robustness": {name: self.noise(name) for name in self.trainings},
            "code_analysis": {name: {"class": {"features": self.of("teacher", name, 0.9)}} for name in self.trainings},
            "decoding_steps": {member: steps for member, pair in pairs.items() if "diffusion" in pair[1]},
            "pca_vs_lda": {"": {"case": {"lda": toy, "pca": {**toy, "sigma_0": 0.8}},
                                "protocol": [{"of": "case", "point_seeds": [0, 1, 2, 3, 4]}]}},
        }  # fmt: skip

    def probes(self) -> dict[str, Metrics]:
        """Layer probes of every generator; fewer codes, lower accuracy."""
        found: dict[str, Metrics] = {}
        for name, generator in product(self.trainings, self.generators):
            base = (0.6 if self.trainings[name][0] == "few" else 0.7) + 0.001 * self.trainings[name][1]
            trained = {"best": base, "middle": base, "last": base - 0.1}
            layers = {"trained": [{"layer": 0, "accuracy": base - 0.3}, {"layer": 1, "accuracy": base}]}
            untrained = {"best": 0.4, "middle": 0.4, "last": 0.4}
            found[f"{name}-{generator}"] = {"trained": trained, "untrained": untrained, "layers": layers}
        return found

    def code_noise(self) -> dict[str, Metrics]:
        """pFID twice as high as gFID."""
        pairs = {f"{name}-{decoder}": self.fid("gfid", name, decoder, 9.0) for name, decoder in self.pairs()}
        return {
            member: {"pfid": {"pfid[classifier]": 2 * gfid}, "points": [{"delta": 6}]} for member, gfid in pairs.items()
        }


def name_of(name: str, seed: int) -> str:
    """Of a training; no name tells its seed."""
    return name if seed == 0 else f"{name}{'abc'[seed]}"


def reports(
    path: object, seeds: int = 3, decoders: list[str] | None = None, generators: list[str] | None = None,
    probes: bool = False, pfid: bool = False, **changes: Any,
) -> Written:  # fmt: skip
    """What a run leaves; `path` only makes tests of the same name differ."""
    generators = generators or (["ar", "masked", "addp"] if probes else ["ar"])
    run = Run(seeds, decoders or ["onestep", "diffusion"], generators, changes)
    found = run.stages() | ({"layer_probe": run.probes()} if probes else {})
    found |= {"code_noise_fid": run.code_noise()} if pfid else {}
    found["probe"] = {"": {"encoder": {"clean": changes.get("encoder_accuracy", 0.9)}, "raw": {"clean": 0.2}}}
    items = {f"{name}-{decoder}": {"tokenizer": name, "decoder": decoder} for name, decoder in run.pairs()}
    stages = {name: Stage(items if name == "reconstruction" else {}, {}, trains=False) for name in found}
    return Written(stages, run.params(), "0123456789ab", Path(), found)
