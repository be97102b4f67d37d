"""The command line of `semtok encode` and the others; nothing heavy is imported."""

import argparse
from pathlib import Path
from typing import Any

MOST_SHOWN = 64  # images in one picture
IMAGES = "files and folders of images; folders are searched to their depth"
PICTURE = "a .png, .jpg or .webp: one picture with labels; a name without ending: a folder of plain PNG files"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="semtok", description="Use trained tokenizers, decoders and generators.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_encode(commands)
    add_decode(commands)
    add_reconstruct(commands)
    add_sample(commands)
    add_inpaint(commands)
    add_vary(commands)
    return top


def add(commands: Any, name: str, what: str, example: str) -> argparse.ArgumentParser:
    """One command, with the options that all have."""
    found = commands.add_parser(
        name, description=what, epilog=f"example: semtok {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    found.add_argument("--device", default="auto", help="auto (default: a GPU if there is one), cpu, cuda, cuda:1")
    found.add_argument("--json", action="store_true", help="print one JSON object instead of a summary")
    return found


def add_encode(commands: Any) -> None:
    """`semtok encode`."""
    example = "encode photos/ --tokenizer kmeans --out codes.npz"
    command = add(commands, "encode", "Images -> codes, with the files' names, in one .npz file.", example)
    command.add_argument("images", nargs="+", type=Path, help=IMAGES)
    command.add_argument("--tokenizer", help="its name or folder; not needed where there is only one")
    command.add_argument("--out", type=Path, required=True, help="the .npz to write: codes, names, config")


def add_decode(commands: Any) -> None:
    """`semtok decode`."""
    what = "Codes -> a PNG file per image, under the names that the images had."
    command = add(commands, "decode", what, "decode codes.npz --out decoded/")
    command.add_argument("codes", type=Path, help="a .npz that `semtok encode` wrote, or one with an array `codes`")
    command.add_argument("--decoder", help="its name or folder; default: the first that fits the tokenizer")
    command.add_argument("--out", type=Path, required=True, help="the folder to write")


def add_reconstruct(commands: Any) -> None:
    """`semtok reconstruct`."""
    what = "A picture of images beside what each pair of a tokenizer and a decoder makes of them, with its PSNR."
    command = add(commands, "reconstruct", what, "reconstruct cat.jpg dog.jpg --out grid.png")
    command.add_argument("images", nargs="+", type=Path, help=f"{IMAGES}; at most {MOST_SHOWN} images")
    command.add_argument("--tokenizer", action="append", help="only this one; may be given several times")
    command.add_argument("--decoder", action="append", help="only this one; may be given several times")
    command.add_argument("--out", type=Path, required=True, help="the picture to write: .png, .jpg or .webp")


def add_drawing(command: argparse.ArgumentParser, count: int, of: str) -> None:
    """The options of the commands that draw codes."""
    command.add_argument("--generator", help="its name or folder; not needed where there is only one")
    command.add_argument("--decoder", help="its name or folder; default: the first that fits the generator")
    command.add_argument("--n", type=int, default=count, metavar="N", help=f"how many {of} (default: {count})")
    command.add_argument("--seed", type=int, default=0, help="of all random numbers, 0 or more (default: 0)")
    command.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
        help="sampling settings, such as temperature=0.9 guidance=2",
    )  # fmt: skip


def add_sample(commands: Any) -> None:
    """`semtok sample`."""
    example = "sample --generator kmeans-ar --classes 3,7 --n 8 --out grid.png"
    command = add(commands, "sample", "New images from a generator, a row per class or caption.", example)
    add_drawing(command, 8, "images of each class or caption")
    command.add_argument("--classes", help="names or numbers with commas, none: no class (default: the first ten)")
    command.add_argument(
        "--caption", action="append", metavar="TEXT", help="of a generator of captions; may be given several times"
    )
    command.add_argument("--animate", action="store_true", help="also write a .webp in which the images grow")
    command.add_argument("--out", type=Path, required=True, help=PICTURE)


def add_edited(commands: Any, name: str, what: str, example: str) -> argparse.ArgumentParser:
    """A command that draws parts of an image anew."""
    command = add(commands, name, what, example)
    command.add_argument("image", type=Path, help="any image file; cropped and resized as for training")
    add_drawing(command, 4, "results")
    command.add_argument("--class", dest="label", metavar="CLASS", help="its name or number (default: none)")
    command.add_argument("--caption", metavar="TEXT", help="of a generator of captions (default: none)")
    command.add_argument("--out", type=Path, help=f"{PICTURE} (default: IMAGE-{name}.png in the current folder)")
    return command


def add_inpaint(commands: Any) -> None:
    """`semtok inpaint`."""
    what = "The part of an image under a mask, drawn anew. The whole image is decoded from codes."
    command = add_edited(commands, "inpaint", what, "inpaint cat.jpg --mask mask.png --generator kmeans-masked")
    command.add_argument("--mask", type=Path, required=True, help="an image of the same size: white is drawn anew")
    command.add_argument("--keep", action="store_true", help="keep the image's own pixels outside of the mask")


def add_vary(commands: Any) -> None:
    """`semtok vary`."""
    what = "Variants of an image: a random share of its codes, drawn anew."
    command = add_edited(commands, "vary", what, "vary cat.jpg --generator kmeans-masked --strength 0.3")
    command.add_argument(
        "--strength", type=float, default=0.25, help="share of the codes, above 0 and at most 1 (default: 0.25)"
    )
