"""Draw images from a generator and a decoder.

generator = load_generator("data/generator/kmeans-masked")
sample = generator.sample(classes=[3, "seven", None], seed=0)   # sample.codes [3, N], sample.images uint8 [3, H, W, 3]
sample = generator.inpaint(images, mask, classes=[3])           # also outpaint and vary: parts of given images anew
sample = generator.sample(captions=["a red star", None])        # with condition: caption
"""

from collections.abc import Sequence
from difflib import get_close_matches
from functools import cached_property
from numbers import Integral
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from pydantic import SkipValidation

from stages.codebook.tokenizer import Tokenizer, load_tokenizer
from stages.core import UserError, artifact
from stages.core.params import Precision
from stages.data.given import Device, Pixels, Range, Seed, checked, one_line, plain_integer
from stages.data.squares import sizes_of, whole
from stages.decoder.decoder import Decoder, check_drawn, load_decoder
from stages.generator.drawn import Sample
from stages.generator.editing import check_fills, extended, hidden, masks_of, overlapped, random_codes
from stages.generator.neighbors import held, only_decoder, sampling_of
from stages.generator.open_network import open_network
from stages.generator.params import Sampling
from stages.generator.settings import changed, documented
from stages.generator.transformer import check_unconditional
from stages.text.reader import ENCODER, load_encoder

NAMES_SHOWN = 20  # class names in an error message
Classes = SkipValidation[Sequence[int | str | None]]  # a class name, a class number, or None for no class
Captions = SkipValidation[Sequence[str | None]]  # a text, or None for no caption
Condition = tuple[Any, Any]  # classes and captions; one of them, as the generator is conditioned; none: unconditional
METHODS = ("sample", "inpaint", "outpaint", "vary")


class Generator:
    """A trained generator with a decoder for its codes and its sampling settings; `folder` is its artifact."""

    def __init__(
        self, network: Any, kind: ModuleType, config: dict[str, Any], decoder: Decoder, sampling: Sampling,
        codebook: Path, folder: Path,
    ):  # fmt: skip
        self.network, self.kind, self.config, self.decoder, self.sampling = network, kind, config, decoder, sampling
        self.codebook, self.folder = codebook, folder
        self.classes: list[str] = config["classes"]
        for name in METHODS:
            setattr(self, name, documented(getattr(self, name), sampling))

    @checked
    def sample(
        self, classes: Classes | None = None, seed: Seed = 0, captions: Captions | None = None, **changes: Any
    ) -> Sample:
        """One sample per entry of `classes`: a class name, a class number, or None for an unconditional sample.

        A generator with condition: caption takes `captions` instead, texts or None; `UserError` for unknown words.
        Sampling settings can be replaced, such as temperature=0.9.
        """
        given, sampling = self.asked((classes, captions), changes)
        return self._decoded(self.kind.sample(self.network, given, sampling, seed) if len(given) else None, seed)

    @checked
    def inpaint(
        self, images: Any, mask: Any, classes: Classes | None = None, seed: Seed = 0, captions: Captions | None = None,
        value_range: Range | None = None, **changes: Any,
    ) -> Sample:  # fmt: skip
        """Every code whose patch overlaps the mask is drawn anew, the others are those of the images.

        `images`: one or several, as `Tokenizer.encode` takes them, with `value_range`. `mask`: bool [H, W] or
        [B, H, W], a PIL image or the path of one; True or white where pixels are drawn anew, which have no influence.
        It is as large as the images, and cropped and resized with them. `classes` or `captions`: one per image, or
        None; the rest as in `sample`.
        """
        check_fills(self.kind, self.config["kind"])
        batch = self.tokenizer.prepare(images, value_range)
        masks = masks_of(mask, sizes_of(images, value_range), self.tokenizer.square)
        return self._inpaint(batch, masks, (classes, captions), seed, changes)

    @checked
    def outpaint(
        self, images: Any, *, left: Pixels = 0, right: Pixels = 0, top: Pixels = 0, bottom: Pixels = 0,
        classes: Classes | None = None, seed: Seed = 0, captions: Captions | None = None,
        value_range: Range | None = None, **changes: Any,
    ) -> Sample:  # fmt: skip
        """As `inpaint`, of smaller images of one size that are extended by so many pixels to the size of training."""
        check_fills(self.kind, self.config["kind"])
        sides = {"left": left, "right": right, "top": top, "bottom": bottom}
        inner = whole(images, self.tokenizer.square.background, value_range)
        batch, mask = extended(inner, sides, self.decoder.config["img_px"])
        return self._inpaint(batch, mask, (classes, captions), seed, changes)

    @checked
    def vary(
        self, images: Any, strength: float, classes: Classes | None = None, seed: Seed = 0,
        captions: Captions | None = None, value_range: Range | None = None, **changes: Any,
    ) -> Sample:  # fmt: skip
        """A random share `strength` of the codes, above 0 and at most 1, is drawn anew; otherwise as `inpaint`."""
        check_fills(self.kind, self.config["kind"])
        batch = self.tokenizer.prepare(images, value_range)
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
        if all(one is None for one in condition):
            condition = (None, [None] * len(images)) if self.by_caption else ([None] * len(images), None)
        given, sampling = self.asked(condition, changes)
        if len(given) != len(images):
            what = "captions" if self.by_caption else "classes"
            raise UserError(f"{what}: {len(given)} for {len(images)} images: expected one per image, or None")
        if not len(images):
            return self._decoded(None, seed)
        codes = torch.from_numpy(self.tokenizer.encode(images))
        known = codes.masked_fill(torch.from_numpy(drawn), self.network.num_codes).to(self.network.device)
        return self._decoded(self.kind.fill(self.network, given, known, sampling, seed), seed)

    def asked(self, condition: Condition, changes: dict[str, Any]) -> tuple[torch.Tensor, Sampling]:
        """The input of the network, [B, …], and sampling settings; `UserError` for impossible ones."""
        sampling, wanted = changed(self.sampling, changes), self._wanted(condition)
        if None in wanted or sampling.guidance != 1:
            check_unconditional("this generator", self.config, f"None or guidance {sampling.guidance}")
        return self._given(wanted).to(self.network.device), sampling

    def _decoded(self, codes: torch.Tensor | None, seed: int) -> Sample:
        """The sample of drawn codes; an empty one for None."""
        if codes is None:
            codes = torch.empty(0, self.decoder.num_patches, dtype=torch.int64)
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

    def _wanted(self, condition: Condition) -> list[Any]:
        """The classes or captions as a list; `UserError` unless exactly a list of what conditions this generator."""
        wanted, other = reversed(condition) if self.by_caption else condition
        wanted = wanted.tolist() if isinstance(wanted, np.ndarray | torch.Tensor) else wanted
        what = "captions" if self.by_caption else "classes"
        if other is not None or wanted is None:
            got = f"classes = {one_line(condition[0])}, captions = {one_line(condition[1])}"
            raise UserError(f"{self.folder}: {got}: expected {what}=[…], and nothing else")
        if not isinstance(wanted, list | tuple | range):
            raise UserError(f"{what} = {one_line(wanted)}: expected a list, one entry per sample")
        return list(wanted)

    def _given(self, wanted: list[Any]) -> torch.Tensor:
        """The input of the network, [B, …]."""
        if self.by_caption:
            return torch.stack([self.caption_row(one) for one in wanted]) if wanted else self.network.null(0)
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

    def class_number(self, given: Any) -> int:
        """The number of a class given by name or number; num_classes for None."""
        count = self.network.num_classes
        if given is None:
            return count
        if isinstance(given, str):
            if given not in self.classes:
                raise UserError(unknown_class(given, self.classes))
            return self.classes.index(given)
        number = plain_integer(given)
        if not isinstance(number, Integral) or isinstance(number, bool) or not 0 <= number < count:
            raise UserError(f"class {one_line(given)}: expected a number from 0 to {count - 1}, a class name, or None")
        return number


def unknown_class(name: str, classes: list[str]) -> str:
    """The message for a class name that does not exist: the closest names, else the first ones."""
    close = get_close_matches(name, classes)
    shown = ", ".join(close or classes[:NAMES_SHOWN]) or "no classes: use None"
    more = "" if close or len(classes) <= NAMES_SHOWN else f", … ({len(classes)} names)"
    return f"class {name!r}: unknown; {'did you mean' if close else 'there is'} {shown}{more}{'?' if close else ''}"


@checked
def load_generator(
    folder: str | Path,
    decoder: str | Path | None = None,
    device: Device = "cpu",
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
    own = held(folder, "codebook", Path("codebook", config["tokenizer"]))
    return Generator(network, kind, config, loaded, sampling_of(folder, config), Path(codebook or own), folder)
