"""What networks that paint are trained for: pixels, features, and the discriminator's opinion."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.core import distributed
from stages.core.errors import UserError
from stages.core.params import Precision


def pixel_loss(kind: str, made: Tensor, real: Tensor) -> Tensor:
    """Mean absolute (l1) or squared (l2) difference of pixels in [-1, 1]."""
    return F.l1_loss(made, real) if kind == "l1" else F.mse_loss(made, real)


class EncoderPerceptual(nn.Module):
    """Distance in a frozen encoder's feature space: mean over blocks of 1 - cos of each patch's normed feature.

    `encoder(pixels, blocks=[…], final_norm=True, precision=…)` gives float [B, N, D] a block.
    """

    def __init__(self, encoder: Any, blocks: list[int], precision: Precision | None = None):
        super().__init__()
        self.encoder, self.blocks, self.precision = encoder, blocks, precision

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """float [B, 3, H, W] twice -> scalar."""
        return self.of_each(made, real).mean()

    def of_each(self, made: Tensor, real: Tensor) -> Tensor:
        """The distance of each image, float [B]."""
        with torch.no_grad():
            wanted = self.features(real)
        found = self.features(made)
        blocks = zip(found, wanted, strict=True)
        return torch.stack([1 - F.cosine_similarity(f, w, dim=-1).mean(1) for f, w in blocks]).mean(0)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """float [B, 3, H, W] -> float [B, N, D] a block."""
        return self.encoder(pixels, blocks=self.blocks, final_norm=True, precision=self.precision)


class LpipsPerceptual(nn.Module):
    """LPIPS (Zhang et al. 2018) with VGG-16; the linear weights come with the package, VGG's from a local file."""

    def __init__(self, vgg16_file: str):
        super().__init__()
        import lpips

        with warnings.catch_warnings():  # lpips asks torchvision in a way that torchvision calls deprecated
            warnings.simplefilter("ignore", UserWarning)
            self.net = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
        load_vgg16(self.net.net, vgg16_file)
        self.net.requires_grad_(False)

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """float [B, 3, H, W] twice -> scalar."""
        return self.net(made, real).mean()


def load_vgg16(slices: nn.Module, vgg16_file: str) -> None:
    """Copy torchvision's VGG-16 `features.<i>.*` tensors into lpips' slices, which number the layers alike."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        given = load_file(vgg16_file)
    except SafetensorError as error:
        raise UserError(f"{vgg16_file}: not a safetensors file: {error}") from None
    wanted = slices.state_dict()
    renamed = {name: given.get("features." + name.split(".", 1)[1]) for name in wanted}
    bad = [name for name, tensor in renamed.items() if tensor is None or tensor.shape != wanted[name].shape]
    if bad:
        raise UserError(
            f"{vgg16_file}: not torchvision's VGG-16: {len(bad)} of {len(wanted)} tensors missing or of another shape"
        )
    slices.load_state_dict(renamed)


def slope_at(loss: Tensor, made: Tensor) -> Tensor:
    """d loss / d made; what lies between the two is passed, and freed, once."""
    return torch.autograd.grad(loss, made)[0]


def along(made: Tensor, slope: Tensor) -> Tensor:
    """A term whose gradient with respect to `made` is `slope`."""
    return (made * slope.detach()).sum()


def finite_nudge(adversarial: Tensor, made: Tensor) -> Tensor:
    """A term with the gradient of `adversarial` with respect to `made`, its entries at most 1, non-finite ones 0.

    So nothing that a broken discriminator says becomes 0 * NaN, or overflows, further up the graph. Sane entries are
    far below 1, for `adversarial` is a mean over a batch of images.
    """
    return along(made, slope_at(adversarial, made).nan_to_num(0.0, 0.0, 0.0).clamp(-1.0, 1.0))


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, limit: float) -> Tensor:
    """|d reconstruction| / |d adversarial| at the last layer, in [0, limit] (VQGAN, Esser et al. 2021, eq. 7).

    Both gradients are those of the whole batch: their mean over all processes.
    """
    wish = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)[0]
    push = torch.autograd.grad(adversarial, last_layer, retain_graph=True)[0]
    distributed.average([wish, push])
    return (wish.norm() / (push.norm() + 1e-4)).nan_to_num(nan=0.0, posinf=limit).clamp(0, limit).detach()


class CollapseGuard:
    """Switches the adversarial term off while the discriminator has won: its loss, averaged, below `floor`.

    A discriminator that separates perfectly has no useful gradient and drives the decoder into artefacts.
    """

    def __init__(self, floor: float, device: torch.device):
        self.floor, self.average = floor, torch.ones((), device=device)

    def see(self, discriminator_loss: Tensor) -> None:
        """Average over about 50 steps; a non-finite loss counts as a win."""
        self.average = self.average.lerp(discriminator_loss.detach().float().nan_to_num(0.0, 0.0, 0.0), 0.02)

    def gate(self) -> Tensor:
        """1 while the game is on, else 0."""
        return (self.average > self.floor).float()
