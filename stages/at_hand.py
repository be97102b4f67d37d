"""Values that this machine or the artifacts below data/ cannot take, known before a stage opens either.

Artifacts count if dvc.lock says that they were made with the values of the params file: those of other images, or of
another encoder, say nothing about it. `semtok set` asks; the stages check again what they are given.
"""

import ctypes
import json
import re
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages import names
from stages.codebook import params as codebook
from stages.core import UserError
from stages.core.params import Machine, impossible, load, load_list, load_value
from stages.encoder.params import EncoderParams
from stages.encoder_fit import EMBEDDED
from stages.evaluate.params import GenerationParams, ReferenceParams
from stages.generator.params import Model, SampleDraws
from stages.studies.params import Ablation, Probe

DATA, LOCK = Path("data"), Path("dvc.lock")
MODEL = re.compile(r"(?:def |['\"])([a-z0-9_.]+)")  # functions and texts of timm's modules: names, old ones too


def checks(path: Path) -> list[Callable[[], object]]:
    """One check per value, each a `UserError` for one that cannot be."""
    always = (check_device, check_encoder, check_noise, check_ablation)
    found: list[Callable[[], object]] = [partial(check, path) for check in always]
    if not (features := config_of("features", ["data", "encoder", "features"], path)):
        return found
    tokenizers = load_list("tokenizers", path)
    of_features = (*(partial(check_tokenizer, name, features, path) for name in tokenizers),)
    return [*found, *of_features, partial(check_dims, features, path)]


def notes(path: Path) -> list[str]:
    """What a possible params file asks for and the images are too few for, one line each."""
    if not (images := config_of("images", ["data"], path)):
        return []
    classes, train = images["splits"]["train"]["per_class"], images["splits"]["train"]["images"]
    draws, reference = load("samples.draws", SampleDraws, path), load("reference", ReferenceParams, path)
    compared = min(reference.max_images or train, train)
    fewest = min(compared, draws.per_class * max(1, len(classes)))
    kid = load("generation", GenerationParams, path).kid_subset_size
    asked = [("generation.kid_subset_size", kid, fewest, "KID"),
             ("reference.prc_neighbors", reference.prc_neighbors, fewest - 1, "precision and recall"),
             ("reference.density_neighbors", reference.density_neighbors, compared - 1, "coverage")]  # fmt: skip
    left_out = [(key, value, most, what) for key, value, most, what in asked if value > most]
    found = [f"{key} = {value}: more than {most}, so {what} will be left out" for key, value, most, what in left_out]
    shots, rarest = load("probe", Probe, path).shots, min(classes.values(), default=0)
    few = f"probe.shots = {shots}: of smaller classes all train images are used; the smallest has {rarest}"
    return [*found, *[few] * (0 < rarest < shots)]


def config_of(name: str, stages: list[str], path: Path) -> dict[str, Any]:
    """config.json of an artifact that these stages made, last of all its own; {} if they ran with other values."""
    try:
        lock = LOCK.read_text(encoding="utf-8")
        if all(recorded(lock, stage) == load_value(stage, path) for stage in stages):
            return json.loads((DATA / name / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, UserError):  # absent or damaged: the stages say so
        pass
    return {}


def recorded(lock: str, stage: str) -> Any:
    """The section named like a stage with which it last ran. Only its part of dvc.lock is parsed: all take a second."""
    lines = lock.partition(f"\n  {stage}:\n")[2].splitlines(keepends=True)
    block = "".join(takewhile(lambda line: line.startswith("    "), lines))
    params = names.value_at(YAML(typ="safe").load(block) or {}, "params") or {}
    return params.get("params.yaml", {}).get(stage)


def check_device(path: Path) -> None:
    """Refuse a GPU that the driver does not show; torch, which would take seconds to load, asks the same library."""
    device = load("machine", Machine, path).device
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= (count := gpus()):
        raise impossible("machine.device", device, f"this machine has {count} usable GPUs; use auto or cpu")


def check_encoder(path: Path) -> None:
    """Refuse the name of an encoder that is neither embedded nor in the text of timm, whose import takes seconds."""
    name = load("encoder", EncoderParams, path).name
    if (EMBEDDED / name).is_dir() or ":" in name or (timm := find_spec("timm")) is None:
        return
    known = set[str]()
    for module in Path(str(timm.origin)).parent.glob("models/*.py"):
        known |= {*MODEL.findall(module.read_text(encoding="utf-8"))}
    base, _, tag = name.partition(".")
    tags = known | {one.partition(".")[2] for one in known}
    if base not in known or tag not in tags:
        similar = ", ".join(get_close_matches(name, [*known], n=3)) or "see timm.list_models()"
        raise impossible("encoder.name", name, f"neither in weights/ nor in timm; similar: {similar}")


def gpus() -> int:
    """GPUs that CUDA or ROCm shows to this process."""
    for library, ready, count in (("libcuda.so.1", "cuInit", "cuDeviceGetCount"),
                                  ("libamdhip64.so", "hipInit", "hipGetDeviceCount")):  # fmt: skip
        try:
            driver, found = ctypes.CDLL(library), ctypes.c_int(0)
        except OSError:
            continue
        if getattr(driver, ready)(0) == 0 and getattr(driver, count)(ctypes.byref(found)) == 0:
            return found.value
    return 0


def check_noise(path: Path) -> None:
    """Refuse more near codes than the smallest codebook in use has others."""
    noise = load("generator.model", Model, path).code_noise
    sizes = [size for name in load_list("tokenizers", path) if (size := codes_of(codebook.load_params(name, path)))]
    if noise.share and sizes and noise.nearest >= min(sizes):
        raise impossible("generator.model.code_noise.nearest", noise.nearest, f"expected less than {min(sizes)} codes")


def codes_of(params: codebook.TokenizerParams) -> int:
    """Codes of one codebook, 0 where the kind's section does not say."""
    return getattr(params, "num_codes", 0)


def check_tokenizer(name: str, features: dict[str, Any], path: Path) -> None:
    """Refuse more codes than vectors, and more components than a vector has."""
    params, key = codebook.load_params(name, path), f"codebook.{name}"
    vectors = features["splits"]["train"]["images"] * features["num_patches"]
    if isinstance(params, codebook.Kmeans):
        used = min(vectors, params.max_vectors or vectors)
        limit = f"vectors to cluster ({key}.max_vectors)" if used < vectors else "vectors to cluster"
        refuse_above(f"{key}.num_codes", params.num_codes, used, limit)
        joined = len(params.blocks) if params.blocks and params.layers == "concat" else 1
        refuse_above(f"{key}.pca_dim", params.pca_dim, features["dim"] * joined, "values of a vector")
    elif isinstance(params, codebook.Cluster):
        refuse_above(f"{key}.num_codes", params.num_codes, vectors, "vectors to cluster")
    elif isinstance(params, codebook.Vqkd):
        batch = params.optim.batch_size * features["num_patches"]
        refuse_above(f"{key}.num_codes", params.num_codes, batch, "patches of a batch, from which the codes start")


def check_ablation(path: Path) -> None:
    """Refuse more codes than vectors are drawn."""
    params = load("ablation", Ablation, path)
    if params.cell.max_vectors:
        refuse_above("ablation.num_codes", max(params.num_codes), params.cell.max_vectors, "vectors to cluster")


def check_dims(features: dict[str, Any], path: Path) -> None:
    """Refuse more dimensions than a feature has."""
    dims = load("ablation", Ablation, path).dims
    refuse_above("ablation.dims", max(dims), features["dim"], "dimensions of a feature")


def refuse_above(key: str, value: int, most: int, what: str) -> None:
    """`UserError` for a value above what there is."""
    if value > most:
        raise impossible(key, value, f"expected at most the {most:,} {what}")
