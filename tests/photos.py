"""Folders of pictures in two colors, the data stage's artifact of them, and what is in its shards."""

import json
import tarfile
from pathlib import Path

from PIL import Image

from stages.core.params import Machine
from stages.data.params import NO_FOLDER, Params, Scenes, WebDataset
from stages.data.writer import write_images

PX = 16
SCENES = Scenes(count=20, max_objects=1, patterned=0.8, nuisance=0.0)
WEBDATASET = WebDataset(shards=[], val_shards=[], class_field="cls", caption_field="txt")
MACHINE = Machine(
    device="cpu", num_workers=2, infer_batch_size=8, micro_batch_size=0, shard_above=1e9,
    recompute_activations=False, compile="off", checkpoint_share=0.02, tracker="none",
)  # fmt: skip


def params(folder: Path, **changes) -> Params:
    """The data stage's params for a folder, with changes."""
    fields = dict(
        source="folder",
        folder=str(folder),
        val_folder=NO_FOLDER,
        captions=NO_FOLDER,
        webdataset=WEBDATASET,
        crop="center",
        background="#ffffff",
        scenes=SCENES,
        img_px=PX,
        val_fraction=0.5,
        shard_images=4,
        format="png",
        png_level=6,
        seed=0,
    )
    return Params(**(fields | changes))


def make(folder: Path, **changes) -> Path:
    """The artifact images/ of a folder, in the current one."""
    write_images(Path("images"), params(folder, **changes), MACHINE)
    return Path("images")


def halves(first="red", second="blue", size=(40, 20), mode="RGB") -> Image.Image:
    """The left half in one color, the right half in another."""
    image = Image.new(mode, size, first)
    image.paste(Image.new(mode, (size[0] // 2, size[1]), second), (size[0] // 2, 0))
    return image


def save(path: Path, image: Image.Image | None = None, **options) -> Path:
    """Write a picture, red and blue halves if none is given, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or halves()).save(path, **options)
    return path


def good_images(folder: Path, count: int = 8) -> None:
    """0.png, 1.png, …"""
    for number in range(count):
        save(folder / f"{number}.png")


def by_name(folder: Path) -> dict[str, dict[str, bytes]]:
    """{name in the source: {field: bytes}} of all shards."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            for info in tar:
                key, field = info.name.split(".", 1)
                samples.setdefault(key, {})[field] = tar.extractfile(info).read()
    return {json.loads(fields["json"])["name"]: fields for fields in samples.values()}
