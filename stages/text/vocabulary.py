"""Kind vocabulary: words or byte pairs of the train captions, by the library tokenizers.

A caption is int64 [W] ids of tokens, left-padded: PADDING stands before the first one. The generator learns an
embedding per id.
"""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from stages.core import UserError, artifact
from stages.core.distributed import rank
from stages.core.params import Machine
from stages.text.lines import Lines
from stages.text.params import Vocabulary

PADDING, UNKNOWN = 0, 1
SPECIAL = ["<padding>", "<unknown>"]
FILE, IDS, COUNTS = "tokenizer.json", "ids.npy", "counts.json"
BATCH = 1024  # captions encoded at once


def fit(name: str, texts: dict[str, Lines], folder: Path, params: Vocabulary, machine: Machine) -> dict[str, Any]:
    """Write the vocabulary of the train captions to `folder`; return the facts that others need."""
    vocabulary = build(params)
    special: dict[str, Any] = {"special_tokens": SPECIAL, "vocab_size": params.size, "show_progress": False}
    if params.model == "word":
        trainer: Any = trainers.WordLevelTrainer(**special)
    else:
        trainer = trainers.BpeTrainer(**special, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    vocabulary.train_from_iterator(iter(texts["train"]), trainer)
    vocabulary.save(str(folder / FILE), pretty=False)
    return {"shape": {"length": params.max_length, "vocabulary": vocabulary.get_vocab_size()}}


def build(params: Vocabulary) -> Tokenizer:
    """An untrained vocabulary: words and punctuation are separated, or bytes joined."""
    words = params.model == "word"
    vocabulary = Tokenizer(models.WordLevel(unk_token=SPECIAL[UNKNOWN]) if words else models.BPE())
    same: list[Any] = [normalizers.NFC(), *([normalizers.Lowercase()] if params.lowercase else [])]
    vocabulary.normalizer = normalizers.Sequence(same)
    vocabulary.pre_tokenizer = (
        pre_tokenizers.Whitespace() if words else pre_tokenizers.ByteLevel(add_prefix_space=False)
    )
    return vocabulary


def write_split(split: str, text: Lines, encoder: Path, work: Path, machine: Machine) -> None:
    """Write <split>.ids.npy, uint16 [captions, W], and what `count` reads; the first process does it all."""
    if rank() > 0:
        return
    vocabulary, length = Encoder(encoder), Encoder(encoder).shape["length"]
    ids = np.lib.format.open_memmap(work / f"{split}.{IDS}", "w+", np.dtype(np.uint16), (len(text), length))
    counts = {"cut": 0, "tokens": 0, "unknown": 0}
    for start in range(0, len(text), BATCH):
        found = vocabulary.ids_of(text[start : start + BATCH])
        for row, own in enumerate(found, start):
            ids[row, max(0, length - len(own)) :] = own[:length]
            counts["cut"] += len(own) > length
        counts["tokens"] += sum(map(len, found))
        counts["unknown"] += sum(own.count(UNKNOWN) for own in found)
    ids.flush()
    artifact.write_atomically(work / f"{split}.{COUNTS}", artifact.with_checksum(counts))


def count(split: str, captions: int, work: Path, config: dict[str, Any]) -> dict[str, int]:
    """The numbers of captions that were cut, of tokens, and of unknown ones."""
    return artifact.read_with_checksum(work / f"{split}.{COUNTS}") or {}


def files_of(split: str, captions: int, config: dict[str, Any]) -> list[str]:
    """What `write_split` writes."""
    return [f"{split}.{IDS}"]


def reader(folder: Path, split: str, config: dict[str, Any]) -> Callable[[np.ndarray], Tensor]:
    """rows int64 [B], -1 for no caption -> int64 [B, W] ids."""
    ids = np.load(artifact.checked(folder, f"{split}.{IDS}"), mmap_mode="r")

    def read(rows: np.ndarray) -> Tensor:
        found: np.ndarray = np.full((len(rows), ids.shape[1]), PADDING, np.int64)
        found[rows >= 0] = ids[rows[rows >= 0]]
        return torch.from_numpy(found)

    return read


class Encoder:
    """The vocabulary of a text_encoder artifact."""

    def __init__(self, folder: Path):
        self.shape: dict[str, int] = artifact.read_config(folder, "text_encoder")["shape"]
        self.vocabulary = Tokenizer.from_file(str(artifact.checked(folder, FILE)))
        self.vocabulary.encode_special_tokens = True  # "<padding>" in a caption is text

    def ids_of(self, captions: Iterable[str]) -> list[list[int]]:
        """The ids of each caption, not padded."""
        return [one.ids for one in self.vocabulary.encode_batch_fast(list(captions))]

    def encode(self, caption: str) -> Tensor:
        """int64 [W]: the ids of a caption that a user gives; `UserError` for unknown words and too many tokens."""
        [own], length = self.ids_of([caption]), self.shape["length"]
        if UNKNOWN in own:
            raise UserError(f"{caption!r:.80}: {self.unknown(caption)}")
        if not 0 < len(own) <= length:
            raise UserError(f"{caption!r:.80}: {len(own)} tokens, expected 1 to {length}")
        return torch.tensor([PADDING] * (length - len(own)) + own)

    def unknown(self, caption: str) -> str:
        """Which words of a caption are unknown, and the nearest that are not."""
        text = self.vocabulary.normalizer.normalize_str(caption)
        pieces = [piece for piece, _ in self.vocabulary.pre_tokenizer.pre_tokenize_str(text)]
        known = [word for word in self.vocabulary.get_vocab() if word not in SPECIAL]
        unknown = next(piece for piece in pieces if piece not in known)
        near = get_close_matches(unknown, known)
        return f"the train captions have no word {unknown!r}" + (f"; near it are {', '.join(near)}" if near else "")


load = Encoder
