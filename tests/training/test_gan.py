"""The two steps of a round: each trains its own network, and no gradient of one reaches the other."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.optim import SGD

from advgan.models.discriminator import Discriminator
from advgan.models.generator import Generator
from advgan.training.gan import Batch, LossConfig, sample_conditions, wrong_classes
from advgan.training.options import TrainingConfig
from advgan.training.trainer import GANTrainer, curriculum_factor
from advgan.training.validation import EvalSetting, eval_settings


def trainer_of(target, generator, discriminator, loss):
    parts = {"config": TrainingConfig(loss=loss), "total_steps": 1, "accelerator": Accelerator(cpu=True)}
    return GANTrainer(target, generator, discriminator, optimizer=lambda weights: SGD(weights, 0.1), **parts)


def test_each_step_trains_its_own_network():
    torch.manual_seed(0)
    x, y = torch.rand(6, 1, 12, 12), torch.arange(6) % 3
    generator, discriminator = Generator(width=8, depth=1), Discriminator()
    target = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 3)).requires_grad_(False)
    trainer = trainer_of(target, generator, discriminator, LossConfig(kappa=10.0, hinge_threshold=0.1))

    def weights(net):
        return [p.detach().clone() for p in net.parameters()]

    def same(net, before):
        return [torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True)]

    g, d, t = weights(generator), weights(discriminator), weights(target)
    x_adv = generator(x)
    trainer.discriminator_step(Batch(x, y), x_adv)
    assert all(same(generator, g))
    assert all(p.grad is None for p in generator.parameters())
    assert not any(same(discriminator, d))
    d, gradients = weights(discriminator), [p.grad.clone() for p in discriminator.parameters()]
    trainer.generator_step(Batch(x, y), x_adv)
    assert all(same(discriminator, d))
    assert all(torch.equal(p.grad, q) for p, q in zip(discriminator.parameters(), gradients, strict=True))
    assert all(same(target, t))
    assert not any(same(generator, g))
    assert all(p.requires_grad for p in discriminator.parameters())


def test_labels_are_conditions_but_for_those_left_out() -> None:
    y = torch.arange(400) % 10
    generator = Generator(labels=10, width=4, depth=0)

    def labels(**settings: float) -> torch.Tensor:
        rng = np.random.default_rng(0)
        given = sample_conditions(generator, y, rng, first=0, total=400, targeted_fraction=0.5, **settings).y
        assert given is not None
        return given

    assert torch.equal(labels(), y)
    some = labels(label_dropout=0.25)
    assert 0.15 < (some == -1).float().mean() < 0.35
    assert torch.equal(some[some >= 0], y[some >= 0])
    without = Generator(width=4, depth=0)
    assert sample_conditions(without, y, np.random.default_rng(0), first=0, total=400, targeted_fraction=0.5).y is None


def test_against_a_detector_the_generator_learns_to_look_harmless():
    """Linear suspicion mean(x) - 0.1: its gradient alone, weighted, is what the evasion term adds."""

    class Rejecting(torch.nn.Sequential):
        def rejection_score(self, x):
            return x.mean((1, 2, 3)) - 0.1

    x, y = torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)
    target = Rejecting(torch.nn.Flatten(), torch.nn.Linear(64, 3)).requires_grad_(False)
    found = []
    for evasion in (0.0, 2.0):
        torch.manual_seed(0)
        generator, discriminator = Generator(width=4, depth=0), Discriminator()
        x_adv = generator(x)
        x_adv.retain_grad()
        trainer = trainer_of(target, generator, discriminator, LossConfig(detector_weight=evasion))
        parts = trainer.generator_step(Batch(x, y), x_adv)
        found.append((x_adv.grad, parts))
    (plain, _), (evading, parts) = found
    assert torch.allclose(evading - plain, torch.full_like(plain, 2 / 64 / 4), atol=1e-6)
    assert parts["loss detector"].item() == pytest.approx(x_adv.mean().item(), abs=1e-5)  # margin 0.1
    assert "loss detector" not in found[0][1]


def test_questions_are_the_same_for_any_number_of_processes_and_never_the_true_class():
    generator = Generator(classes=4, eps_min=0.1, width=4, depth=0)
    y = torch.arange(400) % 4
    whole = sample_conditions(generator, y, np.random.default_rng(0), first=0, total=400, targeted_fraction=0.5)
    second = sample_conditions(
        generator, y[200:], np.random.default_rng(0), first=200, total=400, targeted_fraction=0.5
    )
    assert torch.equal(whole.y_target[200:], second.y_target)
    assert torch.equal(whole.eps[200:], second.eps)
    assert not (whole.y_target == y).any()
    assert 0.4 < (whole.y_target >= 0).float().mean() < 0.6
    assert set(whole.y_target.tolist()) == {-1, 0, 1, 2, 3}
    assert whole.eps.min() >= 0.1
    assert whole.eps.max() <= 0.3
    assert whole.z is None


def test_target_classes_are_the_given_ones_but_the_label_and_equally_often() -> None:
    y = torch.tensor([0, 2, 5, 9]).repeat_interleave(600)
    assert wrong_classes((5, 2, 7), y[::600], torch.arange(4)).tolist() == [2, 7, 7, 2]
    generator = Generator(classes=10, target_classes=(5, 2, 7), width=4, depth=0)
    drawn = sample_conditions(generator, y, np.random.default_rng(0), first=0, total=2400, targeted_fraction=1.0)
    for label, expected in ((0, {2, 5, 7}), (2, {5, 7}), (5, {2, 7}), (9, {2, 5, 7})):
        counts = torch.bincount(drawn.y_target[y == label], minlength=10)
        assert set(counts.nonzero().flatten().tolist()) == expected
        assert counts[sorted(expected)].min() > 600 / len(expected) * 0.8
    assert wrong_classes(range(4), torch.tensor([0, 3, 1]), torch.tensor([0, 1, 2])).tolist() == [1, 1, 0]


def test_curriculum_starts_in_a_larger_ball_and_ends_in_that_of_eps_after_half_of_the_steps() -> None:
    y, rng = torch.zeros(3, dtype=torch.long), np.random.default_rng(0)

    def radii(factor: float, **settings: object) -> torch.Tensor | None:
        generator = Generator(width=4, depth=0, **settings)
        return sample_conditions(generator, y, rng, first=0, total=3, targeted_fraction=0.5, eps_factor=factor).eps

    assert [curriculum_factor(3.0, done) for done in (0, 0.25, 0.5, 0.9)] == [3, 2, 1, 1]
    assert torch.allclose(radii(1.5, eps=0.2), torch.full((3,), 0.3))
    assert torch.equal(radii(9.0, eps=0.2), torch.ones(3))  # the box
    assert torch.allclose(radii(9.0, eps=2.0, norm="l2"), torch.full((3,), 18.0))
    assert radii(1.0, eps=0.2) is None


def test_pairs_of_draws_differ_in_noise_alone():
    generator = Generator(classes=4, eps_min=0.1, noise=3, width=4, depth=0)
    y, rng = torch.arange(8).repeat_interleave(2) % 4, np.random.default_rng(0)
    settings = sample_conditions(generator, y, rng, first=0, total=16, targeted_fraction=0.5)
    assert torch.equal(settings.y_target[::2], settings.y_target[1::2])
    assert torch.equal(settings.eps[::2], settings.eps[1::2])
    assert not torch.equal(settings.z[::2], settings.z[1::2])


def test_a_generator_for_one_class_is_judged_by_that_class_at_every_eps():
    settings = eval_settings(Generator(y_target=3, eps_min=0.1, width=4, depth=0))
    assert {question.y_target for question in settings} == {3}
    assert [question.eps for question in settings] == pytest.approx([0.3, 0.1, 0.15, 0.2])
    assert eval_settings(Generator(width=4, depth=0)) == [EvalSetting(0.3)]
