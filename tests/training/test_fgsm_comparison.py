"""A trained generator beside FGSM on validation images."""

import pytest
import torch
from torch import Tensor, nn

import advgan
from advgan import Generator
from advgan.data.sources import FloatSplit as Split
from advgan.training.trial import FGSMComparison, compare_with_fgsm


class Sum(nn.Module):
    """Class 1 where the sum of the pixels above one half is positive, class 0 where it is not; class 2 never."""

    def forward(self, x: Tensor) -> Tensor:
        total = (x - 0.5).flatten(1).sum(1)
        return torch.stack([-total, total, total - total - 100], 1)


def images() -> tuple[Tensor, Tensor]:
    x = 0.3 + 0.4 * torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, (x.mean((1, 2, 3)) > 0.5).long()


def test_fgsm_success_is_that_of_the_linear_classifier() -> None:
    (x, y), eps = images(), 0.01
    y[:10] = 1 - y[:10]  # misclassified: not eligible
    generator = Generator(eps=eps, width=4, depth=0).eval()
    result = compare_with_fgsm(generator, Sum(), Split(x, y), torch.device("cpu"))
    margin = (x - 0.5).flatten(1).sum(1).abs()[10:]
    assert result is not None
    assert (result.n, result.fgsm) == (50, int((margin < eps * 64).sum()))
    assert 0 < result.fgsm < 50
    assert result.generator <= result.fgsm, "FGSM is the strongest attack of a linear classifier"


@pytest.mark.parametrize("y_target", [0, 2])
def test_toward_a_class_counts_the_images_of_others(y_target: int) -> None:
    x, y = images()
    generator = Generator(eps=0.2, width=4, depth=0, y_target=y_target).eval()
    result = compare_with_fgsm(generator, Sum(), Split(x, y), torch.device("cpu"))
    assert result is not None
    assert (result.n, result.fgsm) == ((int((y == 1).sum()),) * 2 if y_target == 0 else (60, 0))


def test_no_eligible_image() -> None:
    x, y = images()
    assert compare_with_fgsm(Generator(eps=0.2, width=4), Sum(), Split(x, 1 - y), torch.device("cpu")) is None


def test_text() -> None:
    assert str(FGSMComparison(200, 190, 181)) == "generator 95.0%, FGSM 90.5% (ASR on 200 of the validation images)"
    assert "(fooling rate on 200 of" in str(FGSMComparison(200, 190, 181, "fooling rate"))


@pytest.mark.parametrize(("steps", "noted"), [(1, True), (60, False)])
def test_end_of_a_training_names_a_generator_below_fgsm(
    steps: int, noted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    data = images()
    settings = {"width": 8, "depth": 1, "batch_size": 20, "max_steps": steps, "learning_rate": 1e-6 if noted else 1e-2}
    advgan.fit(Sum(), data, data, eps=0.02, workers=0, **settings)
    printed = " ".join(capsys.readouterr().out.split())
    assert "(ASR on 60 of the validation images)" in printed
    assert ("FGSM has more success; to try: more steps, architecture unrolled" in printed) is noted
