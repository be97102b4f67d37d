"""Draw images from a generator and a decoder.

generator = load_generator("data/generator/kmeans-masked")
sample = generator.sample(classes=[3, "seven", None], seed=0)   # sample.codes [3, N], sample.images uint8 [3, H, W, 3]
sample = generator.inpaint(images, mask, classes=[3])           # also outpaint and vary: parts of given images anew
sample = generator.sample(captions=["a red star", None])        # with condition: caption
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from stages.codebook.tokenizer import Tokenizer, load_tokenizer
from stages.core import UserError, artifact
from stages.core.params import Precision
from stages.decoder.decoder import Decoder, check_drawn, load_decoder
from stages.generator.editing import (
    batch_of,
    check_fills,
    check_size,
    extended,
    hidden,
    masks_of,
    overlapped,
    random_codes,
)
from stages.generator.neighbors import data_folder, only_decoder, sampling_of
from stages.generator.open_network import open_network
from stages.generator.params import Sampling
from stages.generator.transformer import check_unconditional
from stages.text.reader import ENCODER, load_encoder

NAMES_SHOWN = 20  # class names in an error message
Classes = Sequence[int | str | None]  # a class name, a class number, or None for no class
Captions = Sequence[str | None]  # a text, or None for no caption
Condition = tuple[Classes | None, Captions | None]  # one of them, as the generator is conditioned; none: unconditional


@dataclass(frozen=True)
class Sample:
    codes: np.ndarray  # int64 [B, N]
    images: np.ndarray  # uint8 [B, H, W, 3]


class Generator:
    """A trained generator with a decoder for its codes and its sampling settings; `folder` is its artifact."""

    def __init__(
        self, network: Any, kind: ModuleType, config: dict[str, Any], decoder: Decoder, sampling: Sampling,
        codebook: Path, folder: Path,
    ):  # fmt: skip
        self.network, self.kind, self.config, self.decoder, self.sampling = network, kind, config, decoder, sampling
        self.codebook, self.folder = codebook, folder
        self.classes: list[str] = config["classes"]

    def sample(
        self, classes: Classes | None = None, seed: int = 0, captions: Captions | None = None, **changes: Any
    ) -> Sample:
        """One sample per entry of `classes`: a class name, a class number, or None for an unconditional sample.

        A generator with condition: caption takes `captions` instead, texts or None; `UserError` for unknown words.
        `changes` replaces sampling settings, such as temperature=0.9.
        """
        given, sampling = self._checked(classes, captions, changes)
        return self._decoded(self.kind.sample(self.network, given, sampling, seed), seed)

    def inpaint(
        self, images: np.ndarray, mask: np.ndarray, classes: Classes | None = None, seed: int = 0,
        captions: Captions | None = None, **changes: Any,
    ) -> Sample:  # fmt: skip
        """Every code whose patch overlaps the mask is drawn anew, the others are those of the images.

        `images` uint8 [H, W, 3] or [B, H, W, 3] of the size of training; `mask` bool [H, W] or [B, H, W], True where
        pixels are drawn; what they hide has no influence. `classes` or `captions`: one per image, or None; the
        rest as in `sample`.
        """
        batch = batch_of(images)
        check_size(batch, self.decoder.config["img_px"])
        return self._inpaint(batch, masks_of(mask, batch), (classes, captions), seed, changes)

    def outpaint(
        self,
        images: np.ndarray,
        *,
        left: int = 0,
        right: int = 0,
        top: int = 0,
        bottom: int = 0,
        classes: Classes | None = None,
        seed: int = 0,
        captions: Captions | None = None,
        **changes: Any,
    ) -> Sample:
        """As `inpaint`, of smaller images that are extended by so many pixels to the size of training."""
        sides = {"left": left, "right": right, "top": top, "bottom": bottom}
        batch, mask = extended(batch_of(images), sides, self.decoder.config["img_px"])
        return self._inpaint(batch, mask, (classes, captions), seed, changes)

    def vary(
        self, images: np.ndarray, strength: float, classes: Classes | None = None, seed: int = 0,
        captions: Captions | None = None, **changes: Any,
    ) -> Sample:  # fmt: skip
        """A random share `strength` of the codes, above 0 and at most 1, is drawn anew; otherwise as `inpaint`."""
        batch = batch_of(images)
        check_size(batch, self.decoder.config["img_px"])
        drawn = random_codes(len(batch), self.decoder.num_patches, strength, seed)
        return self._fill(batch, drawn, (classes, captions), seed, changes)

    def _inpaint(
        self, images: np.ndarray, mask: np.ndarray, condition: Condition, seed: int, changes: dict[str, Any]
    ) -> Sample:
        shape = self.decoder.config["grid"], self.decoder.config["codebooks"]
        return self._fill(hidden(images, mask), overlapped(mask, *shape), condition, seed, changes)

    def _fill(
        self, images: np.ndarray, drawn: np.ndarray, condition: Condition, seed: int, changes: dict[str, Any]
    ) -> Sample:
        """Encode uint8 [B, H, W, 3], draw the codes that are true in bool [B, N] and decode all."""
        check_fills(self.kind, self.config["kind"])
        if all(one is None for one in condition):
            condition = (None, [None] * len(images)) if self.by_caption else ([None] * len(images), None)
        given, sampling = self._checked(*condition, changes)
        if len(given) != len(images):
            what = "captions" if self.by_caption else "classes"
            raise UserError(f"{what}: {len(given)} for {len(images)} images: expected one per image, or None")
        codes = torch.from_numpy(self.tokenizer.encode(images))
        known = codes.masked_fill(torch.from_numpy(drawn), self.network.num_codes).to(self.network.device)
        return self._decoded(self.kind.fill(self.network, given, known, sampling, seed), seed)

    def _checked(
        self, classes: Classes | None, captions: Captions | None, changes: dict[str, Any]
    ) -> tuple[torch.Tensor, Sampling]:
        """The input of the network, [B, …], and sampling settings; `UserError` for impossible ones."""
        sampling, given = changed(self.sampling, changes), self.given(classes, captions)
        if None in ((captions or ()) if classes is None else classes) or sampling.guidance != 1:
            check_unconditional("this generator", self.config, f"None or guidance {sampling.guidance}")
        return given.to(self.network.device), sampling

    def _decoded(self, codes: torch.Tensor, seed: int) -> Sample:
        return Sample(codes.cpu().numpy(), self.decoder.decode(codes.cpu(), torch.Generator().manual_seed(seed)))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Made the codes that the generator was trained on; `UserError` if `codebook` is another one."""
        if not self.codebook.is_dir():
            raise UserError(f"{self.codebook}: no such codebook: pass load_generator(…, codebook=PATH)")
        if artifact.digest(self.codebook) != self.config["inputs"].get("codebook"):
            raise UserError(f"{self.codebook}: not the codebook whose codes this generator draws. Run `dvc repro`.")
        return load_tokenizer(self.codebook, self.network.device)

    @property
    def by_caption(self) -> bool:
        """Whether captions condition it, not classes."""
        return "text_encoder" in self.config

    def given(self, classes: Classes | None, captions: Captions | None) -> torch.Tensor:
        """The input of the network, [B, …]; `UserError` unless exactly a list of what conditions this generator."""
        wanted, other = (captions, classes) if self.by_caption else (classes, captions)
        if wanted is None or other is not None or isinstance(wanted, str | int):
            what = "captions" if self.by_caption else "classes"
            raise UserError(f"{self.folder}: expected {what}=[…], and nothing else")
        if self.by_caption:
            return torch.stack([self.caption_row(one) for one in wanted]) if len(wanted) else self.network.null(0)
        return torch.tensor([self.class_number(one) for one in wanted], dtype=torch.int64)

    def caption_row(self, caption: Any) -> torch.Tensor:
        """The input of the network for one caption or None; `UserError` for anything but a text with words."""
        if caption is None:
            return self.network.null(1)[0].cpu()
        if not isinstance(caption, str) or not caption.strip():
            raise UserError(f"caption {caption!r:.80}: expected a text, or None for no caption")
        return self.text_encoder.encode(caption)

    @cached_property
    def text_encoder(self) -> Any:
        """The encoder of captions, which stands in the artifact."""
        return load_encoder(self.folder / ENCODER)

    def class_number(self, given: int | str | None) -> int:
        """The number of a class given by name or number; num_classes for None."""
        count = self.network.num_classes
        if given is None:
            return count
        if isinstance(given, str):
            if given not in self.classes:
                raise UserError(unknown_class(given, self.classes))
            return self.classes.index(given)
        if not 0 <= (number := operator.index(given)) < count:
            raise UserError(f"class {number}: expected a number from 0 to {count - 1}, a class name, or None")
        return number


def unknown_class(name: str, classes: list[str]) -> str:
    """The message for a class name that does not exist: the closest names, else the first ones."""
    close = get_close_matches(name, classes)
    shown = ", ".join(close or classes[:NAMES_SHOWN]) or "no classes: use None"
    more = "" if close or len(classes) <= NAMES_SHOWN else f", … ({len(classes)} names)"
    return f"class {name!r}: unknown; {'did you mean' if close else 'there is'} {shown}{more}{'?' if close else ''}"


def changed(sampling: Sampling, changes: dict[str, Any]) -> Sampling:
    """The settings with some values replaced; `UserError` for an unknown or impossible one."""
    try:
        return type(sampling)(**{**sampling.model_dump(), **changes})
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc']))} = {item['input']!r}: {item['msg']}" for item in error.errors()]
        known = ", ".join(type(sampling).model_fields)
        raise UserError(f"sampling: {'; '.join(lines)}; the settings are {known}") from None


def load_generator(
    folder: str | Path,
    decoder: str | Path | None = None,
    device: torch.device | str = "cpu",
    decoding_precision: Precision = "fp32",
    codebook: str | Path | None = None,
) -> Generator:
    """A generator artifact; without `decoder`, with the only one beside it that decodes its tokenizer's codes.

    `codebook` is the tokenizer that edited images are encoded by; without it, the one beside the generator.

    Sampling settings are those of the samples artifact beside it, else plain sampling, which the artifact contains.
    `decoding_precision` is that of `load_decoder`.
    """
    folder = Path(folder)
    network, config, kind = open_network(folder, device)
    chosen = Path(decoder) if decoder else only_decoder(folder, config)
    loaded = load_decoder(chosen, device, decoding_precision)
    if (decoded := loaded.config["tokenizer"]) != config["tokenizer"]:
        raise UserError(f"{chosen}: decodes codes of {decoded}, {folder} draws codes of {config['tokenizer']}")
    check_drawn(folder, config, chosen)
    beside = data_folder(folder) / "codebook" / config["tokenizer"]
    return Generator(network, kind, config, loaded, sampling_of(folder, config), Path(codebook or beside), folder)
