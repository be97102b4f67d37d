"""Is every value of params.yaml possible? Every section that a stage of dvc.yaml reads, against its schema. Those of
the studies are in studies/, beside the file and beside dvc.yaml.

Run:    python -m stages.check [--params params.yaml] [--lists | --here]
Expect: nothing and status 0, or a line per impossible, missing or unknown value and status 2; a second. With --here
        notes on what is named and not read, or asked for and left out.

Of a tokenizer, decoder or generator that no list names, only the name is checked. A value that is impossible only for
certain artifacts is refused by the stage that reads them; what the encoder's config shows is checked here.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from stages import at_hand, encoder_fit, names
from stages.codebook import params as codebook
from stages.core import UserError
from stages.core.params import WEIGHTS, Machine, Section, file_of, load, load_file, load_list, load_sections, shown
from stages.data.params import Params as Data
from stages.decoder import params as decoder
from stages.encoder.params import EncoderParams, PretrainParams, check_weights
from stages.evaluate.params import (
    ClassifierParams,
    GenerationParams,
    ReconstructionParams,
    ReferenceParams,
    load_checker_params,
)
from stages.features.params import Params as Features
from stages.generator import alternating_params as alternating
from stages.generator import params as generator
from stages.recognition import params as recognition
from stages.studies import params as studies
from stages.studies.sampling_grids import load_grids
from stages.text import params as text
from stages.text.chosen import check_chosen, load_chosen
from stages.tokens.params import Params as Tokens

ROOT = Path(__file__).parents[1]
PIPELINE, PRETRAIN = ROOT / "dvc.yaml", ROOT / "pretrain.yaml"
Check = Callable[[], object]


def check_sampling(name: str, path: Path) -> None:
    """The section samples.<name>, against the schema of its generator's kind."""
    alternating.check_section(name, path)
    alternating.load_sampling(name, alternating.kind_at(name, path), path)


def check_grids(path: Path) -> None:
    """The grids of the study `sampling`, of the generators in use; it draws by class alone."""
    edited = load("sampling", studies.SamplingStudy, path).edited_images
    for name in load_list("generators", path):
        training = generator.load_params(name, path).training
        if (load_grids(name, training.kind, path) or edited) and training.condition != "class":
            asked = "edited_images" if edited else f"grids.{name}"
            why = f"draws by class alone, but generator.{name}.condition is caption"
            raise UserError(f"{file_of('sampling', path)}: sampling.{asked}: {why}")


SCHEMAS: dict[str, type[Section]] = {  # section -> schema
    "machine": Machine,
    "data": Data,
    "encoder": EncoderParams,
    "features": Features,
    "tokens": Tokens,
    "generator.model": generator.Model,
    "samples.draws": generator.SampleDraws,
    f"recognition.{recognition.DATA}": recognition.Data,
    "classifier": ClassifierParams,
    "reference": ReferenceParams,
    "reconstruction": ReconstructionParams,
    "generation": GenerationParams,
    **studies.SECTIONS,
}
NAMED: dict[str, Callable[[str, Path], object]] = {  # section with named subsections -> check of one of them
    "codebook": codebook.load_params,
    "decoder": decoder.load_params,
    "generator": alternating.check_section,
    "samples": check_sampling,
    "text": text.load_params,
    "caption_checker": load_checker_params,
    "recognition": recognition.load_task,
    "recognition_network": recognition.load_network,
}


def errors_in(path: Path, lists_only: bool = False) -> list[str]:
    """All errors in the params file at `path`, one line each; with `lists_only`, those of what matrices run over."""
    params, stages = load_sections(path), names.read_stages(PIPELINE)
    checks = list_checks(params, stages, path) + ([] if lists_only else other_checks(params, stages, path))
    lines = dict.fromkeys(line for check in checks for line in refusals(check))
    absent = tuple(f"{section}.kind: this section is missing" for section in names.absent(params))
    return [line for line in lines if not line.endswith(absent)]  # the check of the list names them


def list_checks(params: dict[Any, Any], stages: dict[str, Any], path: Path) -> list[Check]:
    """Of the lists in params.yaml, whose values DVC puts into commands."""
    lists = names.lists_of(stages)
    return [
        *(partial(names.check_list, key, params, path) for key in lists if "." not in key),
        *(partial(names.check_members, name, stage, params, path) for name, stage in stages.items()),
        *(partial(check_section, key, path) for key in lists if "." in key),
        partial(check_noise_decoders, path),
    ]


def other_checks(params: dict[Any, Any], stages: dict[str, Any], path: Path) -> list[Check]:
    """Of all sections that a stage reads, and of the names of all sections."""
    pretrained = [item["item.name"] for item in names.items(stages["pretrain"], params)]
    return [
        *(partial(names.check_keys, f"{key}: ", params.get(key), file_of(key, path)) for key in names.NAMED),
        lambda: names.check_keys("", load_file(PRETRAIN), PRETRAIN),
        *(partial(check_section, key, path) for key in dict.fromkeys(["machine", *names.sections(stages, params)])),
        partial(check_files, params.get(WEIGHTS) or {}, path),
        partial(check_pixel_tokenizers, path),
        partial(check_grids, path),
        partial(alternating.check_lists, path),
        partial(check_captions, path),
        partial(recognition.check_lists, path),
        *(partial(load, name, PretrainParams, PRETRAIN) for name in pretrained),
        partial(names.check_owners, params, stages, path),
        *encoder_fit.checks(params, stages, path),
    ]


def refusals(check: Check) -> list[str]:
    """The lines of the `UserError` that a check raises; empty if it raises none."""
    try:
        check()
    except UserError as error:
        return str(error).splitlines()
    return []


def check_section(key: str, path: Path) -> None:
    """Check the section that holds `key`; lists of names and the pixel tokenizers have checks of their own."""
    owner, _, rest = key.partition(".")
    if schema := SCHEMAS.get(key) or SCHEMAS.get(owner):
        load(key if key in SCHEMAS else owner, schema, path)
    elif owner in NAMED and rest:
        NAMED[owner](rest.partition(".")[0], path)


def check_files(files: Any, path: Path) -> None:
    """Refuse what is no mapping {name: file}, and names whose file is not there, or of another format."""
    if not isinstance(files, dict):
        raise UserError(f"{path}: {WEIGHTS} = {shown(files)}: expected names with files, such as {{lite0: FILE}}")
    try:
        for name, file in files.items():
            check_weights(f"{WEIGHTS}.{name}", file)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def check_pixel_tokenizers(path: Path) -> None:
    """Refuse a decoder in use whose pixel tokenizer is missing, of another kind, or not in use."""
    used, lines = load_list("decoders", path), []
    needing = [name for name in used if decoder.KINDS[decoder.load_params(name, path).kind].needs_pixel_tokenizer]
    chosen = decoder.load_pixel_tokenizers(path) if needing else {}
    for name in needing:
        if (tokenizer := chosen.get(name)) is None:
            lines.append(f"pixel_tokenizer.{name}: missing; expected the name of a tokenizer of kind {pixel_kinds()}")
        elif tokenizer not in load_list("tokenizers", path):
            lines.append(f"pixel_tokenizer.{name} = {shown(tokenizer)}: {name} is in use, so add it to `tokenizers`")
        elif not codebook.load_kind(tokenizer, path).pixel:
            lines.append(f"pixel_tokenizer.{name} = {shown(tokenizer)}: expected a tokenizer of kind {pixel_kinds()}")
    if lines:
        raise UserError("\n".join(f"{path}: {line}" for line in lines))


def check_noise_decoders(path: Path) -> None:
    """Refuse a decoder in code_noise_fid.decoders that is not in use."""
    named, used = load("code_noise_fid", studies.CodeNoiseFid, path).decoders, load_list("decoders", path)
    if other := [name for name in named if name not in used]:
        why = f"code_noise_fid.decoders = {shown(other)}: expected some of decoders, {shown(used)}"
        raise UserError(f"{file_of('code_noise_fid', path)}: {why}")


def check_captions(path: Path) -> None:
    """Refuse a generator in use whose captions are asked for and missing, or there and not asked for."""
    chosen, by_class, lines = load_chosen(path), [*load_list(alternating.LIST, path, empty=True)], []
    for name in load_list("generators", path):
        check_chosen(name, chosen, path)
        if generator.load_params(name, path).training.condition == "class":
            by_class.append(name)
        elif name not in chosen:
            names = ", ".join(load_list("text_encoders", path, empty=True)) or "none: add one"
            lines.append(f"captions.{name}: missing; expected one of text_encoders ({names})")
    for name in (name for name in by_class if name in chosen):
        lines.append(f"captions.{name} = {shown(chosen[name])}: this generator's condition is class, not caption")
    if lines:
        raise UserError("\n".join(f"{path}: {line}" for line in lines))


def notes_on(path: Path) -> list[str]:
    """What is named in a possible params file and not read, one line each."""
    prompts = load("samples.draws", generator.SampleDraws, path).prompts
    trainings = [generator.load_params(name, path).training for name in load_list("generators", path)]
    by_caption = any(training.condition == "caption" for training in trainings)
    unasked = prompts != generator.NO_PROMPTS and not by_caption
    why = f"samples.draws.prompts = {prompts}: not read, as no generator in use has condition: caption"
    return [*load("data", Data, path).unread(), *load("reference", ReferenceParams, path).unread(), *[why] * unasked]


def pixel_kinds() -> str:
    """The kinds of tokenizers that have a decoder to pixels."""
    return " or ".join(name for name, kind in codebook.KINDS.items() if kind.pixel)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--lists", action="store_true", help="check only the lists that matrices of dvc.yaml run over")
    parser.add_argument("--here", action="store_true", help="check also what this machine and data/ can take")
    options = parser.parse_args()
    try:
        errors = errors_in(options.params, options.lists)
        if options.here and not errors:
            errors = [line for check in at_hand.checks(options.params) for line in refusals(check)]
    except UserError as error:
        errors = str(error).splitlines()
    for line in errors:
        print(f"error: {line}", file=sys.stderr)
    for line in [] if errors or not options.here else [*notes_on(options.params), *at_hand.notes(options.params)]:
        print(f"note: {line}")
    sys.exit(2 if errors else 0)


if __name__ == "__main__":
    main()
