"""Each loss against values computed by hand."""

import math

import pytest
import torch

from advgan.models import losses

Z = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 5.0]])
Y = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("y_target", "kappa", "expected"),
    [(None, 0, [2, 0]), (None, 1, [3, 0]), (None, 4, [6, 1]), ([2, 2], 0, [3, 0]), ([2, 2], 4, [7, 1])],
)
def test_margin(y_target, kappa, expected):
    y_target = None if y_target is None else torch.tensor(y_target)
    assert losses.adversarial_loss(Z, Y, y_target, kappa=kappa).tolist() == expected


def test_cross_entropy_forms():
    def ce(row, label):
        return math.log(sum(math.exp(v) for v in row)) - row[label]

    rows = Z.tolist()
    untargeted = losses.adversarial_loss(Z, Y, form="cross-entropy").tolist()
    assert untargeted == pytest.approx([-ce(rows[0], 0), -ce(rows[1], 1)])
    lecture = losses.adversarial_loss(Z, Y, torch.tensor([2, 0]), form="cross-entropy").tolist()
    assert lecture == pytest.approx([ce(rows[0], 2) - ce(rows[0], 0), ce(rows[1], 0) - ce(rows[1], 1)])


@pytest.mark.parametrize(
    ("form", "d_loss", "g_loss"),
    [
        ("least-squares", 0.5 * (0.25 + 4), 0.5),
        ("bce", math.log1p(math.exp(-0.5)) + math.log1p(math.exp(2)), math.log1p(math.exp(-2))),
        ("hinge", 0.5 + 3, -2),
    ],
)
def test_gan_losses(form, d_loss, g_loss):
    real, fake = torch.tensor([0.5]), torch.tensor([2.0])
    assert losses.discriminator_loss(real, fake, form=form).item() == pytest.approx(d_loss)
    assert losses.generator_loss(fake, form=form).item() == pytest.approx(g_loss)


def test_a_bad_answer_of_the_discriminator_costs_it_more_and_the_generator_less():
    for form in ("least-squares", "bce", "hinge"):
        score = torch.tensor([-0.1, 0.5])
        right, wrong = losses.discriminator_loss(torch.tensor([0.9, 0.9]), score, form=form).tolist()
        assert wrong > right
        caught, passed = losses.generator_loss(score, form=form).tolist()
        assert passed < caught
    assert losses.predicted_real(torch.tensor([0.2, 0.8]), form="least-squares").tolist() == [False, True]
    assert losses.predicted_real(torch.tensor([-0.2, 0.2]), form="bce").tolist() == [False, True]


def test_hinge_bites_above_c_only():
    delta = torch.zeros(2, 1, 2, 2)
    delta[0, 0, 0] = torch.tensor([3.0, 4.0])
    delta[1, 0, 0, 0] = 1.0
    assert losses.perturbation_hinge(delta, 2.0).tolist() == [3, 0]


def test_gradients_are_those_of_the_equations():
    z = Z.clone().requires_grad_(True)
    losses.adversarial_loss(z, Y, kappa=0.0).sum().backward()
    assert z.grad.tolist() == [[1, -1, 0], [0, 0, 0]]  # the second image is fooled already: nothing pulls any more


def test_noise_length_is_what_sign_noise_has():
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(50, 1, 8, 8, generator=rng).round(decimals=1)
    signs = torch.randint(0, 2, (200, *x.shape), generator=rng) * 2 - 1
    lengths = ((x + 0.3 * signs).clamp(0, 1) - x).flatten(2).norm(dim=2)
    assert losses.sign_noise_l2(x, "linf", 0.3) == pytest.approx(lengths.square().mean().sqrt().item(), rel=1e-3)
    assert losses.sign_noise_l2(x, "l2", 1.5) == 1.5


def test_a_batch_may_hold_aimed_and_unaimed_images():
    logits, y, aims = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([-1, 2, -1, 0, 3, -1])
    for form in ("margin", "cross-entropy"):
        mixed = losses.adversarial_loss(logits, y, aims, form=form, kappa=2.0)
        for i in range(6):
            aim = None if aims[i] < 0 else aims[i : i + 1]
            alone = losses.adversarial_loss(logits[i : i + 1], y[i : i + 1], aim, form=form, kappa=2.0)
            torch.testing.assert_close(mixed[i : i + 1], alone)


def test_sameness_is_the_cosine_of_neighbours():
    delta = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [1.0, 1.0], [-1.0, -1.0]]).view(6, 1, 1, 2)
    torch.testing.assert_close(losses.diversity_loss(delta), torch.tensor([1.0, 0.0, -1.0]))


def test_hinge_takes_a_length_for_each_image():
    delta = torch.ones(2, 1, 2, 2)  # l2 length 2
    torch.testing.assert_close(losses.perturbation_hinge(delta, torch.tensor([0.5, 3.0])), torch.tensor([1.5, 0.0]))
