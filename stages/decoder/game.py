"""The decoder's training loop: decoder and, from a late start, discriminator, each with its optimizer."""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stages.core import distributed
from stages.core.augment import random_maps, warp
from stages.core.checkpoint import Checkpoint
from stages.core.curves import Curves
from stages.core.device import compute
from stages.core.loop import Watch, adamw, averaged, backward, epoch_batch, evenly, prefetch
from stages.core.pictures import grid, save_png
from stages.core.pixels import to_float
from stages.core.progress import bar
from stages.core.rng import seed_of
from stages.core.schedule import Ema, lr_at
from stages.decoder.losses import (
    CollapseGuard,
    EncoderPerceptual,
    LpipsPerceptual,
    adaptive_weight,
    finite_nudge,
    pixel_loss,
)
from stages.decoder.model import Decoder, OneStep, PatchDiscriminator, hinge_discriminator

if TYPE_CHECKING:
    from stages.codebook.model import Tokenizer
    from stages.core.params import Machine
    from stages.data.reader import ImageSplit
    from stages.decoder.train import Params

SHOWN = 16


class Game:
    """All that training holds: `network` learns in place and ends with its averaged weights."""

    def __init__(
        self,
        network: OneStep,
        tokenizer: Tokenizer,
        splits: dict[str, ImageSplit],
        params: Params,
        machine: Machine,
        work: Path,
        device: torch.device,
    ):
        self.network, self.tokenizer, self.splits, self.params = network, tokenizer, splits, params
        self.work, self.device, self.curves = work, device, Curves()
        self.infer_batch_size = machine.infer_batch_size
        self.discriminator = PatchDiscriminator(params.gan.width).to(device)
        self.perceptual = (
            LpipsPerceptual(params.lpips_vgg16)
            if params.lpips_vgg16
            else EncoderPerceptual(tokenizer.encoder, params.perceptual_blocks, tokenizer.final_norm)
        ).to(device)
        self.optimizer = adamw(network, params.optim)
        self.opponent = torch.optim.AdamW(
            self.discriminator.parameters(), lr=params.gan.lr, betas=(0.5, 0.9), foreach=True
        )
        self.ema = Ema(network, params.optim.ema_decay)
        self.guard = CollapseGuard(params.gan.collapse_floor, device)
        models: dict[str, torch.nn.Module] = {"network": network, "discriminator": self.discriminator}
        optimizers: dict[str, torch.optim.Optimizer] = {"network": self.optimizer, "discriminator": self.opponent}
        self.checkpoint = Checkpoint(work, machine.checkpoint_secs, models, optimizers, {"network": self.ema})

    def play(self, name: str) -> None:
        """Train to the last step, from the checkpoint where there is one."""
        optim, watch, start = self.params.optim, Watch(self.device), self.resume()
        with bar(f"decoder {name}", optim.total_steps, start, "step") as progress:
            for step, pixels in prefetch(self.batch_at, start, optim.total_steps):
                scalars = self.step(step, pixels, watch)
                done = step + 1
                progress.update()
                if done % optim.eval_every == 0 or done == optim.total_steps:
                    watch.check(self.batch_keys)
                    distributed.average(list(scalars.values()))
                    if distributed.rank() == 0:
                        self.curves.log(done, **{k: float(v) for k, v in scalars.items()}, **self.evaluate(done))
                        progress.set_postfix({k: f"{v:.4g}" for k, v in self.curves.last().items()}, refresh=False)
                if distributed.rank() == 0 and done < optim.total_steps and self.checkpoint.due():
                    watch.check(self.batch_keys)
                    self.save(done)
        self.ema.copy_to(self.network)

    def step(self, step: int, pixels: Tensor, watch: Watch) -> dict[str, Tensor]:
        """One update of the decoder and, once the game is on, one of the discriminator."""
        optim, playing = self.params.optim, self.params.gan.weight > 0 and step >= self.params.gan.start_step
        for group in self.optimizer.param_groups:
            group["lr"] = lr_at(
                step, peak=optim.lr_peak, warmup_steps=optim.warmup_steps, total_steps=optim.total_steps
            )
        made, loss, scalars = self.decoder_loss(pixels, playing)
        self.optimizer.zero_grad()
        loss, norm = backward(loss, self.network, optim.clip_norm)
        watch.see(step, loss, norm)
        self.optimizer.step()
        self.ema.update(self.network, step)
        return scalars | (self.discriminator_step(pixels, made.detach()) if playing else {})

    def decoder_loss(self, pixels: Tensor, playing: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Reconstructions [B, 3, H, W], the loss and its parts."""
        tokenizer = self.tokenizer
        with torch.no_grad():  # one pass gives the codes and what the perceptual loss compares with
            blocks = [tokenizer.block, *self.params.perceptual_blocks]
            feat_BND, *wanted = tokenizer.encoder(pixels, blocks=blocks, final_norm=tokenizer.final_norm)
            codes = tokenizer.codebook.assign(feat_BND)
        with compute(self.device, self.params.optim.precision):
            made = self.network(codes).float()
        pixel = pixel_loss(self.params.pixel, made, pixels)
        perceptual = self.perceptual(made, pixels, wanted)
        loss = self.params.pixel_weight * pixel + self.params.perceptual_weight * perceptual
        scalars = {"pixel": pixel.detach(), "perceptual": perceptual.detach()}
        if playing:
            adversarial = -self.discriminator(made).mean()
            nudge = finite_nudge(adversarial, made)
            adaptive = adaptive_weight(loss, nudge, self.network.to_pixels.weight, self.params.gan.max_adaptive)
            loss = loss + self.params.gan.weight * self.guard.gate() * adaptive * nudge
            scalars |= {"adversarial": adversarial.detach(), "adaptive": adaptive}
        return made, loss, scalars

    def discriminator_step(self, real: Tensor, made: Tensor) -> dict[str, Tensor]:
        """One hinge update of the discriminator; a non-finite one is left out and counts as a collapse."""
        loss = hinge_discriminator(self.discriminator(real), self.discriminator(made))
        self.opponent.zero_grad()
        loss, norm = backward(loss, self.discriminator, self.params.optim.clip_norm)
        self.guard.see(loss)
        if bool(norm.isfinite()):
            self.opponent.step()
        return {"discriminator": loss}

    def batch_at(self, step: int) -> Tensor:
        """float [B, 3, H, W]: this process's share of a batch that is a function of the step alone."""
        index = self.batch_index(step)
        rng = torch.Generator().manual_seed(seed_of("decoder", self.params.optim.seed, step))
        maps = random_maps(len(index), self.params.augment, rng)
        pixels = to_float(self.splits["train"].read(distributed.share_of(index)), self.device)
        return warp(pixels, distributed.share_of(maps))

    def batch_index(self, step: int) -> np.ndarray:
        """int64 [batch_size]: which train images step `step` sees in all processes together."""
        optim = self.params.optim
        return epoch_batch(step, count=len(self.splits["train"]), batch_size=optim.batch_size, seed=optim.seed)

    def batch_keys(self, step: int) -> list[str]:
        """Their names."""
        return [self.splits["train"].keys[i] for i in self.batch_index(step)]

    @cached_property
    def watched(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Of each split at most 512 images, evenly spread, uint8 [M, H, W, 3], and their codes [M, N]."""
        images = {name: split.read(evenly(len(split), 512)) for name, split in self.splits.items()}
        return {name: (batch, self.tokenizer.encode(batch, self.infer_batch_size)) for name, batch in images.items()}

    def evaluate(self, step: int) -> dict[str, float]:
        """Mean PSNR in dB of the averaged weights on images of train and val, and a picture of val."""
        decoder, psnr = Decoder(averaged(self.network, self.ema), {}), {}
        for split, (images, codes) in self.watched.items():
            made = decoder.decode(codes, self.infer_batch_size)
            error = ((images.astype(np.float32) - made) ** 2).mean((1, 2, 3))
            psnr[f"{split}/psnr_db"] = float((10 * np.log10(255**2 / np.maximum(error, 1e-10))).mean())
        shown = evenly(len(images), SHOWN)
        rows = np.concatenate([images[shown], made[shown]])
        save_png(self.work / f"step-{step:07d}.png", grid(rows, len(shown), scale=max(1, 64 // rows.shape[1])))
        return psnr

    def write_report(self, report: Path) -> None:
        """The curves, and the grids (originals above reconstructions) from scratch, in the folder `report`."""
        self.curves.write(report)
        (report / "pictures").mkdir(parents=True, exist_ok=True)
        for path in sorted(self.work.glob("step-*.png")):
            shutil.copy(path, report / "pictures" / path.name)

    def save(self, done: int) -> None:
        """Everything that the next step needs."""
        self.checkpoint.save({"step": done, "curves": self.curves.rows, "guard": float(self.guard.average)})

    def resume(self) -> int:
        """The step to go on from."""
        state: dict[str, Any] | None = self.checkpoint.load()
        if state is None:
            return 0
        self.curves.rows = [(step, scalars) for step, scalars in state["curves"]]
        self.guard.average = torch.tensor(state["guard"], device=self.device)
        return state["step"]
