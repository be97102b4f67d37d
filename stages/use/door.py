"""What can be refused before any network is loaded: paths, names, numbers; an option's text becomes what it names."""

import json
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from stages.artifacts import find_artifact, is_own, list_artifacts
from stages.core import UserError, artifact
from stages.data.decode import FILE_BYTES, decode_rgb, read_file
from stages.data.source import Refused
from stages.use.codes_file import Codes, open_codes
from stages.use.files import list_images
from stages.use.options import MOST_SHOWN

PICTURES = (".png", ".jpg", ".webp")
MOST_DRAWN = 256  # images in one picture
CLASSES_SHOWN = 10
BESIDE = "beside"  # of an exported generator: stages/generator/neighbors.py, which takes torch to import
Options = dict[str, Any]


def data_folder() -> Path:
    """The data/ of the nearest folder with a dvc.yaml, at or above the current one; else data/ here."""
    here = Path.cwd()
    found = [folder for folder in (here, *here.parents) if (folder / "dvc.yaml").is_file()]
    root = next((folder for folder in found if folder.parent not in found), here)  # studies/ has one of its own
    return Path(os.path.relpath(root)) / "data"


def all_of(type_: str) -> list[Path]:
    """Every artifact of a type that has a name; also a tokenizer's own decoder, but no other parts of artifacts."""
    data = data_folder()
    every = [one for one in (list_artifacts(data) if data.is_dir() else []) if one.type == type_]
    return [one.path for one in every if is_own(one, data) or one.path.relative_to(data).parts[0] == "codebook"]


def find(given: str | None, type_: str, option: str) -> Path:
    """The artifact that an option names; without the option, the only one there is."""
    if given is not None:
        return find_artifact(given, type_, data_folder())
    if len(found := all_of(type_)) != 1:
        there = ", ".join(path.name for path in found) or f"none in {data_folder()}: make one with `dvc repro`"
        raise UserError(f"{option}: missing; there is {there}")
    return found[0]


def check_out(out: Path, endings: tuple[str, ...], folder: bool = False) -> None:
    """`UserError` for an output that exists, has another ending, or has no folder around it.

    `folder`: it may itself be one, if it is empty.
    """
    expected = " or ".join([*endings, "a name without ending, for a folder"] if folder and endings else endings)
    if endings and out.suffix.lower() not in endings and not (folder and not out.suffix):
        raise UserError(f"--out {out}: expected {expected}")
    if out.exists() and not (folder and out.is_dir() and not any(out.iterdir())):
        raise UserError(f"--out {out}: is there already: choose another name, or remove it")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}: make it first")
    if not os.access(out.absolute().parent, os.W_OK):
        raise UserError(f"--out {out}: the folder {out.absolute().parent} cannot be written")


def encode(options: Options) -> Options:
    """Of `semtok encode`."""
    check_out(options["out"], (".npz",))
    tokenizer = find(options.pop("tokenizer"), "codebook", "--tokenizer")
    return {**options, "images": list_images(options["images"]), "tokenizer": tokenizer}


def decode(options: Options) -> Options:
    """Of `semtok decode`."""
    check_out(options["out"], (), folder=True)
    codes = open_codes(options["codes"])
    decoders = decoders_of(options.pop("decoder"))
    return {**options, "codes": codes, "files": png_names(codes), "decoders": decoders}


def decoders_of(given: str | None, inside: Path | None = None) -> list[Path]:
    """The decoder that is given; else the one inside an exported generator; else all there are."""
    if given:
        return [find(given, "decoder", "--decoder")]
    own = inside / BESIDE / "decoder" if inside else None
    if own and (own / artifact.CONFIG).is_file():
        return [own]
    return all_of("decoder")


def png_names(codes: Codes) -> list[str]:
    """A path below the output for each image: its own with .png as ending, or after its own where two would be one."""
    for name in codes.names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or not PurePosixPath(name).name:
            raise UserError(f"{codes.path}: name {name!r}: expected a path below the folder to write")
    plain = [PurePosixPath(name).with_suffix(".png").as_posix() for name in codes.names]
    _, number, counts = np.unique(plain, return_inverse=True, return_counts=True)
    once = (counts[number] == 1).tolist() if plain else []
    found = [short if alone else f"{name}.png" for short, name, alone in zip(plain, codes.names, once, strict=True)]
    if len(set(found)) < len(found):
        raise UserError(f"{codes.path}: a name stands there twice: expected one per image")
    return found


def reconstruct(options: Options) -> Options:
    """Of `semtok reconstruct`."""
    check_out(options["out"], PICTURES)
    images = list_images(options["images"])
    if len(images.files) > MOST_SHOWN:
        raise UserError(f"{len(images.files):,} images: a picture shows at most {MOST_SHOWN}: name some of them")
    for option, type_ in (("tokenizer", "codebook"), ("decoder", "decoder")):
        options[option] = [find(given, type_, f"--{option}") for given in options[option] or ()] or all_of(type_)
        if not options[option]:
            raise UserError(f"{data_folder()}: no {option} here: make one with `dvc repro`")
    return {**options, "images": images}


def drawing(options: Options) -> Options:
    """Of all commands that draw codes."""
    check_out(options["out"], PICTURES, folder=True)
    if options["n"] < 1:
        raise UserError(f"--n {options['n']}: expected 1 or more")
    if not 0 <= options["seed"] < 2**63:
        raise UserError(f"--seed {options['seed']}: expected 0 or more")
    generator = find(options["generator"], "generator", "--generator")
    decoders = decoders_of(options.pop("decoder"), generator)
    settings = dict(setting_of(text) for text in options.pop("set"))
    return {**options, "generator": generator, "decoders": decoders, "settings": settings}


def setting_of(text: str) -> tuple[str, Any]:
    """("temperature", 0.9) of temperature=0.9; a value that is no JSON stays a text."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UserError(f"--set {text}: expected NAME=VALUE, such as temperature=0.9")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def conditions(config: dict[str, Any], given: Options) -> tuple[list[str | None], bool]:
    """The rows of a picture, classes or captions, and whether they are captions; `UserError` for what is not asked."""
    captions, wanted = given["caption"], given["classes"]
    if "text_encoder" in config:
        if wanted or not captions:
            raise UserError(f"{config['name']} draws by caption: expected --caption TEXT, and no classes")
        return list(captions), True
    if captions:
        raise UserError(f"--caption: {config['name']} draws by class: expected --classes")
    names = config["classes"]
    if wanted is None:
        return names[:CLASSES_SHOWN] or [None], False
    return [class_of(text.strip(), names) for text in wanted.split(",")], False


def class_of(text: str, names: list[str]) -> str | None:
    """The name of a class given by name or number; None for `none`."""
    if text in names:
        return text
    if text.isdecimal() and int(text) < len(names):
        return names[int(text)]
    if text == "none":
        return None
    there = f"{', '.join(names[:20])}{', …' if len(names) > 20 else ''}, or none" if names else "only none"
    raise UserError(f"class {text!r}: unknown; there is {there}")


def sample(options: Options) -> Options:
    """Of `semtok sample`."""
    options = drawing(options)
    given = {key: options.pop(key) for key in ("classes", "caption")}
    rows, by_caption = conditions(artifact.read_config(options["generator"], "generator"), given)
    if len(rows) * options["n"] > MOST_DRAWN and options["out"].suffix:
        raise UserError(
            f"--n {options['n']}: {len(rows)} x {options['n']} images: a picture shows at most {MOST_DRAWN}"
        )
    if options["animate"]:
        if not options["out"].suffix or options["out"].suffix.lower() == ".webp":
            raise UserError(f"--animate: writes a .webp beside the picture --out: expected {options['out'].stem}.png")
        check_out(options["out"].with_suffix(".webp"), PICTURES)
    return {**options, "rows": rows, "by_caption": by_caption}


def edited(options: Options, name: str) -> Options:
    """Of `semtok inpaint` and `semtok vary`."""
    image = options["image"]
    options["out"] = options["out"] or Path(f"{image.stem}-{name}.png")
    options = drawing(options)
    if options["n"] > MOST_SHOWN:
        raise UserError(f"--n {options['n']}: expected at most {MOST_SHOWN}")
    config = artifact.read_config(options["generator"], "generator")
    condition = condition_of(config, options.pop("label"), options.pop("caption"))
    return {**options, "condition": condition, "by_caption": "text_encoder" in config}


def condition_of(config: dict[str, Any], label: str | None, caption: str | None) -> str | None:
    """The class or the caption of all results; None for neither."""
    if label is None and caption is None:
        return None
    if label is not None and "," in label and label not in config["classes"]:
        raise UserError(f"--class {label}: expected one class, for all results")
    rows, _ = conditions(config, {"classes": label, "caption": [caption] if caption else None})
    return rows[0]


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of an image file, upright; `UserError` for what is no image."""
    try:
        return decode_rgb(read_file(path, FILE_BYTES))[1]
    except Refused as error:
        raise UserError(f"{path}: {error}") from None


def inpaint(options: Options) -> Options:
    """Of `semtok inpaint`."""
    size, own = size_of(options["image"]), size_of(options["mask"])
    if own != size:
        raise UserError(
            f"--mask {options['mask']}: {own[0]} x {own[1]} pixels: expected {size[0]} x {size[1]}, as the image"
        )
    return {**edited(options, "inpaint"), "strength": 0.0}


def vary(options: Options) -> Options:
    """Of `semtok vary`."""
    if not 0 < options["strength"] <= 1:
        raise UserError(f"--strength {options['strength']}: expected a share of the codes, above 0 and at most 1")
    size_of(options["image"])
    return {**edited(options, "vary"), "mask": None, "keep": False}


CHECKS: dict[str, Callable[[Options], Options]] = {
    "encode": encode,
    "decode": decode,
    "reconstruct": reconstruct,
    "sample": sample,
    "inpaint": inpaint,
    "vary": vary,
}
