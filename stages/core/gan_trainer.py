"""GAN training loop for decoders and autoencoders; the discriminator starts after `gan.start_share` of the steps.

Decoders on frozen codes and autoencoders differ only in `reconstruct`.
"""

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.core.checkpoint import Checkpoint
from stages.core.discriminator import AdversarialLoss, Reconstruction
from stages.core.distributed import linspace_indices, micro_batch, rank, seed_of
from stages.core.hardware import Loss, average, barrier, compute, data_parallel, whole_gradients
from stages.core.images import Batches, augmented, to_float, to_uint8
from stages.core.metrics import psnr
from stages.core.networks import EncoderPerceptual, LpipsPerceptual
from stages.core.optimizer import Ema, NonFiniteMonitor, Scalars, adamw, clip, lr_at, mean_of, set_lr
from stages.core.params import Machine
from stages.core.progress import bar
from stages.core.results import Curves, enlarge, grid, save_png
from stages.core.schemas import ReconstructionLossConfig
from stages.core.train import Batch, Speed, load_batches, micro_batches

SHOWN = 16  # val images per picture
Reconstruct = Callable[[Any, Tensor], Reconstruction]  # (network, pixels [B, 3, H, W])


class GanTrainer:
    """The state of a training: `network` is trained in place and ends with its averaged weights.

    `splits` are those of `Batches`, `encoder` is the frozen network of the perceptual loss. The processes have joined.
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
        self.config, self.machine, self.work, self.device, self.curves = config, machine, work, device, Curves()
        self.batches = Batches("game", splits, config.augment, config.optim)  # the word seeds the augmentation
        self.perceptual = (
            LpipsPerceptual(config.lpips_vgg16)
            if config.lpips_vgg16
            else EncoderPerceptual(encoder, config.perceptual_blocks, config.optim.precision)
        ).to(device)
        self.averaged = copy.deepcopy(network).eval()  # for evaluation
        self.loss_of = data_parallel(Loss(network, self.loss))
        adversarial.loss_of = data_parallel(adversarial.loss_of)
        self.optimizer, self.ema = adamw(network, config.optim), Ema(network, config.optim.ema_decay)
        models: dict[str, torch.nn.Module] = {"network": network, "discriminator": adversarial.discriminator}
        optimizers: dict[str, torch.optim.Optimizer] = {
            "network": self.optimizer,
            "discriminator": adversarial.optimizer,
        }
        self.checkpoint = Checkpoint(work, machine.checkpoint_share, models, optimizers, {"network": self.ema})

    def train(self, after_eval: Callable[[dict[str, float]], None] = lambda scalars: None) -> None:
        """Train to the last step, from the checkpoint where there is one; `after_eval` gets the newest scalars."""
        optim, start, monitor = self.config.optim, self.resume(), NonFiniteMonitor(self.device)
        speed = Speed(self.network, optim, self.device)
        self.curves.follow(self.machine.tracker, self.work)
        with self.checkpoint, bar(self.name, optim.total_steps, start, "step") as progress:
            for step, batch in load_batches(self.batches.batch_at, start, optim.total_steps, self.machine, self.device):
                scalars = self.step(step, batch, monitor)
                speed.counted()
                done = step + 1
                progress.update()
                if done % optim.eval_every == 0 or done == optim.total_steps:
                    monitor.check(self.batches.batch_keys)
                    average(list(scalars.values()))
                    if rank() == 0:
                        self.curves.log(done, **{k: float(v) for k, v in scalars.items()}, **self.evaluate(done))
                        shown = {k: f"{v:.4g}" for k, v in self.curves.last().items()}
                        progress.set_postfix(shown | speed.shown(progress), refresh=False)
                        after_eval(self.curves.last())
                    barrier()
                if self.checkpoint.due(done == optim.total_steps):
                    monitor.check(self.batches.batch_keys)
                    self.save(done)
        self.ema.copy_to(self.network)
        if rank() == 0 and (gate := self.adversarial.gate).steps:
            off = f"{int(gate.closed):,} of {gate.steps:,} steps ({float(gate.off_share()):.1%})"
            print(f"{self.name}: no adversarial term in {off} since the discriminator started")

    def step(self, step: int, batch: Batch, monitor: NonFiniteMonitor) -> Scalars:
        """One optimizer step of the network and, from `gan_start` on, one of the discriminator if it has a weight."""
        optim, active = self.config.optim, self.config.gan.weight > 0 and step >= self.config.gan_start
        parts = [augmented(*part) for part in micro_batches(batch, self.machine.micro_batch_size)]
        set_lr(self.optimizer, lr_at(step, optim))
        self.network.train()
        self.optimizer.zero_grad()
        if active:
            self.adversarial.gate.count()
        fakes, loss, scalars = self.add_gradients(step, parts, active)
        monitor.update(step, loss, clip(self.network, optim.clip_norm))
        self.optimizer.step()
        self.ema.update(self.network, step)
        of_discriminator = self.adversarial.step([*zip(parts, fakes, strict=True)], optim.clip_norm) if active else {}
        return scalars | of_discriminator

    def add_gradients(
        self, step: int, parts: list[Tensor], active: bool
    ) -> tuple[list[Reconstruction], Tensor, Scalars]:
        """Leave the gradients of the mean loss over the micro-batches; return reconstructions, loss and scalars."""
        factors = self.factors(step, parts) if active and len(parts) > 1 and self.adversarial.adaptive else None
        fakes, results = [], []
        for number, pixels in enumerate(parts):
            last = number + 1 == len(parts)
            with micro_batch(number, len(parts)), whole_gradients(self.loss_of, last):
                self.seed(step)
                fake, loss, scalars = self.loss_of(pixels, active, factors)
                (loss / len(parts)).backward()
            fakes.append(replace(fake, pixels=fake.pixels.detach(), loss=loss.detach()))
            results.append({"loss": loss.detach(), **scalars})
        scalars = mean_of(results)
        return fakes, scalars.pop("loss"), scalars

    def seed(self, step: int) -> None:
        """Every process draws for the whole batch. The seed holds no name: equal sections give equal networks."""
        torch.manual_seed(seed_of("game noise", self.config.optim.seed, step))

    def factors(self, step: int, parts: list[Tensor]) -> Scalars:
        """The adaptive factor of the whole batch, by one more forward pass of each of its micro-batches."""
        found = []
        for number, pixels in enumerate(parts):
            with micro_batch(number, len(parts)):
                self.seed(step)
                fake, loss, _ = self.own_loss(self.network, pixels, active=True)
                found.append(self.adversarial.layer_gradients(loss, self.adversarial.bounded_term(fake)[1]))
        of_loss, of_term = (torch.stack([gradients[i] for gradients in found if gradients]).mean(0) for i in range(2))
        return self.adversarial.adaptive_factor((of_loss, of_term))

    def loss(
        self, network: torch.nn.Module, pixels: Tensor, active: bool, factors: Scalars | None
    ) -> tuple[Reconstruction, Tensor, Scalars]:
        """The reconstruction, the loss of the network, and scalars for the curves."""
        fake, loss, scalars = self.own_loss(network, pixels, active)
        if active:
            term, more = self.adversarial.term(fake, loss, factors)
            loss, scalars = loss + term, scalars | more
        return fake, loss, scalars

    def own_loss(
        self, network: torch.nn.Module, pixels: Tensor, active: bool
    ) -> tuple[Reconstruction, Tensor, Scalars]:
        """The same without the adversarial term."""
        config = self.config
        with compute(self.device, config.optim.precision):
            fake = self.reconstruct(network, pixels)
        fake = replace(fake, pixels=fake.pixels.float())
        scalars = {"pixel": pixel_loss(config.pixel, fake.pixels, pixels)}
        own = config.pixel_weight * scalars["pixel"]
        if config.perceptual_weight:
            scalars["perceptual"] = self.perceptual(fake.pixels, pixels)
            own = own + config.perceptual_weight * scalars["perceptual"]
        if active:  # a linear term of equal gradient: the adaptive factor then needs no second pass through the encoder
            own = (fake.pixels * torch.autograd.grad(own, fake.pixels)[0].detach()).sum()
        scalars = {name: scalar.detach() for name, scalar in scalars.items()} | fake.scalars
        return fake, own + fake.loss, scalars

    def evaluate(self, step: int) -> dict[str, float]:
        """Mean PSNR in dB of the averaged weights on images of train and val; writes a picture of val images."""
        self.ema.copy_to(self.averaged)
        network, found = self.averaged, {}
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
        parts = torch.from_numpy(images).split(self.machine.infer_batch_size)
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
        self.checkpoint.save({"step": done, "curves": [*self.curves.rows], "gate": self.adversarial.gate.state()})

    def resume(self) -> int:
        """The step to continue from."""
        state: dict[str, Any] | None = self.checkpoint.load()
        if state is None:
            return 0
        self.curves.rows = [(step, scalars) for step, scalars in state["curves"]]
        self.adversarial.gate.restore(state["gate"])
        return state["step"]


def pixel_loss(kind: str, pixels: Tensor, real: Tensor) -> Tensor:
    """Mean absolute (l1) or squared (l2) difference of pixels in [-1, 1]."""
    return F.l1_loss(pixels, real) if kind == "l1" else F.mse_loss(pixels, real)
