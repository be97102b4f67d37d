"""A training on images: an fsq tokenizer on JPEGs; whether the loader keeps up with it."""

import contextlib
import tempfile
from collections.abc import Generator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu_parts.figures import Figures
from benchmarks.gpu_parts.sizes import Sizes
from benchmarks.gpu_parts.trainer import Training, machine_of, optim_of, timed_fit
from benchmarks.images import make_images
from benchmarks.throughput import seconds_of
from stages.codebook.autoencoder import Autoencoder
from stages.codebook.quantizers import Fsq
from stages.core.hardware import compute
from stages.core.images import Batches, augmented
from stages.core.schemas import Affine
from stages.core.train import Batch, load_batches
from stages.data.reader import ImageSplit

AFFINE = Affine(degrees=10, scale=0.1, translate=0.06, shear=0.1, hflip=False)


@contextlib.contextmanager
def image_training(sizes: Sizes, device: torch.device) -> Generator[Training]:
    """The training, whose images are in a temporary folder."""
    params, grid = Path("params.yaml").absolute(), sizes.img_px >> (len(sizes.widths) - 1)
    torch.manual_seed(0)
    shape = {"grid": grid, "widths": sizes.widths, "blocks": 1}
    model = Autoencoder(Fsq([8, 8, 4]), shape, noise=0.0, revive=False)

    def loss_of(model: Autoencoder, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        pixels = augmented(*batch)
        with compute(device, "bf16"):
            made, loss, _ = model(pixels)
        return F.l1_loss(made.float(), pixels) + loss, {}

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        machine = machine_of(torch.device("cpu"), sizes.workers)
        splits = {"train": ImageSplit(make_images(sizes.files, sizes.photo, sizes.img_px, params, machine), "train")}
        batches = Batches("benchmark", splits, AFFINE, optim_of(sizes.image_batch, sizes.steps))
        yield Training("images", model, batches.batch_at, loss_of, sizes.image_batch)


def loading(sizes: Sizes, device: torch.device, figures: Figures) -> None:
    """Images per second of the loader, of the training on one batch, and of both."""
    with image_training(sizes, device) as own:
        for workers in dict.fromkeys((0, sizes.workers)):
            machine = machine_of(device, workers)
            stream = load_batches(own.batch_at, 0, sizes.steps + 1, machine, device)
            next(stream)  # starts the processes
            seconds = seconds_of(islice(stream, sizes.steps), device)
            figures.add(f"loader alone, {workers} processes", own.batch_size * sizes.steps / seconds, "images/s")
        batch = tuple(tensor.pin_memory() if device.type == "cuda" else tensor for tensor in own.batch_at(0))
        constant = Training(own.name, own.model, lambda step: batch, own.loss_of, own.batch_size)
        for name, training, workers in (("on one batch", constant, 0), ("with the loader", own, sizes.workers)):
            timed = timed_fit(training, machine_of(device, workers), device, sizes.steps, sizes.warm)
            figures.add(f"training {name}", own.batch_size / timed.step, "images/s")
