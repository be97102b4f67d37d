"""Params of generators that alternate between codes and images, and the registry of their kinds.

generator.<name>   Alternating, for the names in `alternating_generators`
samples.<name>     the sampling schema of that kind

They learn from a trained generator and see through a trained decoder, so they have a list and stages of their own:
members of one matrix of dvc.yaml cannot depend on each other. This file is not called params.py, so their code is no
part of the closures of other generators' commands (stages/core/code.py).
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from stages.core import UserError
from stages.core.params import Section, impossible, kind_of, load, load_list, load_value, shown
from stages.core.schemas import Optim, TransformerConfig
from stages.generator.params import KINDS, RESERVED, Kind, Sampling, load_params

LIST = "alternating_generators"
SAMPLES_STAGE = "alternating_samples"  # of dvc.yaml
SIZES = {"dim", "depth", "heads", "dropout"}  # of `model`, which the network takes
EVAL_BATCH = 32  # images per batch of an evaluation; each batch has a level of noise of its own
PREDICTOR, DECODER = "masked", "onestep"  # the kinds that these generators are built on


class PixelEncoder(Section):
    """Size of the vision transformer that looks at images; `stem_blocks` as in pretrain.yaml."""

    dim: int = Field(ge=32)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    stem_blocks: int = Field(ge=0)

    @model_validator(mode="after")
    def heads_divide(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"heads = {self.heads}: expected a divisor of dim = {self.dim}")
        return self


class CodeDecoder(TransformerConfig):
    """The transformer from the features of the image to the codes."""

    class_dropout: float = Field(ge=0, lt=1)


class Alternating(Section):
    """Names of the frozen networks, sizes of the trained ones, optimization."""

    kind: Literal["addp"]
    predictor: str  # a generator of kind masked
    decoder: str  # a decoder of kind onestep
    encoder: PixelEncoder
    model: CodeDecoder
    optim: Optim

    def peak_bytes(self, parameters: int, num_patches: int, num_codes: int, images: int) -> int:
        """Memory of training it on so many images at once, with the forward passes of the frozen networks."""
        widths = 2 * self.model.dim * self.model.depth + self.encoder.dim * self.encoder.depth
        logits = max(images, EVAL_BATCH) * num_patches * num_codes * 24
        return 1_780_000_000 + parameters * 24 + images * num_patches * widths * 100 + logits


ALTERNATING = {  # ADDP's own steps and choice temperature
    "addp": Kind(
        "stages.generator.addp", KINDS[PREDICTOR].plain.model_copy(update={"steps": 20, "choice_temperature": 6.0})
    ),
}


def load_alternating(name: str, path: Path = Path("params.yaml")) -> Alternating:
    """The section `generator.<name>` of an alternating generator; `UserError` for an unknown kind."""
    if name in RESERVED:
        raise impossible(LIST, name, "this name has another meaning; choose another one")
    kind_of(f"generator.{name}", ALTERNATING, path)
    return load(f"generator.{name}", Alternating, path)


def kind_named(kind: str) -> Kind:
    """The entry of a kind of either registry; `UserError` for an unknown one."""
    known = {**KINDS, **ALTERNATING}
    if kind not in known:
        raise UserError(f"a generator of kind {kind!r}; this version knows {', '.join(known)}")
    return known[kind]


def load_sampling(name: str, kind: str, path: Path = Path("params.yaml")) -> Sampling:
    """`samples.<name>` of a generator of the given kind, of either registry."""
    return load(f"samples.{name}", type(kind_named(kind).plain), path)


def check_section(name: str, path: Path) -> None:
    """The section `generator.<name>`, against the schema of its kind."""
    (load_alternating if is_alternating(name, path) else load_params)(name, path)


def check_lists(path: Path) -> None:
    """Refuse generators in the wrong list, two of one path, and alternating ones built on what is not there."""
    plain, alternating = load_list("generators", path), load_list(LIST, path, empty=True)
    lines = [f"generators: {name}: of a kind for {LIST}" for name in plain if is_alternating(name, path)]
    both = joined(plain, path) & joined(alternating, path)
    lines += [f"generators, {LIST}: both give reports/generator/{name}; rename one" for name in sorted(both)]
    lines += [line for name in alternating for line in frozen_errors(name, plain, path)]
    if lines:
        raise UserError("\n".join(f"{path}: {line}" for line in lines))


def joined(generators: list[str], path: Path) -> set[str]:
    """The names that DVC makes of every tokenizer with every generator."""
    return {f"{tokenizer}-{name}".casefold() for tokenizer in load_list("tokenizers", path) for name in generators}


def is_alternating(name: str, path: Path) -> bool:
    """Whether the section `generator.<name>` is of a kind for `alternating_generators`."""
    return name not in RESERVED and kind_at(name, path) in ALTERNATING


def kind_at(name: str, path: Path, room: str = "generator") -> str:
    """The key `kind` of a section, unchecked."""
    return str(load_value(f"{room}.{name}.kind", path))


def frozen_errors(name: str, generators: list[str], path: Path) -> list[str]:
    """What is wrong with the names of the frozen networks of an alternating generator."""
    section, lines = load_alternating(name, path), []
    wanted = (("predictor", section.predictor, "generator", PREDICTOR, generators),
              ("decoder", section.decoder, "decoder", DECODER, load_list("decoders", path)))  # fmt: skip
    for key, chosen, room, needed, listed in wanted:
        if chosen not in listed or kind_at(chosen, path, room) != needed:
            lines.append(
                f"generator.{name}.{key} = {shown(chosen)}: expected a member of `{room}s` of kind {needed}: "
                f"{', '.join(one for one in listed if kind_at(one, path, room) == needed) or 'none is there'}"
            )
        elif room == "generator" and load_params(chosen, path).training.condition != "class":
            lines.append(f"generator.{name}.{key} = {shown(chosen)}: generator.{chosen}.condition: expected class")
    return lines
