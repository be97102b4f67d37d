"""Images from WebDataset shards: plain tar files, in which the members `<key>.<field>` of a key make one sample.

    data.folder, data.val_folder    all *.tar in them, or those that data.webdataset names, with braces as in a shell
    URLs in data.webdataset         downloaded first, by webdataset's own openers, into scratch/downloads

Class and captions are the text of a field, or a value in the field json; captions, boxes, masks as in sidecars.py.
The field begins after the first dot of a file name, as in webdataset. Nothing is unpacked: images are read at their
places in the tar files.
"""

import hashlib
import json
import os
import shutil
import tarfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

from braceexpand import braceexpand
from webdataset.gopen import gopen

from stages.core import UserError
from stages.core.code import track
from stages.core.distributed import rank
from stages.core.hardware import barrier
from stages.core.progress import bar
from stages.core.scratch import SCRATCH
from stages.data.captions import from_json, to_member
from stages.data.decode import DECODE_BYTES, EXTENSIONS, FILE_BYTES, decode_rgb, to_square
from stages.data.folder import hash_of, split_of
from stages.data.params import URL, Params
from stages.data.sidecars import CAPTION, ENDINGS, Sidecars, read_sidecars
from stages.data.source import Candidate, Prepared, Refused, Source, one_by_one, refusal
from stages.data.tar_index import read_range

DOWNLOADS = SCRATCH / "downloads"
MOST_TEXT = 2**22  # bytes of a class, a caption or a JSON field
Range = tuple[int, int]  # offset and bytes


class Sample(NamedTuple):
    """Where the fields of a sample lie."""

    shard: Path
    fields: dict[str, Range]  # extension, such as ".jpg" or ".boxes.json" -> its bytes


def open_shards(params: Params) -> Source:
    """The samples of all shards; in train or val by their shard, or by a hash of their own name."""
    given = bool(params.webdataset.val_shards) or params.has_val_folder
    shards = find_shards(params) if given else locate(params.webdataset.shards, Path(params.folder))
    facts = track("the shards of data.folder", partial(facts_of, shards))  # first: a later file is then a change
    samples, refused = list_samples(shards)
    classes, labels = find_classes(samples, params.webdataset.class_field, refused)
    splits: dict[str, list[Candidate]] = {"train": [], "val": []}
    for number, name in enumerate(samples):
        own = name.split("/")[0]
        split = own if given else split_of(name, params.val_fraction, params.seed)
        if name in labels:
            splits[split].append(Candidate(f"{number:08d}", name, labels[name]))
    return Source(
        classes=classes,
        splits=splits,
        open=one_by_one(lambda candidate: open_sample(samples[candidate.name], params)),
        decode_bytes=DECODE_BYTES + min(FILE_BYTES, largest_field(samples)),
        refused=refused,
        facts=facts,
        order=None if given else partial(hash_of, params.seed),
        notes=["the shards say which images are val; data.val_fraction is not used"] * given,
    )


# --- shards -----------------------------------------------------------------------------------------------------------


def find_shards(params: Params) -> dict[str, Path]:
    """{"train/NAME": file, "val/NAME": file} of all shards, where params say which of them are val."""
    section, folder = params.webdataset, Path(params.folder)
    val = locate(section.val_shards, Path(params.val_folder) if params.has_val_folder else folder)
    train = locate(section.shards, folder)
    if not section.shards:
        train = {name: path for name, path in train.items() if path not in val.values()}
    if both := {*train.values()} & {*val.values()}:
        raise UserError(f"data.webdataset: among shards and among val_shards: {', '.join(map(str, sorted(both)[:3]))}")
    return {
        f"{split}/{name}": path for split, found in (("train", train), ("val", val)) for name, path in found.items()
    }


def locate(patterns: list[str], folder: Path) -> dict[str, Path]:
    """{name: file} of the shards that patterns name, or of all *.tar in a folder; `UserError` if there is none."""
    if not patterns:
        found = {path.name: path for path in sorted(folder.glob("*.tar"))}
        if not found:
            raise UserError(f"{folder}: holds no *.tar, and data.webdataset names no shards")
        return found
    names = [name for pattern in patterns for name in braceexpand(pattern)]
    found = {name: downloaded(name) if URL.match(name) else folder / name for name in names}
    download({name: path for name, path in found.items() if URL.match(name)})
    if missing := [str(path) for path in found.values() if not path.is_file()]:
        raise UserError(f"data.webdataset: {len(missing)} shards are not there: {', '.join(missing[:3])}")
    return found


def downloaded(url: str) -> Path:
    """Where the shard of a URL is kept."""
    return DOWNLOADS / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.tar"


def download(wanted: dict[str, Path]) -> None:
    """Fetch the shards of URLs that are not here yet; rank 0 does it, the others wait."""
    missing = {url: path for url, path in wanted.items() if not path.is_file()}
    if rank() == 0 and missing:
        DOWNLOADS.mkdir(parents=True, exist_ok=True)
        with bar("download", len(missing), 0, "shards") as progress:
            for url, path in missing.items():
                fetch(url, path)
                progress.update()
    barrier()


def fetch(url: str, path: Path) -> None:
    """One shard; it gets its name once it is whole."""
    part = path.with_suffix(".part")
    try:
        with gopen(url) as stream, open(part, "wb") as file:
            shutil.copyfileobj(stream, file, 2**20)
        read_members(part)
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"data.webdataset: cannot download {url}: {' '.join(str(error).split())[:300]}") from None
    os.replace(part, path)


def facts_of(shards: dict[str, Path]) -> str:
    """A hash of the names, sizes and times of the shards."""
    facts = [(name, (found := path.stat()).st_size, found.st_mtime_ns) for name, path in shards.items()]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


# --- samples ----------------------------------------------------------------------------------------------------------


def list_samples(shards: dict[str, Path]) -> tuple[dict[str, Sample], list[dict[str, str]]]:
    """{"NAME/KEY": sample} in the order of the shards; entries of keys that come twice in a shard."""
    samples: dict[str, Sample] = {}
    refused = []
    with bar("list", len(shards), 0, "shards") as progress:
        for shard, path in shards.items():
            for key, fields in read_members(path):
                if (name := f"{shard}/{key}") in samples:
                    refused.append(refusal(name, "its key comes twice in the shard, apart from the first"))
                else:
                    samples[name] = Sample(path, fields)
            progress.update()
    return samples, refused


def read_members(path: Path) -> list[tuple[str, dict[str, Range]]]:
    """[(key, fields)] of a shard in its order; members of one key stand together."""
    found: list[tuple[str, dict[str, Range]]] = []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, file = member.name.rpartition("/")
                stem, dot, field = file.partition(".")
                if not member.isfile() or not stem or not dot:
                    continue
                key = f"{folder}/{stem}" if folder else stem
                if not found or found[-1][0] != key:
                    found.append((key, {}))
                found[-1][1][f".{field}"] = (member.offset_data, member.size)
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{path}: not a whole, plain tar archive: {error}") from None
    return found


def largest_field(samples: dict[str, Sample]) -> int:
    """Bytes of the largest field of all samples."""
    return max((size for sample in samples.values() for _, size in sample.fields.values()), default=0)


def find_classes(
    samples: dict[str, Sample], field: str, refused: list[dict[str, str]]
) -> tuple[list[str], dict[str, int]]:
    """Class names, in numeric order if all are numbers; the class number per sample. Adds to `refused` who has none."""
    if not field:
        return [], dict.fromkeys(samples, -1)
    texts = {}
    for name, sample in samples.items():
        try:
            texts[name] = text_of(sample, field)
        except Refused as error:
            refused.append(refusal(name, str(error)))
    names = {*texts.values()}
    classes = sorted(names, key=int) if all(map(str.isdecimal, names)) else sorted(names)
    numbers = {name: number for number, name in enumerate(classes)}
    return classes, {name: numbers[text] for name, text in texts.items()}


def text_of(sample: Sample, field: str) -> str:
    """A field as text, or a text or number in its field json; `Refused` if there is none."""
    extension, _, key = field.partition(".")
    content = read_field(sample, f".{extension}", MOST_TEXT)
    try:
        value = json.loads(content)[key] if key else content.decode().strip()
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Refused(f"no text in {field}: {type(error).__name__} {error}") from None
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        raise Refused(f"{field} is {value!r:.80}: expected a text or a number")
    return str(value)


def read_field(sample: Sample, extension: str, most: int) -> bytes:
    """The bytes of a field; `Refused` if there are none, or more than `most`."""
    if extension not in sample.fields:
        raise Refused(f"no {extension[1:]} among {', '.join(name[1:] for name in sample.fields)}")
    offset, size = sample.fields[extension]
    if size > most:
        raise Refused(f"{size:,} bytes, at most {most:,}: memory is bounded, store it smaller")
    return read_range(sample.shard, offset, size)


def open_sample(sample: Sample, params: Params) -> Prepared:
    """The square of a sample's image, with its sidecars in the same geometry."""
    extension = next((name for name in sample.fields if name.lower() in EXTENSIONS), None)
    if extension is None:
        raise Refused(f"no image among {', '.join(name[1:] for name in sample.fields)}")
    image, size = decode_rgb(read_field(sample, extension, FILE_BYTES), params.background, params.img_px)
    square = to_square(image, params.img_px, params.crop, params.background)
    del image  # before a mask of the same size is opened
    own = sidecars_of(sample, params.webdataset.caption_field)
    return Prepared(square, read_sidecars(own, size, params.img_px, params.crop))


def sidecars_of(sample: Sample, caption_field: str) -> Sidecars:
    """Boxes and mask of a sample, and its captions where it has the field of captions."""
    there = [ending for ending in ENDINGS if ending != CAPTION and ending in sample.fields]
    found: Sidecars = {ending: (ending[1:], partial(read_field, sample, ending)) for ending in there}
    if caption_field and f".{caption_field.partition('.')[0]}" in sample.fields:
        found[CAPTION] = caption_field, lambda most: captions_of(sample, caption_field, most)
    return found


def captions_of(sample: Sample, field: str, most: int) -> bytes:
    extension, _, key = field.partition(".")
    content = read_field(sample, f".{extension}", MOST_TEXT if key else most)
    return to_member(from_json(content, key)) if key else content
