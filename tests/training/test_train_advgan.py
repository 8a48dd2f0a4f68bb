"""train/advgan.py as its users run it: launched, interrupted, resumed, on two processes, given nonsense."""

import importlib
import importlib.util
import json
import re
import shutil
import signal
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from advgan import Generator, training
from advgan.classifiers import fingerprint, load_target, save_target
from advgan.core.config import run
from advgan.core.errors import InputError
from advgan.core.weights import digest
from advgan.data import load_data
from advgan.defenses.detection import FeatureSqueezing, scores
from advgan.evaluation.loading import load_generators
from advgan.models import losses
from advgan.models.discriminator import Discriminator
from tests.conftest import program_module, stop_after_first_state

SMALL = ["--threads", "1", "--width", "8", "--depth", "1", "--batch-size", "20", "--validate-every", "4"]

# A generator that takes every question there is.
ANYTHING = ["--any-class", "--eps-min", "0.1", "--noise", "2", "--guide", "--architecture", "unet"]


@pytest.fixture(scope="session")
def target(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory, module = tmp_path_factory.mktemp("target"), importlib.import_module("advgan.training.classifier")
    given = ["--dataset", "folder", "--data-dir", str(digits), "--target", "mnist-c", "--threads", "1"]
    run(module.main, module.Settings, [*given, "--epochs", "4", "--batch-size", "20", "--output-dir", str(directory)])
    return directory


@pytest.fixture
def words(digits: Path, target: Path) -> list[str]:
    """The flags of a run that takes seconds."""
    return ["--dataset", "folder", "--data-dir", str(digits), "--target-weights", str(target), *SMALL]


@pytest.fixture(scope="session")
def advgan() -> ModuleType:
    """The module of the program."""
    return program_module("train/advgan.py")


@pytest.mark.program
def test_the_literal_launch_trains_a_generator_and_logs_what_was_promised(program, words, tmp_path):
    done = program("train/advgan.py", *words, "--max-steps", 10, "--output-dir", tmp_path, launch=[])
    assert "tensorboard --logdir" in done.stdout
    generator = Generator.from_pretrained(tmp_path)
    x = torch.rand(4, 1, 28, 28)
    assert generator.threat.violations(generator.perturb(x), x) == []
    card = (tmp_path / "generator" / "README.md").read_text()
    for promise in (
        "attack success rate",
        "0.1 L_GAN",
        "0.05 L_hinge",
        "images with an active hinge",
        "discriminator's",
    ):
        assert promise in card
    summary = json.loads((tmp_path / "training.json").read_text())
    assert [h["step"] for h in summary["history"]] == [4, 8, 10]
    assert summary["best_validation_asr"] == max(h["asr"] for h in summary["history"])

    events = EventAccumulator(str(tmp_path / "logs" / "advgan"), size_guidance={"images": 0}).Reload()
    tags = events.Tags()
    for tag in (
        "loss adversarial",
        "loss GAN",
        "loss hinge",
        "loss discriminator",
        "D(real)",
        "D(fake)",
        "learning rate",
    ):
        assert f"train/{tag}" in tags["scalars"]
    for tag in ("asr/validation", *(f"validation/{name}" for name in ("l2", "linf", "hinge_active", "d_accuracy"))):
        assert len(events.Scalars(tag)) == 3
    assert tags["histograms"] == ["validation/predicted classes"]
    assert events.Images("validation/clean, perturbation, adversarial")[0].width > 200
    assert "settings/text_summary" in tags["tensors"]
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".")]  # nothing half-written


@pytest.mark.program
def test_interrupted_and_resumed_equals_uninterrupted(script, words, tmp_path):
    whole, parts, long = tmp_path / "whole", tmp_path / "parts", ["--max-steps", "24", "--validate-every", "6"]
    long += ANYTHING
    script("train/advgan.py", *words, *long, "--output-dir", whole)
    code, output = stop_after_first_state(
        "train/advgan.py",
        *words,
        *long,
        "--output-dir",
        parts,
        states=parts / "state" / "generator",
        number=signal.SIGINT,
    )
    assert code == 130
    assert "--resume continues" in output
    script("train/advgan.py", *words, *long, "--output-dir", parts, "--resume")
    for net in ("generator", "discriminator"):
        first, second = (load_file(d / net / "model.safetensors") for d in (whole, parts))
        for name, value in first.items():
            assert torch.equal(value, second[name]), name
    histories = [json.loads((d / "training.json").read_text())["history"] for d in (whole, parts)]
    for a, b in zip(*histories, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}


def test_targeted_images_of_that_class_do_not_count(advgan, words, tmp_path):
    target_class = ["--y-target", "middle"]
    run(advgan.main, advgan.Settings, [*words, *target_class, "--max-steps", "4", "--output-dir", str(tmp_path)])
    history = json.loads((tmp_path / "training.json").read_text())["history"]
    assert history[-1]["n"] == 48
    assert history[-1]["n_correct"] <= 32
    assert json.loads((tmp_path / "generator" / "config.json").read_text())["y_target"] == 1
    assert "toward class 1" in (tmp_path / "generator" / "README.md").read_text()


def test_a_guide_stays_as_it_is_the_targets_copy_or_another(advgan, words, target, classifier, tmp_path):
    own, other = load_target("mnist-c", target), load_target("mnist-small", classifier)
    for flags, given in ((["--guide"], own), (["--guide-dir", str(classifier)], other)):
        directory = tmp_path / given.name
        run(advgan.main, advgan.Settings, [*words, "--max-steps", "4", *flags, "--output-dir", str(directory)])
        guide = Generator.from_pretrained(directory).guide
        assert guide.config == given.config
        assert fingerprint(guide) == fingerprint(given)


def test_unrolled_network_starts_from_its_guide_and_learns(advgan, words, target, tmp_path):
    given = [
        *words,
        "--architecture",
        "unrolled",
        "--guide",
        "--any-class",
        "--max-steps",
        "4",
        "--validate-every",
        "2",
    ]
    still = [*given, "--learning-rate", "1e-12", "--output-dir", str(tmp_path / "still")]
    run(advgan.main, advgan.Settings, still)
    own = {name: value for name, value in load_target("mnist-c", target).state_dict().items() if "weight" in name}
    begun = load_file(tmp_path / "still" / "generator" / "model.safetensors")
    feedback = [begun[name] for name in sorted(begun) if name.startswith("network.feedback.")]
    assert len(feedback) == len(own)
    for weight, copy in zip(own.values(), feedback, strict=True):
        torch.testing.assert_close(copy, weight, atol=1e-6, rtol=0)
    moving = [*given, "--output-dir", str(tmp_path / "moving")]
    run(advgan.main, advgan.Settings, moving)
    moved = load_file(tmp_path / "moving" / "generator" / "model.safetensors")
    assert all(not torch.equal(moved[name], begun[name]) for name in begun if name.startswith("network.feedback."))
    for name in [name for name in begun if name.startswith("guide.")]:
        assert torch.equal(moved[name], begun[name]), name


@pytest.mark.parametrize("architecture", ["patch", "unrolled"])
def test_target_from_a_python_file_is_the_guide(advgan, words, architecture, tmp_path, capsys):
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))\n"
    )
    where = [word for word in words if not word.startswith("--target-weights")]
    where.remove(words[words.index("--target-weights") + 1])
    target = f"{tmp_path / 'net.py'}:net"
    where += ["--target", target, "--guide", "--architecture", architecture, "--max-steps", "4"]
    out = tmp_path / "out"
    run(advgan.main, advgan.Settings, [*where, "--output-dir", str(out)])
    run(advgan.main, advgan.Settings, [*where, "--max-steps", "6", "--output-dir", str(out), "--resume"])
    loaded = load_generators([out], [target])[0].generator
    x = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(loaded.guide(x), load_target(target, image_shape=(1, 28, 28))(x))
    run(advgan.main, advgan.Settings, [*where, "--init", str(out), "--output-dir", str(tmp_path / "next")])
    with pytest.raises(InputError, match="which runs that file, or --guide"):
        Generator.from_pretrained(out)


def test_a_guide_has_classes_of_its_own_and_a_run_goes_on_with_the_same(advgan, words, classifier, tmp_path, capsys):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 4))\n"
        "    model.classes = ('top', 'zebra', 'middle', 'bottom')\n"
        "    return model\n"
    )
    where = [word for word in words if not word.startswith("--target-weights")]
    where.remove(words[words.index("--target-weights") + 1])
    where += ["--target", f"{tmp_path / 'net.py'}:net"]
    anew, moved = load_target("mnist-small", classifier), tmp_path / "moved"
    shutil.copytree(classifier, moved)
    next(anew.parameters()).data.neg_()
    save_target(anew, tmp_path / "anew", "# Another guide")
    for target, name in ((where, "four"), (words, "three")):
        given = [*target, "--max-steps", "4", "--output-dir", str(tmp_path / name)]
        run(advgan.main, advgan.Settings, [*given, "--guide-dir", str(classifier)])
        assert Generator.from_pretrained(tmp_path / name).guide.num_classes == 3
    run(advgan.main, advgan.Settings, [*given, "--guide-dir", str(moved), "--resume"])  # only where it lies is new
    with pytest.raises(SystemExit):
        run(advgan.main, advgan.Settings, [*given, "--guide-dir", str(tmp_path / "anew"), "--resume"])
    assert "but guide_sha256 was" in capsys.readouterr().err


def test_one_generator_for_every_question_is_judged_on_each(advgan, words, tmp_path):
    few = ["--max-steps", "4", "--output-dir", str(tmp_path)]
    run(advgan.main, advgan.Settings, [*words, *ANYTHING, *few])
    last = json.loads((tmp_path / "training.json").read_text())["history"][-1]
    asked = ["eps 0.3", "eps 0.1", "eps 0.15", "eps 0.2", "eps 0.3, targeted"]
    assert [name for name in last if name.startswith("asr ")] == [f"asr {question}" for question in asked]
    assert last["asr"] == pytest.approx(sum(last[f"asr {question}"] for question in asked) / 5)
    generator, x = Generator.from_pretrained(tmp_path), torch.rand(3, 1, 28, 28)
    assert (generator.classes, generator.eps_min, generator.noise) == (3, 0.1, 2)
    assert generator.threat.violations(generator.perturb(x, y_target=torch.tensor([0, 2, 1])), x) == []
    card = (tmp_path / "generator" / "README.md").read_text()
    assert "toward any given class" in card
    assert "eps 0.1 to 0.3" in card


def test_against_a_detector_only_what_is_answered_counts(advgan, words, digits, target, tmp_path, capsys):
    """One that rejects nothing leaves the figures as they are; against one that rejects everything nothing counts."""
    found, model = {}, load_target("mnist-c", target)
    x, y = next(load_data("folder", digits).validation.batches(48))
    clean = scores(FeatureSqueezing((1, 28, 28)), model, x)
    half = clean.median().item()
    for name, threshold in (("none", None), ("nothing", 9.0), ("half", half), ("everything", -1.0)):
        words_of_run = [*words, "--max-steps", "4", "--output-dir", str(tmp_path / name)]
        if threshold is not None:
            detector = FeatureSqueezing((1, 28, 28))
            detector.threshold.fill_(threshold)
            save_target(detector, tmp_path / f"detector-{name}", "# card", {})
            words_of_run += ["--defense", f"reject:detector={tmp_path / f'detector-{name}'}"]
        if name == "everything":
            with pytest.raises(SystemExit) as ending:
                run(advgan.main, advgan.Settings, words_of_run)
            break
        run(advgan.main, advgan.Settings, words_of_run)
        found[name] = json.loads((tmp_path / name / "training.json").read_text())["history"][-1]
    seconds = found["none"].pop("seconds"), found["nothing"].pop("seconds")
    assert all(seconds)
    assert found["nothing"].pop("rejected") == 0
    assert found["nothing"] == found["none"]
    assert found["half"]["n_correct"] == ((model(x).argmax(1) == y) & (clean <= half)).sum()
    assert ending.value.code == 2
    assert "no validation image can be attacked" in capsys.readouterr().err
    assert "1 L_detector" in (tmp_path / "nothing" / "generator" / "README.md").read_text()
    assert "L_detector" not in (tmp_path / "none" / "generator" / "README.md").read_text()
    assert Discriminator.load(tmp_path / "none").config["channels"] == 1
    events = EventAccumulator(str(tmp_path / "half" / "logs" / "advgan")).Reload()
    assert events.Scalars("train/loss detector")[0].value > 0


def test_nan_stops_with_step_and_term_and_keeps_the_last_good_generator(advgan, words, tmp_path, monkeypatch):
    calls, hinge = iter(range(100)), losses.perturbation_hinge
    monkeypatch.setattr(
        losses, "perturbation_hinge", lambda delta, c: hinge(delta, c) * (1 if next(calls) < 6 else float("nan"))
    )
    with pytest.raises(SystemExit, match=r"step 7: loss hinge.* is not finite.*the last good generator is in"):
        run(advgan.main, advgan.Settings, [*words, "--max-steps", "20", "--output-dir", str(tmp_path)])
    weights = load_file(tmp_path / "generator" / "model.safetensors")
    assert all(torch.isfinite(w).all() for w in weights.values())


def test_nothing_made_is_lost_and_settings_stay_those_of_the_run(advgan, words, tmp_path, capsys):
    words = [*words, "--max-steps", "4", "--output-dir", str(tmp_path)]
    run(advgan.main, advgan.Settings, words)
    made = (tmp_path / "generator" / "model.safetensors").read_bytes()
    for extra, message in (
        ([], "already holds a generator run: continue it with --resume (resume=True), replace it with --overwrite"),
        (["--resume", "--eps", "0.2"], "but eps was 0.3, now 0.2"),
        (["--resume", "--width", "16"], "but width was 8, now 16"),
    ):
        with pytest.raises(SystemExit) as exit_:
            run(advgan.main, advgan.Settings, words + extra)
        assert exit_.value.code == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "generator" / "model.safetensors").read_bytes() == made
    run(advgan.main, advgan.Settings, [*words, "--overwrite", "--seed", "1"])
    assert (tmp_path / "generator" / "model.safetensors").read_bytes() != made


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--eps", "0"], r"eps must be in \(0, 1\]"),
        (["--eps", "300/255"], "eps must be in"),
        (["--y-target", "3"], "y_target must be a class from 0 to 2, got 3"),
        (["--y-target", "-1"], "y_target must be a class from 0 to 2, got -1"),
        (["--batch-size", "1000"], "batch size"),
        (["--alpha", "-1"], "alpha must not be negative, got -1"),
        (["--ema", "1"], r"ema must be in \[0, 1\), got 1"),
        (["--any-class", "--aimed", "1.5"], r"aimed must be in \[0, 1\], got 1.5"),
        (["--aimed", "0.4"], "aimed does nothing without any_class, got 0.4"),
        (["--evasion", "1"], "evasion does nothing without a target that can reject, got 1"),
        (["--evasion", "-1"], "evasion must not be negative, got -1"),
        (["--gamma", "1"], "gamma does nothing without noise"),
        (["--levels", "2"], "levels does nothing without architecture unet"),
        (["--architecture", "unrolled"], "expected --guide or --guide-dir, got neither"),
        (["--guide", "--universal"], "got both"),
        (["--guide-dir", ".", "--universal"], "got both"),
        (["--guide", "--guide-dir", "."], "one guide at most"),
        (["--guide-dir", "nowhere"], "guide_dir must be the directory of a saved classifier, got nowhere"),
        (["--noise", "2", "--batch-size", "19"], "an even batch a process, got 19"),
        (["--accumulate", "0"], "accumulate must be positive, got 0"),
        (["--accumulate", "3"], "divisible by processes x accumulate, 1 x 3, got 20"),
        (["--checkpoint-target"], "checkpoint_target needs a target made of blocks, got none in MnistNet"),
        (["--eps-min", "0.3"], "eps_min must be below eps 0.3, got 0.3"),
        (["--any-class", "--y-target", "1"], "expected no y_target, got 1"),
        (["--max-steps", "0"], "max_steps must be at least 1, got 0"),
        (["--threads", "0"], "threads must be at least 1, got 0"),
        (["--target", "mnist-z"], "mnist-z"),
        (["--target", "mnist-a"], "mnist-c"),
        (["--target-weights", "nowhere"], "nowhere"),
        (["--data-dir", "nowhere"], "nowhere"),
        (["--dataset", "imagenet"], "unknown data set 'imagenet'"),
        (["--resume"], "nothing to resume"),
        (["--output-dir", "/proc/advgan"], "cannot write to output directory /proc/advgan"),
    ],
)
def test_nonsense_is_one_line_and_exit_code_2_and_leaves_nothing(advgan, words, tmp_path, capsys, extra, message):
    output = tmp_path / "run"
    with pytest.raises(SystemExit) as exit_:
        run(advgan.main, advgan.Settings, [*words, "--output-dir", str(output), *extra])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not output.exists() or not list(output.iterdir())


def test_exit_code_2_reaches_the_shell(script):
    done = script("train/advgan.py", "--eps", "2", code=2)
    assert done.stderr.startswith("error: eps must be in (0, 1]")


def test_help_documents_every_flag(script, advgan):
    text = script("train/advgan.py", "--help").stdout
    for flag in advgan.Settings.__dataclass_fields__:
        assert f"--{flag.replace('_', '-')}" in text


def test_resumed_with_more_steps_it_ends_there_and_the_first_ones_stay(advgan, words, tmp_path, capsys):
    def train(steps: int, *more: str) -> dict:
        given = [*words, "--max-steps", str(steps), "--output-dir", str(tmp_path), *more]
        run(advgan.main, advgan.Settings, given)
        return json.loads((tmp_path / "training.json").read_text())

    old = train(8)
    assert (old["finished"], old["steps"], old["total_steps"], old["extensions"]) == (True, 8, 8, [])
    new = train(16, "--resume")
    assert (new["finished"], new["steps"], new["total_steps"]) == (True, 16, 16)
    assert new["extensions"] == [{"step": 8, "steps": 16, "before": 8}]
    assert new["history"][:2] == old["history"]
    assert [h["step"] for h in new["history"]] == [4, 8, 12, 16]
    assert new["settings"]["max_steps"] == 16
    events = EventAccumulator(str(tmp_path / "logs" / "advgan")).Reload().Scalars("train/learning rate")
    rates = {event.step: event.value for event in events}
    # after step 8 of 16, not of 8: the logged rate is that of the step after
    assert rates[10] == pytest.approx(1e-2 * training.one_cycle(10 / 16, 0.1))
    assert rates[16] == pytest.approx(1e-2 * training.one_cycle(1.0, 0.1))
    capsys.readouterr()
    for steps, extra, message in (
        (12, (), "expected more steps in all than the 16 that are done, got 12"),
        (20, ("--kappa", "1"), r"but kappa was 5.0, now 1.0"),
    ):
        with pytest.raises(SystemExit):
            train(steps, "--resume", *extra)
        assert message in capsys.readouterr().err
    assert train(16, "--resume") == new, "the same number: nothing is left to do"


def test_a_run_is_not_resumed_with_the_best_weights_of_another(advgan, words, tmp_path, capsys):
    given = [*words, "--max-steps", "4", "--output-dir", str(tmp_path)]
    run(advgan.main, advgan.Settings, given)
    path, saved = tmp_path / "training.json", Generator.from_pretrained(tmp_path)
    record = json.loads(path.read_text())
    assert record["generator_sha256"][-1] == digest(saved.state_dict())
    del record["sha256"]
    path.write_text(json.dumps(record | {"generator_sha256": [digest(saved.state_dict()), "0" * 64]}))
    run(advgan.main, advgan.Settings, [*given, "--resume"])  # killed before the next weights were written
    assert json.loads(path.read_text())["generator_sha256"] == [digest(saved.state_dict())]
    saved.network.load_state_dict({name: value + 0.01 for name, value in saved.network.state_dict().items()})
    saved.save(tmp_path / "generator")
    with pytest.raises(SystemExit) as exit_:
        run(advgan.main, advgan.Settings, [*given, "--resume"])
    assert exit_.value.code == 2
    assert "generator holds the weights of another run (SHA-256" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_stopped_run_is_resumed_with_another_number_of_steps(advgan, words, tmp_path, monkeypatch, epochs):
    stops = iter([False, False, True])
    given = [*words, "--max-steps", "100", "--output-dir", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(training.GracefulShutdown, "requested", lambda *_: next(stops, False))
        run(advgan.main, advgan.Settings, given)
    stopped = json.loads((tmp_path / "training.json").read_text())
    assert (stopped["finished"], stopped["steps"], stopped["total_steps"]) == (False, 3, 100)
    given[given.index("--max-steps") : given.index("--max-steps") + 2] = ["--epochs", str(epochs)]
    run(advgan.main, advgan.Settings, [*given, "--resume"])
    done = json.loads((tmp_path / "training.json").read_text())
    assert (done["finished"], done["steps"]) == (True, 6 * epochs)  # 120 images, 20 a step
    assert done["extensions"] == [{"step": 3, "steps": 6 * epochs, "before": 100}]


def test_a_new_run_from_a_trained_generator(advgan, words, target, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    given = [*words, "--guide", "--any-class"]
    run(advgan.main, advgan.Settings, [*given, "--max-steps", "4", "--output-dir", str(first)])
    still = ["--learning-rate", "1e-12", "--discriminator-learning-rate", "0", "--max-steps", "4", "--eps", "0.2"]
    run(advgan.main, advgan.Settings, [*given, *still, "--init", str(first), "--output-dir", str(second)])
    for net in ("generator", "discriminator"):
        weights = [load_file(run_ / net / "model.safetensors") for run_ in (first, second)]
        for name, value in weights[0].items():
            torch.testing.assert_close(weights[1][name], value, atol=1e-9, rtol=0)
    settings = json.loads((second / "training.json").read_text())["settings"]
    assert settings["init_sha256"] == fingerprint(Generator.from_pretrained(first))
    assert f"--init {first}" in (second / "generator" / "README.md").read_text()
    shutil.rmtree(first)
    run(advgan.main, advgan.Settings, [*given, *still, "--max-steps", "8", "--output-dir", str(second), "--resume"])
    assert json.loads((second / "training.json").read_text())["settings"] == settings | {"max_steps": 8}
    assert f"--init {first}" in (second / "generator" / "README.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--width", "4"], "width is 8, expected 4"),
        (["--architecture", "unet"], "architecture is patch, expected unet"),
        (["--norm", "l2", "--eps", "2"], "norm is linf, expected l2"),
        (["--any-class"], "classes is 0, expected 3"),
        (["--eps-min", "0.1"], "several radii is False, expected True"),
        (["--guide"], "guide is None, expected "),
    ],
)
def test_a_generator_of_another_kind_initialises_nothing(advgan, words, tmp_path, capsys, flags, message):
    Generator(width=8, depth=1).save(tmp_path / "generator", "card")
    given = [*words, *flags, "--init", str(tmp_path), "--output-dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as ending:
        run(advgan.main, advgan.Settings, given)
    error = capsys.readouterr().err
    assert (ending.value.code, error.count("\n")) == (2, 1)
    assert "holds a generator of another kind" in error
    assert message in error


def test_an_ensemble_trained_on_the_test_images_is_described_as_such(
    advgan: ModuleType,
    words: list[str],
    classifier: Path,
    digits: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = [
        "--ensemble",
        str(classifier),
        "--adversarial",
        "cosine-features",
        "--train-on",
        "test",
        "--smoothing",
        "3",
    ]
    run(advgan.main, advgan.Settings, [*words, *flags, "--max-steps", "2", "--output-dir", str(tmp_path)])
    assert "warning: the generator is trained on the test images" in capsys.readouterr().err
    told = json.loads((tmp_path / "training.json").read_text())["settings"]
    assert told["ensemble_sha256"] == [
        fingerprint(load_target("mnist-small", classifier, image_shape=(1, 28, 28), num_classes=3))
    ]
    assert len(told["feature_layers"]) == 2
    card = (tmp_path / "generator" / "README.md").read_text()
    assert "**It was trained on the test images**" in card
    assert "Test images were not used" not in card
    assert Generator.from_pretrained(tmp_path).config["smoothing"] == 3
    load_generators([tmp_path])
    assert f"warning: {tmp_path.name} was trained on the test images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--layer", "features.5"],
            "layer does nothing without adversarial features or cosine-features, got features.5",
        ),
        (["--adversarial", "match"], "adversarial match is targeted, expected y_target"),
        (["--adversarial", "features", "--layer", "nothing"], "layer 'nothing' is not one of the model's"),
        (["--ensemble", "nowhere"], "nowhere"),
        (["--smoothing", "4"], "smoothing must be 0 or an odd number of pixels, got 4"),
    ],
)
def test_settings_of_objectives_that_cannot_work(
    flags: list[str],
    message: str,
    advgan: ModuleType,
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(advgan.main, advgan.Settings, [*words, *flags, "--max-steps", "2", "--output-dir", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out" / "training.json").exists()
