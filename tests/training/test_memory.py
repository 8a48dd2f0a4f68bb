"""The same step in less memory or time."""

import copy
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import SGD

import advgan
from advgan import InputError
from advgan.attacks.fgsm import fgsm
from advgan.classifiers import build_target
from advgan.data.sources import FloatSplit
from advgan.models.discriminator import Discriminator
from advgan.models.generator import Generator
from advgan.training.detector import train_detector
from advgan.training.gan import Batch, Conditions, LossConfig
from advgan.training.options import OptimizationConfig, TrainingConfig
from advgan.training.runtime.memory import compile_models, enable_activation_checkpointing
from advgan.training.supervised import validate
from advgan.training.trainer import GANTrainer
from advgan.training.trial import compare_with_fgsm


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_make_the_step_of_the_whole_batch(accumulate: int) -> None:
    x, y = torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    target = nn.Sequential(nn.Flatten(), nn.Linear(144, 3)).requires_grad_(False)
    loss = LossConfig(kappa=10.0, hinge_threshold=0.1, diversity_weight=0.5)
    noise = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
    batch = Batch(x, y, Conditions(z=noise, eps_scale=torch.linspace(0.5, 1, 8)))
    torch.manual_seed(0)
    nets = Generator(width=8, depth=1, noise=2), Discriminator()
    found: list[tuple[dict[str, Tensor], list[Tensor]]] = []
    for parts in (1, accumulate):
        generator, discriminator = copy.deepcopy(nets)
        terms: dict[str, Tensor] = {}
        config = TrainingConfig(loss=loss, optimization=OptimizationConfig(accumulate=parts, clip_norm=0.5))
        trainer = GANTrainer(
            target,
            generator,
            discriminator,
            config=config,
            total_steps=1,
            accelerator=Accelerator(cpu=True),
            optimizer=lambda weights: SGD(weights, 2.5),  # at the first step a 25th of it
        )
        trainer.optimizer_d = SGD(discriminator.parameters(), 0.1)
        for _ in range(2):
            x_adv = generator(x, z=noise) if parts == 1 else None
            terms = trainer.discriminator_step(batch, x_adv) | trainer.generator_step(batch, x_adv)
        found.append((terms, [p.detach() for net in (generator, discriminator) for p in net.parameters()]))
    (terms, weights), (terms_parts, weights_parts) = found
    assert list(terms) == list(terms_parts)
    for name, value in terms.items():
        torch.testing.assert_close(terms_parts[name], value, atol=1e-5, rtol=1e-5, msg=name)
    for weight, weight_parts in zip(weights, weights_parts, strict=True):
        torch.testing.assert_close(weight_parts, weight, atol=1e-6, rtol=1e-5)


def test_activations_computed_twice_give_the_same_gradient_in_less_memory() -> None:
    torch.manual_seed(0)
    kept = build_target("cifar-resnet20").eval().requires_grad_(False)
    again = copy.deepcopy(kept)
    names = list(again.state_dict())
    assert len(enable_activation_checkpointing(again)) == 9
    assert list(again.state_dict()) == names

    def images() -> Tensor:
        return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_(True)

    gradients = []
    for model in (kept, again):
        x = images()
        model(x)[:, 0].sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)
    whole, less = (saved_bytes(model, images()) for model in (kept, again))
    assert less < 0.35 * whole


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes of all storages, each once, that autograd keeps of `model(x)`."""
    storages: dict[int, Tensor] = {}  # held, or an address might be used again

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage()._cdata] = tensor.detach()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model(x)
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


def test_a_target_without_blocks_keeps_its_activations() -> None:
    with pytest.raises(InputError, match="checkpoint_target needs a target made of blocks, got none in MnistNet"):
        enable_activation_checkpointing(build_target("mnist-c"))


def test_a_compiled_network_answers_alike_for_any_batch_and_keeps_its_names() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    plain = copy.deepcopy(net)
    compile_models(net, sample=torch.rand(6, 4))
    for n in (6, 5):  # the last batch of a validation is smaller
        x = torch.rand(n, 4)
        torch.testing.assert_close(net(x), plain(x))
    assert list(net.state_dict()) == list(plain.state_dict())
    assert all(p.grad is None for p in net.parameters())


def test_a_compiler_that_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_(self: nn.Module) -> None:
        def call(*given: object) -> None:
            raise RuntimeError("no C++ compiler\nwas found")

        self._compiled_call_impl = call

    monkeypatch.setattr(nn.Module, "compile", compile_)
    with pytest.raises(InputError, match=r"^compile does not work here, leave it out: no C\+\+ compiler was found"):
        compile_models(nn.Linear(2, 2), sample=torch.rand(1, 2))


class Counted(nn.Module):
    """Class 1 where the mean is above one half; records the largest batch of which a gradient is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.largest = 0

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            self.largest = max(self.largest, len(x))
        mean = self.weight * (x.flatten(1).mean(1) - 0.5)
        return 100 * torch.stack([-mean, mean], 1)


@pytest.mark.parametrize(("side", "largest"), [(8, {50, 55, 100}), (96, {20})])  # an attack may halve a batch
@pytest.mark.parametrize("use", ["compare", "frontier", "trial", "detector", "robust accuracy"])
def test_gradients_are_of_few_photos_at_once(use: str, side: int, largest: set[int]) -> None:
    x = 0.49 + 0.02 * torch.rand(110, 1, 1, 1, generator=torch.Generator().manual_seed(0)).expand(-1, 1, side, side)
    y = (x.mean((1, 2, 3)) > 0.5).long()
    model, split = Counted().eval(), FloatSplit(x, y)
    if use == "compare":
        row = advgan.compare(model, x, y, ["fgsm"], eps=0.1).comparison.summary["rows"][0]
        assert (row["asr"], row["batch_size"]) == (1, {8: 100, 96: 20}[side])
    elif use == "frontier":
        advgan.frontier(model, x, y, eps=0.1, entries={"sign": partial(fgsm, eps=0.1)}, baselines=[], repeats=1)
    elif use == "trial":
        result = compare_with_fgsm(Generator(eps=0.1, width=4, depth=0).eval(), model, split, torch.device("cpu"))
        assert result is not None
        assert (result.n, result.fgsm) == (110, 110)
    elif use == "detector":
        train_detector(model, (x, y), x, ["fgsm"], kind="binary", eps=0.1, steps=1, batch_size=2)
    else:
        metrics = validate(model, split, Accelerator(cpu=True), eps=0.1)
        assert metrics == {"accuracy": 1, "accuracy_fgsm": 0, "accuracy_pgd": 0}
    assert model.largest in largest
