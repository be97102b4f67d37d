"""Adversarial losses and discriminators: gradients, weights, R1, what a broken discriminator must not do.

Run: uv run pytest tests/test_discriminator.py
"""

import json
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from stages.core.discriminator import (
    DiscriminatorGate,
    FeatureDiscriminator,
    HingeAdversarialLoss,
    PatchDiscriminator,
    Reconstruction,
    adaptive_weight,
    bounded,
    hinge_discriminator,
    make_discriminator,
)
from stages.core.schemas import HingeGan
from stages.decoder.diffusion_training import TimedDiscriminator, TrajectoryAdversarialLoss, r1_penalty
from stages.decoder.onestep import OneStep
from stages.decoder.params import TrajectoryGan
from stages.encoder.encoder import load_encoder

CPU = torch.device("cpu")
COMMON = {"weight": 0.5, "start_share": 0.3, "width": 8, "lr": 1e-2, "disc_loss_floor": 0.02}
HINGE = {**COMMON, "weighting": "fixed", "max_adaptive": 10.0, "discriminator": "patch"}


def hinge(last_layer: torch.Tensor, encoder: object = None, **changes: object) -> HingeAdversarialLoss:
    torch.manual_seed(0)
    config = SimpleNamespace(gan=HingeGan.model_validate(HINGE | changes), perceptual_blocks=[0, 1])
    return HingeAdversarialLoss(config, last_layer, encoder, CPU)


def trajectory(**changes: object) -> TrajectoryAdversarialLoss:
    torch.manual_seed(0)
    gan = TrajectoryGan(**COMMON | {"context": "trajectory", "r1_weight": 1.0} | changes)
    return TrajectoryAdversarialLoss(gan, CPU)


def with_context(fake: torch.Tensor) -> Reconstruction:
    """A reconstruction with x_t and t beside it."""
    return Reconstruction(fake, fake.new_zeros(()), context=(torch.randn_like(fake), torch.rand(len(fake))))


def test_hinge_by_hand():
    assert float(hinge_discriminator(torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0]))) == pytest.approx(
        0.5 * (0.25 + 1.0)
    )


def test_the_adaptive_weight_is_the_ratio_of_gradients_and_clamped():
    ones = torch.ones(2)
    assert float(adaptive_weight(3 * ones, 2 * ones, limit=10.0)) == pytest.approx(1.5, rel=1e-3)
    assert float(adaptive_weight(3 * ones, 1e-9 * ones, limit=10.0)) == 10


def test_a_fixed_weight_scales_the_discriminators_gradient_and_an_adaptive_one_matches_the_others():
    weight = torch.nn.Parameter(torch.ones(3, 1, 1))
    fake = torch.randn(2, 3, 8, 8) * weight
    loss = 7 * fake.square().mean()
    fixed = hinge(weight)
    expected = torch.autograd.grad(-fixed.discriminator(fake).mean(), weight, retain_graph=True)[0]
    term, scalars = fixed.term(Reconstruction(fake, loss), loss)
    assert "adaptive" not in scalars
    torch.testing.assert_close(torch.autograd.grad(term, weight, retain_graph=True)[0], 0.5 * expected)
    term, scalars = hinge(weight, weighting="adaptive", max_adaptive=1e9).term(Reconstruction(fake, loss), loss)
    other = torch.autograd.grad(loss, weight, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(term, weight)[0].norm(), 0.5 * other.norm(), rtol=0.02, atol=0)
    assert float(scalars["adaptive"]) > 1


@pytest.mark.parametrize("context", ["trajectory", "plain"])
def test_a_discriminator_learns_to_separate_real_from_fake(context):
    adversarial = trajectory(context=context, r1_weight=0.01)
    for _ in range(60):
        real = torch.randn(8, 3, 8, 8).cumsum(3) / 3
        fake = with_context(torch.randn(8, 3, 8, 8))
        shown = fake if context == "trajectory" else Reconstruction(fake.pixels, fake.loss)
        scalars = adversarial.step([(real, shown)], 1.0)
    assert float(scalars["discriminator"]) < 0.6 < 0.693 and float(scalars["r1"]) > 0


@pytest.mark.parametrize("make", [trajectory, lambda: hinge(torch.ones(1))])
def test_a_discriminator_without_a_gradient_keeps_its_weights(make, monkeypatch):
    adversarial = make()
    before = [p.clone() for p in adversarial.discriminator.parameters()]
    flat = 0 * torch.stack([p.sum() for p in adversarial.discriminator.parameters()]).sum()
    monkeypatch.setattr(adversarial, "discriminator_losses", lambda *shown: {"discriminator": flat})
    adversarial.step([(torch.zeros(1), with_context(torch.zeros(1)))], 1.0)
    assert all(torch.equal(*both) for both in zip(before, adversarial.discriminator.parameters(), strict=True))


def test_the_timed_discriminator_depends_on_image_noisy_image_and_time():
    torch.manual_seed(0)
    net = TimedDiscriminator(8)
    torch.nn.init.normal_(net.norm.modulate.weight)
    x0, x_t, t = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.tensor([0.1, 0.9])
    scores = net(x0, x_t, t)
    assert scores.shape == (2, 1, 2, 2)
    for other in (net(-x0, x_t, t), net(x0, -x_t, t), net(x0, x_t, 1 - t)):
        assert not torch.allclose(scores, other)


def test_r1_is_the_squared_gradient_of_a_linear_discriminator():
    weight, real = torch.randn(3, 4, 4), torch.randn(5, 3, 4, 4, requires_grad=True)
    scores = (real * weight).sum((1, 2, 3))[:, None]
    assert float(r1_penalty(scores, real)) == pytest.approx(float(weight.square().sum()), rel=1e-5)


def test_r1_and_its_own_gradient_are_those_of_finite_differences_and_jacobians():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 2, 2), torch.nn.Tanh(), torch.nn.Conv2d(2, 1, 1)).double()
    real = torch.randn(3, 3, 4, 4, dtype=torch.double, requires_grad=True)
    gradients = [torch.autograd.functional.jacobian(lambda x: net(x).sum(), image[None]) for image in real.detach()]
    found = r1_penalty(net(real), real)
    # Four patches per image, none overlapping: the penalty is the mean over patches of their own squared gradients.
    assert float(found.detach()) == pytest.approx(sum(float(s.square().sum()) for s in gradients) / (3 * 4), rel=1e-9)
    bias = net[0].bias
    given = torch.autograd.grad(found, bias)[0][0]
    with torch.no_grad():
        bias[0] += 1e-5
    above = r1_penalty(net(real), real)
    assert float(given) == pytest.approx(float((above - found).detach() / 1e-5), rel=1e-3)


@pytest.mark.parametrize("make", [trajectory, lambda: trajectory(context="plain"), lambda: hinge(torch.ones(1))])
def test_a_step_along_the_term_scores_higher(make):
    adversarial, fake = make(), torch.randn(4, 3, 8, 8, requires_grad=True)
    timed = isinstance(adversarial.discriminator, TimedDiscriminator)
    shown = with_context(fake) if timed else Reconstruction(fake, fake.mean())
    adversarial.term(shown, fake.mean())[0].backward()
    better = fake.detach() - fake.grad / fake.grad.norm()
    scores = [adversarial.discriminator(pixels, *shown.context).mean() for pixels in (better, fake)]
    assert scores[0] > scores[1]


def test_the_r1_loss_is_half_its_weight_times_r1():
    real, fake = torch.randn(4, 3, 8, 8), with_context(torch.randn(4, 3, 8, 8))
    for weight in (0.5, 2.0):
        adversarial = trajectory(r1_weight=weight)
        given = real.clone().requires_grad_()
        penalty = r1_penalty(adversarial.discriminator(given, *fake.context), given)
        losses = adversarial.discriminator_losses(real, fake.pixels, fake.context)
        assert float(losses["r1"].detach()) == pytest.approx(weight / 2 * float(penalty.detach()))


@pytest.mark.parametrize("garbage", [float("nan"), float("inf")])
@pytest.mark.parametrize("make", [trajectory, partial(hinge, torch.ones(1))])
def test_a_broken_discriminator_has_no_gradient_and_counts_as_a_collapse(make, garbage):
    adversarial, weight = make(disc_loss_floor=0.5), torch.nn.Parameter(torch.ones(3, 1, 1))
    with torch.no_grad():
        next(adversarial.discriminator.parameters()).fill_(garbage)
    fake = with_context(torch.randn(4, 3, 8, 8) * weight)
    if isinstance(adversarial, HingeAdversarialLoss):
        fake = Reconstruction(fake.pixels, fake.loss)
    term, _ = adversarial.term(fake, fake.pixels.mean())
    term.backward()
    assert weight.grad.isfinite().all() and not weight.grad.any()
    before = [p.clone() for p in adversarial.discriminator.parameters()][1:]
    for _ in range(35):  # 0.98^35 < 0.5, the floor
        adversarial.step([(torch.randn(4, 3, 8, 8), fake)], 1.0)
    after = list(adversarial.discriminator.parameters())[1:]
    assert adversarial.gate.open() == 0 and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("garbage", [float("nan"), float("inf")])
def test_a_broken_discriminator_with_an_adaptive_weight_leaves_finite_gradients_in_the_decoder(garbage):
    network, discriminator = OneStep(torch.randn(8, 4), 1, [8, 8], 1), PatchDiscriminator(8)
    with torch.no_grad():
        discriminator.layers[0].weight.fill_(garbage)
    fake = network(torch.zeros(2, 16, dtype=torch.long))
    term = bounded(-discriminator(fake).mean(), fake)
    loss = fake.square().mean()
    last = network.network.to_pixels.weight
    of_loss, of_term = (torch.autograd.grad(one, last, retain_graph=True)[0] for one in (loss, term))
    (loss + adaptive_weight(of_loss, of_term, 10.0) * term).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("chance", [1.0, 0.6931])
def test_the_gate_is_closed_while_the_discriminator_has_won_or_is_far_worse_than_chance(chance):
    gate = DiscriminatorGate(0.1, chance, CPU)
    assert gate.open() == 1
    for loss, expected in ((0.0, 0), (1.1, 1), (1.5, 0), (0.8, 1), (1e9, 0), (0.8, 1), (math.nan, 0)):
        for _ in range(300):
            gate.update(torch.tensor(loss * chance))
        assert gate.open() == expected, loss


def test_one_spike_of_the_discriminators_loss_closes_nothing_and_a_few_steps_of_it_do():
    gate, opened = DiscriminatorGate(0.1, 1.0, CPU), []
    for loss in (1e30, *[0.9] * 20, *[100.0] * 20):
        gate.update(torch.tensor(loss))
        opened.append(bool(gate.open()))
    assert all(opened[:22]) and not any(opened[-10:])


def test_the_share_of_steps_without_the_term_counts_those_of_the_network_and_survives_a_checkpoint():
    adversarial = hinge(torch.ones(1))
    for loss in (1.0, 0.0, 0.0, 1.0):  # the average of each step
        adversarial.gate.average = torch.tensor(loss)
        adversarial.gate.count()
        fake = torch.randn(2, 3, 8, 8, requires_grad=True)
        term, scalars = adversarial.term(Reconstruction(fake, fake.mean()), fake.mean())
        assert bool(term.detach()) == bool(loss)
    assert float(scalars["adversarial_off"]) == 0.5
    other = DiscriminatorGate(0.02, 1.0, CPU)
    other.restore(json.loads(json.dumps(adversarial.gate.state())))
    assert other.state() == adversarial.gate.state() and other.off_share() == 0.5


def test_the_feature_discriminator_trains_heads_alone_and_scores_patches(toy):
    encoder = load_encoder(toy / "data/encoder")
    config = SimpleNamespace(gan=HingeGan.model_validate(HINGE | {"discriminator": "features"}))
    config.perceptual_blocks = [0, 1]
    net = make_discriminator(config, encoder)
    assert isinstance(net, FeatureDiscriminator) and net(torch.zeros(3, 3, 16, 16)).shape == (3, 32)
    assert all(name.startswith("heads.") for name in net.state_dict())
    adversarial = hinge(torch.ones(1), encoder, discriminator="features")
    for _ in range(60):
        fake = Reconstruction(-torch.rand(8, 3, 16, 16), torch.zeros(()))
        scalars = adversarial.step([(torch.rand(8, 3, 16, 16), fake)], 1.0)
    assert float(scalars["discriminator"]) < 0.8, "chance is 1"
    fake = torch.rand(2, 3, 16, 16, requires_grad=True)
    adversarial.term(Reconstruction(fake, fake.mean()), fake.mean())[0].backward()
    assert fake.grad.any(), "the gradient passes through the frozen encoder"
