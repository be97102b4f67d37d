"""The training loop of networks that paint: painter and, from a late start, discriminator, each with its optimizer.

A decoder on frozen codes and an autoencoder differ in `reconstruct` alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stages.core import distributed
from stages.core.batches import Batches
from stages.core.checkpoint import Checkpoint
from stages.core.choice import evenly
from stages.core.curves import Curves
from stages.core.device import compute
from stages.core.loop import Watch, adamw, averaged, backward, prefetch
from stages.core.losses import EncoderPerceptual, LpipsPerceptual, along, pixel_loss, slope_at
from stages.core.opponent import Opponent, Painted, Scalars
from stages.core.pictures import enlarge, grid, save_png
from stages.core.pixels import to_float, to_uint8
from stages.core.progress import bar
from stages.core.rng import seed_of
from stages.core.schedule import Ema, lr_at
from stages.core.scores import psnr

if TYPE_CHECKING:
    from stages.core.params import Machine
    from stages.core.recipe import Painting

SHOWN = 16  # val images in a picture
Reconstruct = Callable[[Any, Tensor], Painted]  # of the network and pixels [B, 3, H, W]


class Game:
    """All that training holds: `network` learns in place and ends with its averaged weights.

    `splits` are those of stages/core/batches.py, `encoder` the frozen one behind the perceptual loss.
    """

    def __init__(
        self,
        name: str,
        network: torch.nn.Module,
        reconstruct: Reconstruct,
        opponent: Opponent,
        encoder: torch.nn.Module,
        splits: dict[str, Any],
        recipe: Painting,
        machine: Machine,
        work: Path,
        device: torch.device,
    ):
        self.name, self.network, self.reconstruct, self.opponent = name, network, reconstruct, opponent
        self.recipe, self.work, self.device, self.curves = recipe, work, device, Curves()
        self.batches = Batches("game", splits, recipe.augment, recipe.optim, device)
        self.infer_batch_size = machine.infer_batch_size
        self.perceptual = (
            LpipsPerceptual(recipe.lpips_vgg16)
            if recipe.lpips_vgg16
            else EncoderPerceptual(encoder, recipe.perceptual_blocks, recipe.optim.precision)
        ).to(device)
        self.optimizer = adamw(network, recipe.optim)
        self.ema = Ema(network, recipe.optim.ema_decay)
        models: dict[str, torch.nn.Module] = {"network": network, "discriminator": opponent.discriminator}
        optimizers: dict[str, torch.optim.Optimizer] = {
            "network": self.optimizer,
            "discriminator": opponent.optimizer,
        }
        self.checkpoint = Checkpoint(work, machine.checkpoint_secs, models, optimizers, {"network": self.ema})

    def play(self, after: Callable[[dict[str, float]], None] = lambda scores: None) -> None:
        """Train to the last step, from the checkpoint where there is one; `after` sees the scores of each look."""
        optim, watch, start = self.recipe.optim, Watch(self.device), self.resume()
        with bar(self.name, optim.total_steps, start, "step") as progress:
            for step, pixels in prefetch(self.batches.batch_at, start, optim.total_steps):
                scalars = self.step(step, pixels, watch)
                done = step + 1
                progress.update()
                if done % optim.eval_every == 0 or done == optim.total_steps:
                    watch.check(self.batches.batch_keys)
                    distributed.average(list(scalars.values()))
                    if distributed.rank() == 0:
                        self.curves.log(done, **{k: float(v) for k, v in scalars.items()}, **self.evaluate(done))
                        progress.set_postfix({k: f"{v:.4g}" for k, v in self.curves.last().items()}, refresh=False)
                        after(self.curves.last())
                if distributed.rank() == 0 and done < optim.total_steps and self.checkpoint.due():
                    watch.check(self.batches.batch_keys)
                    self.save(done)
        self.ema.copy_to(self.network)

    def step(self, step: int, pixels: Tensor, watch: Watch) -> Scalars:
        """One update of the painter and, once the game is on, one of the discriminator."""
        optim, playing = self.recipe.optim, self.opponent.playing(step)
        # Every process draws for all of the batch; no name enters, so that sections of equal values train alike.
        torch.manual_seed(seed_of("game noise", optim.seed, step))
        for group in self.optimizer.param_groups:
            group["lr"] = lr_at(
                step, peak=optim.lr_peak, warmup_steps=optim.warmup_steps, total_steps=optim.total_steps
            )
        self.network.train()
        painted, loss, scalars = self.painter_loss(pixels, playing)
        self.optimizer.zero_grad()
        loss, norm = backward(loss, self.network, optim.clip_norm)
        watch.see(step, loss, norm)
        self.optimizer.step()
        self.ema.update(self.network, step)
        return scalars | (self.opponent.step(pixels, painted, optim.clip_norm) if playing else {})

    def painter_loss(self, pixels: Tensor, playing: bool) -> tuple[Painted, Tensor, Scalars]:
        """What was painted, the loss and its parts."""
        recipe = self.recipe
        with compute(self.device, recipe.optim.precision):
            painted = self.reconstruct(self.network, pixels)
        painted = replace(painted, made=painted.made.float())
        scalars = {"pixel": pixel_loss(recipe.pixel, painted.made, pixels)}
        own = recipe.pixel_weight * scalars["pixel"]
        if recipe.perceptual_weight:
            scalars["perceptual"] = self.perceptual(painted.made, pixels)
            own = own + recipe.perceptual_weight * scalars["perceptual"]
        if playing:  # the adaptive factor asks for the gradient, too: the frozen encoder is passed backwards once
            own = along(painted.made, slope_at(own, painted.made))
        loss = own + painted.loss
        scalars = {name: scalar.detach() for name, scalar in scalars.items()} | painted.scalars
        if playing:
            term, parts = self.opponent.push(painted, loss)
            loss, scalars = loss + term, scalars | parts
        return painted, loss, scalars

    def evaluate(self, step: int) -> dict[str, float]:
        """Mean PSNR in dB of the averaged weights on images of train and val, and a picture of val."""
        network, found = averaged(self.network, self.ema), {}
        for split, images in self.batches.watched.items():
            made = self.paint(network, images)
            found[f"{split}/psnr_db"] = float(psnr(images, made).mean())
        shown = evenly(len(images), SHOWN)
        rows = np.concatenate([images[shown], made[shown]])
        save_png(self.work / f"step-{step:07d}.png", grid(rows, len(shown), enlarge(rows.shape[1])))
        return found

    @torch.inference_mode()
    def paint(self, network: torch.nn.Module, images: np.ndarray) -> np.ndarray:
        """uint8 [M, H, W, 3] -> their reconstructions."""
        parts = torch.from_numpy(images).split(self.infer_batch_size)
        return np.concatenate([to_uint8(self.reconstruct(network, to_float(part, self.device)).made) for part in parts])

    def write_report(self, report: Path) -> None:
        """The curves, and the grids (originals above reconstructions) from scratch, in the folder `report`."""
        self.curves.write(report)
        (report / "pictures").mkdir(parents=True, exist_ok=True)
        for path in sorted(self.work.glob("step-*.png")):
            shutil.copy(path, report / "pictures" / path.name)

    def save(self, done: int) -> None:
        """Everything that the next step needs."""
        self.checkpoint.save({"step": done, "curves": self.curves.rows, "guard": float(self.opponent.guard.average)})

    def resume(self) -> int:
        """The step to go on from."""
        state: dict[str, Any] | None = self.checkpoint.load()
        if state is None:
            return 0
        self.curves.rows = [(step, scalars) for step, scalars in state["curves"]]
        self.opponent.guard.average = torch.tensor(state["guard"], device=self.device)
        return state["step"]
