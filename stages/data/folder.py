"""A folder of image files: `class/image.jpg` (the class is the first part of the path), or flat without classes.

Hidden files are ignored, links to folders are followed. A 1x1 image is a valid image: it becomes one flat color.
"""

import hashlib
import os
import stat
from pathlib import Path

from stages.core.errors import UserError
from stages.data.decode import EXTENSIONS, decode_rgb, to_square
from stages.data.params import Params
from stages.data.sidecars import owner, read_sidecars
from stages.data.source import Candidate, Prepared, Refused, Source, one_by_one, refusal

PHOTO_BYTES = 12_000_000 * 7  # a photo of 12 megapixels as RGB, and a turned or composited copy


def open_folder(params: Params) -> Source:
    """The images below `params.folder`, each put into train or val by a hash of its own name."""
    folder = Path(params.folder)
    files, refused = find_files(folder)
    images, sidecars, others = sort_by_role(files)
    classes = find_classes(folder, images)
    labels = {name: label for label, name in enumerate(classes)}
    splits: dict[str, list[Candidate]] = {"train": [], "val": []}
    for number, name in enumerate(images):
        label = labels[name.split("/")[0]] if classes else -1
        splits[split_of(name, params.val_fraction, params.seed)].append(Candidate(f"{number:08d}", name, label))
    refused += [refusal(name, f"unsupported extension {os.path.splitext(name)[1]!r}") for name in others]
    return Source(
        classes=classes,
        splits=splits,
        open=one_by_one(lambda candidate: open_image(folder, candidate.name, sidecars, params.img_px)),
        decode_bytes=PHOTO_BYTES,
        refused=refused,
        facts=hashlib.sha256(repr(list(files.items())).encode()).hexdigest(),
    )


def find_files(folder: Path) -> tuple[dict[str, tuple[int, int]], list[dict[str, str]]]:
    """{relative posix path: (bytes, mtime in ns)}, sorted by path; and the entries that cannot be read at all."""
    files, refused = {}, []

    def unreadable(error: OSError) -> None:
        refused.append(refusal(os.path.relpath(error.filename, folder), f"unreadable folder: {error.strerror}"))

    for root, dirs, names in os.walk(folder, onerror=unreadable, followlinks=True):
        dirs[:] = [name for name in dirs if not name.startswith(".") and not leads_back(Path(root), name)]
        for name in names:
            path = Path(root, name)
            if not name.startswith("."):
                try:
                    files[path.relative_to(folder).as_posix()] = check_file(path)
                except Refused as error:
                    refused.append(refusal(ascii(path.relative_to(folder).as_posix())[1:-1], str(error)))
    return dict(sorted(files.items())), refused


def leads_back(root: Path, name: str) -> bool:
    """True for a link in `root` that points to `root` or to a folder above it."""
    return (root / name).is_symlink() and root.resolve().is_relative_to((root / name).resolve())


def check_file(path: Path) -> tuple[int, int]:
    """(bytes, mtime in ns) of a regular file whose name is UTF-8; else `Refused`."""
    try:
        str(path).encode()
        facts = path.stat()
    except UnicodeEncodeError:
        raise Refused("its name is not UTF-8") from None
    except OSError as error:
        raise Refused(f"unreadable: {error.strerror}") from error
    if not stat.S_ISREG(facts.st_mode):
        raise Refused("not a regular file")
    return facts.st_size, facts.st_mtime_ns


def sort_by_role(files: dict[str, tuple[int, int]]) -> tuple[list[str], frozenset[str], list[str]]:
    """(images, sidecars, others), by name alone; `a.mask.png` is an image unless an image `a` lies beside it."""
    pictures = [name for name in files if os.path.splitext(name)[1].lower() in EXTENSIONS]
    described = {os.path.splitext(name)[0] for name in pictures}
    sidecars = frozenset(name for name in files if owner(name) in described)
    images = [name for name in pictures if name not in sidecars]
    return images, sidecars, sorted(files.keys() - sidecars - set(images))


def find_classes(folder: Path, images: list[str]) -> list[str]:
    """The sorted names of the class folders; none where all images lie in `folder` itself."""
    flat = [name for name in images if "/" not in name]
    if flat and len(flat) < len(images):
        nested = next(name for name in images if "/" in name)
        raise UserError(
            f"{folder}: holds images with a class ({nested!r}) and without ({flat[0]!r}). "
            f"Expected either class/image files only, or a flat folder; move the {len(flat)} loose images."
        )
    return [] if flat else sorted({name.split("/")[0] for name in images})


def split_of(name: str, val_fraction: float, seed: int) -> str:
    """`train` or `val` by a hash of seed and name, so that other files have no influence on it."""
    hashed = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")
    return "val" if hashed < val_fraction * 2**64 else "train"


def open_image(folder: Path, name: str, sidecars: frozenset[str], img_px: int) -> Prepared:
    """The central square of an image file, with its sidecars in the same geometry."""
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise Refused(f"unreadable: {error.strerror}") from error
    image = decode_rgb(content)
    return Prepared(to_square(image, img_px), read_sidecars(folder, name, sidecars, image.size, img_px))
