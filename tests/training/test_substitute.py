"""Training from queries, in memory and as a program: no gradients of the black box, counts, budget, exact resume."""

import importlib
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from advgan import Generator, InputError, Threat, training
from advgan.classifiers import BlackBox, fingerprint, load_target
from advgan.core.config import run
from advgan.data import load_data
from advgan.defenses import parse_classifiers
from advgan.evaluation.loading import LoadedGenerator, load_targets, read_training_json
from advgan.training.runtime.loop import Interrupted
from advgan.training.substitute import train_substitute
from advgan.training.substitute_training import SubstituteConfig
from tests.conftest import Run

substitute = importlib.import_module("advgan.training.substitute")
Call = Callable[..., dict[str, Any]]
# 120 images, and 20 adversarial ones in each of two later rounds; 48 for validation.
SMALL = ["--threads", "1", "--width", "8", "--depth", "1", "--batch-size", "16", "--rounds", "3"]
SMALL += ["--distil-steps", "9", "--generator-steps", "6", "--adversarial-images", "20", "--learning-rate", "0.003"]


@pytest.fixture
def words(digits: Path, classifier: Path) -> list[str]:
    data = ["--dataset", "folder", "--data-dir", str(digits), "--target", "mnist-small", "--substitute", "mnist-b"]
    return [*data, "--target-weights", str(classifier), *SMALL]


@pytest.fixture
def call(words: list[str], tmp_path: Path) -> Call:
    """Run it in this process and read training.json."""

    def run_it(*more: object, out: str = "out") -> dict[str, Any]:
        run(substitute.main, substitute.Settings, [*words, "--output-dir", str(tmp_path / out), *map(str, more)])
        return json.loads((tmp_path / out / "training.json").read_text())

    return run_it


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[tuple[BlackBox, Tensor]]:
    """Every query, without a gradient: (the black box, the images)."""
    queries: list[tuple[BlackBox, Tensor]] = []
    query = BlackBox.query

    def recorded(box: BlackBox, x: Tensor) -> Tensor:
        response = query(box, x)
        assert not response.requires_grad
        queries.append((box, x.detach().clone()))
        return response

    monkeypatch.setattr(BlackBox, "query", recorded)
    return queries


def test_program_saves_substitute_and_generator(script: Run, words: list[str], tmp_path: Path) -> None:
    done = script("train/substitute.py", *words, "--output-dir", tmp_path)
    assert "160 queries (validation: 192 more)" in done.stdout
    assert "tensorboard --logdir" in done.stdout
    generator, x = Generator.from_pretrained(tmp_path), torch.rand(4, 1, 28, 28)
    assert generator.threat.violations(generator.perturb(x), x) == []
    model = load_target("mnist-b", tmp_path)
    assert (model.image_shape, model.num_classes) == ((1, 28, 28), 3)
    summary = json.loads((tmp_path / "training.json").read_text())
    assert summary["substitute"] == {"name": "mnist-b", "sha256": fingerprint(model)}
    assert [(h["round"], h["step"], h["queries"]) for h in summary["history"]] == [
        *((1, 5, 120), (2, 10, 140), (3, 15, 160))
    ]
    for figure in ("agreement", "agreement_adversarial", "asr", "asr_black_box"):
        assert all(0 <= h[figure] <= 1 for h in summary["history"])
    for folder in ("classifier", "generator"):
        card = (tmp_path / folder / "README.md").read_text()
        assert "| queries to the black box | 160 (validation, which only measures: 192 more) |" in card
        assert "train/substitute.py --dataset folder" in card
    log = EventAccumulator(str(tmp_path / "logs" / "substitute")).Reload()
    assert [scalar.value for scalar in log.Scalars("queries")] == [120, 140, 160]
    assert {"validation/asr_black_box", "validation/agreement_adversarial"} <= set(log.Tags()["scalars"])


def test_static_form_queries_each_image_once(call: Call, queries: list[tuple[BlackBox, Tensor]], digits: Path) -> None:
    summary = call("--distillation", "static")
    assert (summary["queries"], summary["validation_queries"], len(summary["history"])) == (120, 96, 1)
    attack = torch.cat([x for box, x in queries if box is queries[0][0]])
    own, _ = next(load_data("folder", digits).train.batches(120))
    seen = Counter(x.numpy().tobytes() for x in attack)
    assert seen == Counter(x.numpy().tobytes() for x in own)
    assert set(seen.values()) == {1}


def test_dynamic_form_queries_newest_adversarial_images(
    call: Call, queries: list[tuple[BlackBox, Tensor]], digits: Path
) -> None:
    summary = call("--images", 30, "--budget", 70)
    assert (summary["queries"], summary["validation_queries"]) == (70, 48 * 4)
    first = queries[0][0]
    assert (first.queries, first.max_queries, first.remaining) == (70, 70, 0)
    clean, *later = [x for box, x in queries if box is first]
    assert [len(x) for x in (clean, *later)] == [30, 20, 20]
    for x_adv in later:  # each is one of the attacker's own images, perturbed within the ball
        distance = (x_adv[:, None] - clean).abs().flatten(2).amax(2)
        nearest = distance.argmin(1)
        assert (distance.amin(1) <= 0.3 + 1e-6).all()
        assert (distance.amin(1) > 0.01).all()
        assert len(set(nearest.tolist())) == 20
    own, y = next(load_data("folder", digits).train.batches(120))
    known = {x.numpy().tobytes(): int(label) for x, label in zip(own, y, strict=True)}
    assert {known[x.numpy().tobytes()] for x in clean} == {0, 1, 2}, "drawn, not the first of a sorted folder"


def test_black_box_of_labels_without_autograd(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(
        cls: type[BlackBox], model: nn.Module, classes: int, output: str, max_queries: int | None = None
    ) -> BlackBox:
        def answer(x: Tensor) -> list[int]:  # numpy() refuses what a gradient could come back to
            return model.eval()(torch.from_numpy(x.numpy())).argmax(1).tolist()

        return BlackBox(answer, classes, "labels", max_queries)

    monkeypatch.setattr(BlackBox, "from_model", classmethod(blind))
    summary = call("--answers", "labels", "--distil-steps", 30, "--distillation", "static", "--batch-size", 32)
    assert summary["settings"]["answers"] == "labels"
    assert summary["history"][-1]["agreement"] > 0.8


def test_stopped_and_resumed_equals_uninterrupted(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queries: list[tuple[BlackBox, Tensor]]
) -> None:
    whole = call(out="whole")
    number = len(queries)
    queries.clear()
    # Asked after every step: in the midst of an attack, of the second round's distillation, and between two rounds.
    stops = iter([*[False] * 3, True, *[False] * 2, True, *[False] * 2, True])
    monkeypatch.setattr(training.GracefulShutdown, "requested", lambda *_: next(stops, False))
    assert call(out="parts")["steps"] == 4
    assert call("--resume", out="parts")["steps"] == 7
    assert call("--resume", out="parts")["steps"] == 10
    parts = call("--resume", out="parts")
    assert len(queries) == number, "no image is queried twice"
    for key in ("queries", "validation_queries", "substitute"):
        assert parts[key] == whole[key]
    drop = {"seconds"}
    history = [[{k: v for k, v in h.items() if k not in drop} for h in run_["history"]] for run_ in (whole, parts)]
    assert history[0] == history[1]
    for folder in ("classifier", "generator"):
        first, second = (load_file(tmp_path / out / folder / "model.safetensors") for out in ("whole", "parts"))
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.usefixtures("undrawn")
def test_saved_run_holds_substitute_and_query_count(call: Call, digits: Path, classifier: Path, tmp_path: Path) -> None:
    summary = call()
    data, out = load_data("folder", digits), tmp_path / "out"
    specs = parse_classifiers(("mnist-small", "mnist-b"), (classifier, out))
    (black_box, own), _ = load_targets(specs, data, torch.device("cpu"))
    trained = LoadedGenerator(out, Generator.from_pretrained(out))
    assert trained.trained_on(own)
    assert not trained.trained_on(black_box)
    spent = [
        own.queries_spent(black_box.sha256),
        own.queries_spent("0"),
        black_box.queries_spent(own.sha256),
    ]
    assert spent == [160, None, None]
    del summary["sha256"]
    assert read_training_json(out / "classifier") == read_training_json(out / "generator") == summary


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--budget", "159"], "query 160 images (120 clean ones and 2 times 20 adversarial ones), and the budget"),
        (["--budget", "119", "--distillation", "static"], "query 120 images (120 clean ones and 0 times"),
        (["--rounds", "7"], "each round needs a step of both, got 7 rounds"),
        (["--rounds", "0"], "rounds must be positive, got 0"),
        (["--images", "0"], "images must be positive, got 0"),
        (["--budget", "-1"], "budget must not be negative, got -1"),
        (["--eps", "0"], "eps must be in (0, 1]"),
        (["--ema", "1"], "ema must be in [0, 1), got 1"),
        (["--batch-size", "121"], "batch size must be in 1..120"),
        (["--substitute", "mnist-z"], "unknown target 'mnist-z'"),
        (["--y-target", "3"], "y_target must be a class from 0 to 2"),
        (["--resume"], "nothing to resume"),
    ],
)
def test_invalid_settings_exit_with_code_2_before_any_query(
    call: Call,
    queries: list[tuple[BlackBox, Tensor]],
    capsys: pytest.CaptureFixture[str],
    extra: list[str],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as exit_:
        call(*extra)
    assert exit_.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    error = re.sub(r"^note: classes of .*?(?=error: )", "", error, flags=re.S)
    assert error.startswith("error: ")
    assert message in error
    assert not queries


def test_black_box_is_never_overwritten(call: Call, classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for extra in (["--output-dir", classifier], ["--output-dir", classifier, "--overwrite"]):
        with pytest.raises(SystemExit):
            call(*extra)
        assert "output_dir must not be where the black box lies" in capsys.readouterr().err
    call("--substitute", "mnist-small", "--distillation", "static")
    assert "note: substitute and target share the architecture (mnist-small)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        call()
    assert "already holds a generator run" in capsys.readouterr().err


def test_unrolled_network_of_the_substitute(call: Call, tmp_path: Path) -> None:
    call("--architecture", "unrolled")
    generator = Generator.from_pretrained(tmp_path / "out")
    assert fingerprint(generator.guide) == fingerprint(load_target("mnist-b", tmp_path / "out"))
    assert generator.iterations == 1


Pair = tuple[Tensor, Tensor]
FEW: dict[str, Any] = {"rounds": 2, "distil_steps": 8, "generator_steps": 6, "adversarial_images": 10}
FEW |= {"batch_size": 16, "width": 8, "depth": 1, "eps": 0.3, "substitute": "mnist-b", "progress": False}


@pytest.fixture
def attacker(digits: Path) -> Pair:
    return next(load_data("folder", digits).train.batches(60))


@pytest.fixture
def labelled(digits: Path) -> Pair:
    return next(load_data("folder", digits).validation.batches(48))


def test_train_substitute_of_function_of_labels(classifier: Path, attacker: Pair, labelled: Pair) -> None:
    model, counts = load_target("mnist-small", classifier), [0]

    def labels(x: Tensor) -> list[int]:
        counts[0] += len(x)
        return model(torch.from_numpy(x.numpy())).argmax(1).tolist()  # numpy() refuses a tensor with a gradient

    before = torch.get_rng_state()
    result = train_substitute(labels, attacker[0], labelled, answers="labels", budget=70, **FEW)
    assert torch.equal(torch.get_rng_state(), before)
    assert (result.queries, result.validation_queries) == (70, 48 * 3)
    assert counts[0] == result.queries + result.validation_queries
    assert [metrics["round"] for metrics in result.history] == [1, 2]
    x = labelled[0]
    assert Threat("linf", 0.3).violations(result.generator.perturb(x), x) == []
    assert result.generator.labels == 0  # the attack itself takes no query
    again = train_substitute(labels, attacker[0], labelled, answers="labels", budget=70, **FEW)
    for first, second in ((result.substitute, again.substitute), (result.generator, again.generator)):
        assert fingerprint(first) == fingerprint(second)


def test_train_substitute_continues_in_output_dir(
    classifier: Path, attacker: Pair, labelled: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_target("mnist-small", classifier).train()
    whole = train_substitute(model, attacker, labelled, **FEW)
    assert model.training
    stops = iter([*[False] * 5, True])
    monkeypatch.setattr(training.GracefulShutdown, "requested", lambda *_: next(stops, False))
    train_substitute(model, attacker, labelled, output_dir=tmp_path, **FEW)
    with pytest.raises(InputError, match="already holds a generator run"):
        train_substitute(model, attacker, labelled, output_dir=tmp_path, **FEW)
    result = train_substitute(model, attacker, labelled, output_dir=tmp_path, resume=True, **FEW)
    saved = load_target("mnist-b", tmp_path)
    assert fingerprint(saved) == fingerprint(result.substitute) == fingerprint(whole.substitute)
    assert fingerprint(Generator.from_pretrained(tmp_path)) == fingerprint(whole.generator)
    assert "Made by `train_substitute(...)`" in (tmp_path / "generator" / "README.md").read_text()


def test_signal_during_queries_keeps_responses(attacker: Pair, labelled: Pair, tmp_path: Path) -> None:
    counts = [0]

    def respond(x: Tensor) -> Tensor:
        counts[0] += len(x)
        if counts[0] == 60 + 48:
            os.kill(os.getpid(), signal.SIGINT)
        return (x.flatten(1)[:, ::262].argmax(1)[:, None] == torch.arange(3)).float()

    with pytest.raises(Interrupted, match="stopped after step 0 of 14, among the queries"):
        train_substitute(respond, attacker, labelled, output_dir=tmp_path, **FEW)
    result = train_substitute(respond, attacker, labelled, output_dir=tmp_path, resume=True, **FEW)
    assert counts[0] == result.queries + result.validation_queries
    assert result.queries == 70


class Linear(nn.Module):
    """A substitute that no registry has."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.flatten(1))
        return logits


def test_train_substitute_of_own_module(classifier: Path, attacker: Pair, labelled: Pair) -> None:
    black_box, own = load_target("mnist-small", classifier), Linear()
    result = train_substitute(black_box, attacker, labelled, **FEW | {"substitute": own, "distillation": "static"})
    assert result.substitute is own
    assert result.generator.perturb(labelled[0]).shape == labelled[0].shape


def test_a_batch_size_that_is_not_chosen_is_64_or_all_images() -> None:
    assert [SubstituteConfig().with_batch_size(n).batch_size for n in (60, 100)] == [60, 64]
    assert SubstituteConfig(batch_size=64).with_batch_size(60).batch_size == 64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 69}, "and the budget is 69"),
        ({"rounds": 7}, "each round needs a step of both"),
        ({"substitute": "mnist-z"}, "unknown target 'mnist-z'"),
        ({"substitute": Linear(), "output_dir": "out"}, "output_dir needs a built-in substitute, got Linear"),
        ({"num_classes": 2}, "validation has labels up to 2, expected 0 to 1"),
        ({"batch_size": 61}, "batch size must be in 1..60"),
        ({"batch_size": 64}, "batch size must be in 1..60, .* got 64"),
        ({"resume": True}, "resume needs the output_dir"),
        ({"y_target": 3}, "y_target must be a class from 0 to 2"),
    ],
)
def test_train_substitute_raises_before_any_query(
    settings: dict[str, Any],
    message: str,
    queries: list[tuple[BlackBox, Tensor]],
    attacker: Pair,
    labelled: Pair,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        train_substitute(lambda x: torch.zeros(len(x), 3).softmax(1), attacker, labelled, **FEW | settings)
    assert not queries
    assert not list(tmp_path.iterdir())


def test_rounds_share_steps() -> None:
    plan = SubstituteConfig(rounds=3, distil_steps=10, generator_steps=4).step_schedule()
    assert Counter(phase for _, phase in plan) == {"distil": 10, "attack": 4}
    assert [k for k, _ in plan] == sorted(k for k, _ in plan)
    assert [Counter(p for r, p in plan if r == k)["distil"] for k in range(3)] == [3, 3, 4]
    static = SubstituteConfig(distillation="static", distil_steps=10, generator_steps=4).step_schedule()
    assert static == [(0, "distil")] * 10 + [(0, "attack")] * 4


def test_help_documents_every_flag(script: Run) -> None:
    text = script("train/substitute.py", "--help").stdout
    for flag in substitute.Settings.__dataclass_fields__:
        assert f"--{flag.replace('_', '-')}" in text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda black_box: {"substitute": black_box}, "must be another network than the black box"),
        (lambda black_box: {"substitute": nn.Sequential(black_box, nn.Identity())}, "got one with weights of it"),
        (lambda black_box: {"substitute": nn.Sequential(nn.Flatten(), nn.LazyLinear(3))}, "no weights yet in 1.weight"),
        (
            lambda black_box: {"substitute": nn.Sequential(nn.Flatten(), nn.Linear(784, 3), nn.Softmax(1))},
            "the target returns probabilities",
        ),
        (lambda black_box: {"epss": 0.1}, "unknown setting 'epss'; did you mean eps"),
    ],
)
def test_substitute_that_cannot_be_one_is_an_error(changed: Any, message: str, attacker: Pair, labelled: Pair) -> None:
    black_box = nn.Sequential(nn.Flatten(), nn.Linear(784, 3))
    before = black_box[1].weight.clone()
    with pytest.raises(InputError, match=message):
        train_substitute(black_box, attacker, labelled, **FEW | changed(black_box))
    assert torch.equal(before, black_box[1].weight)
