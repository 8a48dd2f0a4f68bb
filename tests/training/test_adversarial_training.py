"""Adversarial training: the objective is its definition, each inner attacker makes the images that its paper describes,
and train/classifier.py hardens with each of them, stopped and resumed, on two processes, or says what is wrong."""

import importlib
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from rich.console import Console
from safetensors.torch import load_file
from torch import nn

from advgan.attacks import fgsm
from advgan.classifiers import build_target, load_target, save_target
from advgan.core.config import run
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat
from advgan.data import Split, load_data
from advgan.defenses import defend, load_members
from advgan.training.adversarial import InnerAttack, Method, adversarial_config, catastrophic_overfitting, mixed_loss
from advgan.training.supervised import accuracy, validate
from tests.conftest import ROOT, run_ranks

PROCESS = SimpleNamespace(process_index=0, num_processes=1, autocast=nullcontext)
DEVICE = torch.device("cpu")


class Linear(nn.Module):
    """Logits (0, w x): the attack that is best for every image is known."""

    def __init__(self, w: torch.Tensor) -> None:
        super().__init__()
        self.w, self.image_shape = nn.Parameter(w), (1, 4, 4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        f = (self.dropout(x) * self.w).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(f), f], dim=1)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def net(rng: torch.Generator) -> Linear:
    return Linear(torch.randn(1, 4, 4, generator=rng))


@pytest.fixture
def x(rng: torch.Generator) -> torch.Tensor:
    return 0.4 + 0.2 * torch.rand(6, 1, 4, 4, generator=rng)


Y = torch.tensor([0, 1, 0, 1, 1, 0])
SIGNS = torch.tensor([1, -1, 1, -1, -1, 1]).view(6, 1, 1, 1)  # up for class 0, down for class 1


def best(net: Linear, x: torch.Tensor, eps: float) -> torch.Tensor:
    return x + eps * SIGNS * net.w.detach().sign()


@pytest.mark.parametrize("alpha", [0, 0.3, 1])
def test_the_mixed_objective_is_its_definition(net, x, alpha):
    net.eval()
    x_adv = best(net, x, 0.1)
    loss, logits = mixed_loss(net, x, x_adv, Y, alpha)
    clean, hardened = F.cross_entropy(net(x), Y), F.cross_entropy(net(x_adv), Y)
    torch.testing.assert_close(loss, alpha * clean + (1 - alpha) * hardened)
    torch.testing.assert_close(logits, net(x if alpha == 1 else x_adv))
    torch.testing.assert_close(  # and so are its gradients
        torch.autograd.grad(loss, net.w)[0],
        torch.autograd.grad(alpha * clean + (1 - alpha) * hardened, net.w)[0],
    )


@pytest.mark.parametrize("method", ["fgsm", "fast", "pgd", "ensemble"])
def test_on_a_linear_model_the_worst_images_are_known(net, x, method):
    adversary = InnerAttack(adversarial_config(method, 0.1), net.train(), PROCESS, seed=0, channels=1)
    x_adv = adversary(x, Y, step=3, progress=0.5)
    assert (x_adv - x).abs().max() <= 0.1 + 1e-6
    assert not x_adv.requires_grad
    assert net.training  # lent in eval mode, so without dropout, and given back
    assert net.w.requires_grad
    assert net.w.grad is None
    worst = best(net, x, 0.1)
    if method == "fast":  # the start is uniform in eps [-1, 1] and the step 1.25 eps: five in eight reach the surface
        climbed = (x_adv - x) * SIGNS * net.w.detach().sign() / 0.1
        assert climbed.min() >= 0.25 - 1e-5
        assert ((x_adv - worst).abs() < 1e-6).float().mean().item() == pytest.approx(5 / 8, abs=0.1)
    else:
        torch.testing.assert_close(x_adv, worst)


def test_fgsm_is_the_attack_of_that_name(x):
    torch.manual_seed(0)
    net = build_target("mnist-small", (1, 28, 28), 3)
    x = torch.rand(5, 1, 28, 28)
    y = torch.tensor([0, 1, 2, 0, 1])
    x_adv = InnerAttack(adversarial_config("fgsm", 0.2), net, PROCESS, seed=0, channels=1)(x, y, 0, 0.0)
    assert torch.equal(x_adv, fgsm(net, x, y, eps=0.2))


def test_the_radius_rises(net, x):
    adversary = InnerAttack(adversarial_config("fgsm", 0.1, warmup=0.5), net, PROCESS, seed=0, channels=1)
    radii = [(adversary(x, Y, 0, progress) - x).abs().max().item() for progress in (0, 0.25, 0.5, 0.9)]
    assert radii == pytest.approx([1e-4, 0.05, 0.1, 0.1], abs=1e-6)


def test_an_ensemble_attacks_its_members_and_itself_in_turn(net, x):
    members = [Linear(torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(i))) for i in (5, 6)]
    adversary = InnerAttack(
        replace(adversarial_config("ensemble", 0.1), members=tuple(members)), net, PROCESS, seed=0, channels=1
    )
    worst = [best(source, x, 0.1) for source in (net, *members)]
    drawn = [[torch.allclose(adversary(x, Y, step, 0), images) for images in worst].index(True) for step in range(60)]
    assert {i: drawn.count(i) > 10 for i in range(3)} == {0: True, 1: True, 2: True}
    assert drawn[7] == [torch.allclose(adversary(x, Y, 7, 0), images) for images in worst].index(True)


@pytest.mark.parametrize("method", ["fast", "pgd"])
def test_what_is_drawn_is_of_the_global_batch_and_of_the_step(net, x, method):
    def images(processes: int, step: int) -> torch.Tensor:
        shares = [
            SimpleNamespace(process_index=i, num_processes=processes, autocast=nullcontext) for i in range(processes)
        ]
        parts = zip(x.chunk(processes), Y.chunk(processes), shares, strict=True)
        how = adversarial_config(method, 0.1, step_size=0.001, steps=2 if method == "pgd" else None)
        return torch.cat(
            [InnerAttack(how, net, share, seed=0, channels=1)(part, y, step, 1.0) for part, y, share in parts]
        )

    assert torch.equal(images(1, 4), images(3, 4))
    assert not torch.equal(images(1, 4), images(1, 5))


def test_a_generator_learns_against_the_classifier_and_leaves_it_alone(digits, classifier):
    torch.manual_seed(0)
    model = load_target("mnist-small", classifier).requires_grad_(True).train()
    before = [p.detach().clone() for p in model.parameters()]
    config = replace(adversarial_config("generator", 0.3, steps=0), generator_width=8, generator_learning_rate=1e-2)
    adversary = InnerAttack(config, model, Accelerator(cpu=True), seed=0, channels=1)
    x, y = next(load_data("folder", digits).train.batches(40))
    found = [adversary(x, y, step, 1.0) for step in range(12)]
    assert all((x_adv - x).abs().max() <= 0.3 + 1e-6 for x_adv in found)
    assert model.training
    assert all(torch.equal(p, b) and p.grad is None for p, b in zip(model.parameters(), before, strict=True))
    loss = [F.cross_entropy(model.eval()(x_adv), y).item() for x_adv in (found[0], found[-1])]
    assert loss[1] > loss[0] + 0.1


def test_gradient_steps_begin_between_noise_and_the_generators_images(x, monkeypatch):
    model, y = build_target("mnist-small", (1, 28, 28), 2), torch.zeros(64, dtype=torch.long)
    x = torch.full((64, 1, 28, 28), 0.5)
    config = replace(adversarial_config("generator", 0.2, steps=2), generator_width=8)
    adversary = InnerAttack(config, model, Accelerator(cpu=True), seed=0, channels=1)
    monkeypatch.setattr(adversary, "train_generator_step", lambda x, y, eps: x + eps)
    delta = adversary.initial_images(x, y, Threat("linf", 0.2), np.random.default_rng(0)).sub(x).flatten(1) / 0.2
    w = delta.mean(1)  # the generator's share of each image: noise has no mean
    assert w.min() < 0.1
    assert w.max() > 0.9
    assert delta.std(1).numpy() == pytest.approx((1 - w.numpy()) / 3**0.5, abs=0.05)


def test_catastrophic_overfitting_is_noticed():
    def history(*pairs: tuple[float, float]) -> list[dict[str, Any]]:
        return [{"accuracy_fgsm": fgsm, "accuracy_pgd": pgd} for fgsm, pgd in pairs]

    assert catastrophic_overfitting(history((0.8, 0.7), (0.95, 0.01)))
    assert not catastrophic_overfitting(history((0.8, 0.7), (0.95, 0.4)))  # worse, not lost
    assert not catastrophic_overfitting(history((0.8, 0.7), (0.1, 0.1)))  # lost altogether: another illness
    assert not catastrophic_overfitting(
        history((0.06, 0.055), (0.06, 0.0))
    )  # at its beginning there was nothing to lose


def test_robust_accuracy_is_measured_under_the_attacks_that_are_said(net, x):
    accelerator, images = Accelerator(cpu=True), (x * 255).to(torch.uint8)
    split = Split(images, net.eval()(images / 255).argmax(1).detach())
    assert validate(net, split, accelerator) == {"accuracy": 1.0}
    figures = validate(net, split, accelerator, eps=0.3, most=4)
    few, (clean, y) = split.first(4), next(split.batches(4))
    robust = [(net(fgsm(net, clean, y, eps=0.3)).argmax(1) == y).float().mean().item()]
    assert figures == {"accuracy": 1.0, "accuracy_fgsm": robust[0], "accuracy_pgd": robust[0]}  # linear: no better step
    assert accuracy(net, few, accelerator, lambda *images, rng: fgsm(*images, eps=0.3)) == robust[0] < 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"eps": 1.5}, r"eps must be in \(0, 1\]"),
        ({"alpha": 1.01}, r"alpha, the weight of the clean images, must be in \[0, 1\], got 1.01"),
        ({"alpha": -0.1}, r"must be in \[0, 1\], got -0.1"),
        ({"alpha": float("nan")}, r"must be in \[0, 1\], got nan"),
        ({"warmup": 1.0}, r"eps_warmup must be in \[0, 1\), got 1.0"),
        ({"steps": 3}, "fast takes one step, expected attack_steps with pgd or generator, got 3"),
        ({"method": "pgd", "steps": 0}, "attack_steps must be at least 1 with pgd, got 0"),
        ({"method": "generator", "steps": -1}, "attack_steps must be at least 0 with generator, got -1"),
        ({"method": "fgsm", "step_size": 0.1}, "the step of fgsm is not free: expected no attack_step_size, got 0.1"),
        ({"method": "generator", "steps": 0, "step_size": 0.1}, "expected no attack_step_size, got 0.1"),
        ({"step_size": 0.0}, "attack_step_size must be positive, got 0.0"),
    ],
)
def test_a_plan_that_cannot_be(words, message):
    with pytest.raises(InputError, match=message):
        adversarial_config(**({"method": "fast", "eps": 0.3} | words))


def test_the_settings_of_the_papers():
    def of(method: Method, **words: Any) -> tuple[float, int, float]:
        how = adversarial_config(method, 0.3, **words)
        return how.alpha, how.steps, how.step_size

    assert of("fgsm") == of("ensemble") == (0.5, 1, 0.3)
    assert of("fast") == (0, 1, pytest.approx(0.375))
    assert of("pgd", steps=10) == (0, 10, pytest.approx(0.075))
    assert of("pgd") == (0, 40, pytest.approx(0.3 / 16))


def test_members_are_frozen_and_of_the_same_images(tmp_path):
    for name, classes in (("three", 3), ("four", 4)):
        save_target(build_target("mnist-small", (1, 28, 28), classes), tmp_path / name / "classifier", "# A test's")
    save_target(defend(build_target("mnist-small", (1, 28, 28), 3), "bit-depth"), tmp_path / "defended", "# A test's")
    shape = (1, 28, 28)
    members = load_members([str(tmp_path / "three"), str(tmp_path / "defended")], shape, 3, DEVICE)
    x, y = torch.rand(2, *shape), torch.tensor([0, 1])
    for member in members:
        assert not any(p.requires_grad or module.training for module in member.modules() for p in module.parameters())
        assert (fgsm(member, x, y, eps=0.1) - x).abs().max() == pytest.approx(0.1)  # a defended one by its smooth view
    for path, message in (
        (str(tmp_path / "four"), r"four takes images \(1, 28, 28\) of 4 classes, expected \(1, 28, 28\) of 3"),
        ("mnist-c", "an ensemble needs directories of trained classifiers, got mnist-c"),
        (str(tmp_path), "no target weights at"),
    ):
        with pytest.raises(InputError, match=message):
            load_members([path], shape, 3, DEVICE)


STEPS = 12  # of 20 images: six make an epoch of `digits`


@pytest.fixture
def words(digits: Path) -> list[str]:
    """The flags of a run that takes seconds."""
    flags = ["--batch-size", "20", "--max-steps", str(STEPS), "--threads", "1", "--target", "mnist-small"]
    return ["--dataset", "folder", "--data-dir", str(digits), *flags, "--eps", "0.1", "--robust-images", "30"]


@pytest.fixture(scope="module")
def trainer() -> ModuleType:
    """The program's module."""
    return importlib.import_module("advgan.training.classifier")


def method_flags(method: str, classifier: Path) -> list[str]:
    flags = {"ensemble": ["--ensemble", str(classifier)], "pgd": ["--attack-steps", "3"]}
    return ["--adversarial", method, *flags.get(method, [])]


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "classifier" / "model.safetensors")


@pytest.mark.parametrize("method", get_args(Method))
def test_interrupted_anywhere_and_resumed_equals_uninterrupted(
    trainer, words, classifier, tmp_path, monkeypatch, method
):
    words += method_flags(method, classifier)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(trainer.main, trainer.Settings, [*words, "--output-dir", str(whole)])
    asked = iter([False] * 7 + [True])  # after step 8, in the middle of an epoch
    with monkeypatch.context() as patch:
        patch.setattr(trainer.training.GracefulShutdown, "requested", lambda self, accelerator: next(asked))
        run(trainer.main, trainer.Settings, [*words, "--output-dir", str(parts)])
    assert [path.name for path in (parts / "state" / "classifier").iterdir()] == ["step-0000008"]
    run(trainer.main, trainer.Settings, [*words, "--output-dir", str(parts), "--resume"])
    assert all(torch.equal(value, weights(parts)[name]) for name, value in weights(whole).items())
    first, second = (json.loads((d / "classifier" / "training.json").read_text()) for d in (whole, parts))
    for told in (first, second):
        assert [entry.pop("seconds") >= 0 for entry in told["history"]] == [True, True]
    assert first["history"] == second["history"]
    assert first["test"] == second["test"]


@pytest.fixture
def new_accelerator():
    """What accelerate keeps from one training of a process to the next, and refuses to change: forgotten."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("new_accelerator")
@pytest.mark.parametrize("units", [False, True])
def test_in_mixed_precision_it_learns_too(script, words, tmp_path, units, monkeypatch):
    capabilities = {"avx2": True, "avx512_bf16": units}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    printed = script("train/classifier.py", *words, *method_flags("pgd", tmp_path), "--bf16", "--output-dir", tmp_path)
    told = json.loads((tmp_path / "classifier" / "training.json").read_text())
    assert told["settings"]["bf16"]
    assert told["test"]["accuracy"] > 1 / 3  # chance
    assert {value.dtype for value in weights(tmp_path).values()} == {torch.float32}
    assert ("no bfloat16 matrix units" in printed.stderr) is not units


def test_one_that_says_the_same_of_every_image_is_not_the_hardest(trainer):
    record = trainer.training.TrainState(step=1, seconds=0.0, best=-1.0, best_step=0, history=[])
    better = []
    for record["step"], clean, pgd in ((1, 0.1, 0.1), (2, 0.95, 0.02), (3, 0.97, 0.0), (4, 0.9, 0.6), (5, 0.99, 0.1)):
        better.append(trainer.append_history(record, {"accuracy": clean, "accuracy_pgd": pgd}))
    assert better == [True, True, True, True, False]
    assert record["best_step"] == 4


def test_card_and_training_json_say_how_hard_the_classifier_is(trainer, words, classifier, tmp_path, capsys):
    words += ["--max-steps", "30", *method_flags("pgd", classifier)]
    run(trainer.main, trainer.Settings, [*words, "--output-dir", str(tmp_path)])
    told = json.loads((tmp_path / "classifier" / "training.json").read_text())
    best = max(told["history"], key=lambda entry: (entry["accuracy"] + entry["accuracy_pgd"], entry["step"]))
    assert told["best_step"] == best["step"]
    assert (told["steps"], told["settings"]["adversarial"]) == (30, "pgd")
    assert 0 < told["training_seconds"] == told["history"][-1]["seconds"]
    assert told["test"]["accuracy_pgd40"] > 0.5
    assert f"test accuracy under PGD-40 {told['test']['accuracy_pgd40']:.2%} (the first 30)" in capsys.readouterr().out
    card = (tmp_path / "classifier" / "README.md").read_text()
    assert f"| under PGD-40, the first 30 test images | {told['test']['accuracy_pgd40']:.2%} |" in card
    assert f"| under PGD-10, the first 30 validation images, chosen on them | {best['accuracy_pgd']:.2%} |" in card
    assert "Adversarially trained (pgd, linf eps 0.1)" in card
    assert "--attack-steps 3" in card
    assert "--seed 0" in card
    assert "--generator-width" not in card  # what did nothing is not told


def test_the_terminal_says_that_only_fgsm_is_resisted(trainer, capsys):
    entries = [{"accuracy": 0.9, "accuracy_fgsm": 0.8, "accuracy_pgd": 0.7}]
    entries += [{"accuracy": 0.99, "accuracy_fgsm": 0.95, "accuracy_pgd": 0.02}]
    bar = SimpleNamespace(console=Console(width=300))
    for history in (entries[:1], entries):
        trainer.print_validation(trainer.training.TrainState(step=9, best_step=4, history=history), bar, 10)
    before, now, note = capsys.readouterr().out.splitlines()  # nothing to note before
    assert (before.endswith("PGD-10 70.00%"), now.endswith("PGD-10 2.00%")) == (True, True)
    assert "catastrophic overfitting: the classifier resists FGSM and no longer PGD; kept is that of step 4" in note


def test_a_training_that_is_stuck_at_chance_has_a_note_with_the_warmup(trainer, capsys):
    chance = {"accuracy": 0.11, "accuracy_fgsm": 0.11, "accuracy_pgd": 0.11}
    bar = SimpleNamespace(console=Console(width=300))
    for history in ([chance], [chance, chance | {"accuracy": 0.9}], [chance, chance]):
        trainer.print_validation(trainer.training.TrainState(step=9, best_step=4, history=history), bar, 10)
    *before, note = capsys.readouterr().out.splitlines()
    assert all(line.startswith("step ") for line in before)
    assert "stuck at the accuracy of chance" in note
    assert all(form in note for form in ("--eps-warmup 0.5", "warmup=0.5"))


def test_two_processes_train_the_generator_together(trainer, words, tmp_path):
    words += ["--adversarial", "generator", "--alpha", "0.5", "--max-steps", "6"]
    run_ranks("train/classifier.py", *words, "--output-dir", tmp_path / "two", outputs=tmp_path / "outputs")
    run(trainer.main, trainer.Settings, [*words, "--output-dir", str(tmp_path / "one")])
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-3, rtol=1e-2, msg=name)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--alpha", "0.5"], "alpha does nothing without --adversarial, got 0.5"),
        (["--eps", "8/255"], "eps does nothing without --adversarial, got 0.03"),
        (["--adversarial", "pgd", "--ensemble", "x"], r"ensemble does nothing without --adversarial ensemble, got"),
        (["--adversarial", "pgd", "--generator-width", "8"], "generator_width does nothing without --adversarial gen"),
        (["--adversarial", "ensemble"], "ensemble needs trained classifiers, expected --ensemble DIR .*, got none"),
        (["--adversarial", "ensemble", "--ensemble", "nowhere"], "needs directories of trained classifiers, got nowh"),
        (["--adversarial", "ensemble", "--ensemble", "SHIPPED"], "of 10 classes, expected .* of 3 in the ensemble"),
        (["--adversarial", "fgsm", "--alpha", "2"], r"alpha, the weight of the clean images, must be in \[0, 1\], got"),
        (["--adversarial", "generator", "--generator-width", "0"], "generator_width must be positive, got 0"),
        (["--adversarial", "pgd", "--robust-images", "0"], "robust_images must be positive, got 0"),
    ],
)
def test_nonsense_is_one_line_and_leaves_nothing(trainer, digits, tmp_path, capsys, extra, message):
    data = ["--dataset", "folder", "--data-dir", str(digits), "--batch-size", "20", "--output-dir", str(tmp_path)]
    shipped = str(ROOT / "checkpoints/mnist5k-classifier")
    with pytest.raises(SystemExit) as exit_:
        run(trainer.main, trainer.Settings, [*data, *(shipped if word == "SHIPPED" else word for word in extra)])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    with pytest.raises(InputError, match=message):
        raise InputError(error)
    assert not list(tmp_path.iterdir())
