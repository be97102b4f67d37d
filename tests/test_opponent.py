"""Opponents of painters: what they push, what a broken one may not do, what each kind of discriminator sees.

Run: uv run pytest tests/test_opponent.py
"""

from types import SimpleNamespace

import pytest
import torch

from stages.core.opponent import FeatureDiscriminator, HingeOpponent, Painted, discriminator_of
from stages.core.recipe import HingeGan
from stages.decoder.diffusion import TrajectoryGan
from stages.decoder.trajectory import TimedDiscriminator, TrajectoryOpponent, gradient_penalty
from stages.encoder.model import load_encoder

CPU = torch.device("cpu")
COMMON = {"weight": 0.5, "start_step": 3, "width": 8, "lr": 1e-2, "collapse_floor": 0.02}
HINGE = {**COMMON, "weighting": "fixed", "max_adaptive": 10.0, "discriminator": "patch"}


def hinge(last_layer: torch.Tensor, encoder: object = None, **changes: object) -> HingeOpponent:
    torch.manual_seed(0)
    recipe = SimpleNamespace(gan=HingeGan.model_validate(HINGE | changes), perceptual_blocks=[0, 1])
    return HingeOpponent(recipe, last_layer, encoder, CPU)


def trajectory(**changes: object) -> TrajectoryOpponent:
    torch.manual_seed(0)
    return TrajectoryOpponent(TrajectoryGan(**COMMON | {"pairs": "trajectory", "r1_weight": 1.0} | changes), CPU)


def painted(made: torch.Tensor) -> Painted:
    """With x_t and t beside it."""
    return Painted(made, made.new_zeros(()), context=(torch.randn_like(made), torch.rand(len(made))))


def test_a_fixed_weight_scales_the_discriminators_gradient_and_an_adaptive_one_matches_the_others():
    weight = torch.nn.Parameter(torch.ones(3, 1, 1))
    made = torch.randn(2, 3, 8, 8) * weight
    loss = 7 * made.square().mean()
    plain = hinge(weight)
    wish = torch.autograd.grad(-plain.discriminator(made).mean(), weight, retain_graph=True)[0]
    term, scalars = plain.push(Painted(made, loss), loss)
    assert "adaptive" not in scalars
    torch.testing.assert_close(torch.autograd.grad(term, weight, retain_graph=True)[0], 0.5 * wish)
    term, scalars = hinge(weight, weighting="adaptive", max_adaptive=1e9).push(Painted(made, loss), loss)
    other = torch.autograd.grad(loss, weight, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(term, weight)[0].norm(), 0.5 * other.norm(), rtol=0.02, atol=0)
    assert float(scalars["adaptive"]) > 1


def test_the_game_begins_at_its_step_and_never_with_weight_zero():
    assert [trajectory().playing(step) for step in (2, 3)] == [False, True]
    assert not trajectory(weight=0.0).playing(100)


@pytest.mark.parametrize("pairs", ["trajectory", "plain"])
def test_a_discriminator_learns_to_tell_real_from_made(pairs):
    opponent = trajectory(pairs=pairs, r1_weight=0.01)
    for _ in range(60):
        real = torch.randn(8, 3, 8, 8).cumsum(3) / 3
        both = painted(torch.randn(8, 3, 8, 8))
        seen = opponent.step(real, both if pairs == "trajectory" else Painted(both.made, both.loss), 1.0)
    assert float(seen["discriminator"]) < 0.6 < 0.693 and float(seen["r1"]) > 0


@pytest.mark.parametrize("make", [trajectory, lambda: hinge(torch.ones(1))])
def test_a_discriminator_without_a_gradient_stands_still(make, monkeypatch):
    opponent = make()
    before = [p.clone() for p in opponent.discriminator.parameters()]
    flat = 0 * torch.stack([p.sum() for p in opponent.discriminator.parameters()]).sum()
    monkeypatch.setattr(opponent, "losses", lambda *shown: {"discriminator": flat})
    opponent.step(torch.zeros(1), painted(torch.zeros(1)), 1.0)
    assert all(torch.equal(*both) for both in zip(before, opponent.discriminator.parameters(), strict=True))


def test_the_timed_discriminator_sees_the_noisy_image_and_the_time():
    torch.manual_seed(0)
    net = TimedDiscriminator(8)
    torch.nn.init.normal_(net.norm.modulate.weight)
    x0, x_t, t = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.tensor([0.1, 0.9])
    scores = net(x0, x_t, t)
    assert scores.shape == (2, 1, 2, 2)
    for other in (net(-x0, x_t, t), net(x0, -x_t, t), net(x0, x_t, 1 - t)):
        assert not torch.allclose(scores, other)


def test_r1_is_the_squared_slope_of_a_linear_discriminator():
    weight, real = torch.randn(3, 4, 4), torch.randn(5, 3, 4, 4, requires_grad=True)
    scores = (real * weight).sum((1, 2, 3))[:, None]
    assert float(gradient_penalty(scores, real)) == pytest.approx(float(weight.square().sum()), rel=1e-5)


def test_r1_and_its_own_gradient_are_those_of_finite_differences_and_jacobians():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 2, 2), torch.nn.Tanh(), torch.nn.Conv2d(2, 1, 1)).double()
    real = torch.randn(3, 3, 4, 4, dtype=torch.double, requires_grad=True)
    slopes = [torch.autograd.functional.jacobian(lambda x: net(x).sum(), image[None]) for image in real.detach()]
    found = gradient_penalty(net(real), real)
    # Four patches an image, none overlapping: the penalty is the mean over patches of their own squared slopes.
    assert float(found.detach()) == pytest.approx(sum(float(s.square().sum()) for s in slopes) / (3 * 4), rel=1e-9)
    bias = net[0].bias
    given = torch.autograd.grad(found, bias)[0][0]
    with torch.no_grad():
        bias[0] += 1e-5
    above = gradient_penalty(net(real), real)
    assert float(given) == pytest.approx(float((above - found).detach() / 1e-5), rel=1e-3)


@pytest.mark.parametrize("make", [trajectory, lambda: trajectory(pairs="plain"), lambda: hinge(torch.ones(1))])
def test_a_painter_that_follows_the_push_scores_higher(make):
    opponent, made = make(), torch.randn(4, 3, 8, 8, requires_grad=True)
    timed = isinstance(opponent.discriminator, TimedDiscriminator)
    both = painted(made) if timed else Painted(made, made.mean())
    opponent.push(both, made.mean())[0].backward()
    moved = made.detach() - made.grad / made.grad.norm()
    assert opponent.discriminator(moved, *both.context).mean() > opponent.discriminator(made, *both.context).mean()


def test_the_penalty_of_the_game_is_half_its_weight_times_r1():
    real, both = torch.randn(4, 3, 8, 8), painted(torch.randn(4, 3, 8, 8))
    for weight in (0.5, 2.0):
        opponent = trajectory(r1_weight=weight)
        given = real.clone().requires_grad_()
        penalty = gradient_penalty(opponent.discriminator(given, *both.context), given)
        assert float(opponent.losses(real, both.made, both.context)["r1"].detach()) == pytest.approx(
            weight / 2 * float(penalty.detach())
        )


@pytest.mark.parametrize("garbage", [float("nan"), float("inf")])
@pytest.mark.parametrize("make", [trajectory, lambda: hinge(torch.ones(1))])
def test_a_broken_discriminator_pushes_nothing_and_counts_as_a_collapse(make, garbage):
    opponent, weight = make(), torch.nn.Parameter(torch.ones(3, 1, 1))
    with torch.no_grad():
        next(opponent.discriminator.parameters()).fill_(garbage)
    both = painted(torch.randn(4, 3, 8, 8) * weight)
    both = both if isinstance(opponent, TrajectoryOpponent) else Painted(both.made, both.loss)
    term, _ = opponent.push(both, both.made.mean())
    term.backward()
    assert weight.grad.isfinite().all() and not weight.grad.any()
    before = [p.clone() for p in opponent.discriminator.parameters()][1:]
    for _ in range(198):  # 0.98^198 < 0.02, the floor
        opponent.step(torch.randn(4, 3, 8, 8), both, 1.0)
    after = list(opponent.discriminator.parameters())[1:]
    assert opponent.guard.gate() == 0 and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_discriminator_of_features_has_heads_alone_and_scores_patches(toy):
    encoder = load_encoder(toy / "data/encoder")
    recipe = SimpleNamespace(gan=HingeGan.model_validate(HINGE | {"discriminator": "features"}))
    recipe.perceptual_blocks = [0, 1]
    net = discriminator_of(recipe, encoder)
    assert isinstance(net, FeatureDiscriminator) and net(torch.zeros(3, 3, 16, 16)).shape == (3, 16, 2)
    assert all(name.startswith("heads.") for name in net.state_dict())
    opponent = hinge(torch.ones(1), encoder, discriminator="features")
    for _ in range(60):
        seen = opponent.step(torch.rand(8, 3, 16, 16), Painted(-torch.rand(8, 3, 16, 16), torch.zeros(())), 1.0)
    assert float(seen["discriminator"]) < 0.8, "chance is 1"
    made = torch.rand(2, 3, 16, 16, requires_grad=True)
    opponent.push(Painted(made, made.mean()), made.mean())[0].backward()
    assert made.grad.any(), "the push reaches the pixels through the frozen encoder"
