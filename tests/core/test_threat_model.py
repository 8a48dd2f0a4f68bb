"""Threat models: projection, 8-bit rounding, norms, violations, and the squashed l2 ball."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advgan.core.fraction import eps_text
from advgan.core.threat_model import Threat, check_eps, delta_norms, squash_to_ball, to_8bit

SHAPES = st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.sampled_from(["linf", "l2"]), st.floats(0.01, 1.0), st.integers(0, 99))
def test_projection_is_in_ball_and_box_and_idempotent(shape, norm, eps, seed):
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=rng)
    far = x + 5 * torch.randn(shape, generator=rng)
    threat = Threat(norm, eps)
    projected = threat.project(far, x)
    assert threat.violations(projected, x) == []
    torch.testing.assert_close(threat.project(projected, x), projected, atol=1e-6, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.004, 1.0), st.integers(0, 99))
def test_8bit_rounding_stays_in_ball(eps, seed):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (2, 1, 6, 6), generator=rng) / 255
    x_adv = (x + eps * torch.randn(x.shape, generator=rng).sign()).clamp(0, 1)
    levels = to_8bit(x_adv, x)
    assert levels.dtype == torch.uint8
    delta = levels / 255 - x
    assert delta.abs().max() <= eps + 1e-6
    assert ((x_adv - x - delta).abs() < 1 / 255 + 1e-6).all()


def test_8bit_rounding_is_to_the_nearest_level_in_the_ball():
    x = torch.tensor([0, 0, 255, 100, 100, 100]).view(1, 1, 1, -1) / 255
    delta = torch.tensor([76.5, 7.6, -7.6, 0.4, -76.4, 8.0]).view(1, 1, 1, -1) / 255
    assert to_8bit(x + delta, x).flatten().tolist() == [76, 8, 247, 100, 24, 108]  # 77 would leave 0.3 = 76.5 / 255
    smaller = torch.cat([x + delta, x + delta / 10])  # each image has a bound of its own: here 7.65
    assert to_8bit(smaller, x.expand_as(smaller))[1].flatten().tolist() == [7, 1, 254, 100, 93, 101]


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 5.0), st.integers(0, 99))
def test_8bit_rounding_is_as_long_as_the_l2_ball_holds(eps, seed):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (3, 1, 16, 16), generator=rng) / 255
    delta = torch.randn(x.shape, generator=rng)
    x_adv = (x + eps * delta / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(0, 1)
    length = (x_adv - x).flatten(1).norm(dim=1)
    rounded = to_8bit(x_adv, x, "l2") / 255 - x
    assert ((x_adv - x - rounded).abs() < 1 / 255 + 1e-6).all()
    assert (rounded.flatten(1).norm(dim=1) <= length + 1e-5).all()
    toward_zero = ((x_adv - x) * 255).trunc() / 255
    assert (rounded.flatten(1).norm(dim=1) >= toward_zero.flatten(1).norm(dim=1) - 1e-6).all()
    if eps >= 0.5:  # two grey levels a pixel: one pixel more or less is little
        assert (rounded.flatten(1).norm(dim=1) >= 0.98 * length).all()


def test_8bit_rounding_in_an_l2_ball():
    x, delta = torch.zeros(1, 1, 1, 4), torch.tensor([[[[3.6, 3.4, 0.9, 0.0]]]]) / 255
    assert to_8bit(x + delta, x, "l2").flatten().tolist() == [3, 3, 1, 0]  # 4, 3, 1 is longer than delta


def test_8bit_rounding_without_a_ball_is_to_the_nearest_level():
    x, delta = torch.zeros(1, 1, 1, 4), torch.tensor([[[[3.6, 3.4, 0.6, -0.6]]]]) / 255
    assert to_8bit(x + delta, x, None).flatten().tolist() == [4, 3, 1, 0]  # cut at the box


def test_norms_of_known_perturbation():
    delta = torch.zeros(1, 3, 4, 4)
    delta[0, :, 1, 1] = torch.tensor([0.3, 0.0, -0.4])
    norms = delta_norms(delta)
    assert [norms[k].item() for k in ("l0", "l2", "linf")] == pytest.approx([1, 0.5, 0.4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x + 0.2, "linf 0.2"),
        (lambda x: x * 0 - 0.05, "outside"),
        (lambda x: x / 0, "NaN"),
        (lambda x: x.double(), "dtype"),
        (lambda x: x[:, :, 1:], "shape"),
    ],
)
def test_violations_are_named(change, message):
    x = torch.full((2, 1, 4, 4), 0.04)
    assert any(message in violation for violation in Threat("linf", 0.1).violations(change(x), x))


@pytest.mark.parametrize(
    ("eps", "norm", "message"),
    [(0, "linf", "in \\(0, 1\\].*got 0"), (1.5, "linf", "got 1.5"),
     (-1, "l2", "in \\(0, 1e\\+06\\].*got -1"), (1e300, "l2", "got 1e\\+300"),
     (float("nan"), "linf", "got nan"), (float("inf"), "l2", "got inf"), (0.1, "l1", "norm must be one of")],
)  # fmt: skip
def test_invalid_eps_raises(eps, norm, message):
    with pytest.raises(ValueError, match=message):
        check_eps(eps, norm)


def test_l2_squash_rescales_after_box_clipping():
    """Half of the pixels are clipped at the box: the other half carries the whole norm."""
    x = torch.cat([torch.zeros(2, 1, 4, 4), torch.full((2, 1, 4, 4), 0.5)], dim=3)
    raw = -torch.ones_like(x)
    for eps in (0.8, torch.tensor([0.8, 0.4])):
        x_adv = squash_to_ball(raw, x, "l2", eps)
        torch.testing.assert_close(delta_norms(x_adv - x)["l2"], torch.as_tensor(eps).expand(2))
        assert torch.equal(x_adv[..., :4], x[..., :4])


@given(SHAPES, st.floats(0.05, 4.0), st.integers(0, 99))
def test_l2_squash_in_ball_and_not_shorter_than_clipping(shape, eps, seed):
    torch.manual_seed(seed)
    x, raw = torch.rand(shape).round(decimals=1), 99 * torch.randn(shape)
    x_adv = squash_to_ball(raw, x, "l2", eps)
    assert not Threat("l2", eps).violations(x_adv, x)
    shrink = (eps / raw.flatten(1).norm(dim=1)).clamp_max(1).view(-1, 1, 1, 1)  # one pixel may be shorter than eps
    first = delta_norms((x + raw * shrink).clamp(0, 1) - x)["l2"]
    assert (delta_norms(x_adv - x)["l2"] >= first * (1 - 1e-6)).all()


def test_l2_squash_keeps_short_perturbations():
    x, raw = torch.full((1, 1, 4, 4), 0.5), torch.full((1, 1, 4, 4), 0.01)
    torch.testing.assert_close(squash_to_ball(raw, x, "l2", 2.0), x + raw)


@pytest.mark.parametrize(
    ("eps", "text"),
    [(0.3, "0.3"), (8 / 255, "8/255"), (16 / 255, "16/255"), (0.2, "0.2"), (51 / 255, "0.2"), (0.03137, "0.03137"),
     (2.5, "2.5"), (1 / 3, "1/3"), (1.0, "1"), (0.05 * 3, "0.15"), (128 / 255, "128/255"), (0.0, "0")],
)  # fmt: skip
def test_eps_text(eps, text):
    assert eps_text(eps) == text
