"""The flow on both paths by hand, the network's input and output, times and steps, the U-Net.

Run: uv run pytest tests/test_flow_matching.py
"""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from stages.decoder.diffusion import VelocityNetwork
from stages.decoder.flow import Flow, draw_times, time_grid
from stages.decoder.unet import UNet, resized

PLAIN = Flow(gamma=0.6, variance=0.5, output="velocity", residual=0.2, path="rectified")
TIMES = torch.linspace(0.001, 0.999, 9)
BOTH = pytest.mark.parametrize("path", ["rectified", "cosine"])


def pair(count: int, variance: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """x0 of that variance and noise, [count, 3, 8, 8]."""
    rng = torch.Generator().manual_seed(0)
    shape = (count, 3, 8, 8)
    return variance**0.5 * torch.randn(shape, generator=rng), torch.randn(shape, generator=rng)


@BOTH
@pytest.mark.parametrize("gamma", [1.0, 0.6])
def test_the_true_velocity_leads_to_the_image_and_to_the_noise_from_every_time(gamma, path):
    flow, (x0, noise) = Flow(gamma, 1.0, "velocity", 1.0, path), pair(len(TIMES))
    x_t, velocity = flow.mix(x0, noise, TIMES), flow.velocity(x0, noise, TIMES)
    torch.testing.assert_close(flow.clean(x_t, velocity, TIMES), x0, atol=1e-5, rtol=0)
    torch.testing.assert_close(flow.ends(x_t, velocity, TIMES)[1], noise, atol=1e-5, rtol=0)
    later, speed = flow.mix(x0, noise, TIMES + 1e-3), 1 if path == "rectified" else math.pi / 2
    torch.testing.assert_close((later - x_t) / 1e-3, speed * velocity, atol=1e-2, rtol=0, msg="it is d x_t / d t")


def test_on_the_rectified_path_image_and_velocity_are_those_of_the_paper_and_a_step_is_eulers():
    (x0, noise), t = pair(4), torch.full((4,), 0.7)
    x_t, v = PLAIN.mix(x0, noise, t), PLAIN.velocity(x0, noise, t)
    torch.testing.assert_close(x_t, 0.3 * 0.6 * x0 + 0.7 * noise)
    assert torch.equal(v, noise - 0.6 * x0)
    torch.testing.assert_close(0.6 * PLAIN.clean(x_t, v, t), x_t - 0.7 * v)
    wrong = PLAIN.sample(lambda x, t: x.square(), noise, [1.0, 0.7, 0.0])
    x_t = noise + (0.7 - 1.0) * noise.square()
    torch.testing.assert_close(wrong, (x_t - 0.7 * x_t.square()) / 0.6)


def test_on_the_cosine_path_a_step_is_ddims():
    flow, (x0, noise) = Flow(1.0, 1.0, "velocity", 1.0, "cosine"), pair(4)
    kept = [math.cos(math.pi / 2 * t) ** 2 for t in (0.7, 0.4)]  # DDPM's share of the signal's power, alpha-bar
    x_t = flow.mix(x0, noise, torch.full((4,), 0.7))
    torch.testing.assert_close(x_t, kept[0] ** 0.5 * x0 + (1 - kept[0]) ** 0.5 * noise)
    guess = torch.tanh(x_t)  # of the noise; DDIM, equation 12 without new noise
    image = (x_t - (1 - kept[0]) ** 0.5 * guess) / kept[0] ** 0.5
    wanted = kept[1] ** 0.5 * image + (1 - kept[1]) ** 0.5 * guess
    given = (guess - (1 - kept[0]) ** 0.5 * x_t) / kept[0] ** 0.5  # v that says so
    signal, rest = flow.ends(x_t, given, torch.full((4,), 0.7))
    torch.testing.assert_close(flow.mix(signal, rest, torch.full((4,), 0.4)), wanted, atol=1e-5, rtol=1e-5)


@BOTH
@pytest.mark.parametrize(("steps", "spacing"), [(1, "log"), (3, "log"), (7, "linear")])
def test_steps_along_the_true_velocity_end_at_the_image(steps, spacing, path):
    flow, (x0, noise) = replace(PLAIN, path=path), pair(4)
    sampled = flow.sample(lambda x, t: flow.velocity(x0, noise, t), noise, time_grid(steps, spacing))
    torch.testing.assert_close(sampled, x0, atol=1e-5, rtol=0)


@BOTH
@pytest.mark.parametrize("variance", [1.0, 0.3])
@pytest.mark.parametrize("gamma", [1.0, 0.6])
def test_the_networks_input_has_unit_variance_at_every_time(gamma, variance, path):
    flow, (x0, noise) = Flow(gamma, variance, "velocity", 1.0, path), pair(400, variance)
    for t in [0.0, *TIMES.tolist(), 1.0]:
        times = torch.full((400,), t)
        assert float(flow.scaled(flow.mix(x0, noise, times), times).var()) == pytest.approx(1, abs=0.02)


def test_gamma_lowers_the_signal_to_noise_ratio_and_not_the_whole():
    x0, noise = pair(2)
    times = torch.tensor([0.3, 0.8])
    signal, rest = PLAIN.mix(x0, 0 * noise, times), PLAIN.mix(0 * x0, noise, times)
    torch.testing.assert_close(signal, 0.6 * (1 - times[:, None, None, None]) * x0)
    torch.testing.assert_close(rest, times[:, None, None, None] * noise)


@BOTH
def test_the_residual_output_is_what_the_best_linear_guess_leaves_at_unit_variance(path):
    share, signal = 0.2, 0.6 * 0.5**0.5
    flow, r = Flow(0.6, 0.5, "residual", share, path), share * signal
    s, eps = torch.tensor([[1.0, -1, 1, -1], [1, 1, -1, -1]])  # unit variances, no covariance
    for t in (0.01, r, 0.5, 0.99):
        time, one = torch.tensor([t]), torch.ones(1, 3, 2, 2)
        # The mean is known: what is left deviates by r.
        x_t, v = mixed(flow, r * s, eps, time), velocity_at(flow, r * s, eps, time)
        slope = float((x_t * v).mean() / x_t.square().mean())
        skip = float(flow.velocity_of(0 * one, one, time).mean())
        assert skip == pytest.approx(slope, rel=1e-4, abs=1e-6)
        s0 = signal * s  # unknown to x_t alone: the network must supply it
        left = velocity_at(flow, s0, eps, time) - skip * mixed(flow, s0, eps, time)
        scale = float((flow.velocity_of(one, 0 * one, time)).mean())
        assert float((left / scale).square().mean()) == pytest.approx(1, rel=1e-3)


def mixed(flow: Flow, s0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return flow.mix(s0 / flow.gamma, eps, t)


def velocity_at(flow: Flow, s0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return flow.velocity(s0 / flow.gamma, eps, t)


def test_the_skip_with_nothing_known_is_edms():
    flow, times = Flow(1.0, 1.0, "residual", 1.0, "rectified"), TIMES[:, None, None, None]
    x_t, out = pair(len(TIMES))
    total = (1 - times) ** 2 + times**2
    wanted = (2 * times - 1) / total * x_t + out / total.sqrt()
    torch.testing.assert_close(flow.velocity_of(out, x_t, TIMES), wanted)


def test_the_log_grid_is_that_of_the_paper():
    assert time_grid(3, "log") == pytest.approx([1, 0.9130, 0.7657, 0], abs=5e-5)
    assert time_grid(4, "linear") == [1, 0.75, 0.5, 0.25, 0]


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50])
def test_log_times_fall_from_one_to_zero_in_growing_steps(steps):
    times = time_grid(steps, "log")
    sizes = [a - b for a, b in zip(times, times[1:], strict=False)]
    assert (times[0], times[-1], len(times)) == (1, 0, steps + 1)
    assert all(size > 0 for size in sizes) and sizes == sorted(sizes)


def test_times_are_logit_normal_or_uniform():
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    logits = draw_times(50_000, "logit-normal", 0.8, 0.5, cpu).logit()
    assert (float(logits.mean()), float(logits.std())) == pytest.approx((0.8, 0.5), abs=0.01)
    even = draw_times(50_000, "uniform", 0.8, 0.5, cpu)
    assert (float(even.mean()), float(even.var())) == pytest.approx((1 / 2, 1 / 12), abs=0.01)


def randomized(conditioning: str) -> UNet:
    """A U-Net whose zero-initialized layers have random weights, as after training."""
    torch.manual_seed(0)
    net = UNet(5, [16, 8], 1, conditioning)
    with torch.no_grad():
        [p.normal_(std=0.1) for p in net.parameters() if not p.any()]
    return net.eval()


def test_latents_are_concatenated_with_the_image_or_modulate_the_norms():
    assert UNet(5, [16, 8], 1, "concat").enter.in_channels == 3 + 5
    assert UNet(5, [16, 8], 1, "adagn").enter.in_channels == 3


@pytest.mark.parametrize("conditioning", ["concat", "adagn"])
@pytest.mark.parametrize(("side", "grid"), [(8, 2), (32, 8), (16, 16), (8, 8), (128, 8), (256, 16)])
def test_the_same_weights_run_at_every_size_and_depend_on_time_and_latents(conditioning, side, grid):
    net, x, t = randomized(conditioning), torch.randn(2, 3, side, side), torch.tensor([0.2, 0.7])
    latents = torch.randn(2, 5, grid, grid)
    out = net(x, t, latents)
    assert out.shape == x.shape and out.isfinite().all()
    assert not torch.allclose(out, net(x, t, -latents)) and not torch.allclose(out, net(x, 1 - t, latents))


def test_latents_are_enlarged_by_repetition_and_shrunk_by_averages():
    latents = torch.randn(1, 2, 4, 4)
    assert torch.equal(resized(latents, 8), latents.repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(resized(latents, 2), F.avg_pool2d(latents, 2))
    assert torch.equal(resized(latents, 4), latents)


@pytest.mark.parametrize(
    ("conditioning", "path"), [("concat", "rectified"), ("adagn", "rectified"), ("concat", "cosine")]
)
def test_it_overfits_a_batch(conditioning, path):
    torch.manual_seed(0)
    flow = Flow(0.6, 0.33, "residual", 0.15, path)
    network = VelocityNetwork(torch.randn(6, 4), 1, [32, 32], 1, conditioning, flow)
    codes, noise, colors = torch.randint(6, (6, 4)), torch.randn(6, 3, 8, 8), torch.rand(6, 3) * 2 - 1
    squares = colors[codes].transpose(1, 2).unflatten(2, (2, 2))  # one color per code
    pixels = squares.repeat_interleave(4, 2).repeat_interleave(4, 3)
    before = error_of(network, codes, noise, pixels)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for step in range(100):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 100)
        t, eps = draw_times(6, "logit-normal", 0.8, 1.0, torch.device("cpu")), torch.randn_like(pixels)
        error = network(flow.mix(pixels, eps, t), t, codes) - flow.velocity(pixels, eps, t)
        optimizer.zero_grad()
        error.square().mean().backward()
        optimizer.step()
    after = error_of(network, codes, noise, pixels)
    assert after < 0.1 * before


def error_of(network: VelocityNetwork, codes: torch.Tensor, noise: torch.Tensor, pixels: torch.Tensor) -> float:
    with torch.inference_mode():
        return float((network.sample(codes, noise, 3, "log") - pixels).square().mean())
