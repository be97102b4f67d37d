"""A folder of image files: `class/image.jpg` (the class is the first part of the path), or flat without classes.

Of `train/class/image.jpg` and `val/class/image.jpg`, the first part is the split and the second the class. Two folders,
of train and val images, are read as if they were the folders `train` and `val` of one.
Hidden files are ignored, links to folders are followed. A 1x1 image is a valid image: it becomes one flat color.
"""

import hashlib
import os
from collections import Counter
from functools import partial
from pathlib import Path

from stages.core import UserError
from stages.core.code import track
from stages.data import captions
from stages.data.decode import DECODE_BYTES, EXTENSIONS, FILE_BYTES, decode_rgb, read_file, to_square
from stages.data.listing import Roots, facts_of, list_folders, locate
from stages.data.params import Params
from stages.data.sidecars import CAPTION, ENDINGS, Sidecars, owner, read_sidecars
from stages.data.source import Candidate, Prepared, Refused, Source, one_by_one, refusal

SPLITS, OTHER_SPLITS = {"train", "val"}, {"dev", "eval", "test", "testing", "training", "valid", "validation"}
GIVEN_SPLITS = "the folders train and val are taken as the splits, data.val_fraction is not used"
VAL_FOLDER = "the images of data.val_folder are val, those of data.folder train; data.val_fraction is not used"
Coco = dict[str, list[str]]  # image -> its captions in the JSON that data.captions names
SHOWN = 5  # linked folders on the console


def open_folder(params: Params) -> Source:
    """The images below `params.folder`, each put into train or val by a hash of its own name, or by its folder."""
    roots = {"": Path(params.folder)}
    if params.has_val_folder:
        roots = {"train/": Path(params.folder), "val/": Path(params.val_folder)}
    shown = " and ".join(map(str, roots.values()))
    facts = track(f"the files in {shown}", partial(facts_of, roots))  # first: a later file is then a change
    if params.has_captions:
        facts += track(f"the captions in {params.captions}", partial(captions.hash_of, Path(params.captions)))
    listing = list_folders(roots)
    images, sidecars, others = sort_by_role(listing.files)
    for start, root in roots.items():
        given = holds_splits(root, [name.removeprefix(start) for name in images if name.startswith(start)])
        if given and start:
            raise UserError(f"{root}: holds train and val, and data.val_folder is {params.val_folder!r}: expected one")
    given |= params.has_val_folder
    classes = find_classes(shown, images, others, part := int(given))
    labels = {name: label for label, name in enumerate(classes)}
    coco, notes = captions.match(Path(params.captions), images) if params.has_captions else ({}, [])
    splits: dict[str, list[Candidate]] = {"train": [], "val": []}
    for number, name in enumerate(images):
        split = name.split("/")[0] if given else split_of(name, params.val_fraction, params.seed)
        label = labels[name.split("/")[part]] if classes else -1
        splits[split].append(Candidate(f"{number:08d}", name, label))
    return Source(
        classes=classes,
        splits=splits,
        open=one_by_one(lambda candidate: open_image(roots, candidate.name, sidecars, coco, params)),
        decode_bytes=DECODE_BYTES + min(FILE_BYTES, max((size for size, _ in listing.files.values()), default=0)),
        refused=listing.refused + refuse_others(others, listing.links),
        facts=facts,
        order=None if given else partial(hash_of, params.seed),
        notes=[VAL_FOLDER if params.has_val_folder else GIVEN_SPLITS] * given + unwatched(listing.links) + notes,
    )


def refuse_others(names: list[str], links: list[str]) -> list[dict[str, str]]:
    """The entries of files that are no images; behind a link they are counted, not named, since they lie elsewhere."""
    behind = {name: link for name in names for link in links if name.startswith(f"{link}/")}
    own = [name for name in names if name not in behind]
    counts = sorted(Counter(behind.values()).items())
    return [
        *(refusal(name, f"unsupported extension {os.path.splitext(name)[1]!r}") for name in own),
        *(refusal(link, f"{count} files behind this link have unsupported extensions") for link, count in counts),
    ]


def sort_by_role(files: dict[str, tuple[int, int]]) -> tuple[list[str], frozenset[str], list[str]]:
    """(images, sidecars, others), by name alone; `a.mask.png` is an image unless an image `a` lies beside it."""
    pictures = [name for name in files if os.path.splitext(name)[1].lower() in EXTENSIONS]
    described = {os.path.splitext(name)[0] for name in pictures}
    sidecars = frozenset(name for name in files if owner(name) in described)
    images = [name for name in pictures if name not in sidecars]
    return images, sidecars, sorted(files.keys() - sidecars - set(images))


def holds_splits(folder: Path, images: list[str]) -> bool:
    """True for train/class/image and val/class/image; `UserError` for what looks like splits in another form."""
    tops, deep = {name.split("/")[0] for name in images}, [name for name in images if name.count("/") > 1]
    if not deep or not {name.lower() for name in tops} <= {*SPLITS, *OTHER_SPLITS}:
        return False
    if tops == SPLITS and len(deep) == len(images):
        return True
    raise UserError(
        f"{folder}: holds splits ({', '.join(sorted(tops))}) with classes inside, such as {deep[0]!r}. Expected either "
        "train/class/image and val/class/image, with no other folder and no image outside a class, or class/image: "
        "rename or move what differs, or set data.folder to one split."
    )


def find_classes(folders: str, images: list[str], others: list[str], part: int) -> list[str]:
    """The sorted names of the class folders, also of those without images; none where all images lie beside them.

    The class is the path's part of this number.
    """
    flat = [name for name in images if name.count("/") == part]
    if flat and len(flat) < len(images):
        nested = next(name for name in images if name.count("/") > part)
        raise UserError(
            f"{folders}: holds images with a class ({nested!r}) and without ({flat[0]!r}). "
            f"Expected either class/image files only, or a flat folder; move the {len(flat)} loose images."
        )
    return [] if flat else sorted({name.split("/")[part] for name in [*images, *others] if name.count("/") > part})


def split_of(name: str, val_fraction: float, seed: int) -> str:
    """`train` or `val` by a hash of seed and name, so that other files have no influence on it."""
    return "val" if hash_of(seed, name) < val_fraction * 2**64 else "train"


def hash_of(seed: int, name: str) -> int:
    """64 bits of seed and name."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")


def open_image(roots: Roots, name: str, sidecars: frozenset[str], coco: Coco, params: Params) -> Prepared:
    """The square of an image file, with its sidecars in the same geometry."""
    image, size = decode_rgb(read_file(locate(roots, name), FILE_BYTES), params.background, params.img_px)
    square = to_square(image, params.img_px, params.crop, params.background)
    del image  # before a mask of the same size is opened
    names = {ending: os.path.splitext(name)[0] + ending for ending in ENDINGS}
    own: Sidecars = {
        ending: (file, partial(read_file, locate(roots, file))) for ending, file in names.items() if file in sidecars
    }
    if name in coco:
        if CAPTION in own:
            raise Refused(f"has captions in {params.captions} and in {own[CAPTION][0]}: expected one of them")
        own[CAPTION] = params.captions, lambda most: captions.to_member(coco[name])
    return Prepared(square, read_sidecars(own, size, params.img_px, params.crop))


def unwatched(links: list[str]) -> list[str]:
    """What a user should know about linked folders."""
    if not links:
        return []
    names = ", ".join(links[:SHOWN]) + (f" and {len(links) - SHOWN} more" if len(links) > SHOWN else "")
    return [f"linked folders, in which DVC sees no change: {names}. After one, run `dvc repro -f data`."]
