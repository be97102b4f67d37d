"""GAN training loop for decoders and autoencoders; the discriminator starts at `gan.start_step`.

Decoders on frozen codes and autoencoders differ only in `reconstruct`.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.core.checkpoint import Checkpoint
from stages.core.discriminator import AdversarialLoss, Reconstruction, Scalars
from stages.core.distributed import linspace_indices, rank, seed_of
from stages.core.hardware import average, compute
from stages.core.images import to_float, to_uint8
from stages.core.losses import EncoderPerceptual, LpipsPerceptual, pixel_loss
from stages.core.metrics import psnr
from stages.core.params import Machine
from stages.core.progress import bar
from stages.core.results import Curves, enlarge, grid, save_png
from stages.core.schemas import ReconstructionLossConfig
from stages.core.train import Batches, Ema, NonFiniteMonitor, adamw, averaged, backward, lr_at, prefetch, set_lr

SHOWN = 16  # val images per picture
Reconstruct = Callable[[Any, Tensor], Reconstruction]  # (network, pixels [B, 3, H, W])


class GanTrainer:
    """The state of a training: `network` is trained in place and ends with its averaged weights.

    `splits` are those of `Batches`, `encoder` is the frozen network of the perceptual loss.
    """

    def __init__(
        self,
        name: str,
        network: torch.nn.Module,
        reconstruct: Reconstruct,
        adversarial: AdversarialLoss,
        encoder: torch.nn.Module,
        splits: dict[str, Any],
        config: ReconstructionLossConfig,
        machine: Machine,
        work: Path,
        device: torch.device,
    ):
        self.name, self.network, self.reconstruct, self.adversarial = name, network, reconstruct, adversarial
        self.config, self.work, self.device, self.curves = config, work, device, Curves()
        self.batches = Batches("game", splits, config.augment, config.optim, device)  # the word seeds the augmentation
        self.infer_batch_size = machine.infer_batch_size
        self.perceptual = (
            LpipsPerceptual(config.lpips_vgg16)
            if config.lpips_vgg16
            else EncoderPerceptual(encoder, config.perceptual_blocks, config.optim.precision)
        ).to(device)
        self.optimizer = adamw(network, config.optim)
        self.ema = Ema(network, config.optim.ema_decay)
        models: dict[str, torch.nn.Module] = {"network": network, "discriminator": adversarial.discriminator}
        optimizers: dict[str, torch.optim.Optimizer] = {
            "network": self.optimizer,
            "discriminator": adversarial.optimizer,
        }
        self.checkpoint = Checkpoint(work, machine.checkpoint_secs, models, optimizers, {"network": self.ema})

    def train(self, after_eval: Callable[[dict[str, float]], None] = lambda scalars: None) -> None:
        """Train to the last step, from the checkpoint where there is one; `after_eval` gets the newest scalars."""
        optim, monitor, start = self.config.optim, NonFiniteMonitor(self.device), self.resume()
        with bar(self.name, optim.total_steps, start, "step") as progress:
            for step, pixels in prefetch(self.batches.batch_at, start, optim.total_steps):
                scalars = self.step(step, pixels, monitor)
                done = step + 1
                progress.update()
                if done % optim.eval_every == 0 or done == optim.total_steps:
                    monitor.check(self.batches.batch_keys)
                    average(list(scalars.values()))
                    if rank() == 0:
                        self.curves.log(done, **{k: float(v) for k, v in scalars.items()}, **self.evaluate(done))
                        progress.set_postfix({k: f"{v:.4g}" for k, v in self.curves.last().items()}, refresh=False)
                        after_eval(self.curves.last())
                if rank() == 0 and (done == optim.total_steps or self.checkpoint.due()):
                    monitor.check(self.batches.batch_keys)
                    self.save(done)
        self.ema.copy_to(self.network)
        if rank() == 0 and (gate := self.adversarial.gate).steps:
            off = f"{int(gate.closed):,} of {gate.steps:,} steps ({float(gate.off_share()):.1%})"
            print(f"{self.name}: no adversarial term in {off} since the discriminator started")

    def step(self, step: int, pixels: Tensor, monitor: NonFiniteMonitor) -> Scalars:
        """One optimizer step of the network and, from `gan.start_step` on, one of the discriminator."""
        optim, active = self.config.optim, self.adversarial.active(step)
        # Every process draws for the whole batch. The seed holds no name, so that equal sections give equal networks.
        torch.manual_seed(seed_of("game noise", optim.seed, step))
        set_lr(self.optimizer, lr_at(step, optim))
        self.network.train()
        fake, loss, scalars = self.loss(pixels, active)
        self.optimizer.zero_grad()
        loss, norm = backward(loss, self.network, optim.clip_norm)
        monitor.update(step, loss, norm)
        self.optimizer.step()
        self.ema.update(self.network, step)
        return scalars | (self.adversarial.step(pixels, fake, optim.clip_norm) if active else {})

    def loss(self, pixels: Tensor, active: bool) -> tuple[Reconstruction, Tensor, Scalars]:
        """The reconstruction, the loss of the network, and scalars for the curves."""
        config = self.config
        with compute(self.device, config.optim.precision):
            fake = self.reconstruct(self.network, pixels)
        fake = replace(fake, pixels=fake.pixels.float())
        scalars = {"pixel": pixel_loss(config.pixel, fake.pixels, pixels)}
        own = config.pixel_weight * scalars["pixel"]
        if config.perceptual_weight:
            scalars["perceptual"] = self.perceptual(fake.pixels, pixels)
            own = own + config.perceptual_weight * scalars["perceptual"]
        if active:  # a linear term of equal gradient: the adaptive factor then needs no second pass through the encoder
            own = (fake.pixels * torch.autograd.grad(own, fake.pixels)[0].detach()).sum()
        loss = own + fake.loss
        scalars = {name: scalar.detach() for name, scalar in scalars.items()} | fake.scalars
        if active:
            term, parts = self.adversarial.term(fake, loss)
            loss, scalars = loss + term, scalars | parts
        return fake, loss, scalars

    def evaluate(self, step: int) -> dict[str, float]:
        """Mean PSNR in dB of the averaged weights on images of train and val; writes a picture of val images."""
        network, found = averaged(self.network, self.ema), {}
        for split, images in self.batches.eval_subset.items():
            decoded = self.decode(network, images)
            found[f"{split}/psnr_db"] = float(psnr(images, decoded).mean())
        shown = linspace_indices(len(images), SHOWN)
        rows = np.concatenate([images[shown], decoded[shown]])
        save_png(self.work / f"step-{step:07d}.png", grid(rows, len(shown), enlarge(rows.shape[1])))
        return found

    @torch.inference_mode()
    def decode(self, network: torch.nn.Module, images: np.ndarray) -> np.ndarray:
        """uint8 [M, H, W, 3] -> their reconstructions."""
        parts = torch.from_numpy(images).split(self.infer_batch_size)
        reconstructions = (self.reconstruct(network, to_float(part, self.device)) for part in parts)
        return np.concatenate([to_uint8(reconstruction.pixels) for reconstruction in reconstructions])

    def write_report(self, report: Path, images: str) -> None:
        """The curves with the digest of the images, and grids of originals above reconstructions, into `report`."""
        self.curves.write(report, images)
        (report / "pictures").mkdir(parents=True, exist_ok=True)
        for path in sorted(self.work.glob("step-*.png")):
            shutil.copy(path, report / "pictures" / path.name)

    def save(self, done: int) -> None:
        """Save everything that the next step needs."""
        self.checkpoint.save({"step": done, "curves": self.curves.rows, "gate": self.adversarial.gate.state()})

    def resume(self) -> int:
        """The step to continue from."""
        state: dict[str, Any] | None = self.checkpoint.load()
        if state is None:
            return 0
        self.curves.rows = [(step, scalars) for step, scalars in state["curves"]]
        self.adversarial.gate.restore(state["gate"])
        return state["step"]
