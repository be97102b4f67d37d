"""What do a tokenizer's codes mean? Patches that share a code, t-SNE, and what is read linearly from code vectors.

Run:    dvc repro anatomy
Expect: digits: 20 s a tokenizer on two cores; gallery.png and tsne.png 0.4 MB together.

Read-outs are learnt on train and tested on val: an image's class (accuracy), a patch's mean colour (R²: 1 is perfect,
0 no better than one colour for all). `look_up` paints each val patch as the mean train patch of its code: what a
decoder without any context would reach, and a floor for trained ones. _std by bootstrap over val images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from stages.anatomy.gallery import Gallery, draw_gallery
from stages.anatomy.readouts import ColourReader, class_figures
from stages.anatomy.survey import Batch, Survey, survey
from stages.anatomy.tsne import Picks, Tsne, draw_tsne
from stages.core import artefact, runtime
from stages.core.choice import choose
from stages.core.params import Machine, Section, load
from stages.core.patches import PatchTable, look_up_psnr, patch_side
from stages.data.reader import ImageSplit, image_facts

if TYPE_CHECKING:
    import numpy as np

    from stages.codebook.model import Tokenizer


class Params(Section):
    max_images: int = Field(gt=1)
    inverse_regularisation: float = Field(gt=0)
    ridge: float = Field(ge=0)
    bootstrap_draws: int = Field(ge=2)
    gallery: Gallery
    tsne: Tsne
    seed: int = Field(ge=0, lt=2**32)


class LookUp:
    """PSNR of val patches painted as a table has them for their codes, beside one mean patch for all."""

    def __init__(self, table: np.ndarray, mean_patch: np.ndarray):
        self.table, self.mean_patch = table, mean_patch
        self.found: dict[str, list[np.ndarray]] = {"psnr_db": [], "one_patch_psnr_db": []}

    def test(self, batch: Batch) -> None:
        """Note the PSNR of each image of a batch."""
        self.found["psnr_db"].append(look_up_psnr(self.table, batch.codes, batch.patches))
        self.found["one_patch_psnr_db"].append(look_up_psnr(self.mean_patch, batch.codes * 0, batch.patches))

    def figures(self, draws: int, seed: int) -> dict[str, float]:
        """Means over images, with their deviations."""
        import numpy as np

        from stages.core.scores import mean_and_std

        parts = [mean_and_std(name, np.concatenate(found), draws, seed) for name, found in self.found.items()]
        return {key: value for part in parts for key, value in part.items()}


def dissect(images: Path, codebook: Path, report: Path, params: Params, machine: Machine) -> None:
    """Write metrics.json, gallery.png and tsne.png to the folder `report`."""
    import numpy as np

    from stages.core.figures import write_figures

    splits = {name: ImageSplit(images, name, machine.num_workers) for name in ("train", "val")}
    chosen = {name: choose(len(split), params.max_images, params.seed) for name, split in splits.items()}
    patch_px, picks = check(codebook, splits["val"], chosen["val"], params)
    tokenizer = open_tokenizer(codebook, machine)
    vectors = tokenizer.vectors(np.arange(tokenizer.num_codes)).cpu().numpy()
    table, reader = PatchTable(tokenizer.num_codes, patch_px), ColourReader(vectors)
    learn = [lambda batch: table.add(batch.codes, batch.patches), reader.learn]
    train = survey(splits["train"], chosen["train"], tokenizer, machine.infer_batch_size, learn)
    reader.solve(params.ridge, table)
    look_up = LookUp(table.pictures(), mean_of(table))
    test = [reader.test, look_up.test, picks.collect]
    val = survey(splits["val"], chosen["val"], tokenizer, machine.infer_batch_size, test)
    figures = tell(train, val, vectors, reader, look_up, params)
    write_figures(report, {**figures, "protocol": protocol(images, tokenizer, chosen, params)})
    draw_gallery(report / "gallery.png", splits["train"], train, look_up.table, tokenizer.grid, params.gallery,
                 params.seed)  # fmt: skip
    draw_tsne(report / "tsne.png", picks, train, vectors, splits["train"].classes, params.tsne, params.seed)


def check(codebook: Path, val: ImageSplit, chosen: np.ndarray, params: Params) -> tuple[int, Picks]:
    """Side of a patch in px and the rows for t-SNE; settings that the data forbid are errors, before heavy imports."""
    config = artefact.read_config(codebook, "codebook")
    picks = Picks(val.labels[chosen], config["num_patches"], params.tsne, params.seed)
    return patch_side(val.img_px, config["grid"]), picks


def open_tokenizer(codebook: Path, machine: Machine) -> Tokenizer:
    """The tokenizer on this machine's device."""
    from stages.codebook.model import load_tokenizer
    from stages.core.device import pick_device

    return load_tokenizer(codebook, pick_device(machine.device))


def mean_of(table: PatchTable) -> np.ndarray:
    """uint8 [1, p, p, 3]: the mean of all patches."""
    import numpy as np

    return (table.sums.sum(0) / table.counts.sum()).round().astype(np.uint8)[None]


def tell(
    train: Survey, val: Survey, vectors: np.ndarray, reader: ColourReader, look_up: LookUp, params: Params
) -> dict[str, Any]:
    """All groups of figures, a line for each on the console."""
    from stages.core.codes import count_codes
    from stages.core.usage import usage

    draws, seed = params.bootstrap_draws, params.seed
    figures: dict[str, dict[str, Any]] = {
        "usage": usage(count_codes(val.codes, len(vectors))),
        "class": class_figures(train, val, vectors, params.inverse_regularisation, draws, seed),
        "colour": reader.figures(draws, seed),
        "look_up": look_up.figures(draws, seed),
    }
    for group, found in figures.items():
        cells = [f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
                 for name, value in found.items() if not name.endswith("_std")]  # fmt: skip
        print(f"anatomy: {group}: " + ", ".join(cells))
    return figures


def protocol(images: Path, tokenizer: Tokenizer, chosen: dict[str, np.ndarray], params: Params) -> list[dict[str, Any]]:
    """How the figures were made; pictures' settings are none of it."""
    facts = {"of": "anatomy", "reference": "val", "reference_digest": artefact.digest(images)[:12]}
    counts = {"train_images": len(chosen["train"]), "val_images": len(chosen["val"])}
    classifier = "logistic regression, penalty relative to the mean variance"
    settings = params.model_dump(exclude={"gallery", "tsne"})
    px = {"img_px": image_facts(images)["img_px"], "grid": tokenizer.grid}
    return [{**facts, **px, **counts, "class": classifier, "colour": "ridge regression", **settings}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artefact")
    parser.add_argument("--codebook", type=Path, required=True, help="codebook artefact")
    parser.add_argument("--report", type=Path, required=True, help="folder for metrics.json, gallery.png, tsne.png")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("anatomy", Params, args.params), load("machine", Machine, args.params)
    for needed in (args.images, args.codebook):
        artefact.find(needed)
    dissect(args.images, args.codebook, args.report, params, machine)


if __name__ == "__main__":
    runtime.run(main)
