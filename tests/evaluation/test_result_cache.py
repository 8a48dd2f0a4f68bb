"""ResultCache: results are run once, stored whole, and reused only if nothing that decides them has changed."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from advgan import Generator
from advgan.attacks import Attack, AttackSpec, ifgsm, make_attack, parse_attack, registry
from advgan.classifiers import BlackBox
from advgan.core.threat_model import Threat
from advgan.core.weights import read_weights, write_weights
from advgan.evaluation import GridPoint, Result, ResultCache, TargetModel, evaluate
from advgan.evaluation.environment import cache_version, code_digest
from advgan.evaluation.loading import LoadedGenerator
from advgan.evaluation.result_cache import distribute
from tests.attacks.test_attacks import conv_net, images, predicted_labels
from tests.conftest import randomise_conditioning

BALL = Threat("linf", 0.2)
FGSM, NOISE, DEEPFOOL = parse_attack("fgsm"), parse_attack("noise-uniform"), parse_attack("deepfool:steps=20")


@pytest.fixture
def victim() -> TargetModel:
    return TargetModel("net", conv_net())


X = images(24)
Y = predicted_labels(conv_net(), X)


def same(a: Result, b: Result, but: tuple[str, ...] = ("seconds_per_image", "images_per_second")) -> bool:
    rows = [{k: v for k, v in r.row.items() if k not in but} for r in (a, b)]
    columns = a.records.keys() == b.records.keys()
    return rows[0] == rows[1] and columns and all(torch.equal(a.records[k], b.records[k]) for k in a.records)


def test_cached_result_equals_original(victim: TargetModel, tmp_path: Path) -> None:
    first, images_done = ResultCache(tmp_path, X, Y, batch_size=10), []
    made = first.run(GridPoint(FGSM, victim, BALL))
    assert first.cache_hits == 0
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # who may read one may read all
    again = ResultCache(tmp_path, X, Y, batch_size=10)
    found = again.run(GridPoint(FGSM, victim, BALL), images_done.append)
    assert (again.cache_hits, images_done) == (1, [24])
    assert same(made, found, but=())
    assert list(made.records) == list(found.records)
    assert torch.equal(made.x_adv, found.x_adv)
    attack = make_attack(FGSM, victim.model, BALL)
    direct = evaluate(attack, victim.model, X, Y, BALL, batch_size=10)
    assert same(direct, made, but=("seconds_per_image", "images_per_second", "attack", "target"))


@pytest.mark.parametrize(
    "change",
    [
        *("eps", "seed", "settings", "weights", "images", "batch", "aim", "fresh", "damaged", "a bit"),
        *("a bit of its row", "a letter of its key", "its digest"),
    ],
)
def test_changed_input_or_damaged_entry_is_rerun(
    change: str, victim: TargetModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = NOISE if change == "seed" else FGSM
    ResultCache(tmp_path, X, Y, batch_size=10).run(GridPoint(spec, victim, BALL))
    words: dict[str, Any] = {"batch_size": 12 if change == "batch" else 10, "fresh": change == "fresh"}
    cells = ResultCache(tmp_path, X.flip(0) if change == "images" else X, Y, **words)
    if change == "weights":
        victim.model[0].bias.data += 1e-3  # type: ignore[index, operator, union-attr]
        victim = TargetModel("net", victim.model)
    if change == "damaged":
        (file,) = tmp_path.glob("*/records.safetensors")
        file.write_bytes(file.read_bytes()[:-50])
    if change in ("a bit of its row", "a letter of its key", "its digest"):
        (file,) = tmp_path.glob("*/cell.json")
        old, new = {"a bit of its row": ("0.2", "0.6"), "a letter of its key": ('"row"', '"rov"')}.get(change, ("", ""))
        file.write_text(file.read_text().replace(old, new, 1))
        if change == "its digest":
            (file,) = tmp_path.glob("*/records.safetensors")
            write_weights(read_weights(file), file)
    if change == "a bit":
        (file,) = tmp_path.glob("*/records.safetensors")
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    threat = Threat("linf", 0.1 if change == "eps" else 0.2, targeted=change == "aim")
    spec = parse_attack("fgsm:loss=margin") if change == "settings" else spec
    cells.run(GridPoint(spec, victim, threat, seed=int(change == "seed"), y_target=0 if change == "aim" else None))
    assert cells.cache_hits == 0
    named = change in ("damaged", "its digest") or change.startswith("a ")
    assert ("is damaged and is computed again" in capsys.readouterr().err) == named
    again = ResultCache(tmp_path, cells.x, Y, batch_size=words["batch_size"])
    again.run(GridPoint(spec, victim, threat, seed=int(change == "seed"), y_target=0 if change == "aim" else None))
    assert again.cache_hits == 1


class Service(nn.Module):
    """A model whose output depends on a switch that no fingerprint covers, like a service that was replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.switch, self.batches = conv_net(), [1.0], list[int]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        return self.switch[0] * self.net(x)


@pytest.mark.parametrize(("factor", "hits"), [(1.0, 1), (1.00001, 1), (0.5, 0), (-1.0, 0)])
def test_results_of_a_model_with_other_predictions_now_are_rerun(
    factor: float, hits: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = Service().eval()
    y = service(X).argmax(1)
    y[:12] = 1 - y[:12].clamp_max(1)  # also some errors
    ResultCache(tmp_path, X, y, batch_size=10).run(GridPoint(FGSM, TargetModel("net", service), BALL))
    service.switch[0] = factor
    again, expected = (ResultCache(folder, X, y, batch_size=10) for folder in (tmp_path, None))
    results = [cache.run(GridPoint(FGSM, TargetModel("net", service), BALL)) for cache in (again, expected)]
    assert again.cache_hits == hits
    assert ("net has other predictions for the same images now" in capsys.readouterr().err) == (not hits)
    rates = [[r.row[name] for name in ("clean_accuracy", "asr", "robust_accuracy")] for r in results]
    assert rates[0] == rates[1]


def test_transferred_results_of_a_source_with_other_predictions_now_are_rerun(
    victim: TargetModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = Service().eval()
    source, rates, hits = TargetModel("stand-in", service), [], []
    for factor in (1.0, 1.0, -1.0):
        service.switch[0] = factor
        cache = ResultCache(tmp_path, X, Y, batch_size=10)
        rates.append(cache.run(GridPoint(FGSM, victim, BALL, source=source)).row["asr"])
        hits.append(cache.cache_hits)
    assert hits == [0, 1, 0]
    assert "stand-in has other predictions for the same images now" in capsys.readouterr().err
    assert rates[0] == rates[1] > rates[2]  # the negative model's gradients lead away from the boundary


def test_a_stored_result_of_a_black_box_takes_a_few_queries(tmp_path: Path) -> None:
    for budget, queries in ((None, 8), (1000, 0)):
        box = BlackBox.from_model(conv_net(), 5, max_queries=budget)
        box.identity = "box"
        noise = parse_attack("noise-sign")
        ResultCache(tmp_path / str(budget), X, Y, batch_size=10).run(GridPoint(noise, TargetModel("box", box), BALL))
        before, again = box.queries, ResultCache(tmp_path / str(budget), X, Y, batch_size=10)
        again.run(GridPoint(noise, TargetModel("box", box), BALL))
        again.run(GridPoint(noise, TargetModel("box", box), BALL))
        assert (again.cache_hits, box.queries - before) == (2, queries)


def test_a_black_box_with_few_labels_right_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    x = images(40)
    box = BlackBox.from_model(conv_net(), 5)
    y = box(x).argmax(1)
    for labels, warned in ((y, False), ((y + 1) % 5, True)):
        ResultCache(None, x, labels).clean(TargetModel("box", box))
        assert ("0% of 40 images of the comparison as labelled, chance is 20%" in capsys.readouterr().err) == warned


def test_result_of_another_attack_is_not_used(
    victim: TargetModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ResultCache(tmp_path, X, Y).run(GridPoint(FGSM, victim, BALL))
    (folder,) = tmp_path.glob("*fgsm*")
    ResultCache(tmp_path, X, Y).run(GridPoint(NOISE, victim, BALL))
    (other,) = tmp_path.glob("*noise*")
    shutil.copytree(other, folder, dirs_exist_ok=True)
    again = ResultCache(tmp_path, X, Y)
    assert same(again.run(GridPoint(FGSM, victim, BALL)), made)
    assert again.cache_hits == 0
    assert "is damaged and is computed again: it is another result's" in capsys.readouterr().err


def test_seed_is_part_of_key_for_random_attacks_only(victim: TargetModel, tmp_path: Path) -> None:
    cells = ResultCache(tmp_path, X, Y)
    first, other = (cells.run(GridPoint(NOISE, victim, BALL, seed=seed)) for seed in (0, 1))
    assert not torch.equal(first.x_adv, other.x_adv)
    assert same(first, ResultCache(None, X, Y).run(GridPoint(NOISE, victim, BALL)))
    cells.run(GridPoint(FGSM, victim, BALL, seed=0))
    cells.run(GridPoint(FGSM, victim, BALL, seed=1))
    assert cells.cache_hits == 1


def test_minimum_norm_attack_is_run_once_for_all_eps(victim: TargetModel, tmp_path: Path) -> None:
    cells = ResultCache(tmp_path, X, Y)
    radii = (0.2, 0.5, 5.0)
    results = [cells.run(GridPoint(DEEPFOOL, victim, Threat("l2", eps))) for eps in radii]
    assert cells.cache_hits == 2
    assert len(list(tmp_path.iterdir())) == 1
    for eps, result in zip(radii, results, strict=True):
        direct = ResultCache(None, X, Y).run(GridPoint(DEEPFOOL, victim, Threat("l2", eps)))
        assert same(direct, result)
        assert result.row["eps"] == eps
    assert results[0].row["asr"] < results[2].row["asr"] == results[2].row["asr_any_norm"]


def test_transfer_attack_queries_source_only(victim: TargetModel, tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = TargetModel("other", torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 5)).eval())
    result = ResultCache(tmp_path, X, Y).run(GridPoint(FGSM, victim, BALL, source=source))
    assert (result.row["attack"], result.row["access"], result.row["target"]) == ("fgsm from other", "transfer", "net")
    assert result.row["forwards_per_image"] == 0
    x_adv = ifgsm(source.model, X, Y, eps=0.2, steps=1)
    assert torch.equal(result.records["prediction"], predicted_labels(victim.model, x_adv))


def test_images_of_one_source_are_made_once_for_all_victims(victim: TargetModel) -> None:
    source, other = (TargetModel(name, conv_net()) for name in "ab")
    torch.manual_seed(1)
    for model in (source.model, other.model):
        torch.nn.init.normal_(model.get_parameter("0.bias"), std=0.1)
    pgd, passes = parse_attack("pgd:steps=2"), list[int]()
    calls: list[tuple[TargetModel, TargetModel | None]] = [(source, None), (victim, source), (other, source)]
    alone = [ResultCache(None, X, Y, batch_size=10).run(GridPoint(pgd, v, BALL, source=s)) for v, s in calls]
    cache = ResultCache(None, X, Y, batch_size=10)
    together = [cache.run(GridPoint(pgd, source, BALL, shared=True))]
    source.model.register_forward_hook(lambda *_: passes.append(1))
    together += [cache.run(GridPoint(pgd, v, BALL, source=source)) for v in (victim, other)]
    assert not passes
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))
    assert together[0].row["forwards_per_image"] > 0 == together[1].row["forwards_per_image"]
    assert len({result.row["seconds_per_image"] for result in together}) == 1


def test_generator_is_part_of_key(victim: TargetModel, tmp_path: Path) -> None:
    spec, generators = parse_attack("advgan:steps=1"), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        generators.append(Generator(width=8, depth=1).eval())
    cells = ResultCache(tmp_path, X, Y)
    rows = [
        cells.run(GridPoint(spec, victim, BALL, generator=LoadedGenerator(Path(), generator))).row
        for generator in (*generators, generators[0])
    ]
    assert cells.cache_hits == 1
    assert rows[0] == rows[2]
    assert rows[0]["access"] == "gradients"


def test_seed_is_part_of_key_for_noise_generators(victim: TargetModel, tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = Generator(width=8, depth=1, noise=2).eval()
    randomise_conditioning(generator)
    cells = ResultCache(tmp_path, X, Y)
    one_pass = parse_attack("advgan")
    first, other, again = (
        cells.run(GridPoint(one_pass, victim, BALL, seed=seed, generator=LoadedGenerator(Path(), generator)))
        for seed in (0, 1, 0)
    )
    assert not torch.equal(first.x_adv, other.x_adv)
    assert cells.cache_hits == 1
    assert same(first, again)
    fresh = ResultCache(None, X, Y).run(GridPoint(one_pass, victim, BALL, generator=LoadedGenerator(Path(), generator)))
    assert same(first, fresh), "whatever torch's own random numbers are"


@pytest.mark.parametrize("fresh", [False, True])
def test_processes_share_work_and_main_process_has_all_results(
    victim: TargetModel, tmp_path: Path, fresh: bool
) -> None:
    specs = [(FGSM, 0.1), (DEEPFOOL, 0.1), (NOISE, 0.1), (FGSM, 0.2), (DEEPFOOL, 0.2), (NOISE, 0.2)]
    todo = [GridPoint(spec, victim, Threat("l2", eps)) for spec, eps in specs]
    alone = [ResultCache(None, X, Y).run(point) for point in todo]
    made: list[list[int]] = []
    for process in (1, 0):  # the main one waits for the other
        two = SimpleNamespace(process_index=process, num_processes=2, is_main_process=process == 0, device="cpu")
        two.wait_for_everyone, two.reduce = lambda: None, lambda value, reduction: value
        cells, run = ResultCache(tmp_path, X, Y, fresh=fresh), []

        def run_cell(point: GridPoint, cells: ResultCache = cells, run: list[int] = run) -> Result:
            before, result = cells.cache_hits, cells.run(point)
            run.extend([todo.index(point)] if cells.cache_hits == before else [])
            return result

        results, found = distribute(cells, todo, run_cell, two)  # type: ignore[arg-type]
        made.append(run)
    assert made == [[1, 3], [0, 2, 5]] if not fresh else [[1, 3, 4], [0, 2, 5]]
    assert found == 0 or not fresh
    assert all(same(one, result) for one, result in zip(alone, results, strict=True))


def test_failed_result_is_not_cached(victim: TargetModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(model: Any, x: Any, y: Any, **settings: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setitem(registry.ATTACKS, "breaks", Attack(breaks))
    cells = ResultCache(tmp_path, X, Y)
    for _ in range(2):
        result = cells.run(GridPoint(AttackSpec("breaks", "breaks", {}), victim, BALL))
        assert result.row["status"] == "failed: RuntimeError: out of memory"
    assert (cells.cache_hits, list(tmp_path.iterdir())) == (0, [])


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ('"""Another docstring."""\n\ndef f(x):\n    """Doubles."""\n    # and a comment\n    return 2 * x\n', True),
        ("def f(x):\n    pass\n    return (2*x)\n", False),
        ('"""One."""\n\ndef f(x):\n    """Doubles."""\n    return 3 * x\n', False),
    ],
)
def test_code_digest_ignores_comments(change: str, same: bool) -> None:
    code = '"""One."""\n\n\ndef f(x):\n    """Twice."""\n    return 2 * x\n'
    assert (code_digest(change) == code_digest(code)) == same


def test_thread_count_is_read_at_each_call() -> None:
    counts = []
    for threads in (2, 1):
        torch.set_num_threads(threads)
        counts.append(cache_version()["threads"])
    assert counts == [2, 1]
