"""What reads each kind of file below data/ and scratch/, for tests that damage them."""

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import torch

from pipeline import cleanup, dvc_locks, status
from stages.codebook import fit, kmeans_features, streaming
from stages.codebook.params import Inputs
from stages.codebook.tokenizer import load_tokenizer
from stages.core import artifact, code, runtime, scratch
from stages.core.checkpoint import Checkpoint
from stages.core.hardware import process_group
from stages.core.optimizer import Ema
from stages.core.params import load
from stages.core.results import save_png
from stages.core.scratch import read_hashed, write_hashed
from stages.data import shards
from stages.data.reader import ImageSplit, image_facts
from stages.decoder.decoder import load_decoder
from stages.decoder.pixel_tokenizer import codebook_in
from stages.encoder.encoder import load_encoder
from stages.evaluate.classifier import load_classifier
from stages.evaluate.extractors import FeatureExtractor
from stages.evaluate.reference import load_reference
from stages.evaluate.samples import load_samples
from stages.features.reader import FeatureSplit
from stages.generator.neighbors import sampling_of
from stages.generator.params import KINDS
from stages.generator.samples import draw_part
from stages.generator.transformer import load_transformer
from stages.text.chosen import read_chosen
from stages.tokens.params import Params as TokenParams
from stages.tokens.reader import load_tokens, token_facts
from stages.tokens.writer import encode_part, view_encoder

SPLITS, OWN = ("train", "val"), {"name", "samples", "bytes", "sha256", "index_sha256"}
ORIGINAL: dict[Path, bytes] = {}  # every file before any damage
EXTRACTORS: dict[str, FeatureExtractor] = {}  # of data/reference


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def state_of_kmeans() -> streaming.State:
    return streaming.State(np.eye(3), np.ones(3), 2.5, 1, False, [[0, {"objective": 0.25, "splits": 1.0}]])


def train(folder: Path, steps: int) -> list:
    """A small training with pictures and curves, from its checkpoint on, up to `steps`."""
    with process_group():
        return train_in_group(folder, steps)


def train_in_group(folder: Path, steps: int) -> list:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 3)
    optimizer, ema, curve, start = torch.optim.AdamW(model.parameters(), 0.1), Ema(model, 0.9), [], 0
    checkpoint = Checkpoint(folder, 1.0, {"m": model}, {"m": optimizer}, {"m": ema})
    folder.mkdir(exist_ok=True)
    if state := checkpoint.load():
        start, curve = state["step"], state["curve"]
    for step in range(start, steps):
        torch.manual_seed(step)
        loss = model(torch.randn(4, 3)).square().sum()
        optimizer.zero_grad(), loss.backward(), optimizer.step(), ema.update(model, step)
        curve.append(loss.item())
        save_png(folder / f"step-{step}.png", np.full((2, 2, 3), step, np.uint8))
        if step == 1:
            checkpoint.save({"step": 2, "curve": curve})
            checkpoint.finish()
    return [model.state_dict(), ema.tensors, curve, [path.read_bytes() for path in sorted(folder.glob("*.png"))]]


def resume(path: Path) -> list:
    shutil.copytree("scratch/training", "again")
    try:
        return train(Path("again"), 4)
    finally:
        shutil.rmtree("again")


def read_images(path: Path) -> list:
    splits = [ImageSplit(Path("data/images"), split) for split in SPLITS]
    return [image_facts(Path("data/images")), *((one.keys, one.labels, one.read(range(len(one)))) for one in splits)]


def read_features(path: Path) -> list:
    splits = [FeatureSplit(Path("data/features"), split) for split in SPLITS]
    return [artifact.read(Path("data/features")), *((one.keys(), [*one]) for one in splits)]


def read_tokens(path: Path) -> list:
    folder = Path("data/tokens/kmeans")
    return [token_facts(folder), *((one.codes, one.labels) for one in (load_tokens(folder, s) for s in SPLITS))]


def read_tokenizer(path: Path) -> list:
    tokenizer = load_tokenizer("data/codebook/kmeans")
    return [tokenizer.config, tokenizer.encoder.state_dict(), tokenizer.codebook.vectors]


def read_samples(path: Path) -> list:
    samples, generator = load_samples(Path("data/samples/kmeans/ar")), Path("data/generator/kmeans-ar")
    settings = sampling_of(generator, artifact.read(generator))
    return [samples.codes, samples.labels, samples.config, settings.model_dump()]


def read_reference(path: Path) -> list:
    found = load_reference(Path("data/reference"), EXTRACTORS)
    stored = [{name: rows[:] for name, rows in part.features.items()} for part in (found.train, found.val)]
    thumbs, compared = [part.thumbs[:] for part in (found.train, found.val)], found.compared
    return [stored, thumbs, found.index, compared.radii, compared.gaussians, found.val_distances, found.config]


def network(load):
    def read(path: Path) -> list:
        found = load(path.parent)
        model, config = found if isinstance(found, tuple) else (getattr(found, "network", found), found)
        return [model.state_dict(), config if isinstance(config, dict) else getattr(config, "config", None)]

    return read


def recorded_code(path: Path) -> list:
    name = path.relative_to("data/code").as_posix().removeprefix("kinds/")
    code._files.clear()  # what readers of other files have added
    code.remember(f"stages.{name}", path)
    return sorted(code._files.items())


def shard(path: Path) -> list[bytes]:
    """What the stage leaves for a shard that an earlier attempt finished."""
    files = [path.with_suffix(suffix) for suffix in (".tar", ".npy", ".json")]

    def build(name: str):
        records: dict[str, dict[str, bytes]] = {}
        with tarfile.open(fileobj=io.BytesIO(ORIGINAL[files[0]])) as tar:
            for member in tar:
                key, _, field = member.name.partition(".")
                records.setdefault(key, {})[field] = tar.extractfile(member).read()
        Path("facts").write_bytes(ORIGINAL[files[2]])
        facts = artifact.read_with_checksum(Path("facts"))
        return records.items(), {key: value for key, value in facts.items() if key not in OWN}

    shards.write_shards(path.parent, [path.stem], build, lambda: None)
    return [file.read_bytes() for file in files]


def token_part(path: Path) -> np.ndarray:
    split, start, stop = path.stem.split("-")
    source, params = ImageSplit(Path("data/images"), split), load("tokens", TokenParams)
    views = params.views if split == "train" else 1
    encode = view_encoder(source, load_tokenizer("data/codebook/kmeans"), views, params)
    encode_part(path, (split, int(start), int(stop)), encode, 16)
    return np.load(path)


def sample_part(path: Path) -> np.ndarray:
    name, seed, start, stop = path.parts[1].removeprefix("data-samples-kmeans-"), *map(int, path.stem.split("-"))
    generator, labels = Path(f"data/generator/kmeans-{name}"), np.load(f"data/samples/kmeans/{name}/labels.npy")
    network, config = load_transformer(generator, "cpu")
    kind = code.import_kind(KINDS[config["kind"]].module)
    given = torch.from_numpy(labels).__getitem__
    draw_part(
        path, (seed, start, stop), network, kind, lambda *ends: given(slice(*ends)), sampling_of(generator, config)
    )
    return np.load(path)


def feature_part(path: Path) -> list:
    if read_hashed(path) is None:
        write_hashed(path, ORIGINAL[path][:-32])
    return [*kmeans_features.read_part(path)]


def lock(path: Path) -> None:
    """Its content is shown and never used, like that of durations."""
    assert not any(map(dvc_locks.holder, dvc_locks.STAGE_LOCKS.glob("*")))
    with runtime.sole_writer("data/locked"):
        pass


def checked_features(path: Path) -> None:
    folders = {name: Path("data", name) for name in ("images", "encoder", "features")}
    fit.check_features(Inputs("kmeans", *folders.values(), Path("out"), Path("report")), path.parent)


READERS = {
    "data/images/*": read_images,
    "data/features/*": read_features,
    "data/tokens/kmeans/*": read_tokens,
    "data/encoder/*": network(load_encoder),
    "data/codebook/kmeans/*": read_tokenizer,
    "data/codebook/kmeans/encoder/*": read_tokenizer,
    "data/decoder/*/*": network(load_decoder),
    "data/generator/*/*": network(lambda folder: load_transformer(folder, "cpu")),
    "data/samples/kmeans/ar/*": read_samples,
    "data/classifier/*": network(load_classifier),
    "data/reference/*": read_reference,
    "data/pixel_tokenizer/*/*": lambda path: codebook_in(path.parent),
    "data/inputs/*/features": checked_features,
    "data/captions/[am]*": lambda path: read_chosen(path, Path("data/text")),
    "data/code/[a-z]*.*": recorded_code,
    "data/code/kinds/*": recorded_code,
    "scratch/data-images/*/[tv]*-*": shard,
    "scratch/data-features/*/[tv]*-*": shard,
    "scratch/data-tokens-*/*/*.npy": token_part,
    "scratch/data-samples-*/*/*.npy": sample_part,
    "scratch/training/*": resume,
    "scratch/training/0*/*": resume,
    "scratch/train-*.npy": feature_part,
    "scratch/kmeans-*": lambda path: vars(streaming.load(path) or state_of_kmeans()),
    "scratch/*/*/published.json": lambda path: (scratch.accepted(path.parent), cleanup.accepted(path.parent)),
    "scratch/verified/*": lambda path: [read_images(path), read_features(path)],
    "scratch/locks/*": lock,
    "scratch/durations/*": lambda path: (status.last_duration(path.stem), None)[1],
}


def plain(value):
    """Arrays and tensors as bytes, so that results can be compared."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return np.asarray(value).tobytes() if isinstance(value, np.ndarray | torch.Tensor) else value
