"""Kind transformer: frozen features of a Hugging Face text model that lies in a local folder (T5, CLIP, BERT …).

A caption is float32 [W, D + 1]: the last hidden state of each token, left-padded with zeros; the last column is 1 for a
token and 0 for padding. Features are computed in fp32 with W tokens each, for another padding would move them.
"""

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.core import UserError, artifact
from stages.core.distributed import rank, world_size
from stages.core.hardware import pick_device
from stages.core.params import Machine, impossible
from stages.core.progress import bar
from stages.core.scratch import read_hashed, write_hashed
from stages.text.lines import Lines
from stages.text.params import Transformer

TORCH = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NUMPY = {"fp32": np.float32, "fp16": np.float16, "bf16": np.int16}  # which has no bfloat16: its bits
COUNTS = "counts"  # of tokens per caption, the last file of a shard


def fit(name: str, texts: dict[str, Lines], folder: Path, params: Transformer, machine: Machine) -> dict[str, Any]:
    """Copy the text model to `folder`; return the facts that others need."""
    tokenizer, model = open_model(Path(params.folder), f"text.{name}.folder")
    try:
        found = model(**tokenizer(["a"], return_tensors="pt")).last_hidden_state
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"text.{name}.folder: the model does not take its tokenizer's text: {error}") from None
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return {
        "shape": {"length": params.max_length, "features": found.shape[-1]},
        **params.model_dump(include={"precision", "shard_captions"}),
    }


def open_model(folder: Path, key: str) -> tuple[Any, Any]:
    """(tokenizer, text model in evaluation mode); `UserError` without the library, or for what it cannot read."""
    try:
        import transformers
    except ImportError:
        raise UserError(f"{key}: kind transformer needs the package transformers: `uv sync --group text`") from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    where = {"local_files_only": True}
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **where)
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, **where)
        model = class_of(transformers, config).from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, **where
        )
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise UserError(f"{key}: {folder}: {' '.join(str(error).split())[:300]}") from None
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer, model.eval().requires_grad_(False)


def class_of(transformers: Any, config: Any) -> Any:
    """The class of the encoder of texts in a folder with this config."""
    if config.model_type == "clip":
        return transformers.CLIPTextModel
    if type(config) in transformers.models.auto.modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING:
        return transformers.AutoModelForTextEncoding
    if config.is_encoder_decoder:
        raise ValueError(f"model_type {config.model_type!r} has no encoder of texts")
    return transformers.AutoModel


class Encoder:
    """The text model of a text_encoder artifact."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        self.shape: dict[str, int] = (config := artifact.read_config(folder, "text_encoder"))["shape"]
        for name in config["files"]:
            artifact.checked(folder, name)
        self.tokenizer, self.model = open_model(folder / "model", str(folder))
        self.model.to(device)

    @torch.inference_mode()
    def features(self, captions: list[str]) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """(float32 [B, W, D], left-padded; tokens of each caption, at most W; tokens of each before that)."""
        whole = np.array([len(own) for own in self.tokenizer(captions)["input_ids"]])
        given = self.tokenizer(captions, padding="max_length", padding_side="right", truncation=True,
                           max_length=self.shape["length"], return_tensors="pt").to(self.model.device)  # fmt: skip
        hidden = self.model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state
        counts = given["attention_mask"].sum(1).tolist()
        rows = [F.pad(own[:count], (0, 0, len(own) - count, 0)) for own, count in zip(hidden, counts, strict=True)]
        return torch.stack(rows).float().cpu(), np.array(counts), whole

    def encode(self, caption: str) -> Tensor:
        """float32 [W, D + 1] of a caption that a user gives; `UserError` for one that is too long."""
        features, counts, [whole] = self.features([caption])
        if whole > self.shape["length"]:
            raise UserError(f"{caption!r:.80}: {whole} tokens, expected 1 to {self.shape['length']}")
        return with_presence(features, torch.from_numpy(counts))[0]


load = Encoder


def with_presence(features_BWD: Tensor, counts_B: Tensor) -> Tensor:
    """Add the column that says which rows are tokens."""
    places = torch.arange(features_BWD.shape[1])
    present = places >= features_BWD.shape[1] - counts_B[:, None]
    return torch.cat([features_BWD, present[..., None].to(features_BWD.dtype)], 2)


# --- shards -----------------------------------------------------------------------------------------------------------


def shard_names(split: str, captions: int, config: dict[str, Any]) -> list[str]:
    return [f"{split}-{number:06d}" for number in range(-(-captions // config["shard_captions"]))]


def files_of(split: str, captions: int, config: dict[str, Any]) -> list[str]:
    """What `write_split` writes."""
    names = shard_names(split, captions, config)
    return [f"{name}{end}" for name in names for end in (".npy", f".{COUNTS}.npy")]


def write_split(split: str, text: Lines, encoder: Path, work: Path, machine: Machine) -> None:
    """Write this process's share of the shards that are not there."""
    config = artifact.read_config(encoder, "text_encoder")
    own = [*enumerate(shard_names(split, len(text), config))][rank() :: world_size()]
    todo = [(number, name) for number, name in own if not is_finished(work / name)]
    model = Encoder(encoder, pick_device(machine.device)) if todo else None
    with bar(f"text {config['name']} {split}", len(own), len(own) - len(todo), "shard") as progress:
        for number, name in todo:
            start = number * config["shard_captions"]
            captions = text[start : start + config["shard_captions"]]
            write_shard(work / name, captions, model, config, machine.infer_batch_size)
            progress.update()


def is_finished(shard: Path) -> bool:
    """Whether an earlier attempt left both files of a shard, undamaged."""
    return all(read_hashed(path) is not None for path in paths_of(shard))


def paths_of(shard: Path) -> tuple[Path, Path]:
    """Its features, and its counts."""
    return shard.with_name(f"{shard.name}.npy"), shard.with_name(f"{shard.name}.{COUNTS}.npy")


def write_shard(shard: Path, captions: list[str], model: Any, config: dict[str, Any], batch_size: int) -> None:
    """Write the features [captions, W, D], and int64 [captions, 2]: tokens that are kept, tokens that there are."""
    found = [model.features(captions[start : start + batch_size]) for start in range(0, len(captions), batch_size)]
    features = stored(torch.cat([one for one, _, _ in found]), config)
    counts = np.concatenate([np.stack([kept, whole], 1) for _, kept, whole in found])
    for path, values in zip(paths_of(shard), (features, counts), strict=True):
        content = io.BytesIO()
        np.save(content, values)
        write_hashed(path, content.getvalue())


def stored(features: Tensor, config: dict[str, Any]) -> np.ndarray:
    """The features in the precision in which they are stored; `UserError` for values beyond it."""
    precision = config["precision"]
    values = features.to(TORCH[precision])
    if not values.isfinite().all():
        why = f"features reach {float(features.abs().max()):.3g}, beyond what it holds: expected bf16 or fp32"
        raise impossible(f"text.{config['name']}.precision", precision, why)
    return (values.view(torch.int16) if precision == "bf16" else values).numpy().view(NUMPY[precision])


def count(split: str, captions: int, work: Path, config: dict[str, Any]) -> dict[str, int]:
    """How many captions of a split were cut."""
    counts = [np.load(paths_of(work / name)[1]) for name in shard_names(split, captions, config)]
    return {"cut": sum(int((one[:, 1] > one[:, 0]).sum()) for one in counts)}


def open_shard(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features [captions, W, D] as a memory map, and counts [captions, 2], of a shard of a text artifact."""
    features, counts = (artifact.checked(folder, path.name) for path in paths_of(folder / name))
    return np.load(features, mmap_mode="r"), np.load(counts)


def reader(folder: Path, split: str, config: dict[str, Any]) -> Callable[[np.ndarray], Tensor]:
    """rows int64 [B], -1 for no caption -> float32 [B, W, D + 1]; files are opened as memory maps, when first read."""
    size, shape = config["shard_captions"], config["shape"]
    shards = shard_names(split, config["splits"][split]["captions"], config)
    opened = cache(lambda number: open_shard(folder, shards[number]))

    def read(rows: np.ndarray) -> Tensor:
        features = torch.zeros(len(rows), shape["length"], shape["features"])
        counts = torch.zeros(len(rows), dtype=torch.int64)
        for place in np.flatnonzero(rows >= 0).tolist():
            number, row = divmod(int(rows[place]), size)
            values, kept = opened(number)
            features[place] = torch.from_numpy(values[row].copy()).view(TORCH[config["precision"]])
            counts[place] = int(kept[row, 0])
        return with_presence(features, counts)

    return read
