"""The attack on one image: result and HTML, without gradio."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from advgan import Generator
from advgan.app.attack import Pair, attack_image, load_shipped, shipped_label
from advgan.app.digits import example_digits
from advgan.app.panel import panel
from advgan.app.sketch import data_uri, decode_uri, example_pixels, sketch_html
from advgan.attacks import fgsm
from advgan.classifiers import BlackBox, build_target
from advgan.core.errors import InputError
from advgan.core.shipped import classifier_beside, shipped
from advgan.core.threat_model import to_8bit
from advgan.data.model_input import ModelInput
from advgan.evaluation.metrics import changed_class

SEVEN = example_digits()[7:8]


@pytest.fixture(scope="module")
def fast() -> Pair:
    return load_shipped("mnist-c-generator")


@pytest.fixture(scope="module")
def conditional() -> Pair:
    return load_shipped("mnist-c-conditional")


def test_result_is_recomputed_from_the_images(fast: Pair) -> None:
    result = attack_image(fast, SEVEN, 0.2)
    assert result.threat.violations(result.x_adv, SEVEN) == []
    assert torch.equal(result.x_adv, fast.generator.perturb(SEVEN, eps=0.2))
    for images, shown in ((SEVEN, result.before), (result.x_adv, result.after)):
        values, labels = fast.classifier(images).softmax(1)[0].topk(5)
        assert [prediction.label for prediction in shown] == labels.tolist()
        assert [prediction.probability for prediction in shown] == pytest.approx(values.tolist())
    assert result.success == (result.after[0].label != 7)
    assert result.norms["linf"] == pytest.approx(0.2)


def test_other_attacks_and_files_are_those_of_the_library(fast: Pair) -> None:
    result = attack_image(fast, SEVEN, 0.3)
    one_pass, of_fgsm, of_pgd = result.attacks
    assert [entry.name for entry in result.attacks] == ["one pass", "FGSM", "PGD, 10 steps"]
    assert one_pass.prediction == result.after[0]
    x_adv = fgsm(fast.classifier, SEVEN, torch.tensor([7]), eps=0.3)
    assert of_fgsm.prediction.label == fast.classifier(x_adv).argmax().item()
    assert all(entry.seconds is not None and entry.seconds > 0 for entry in (one_pass, of_fgsm, of_pgd))
    png = to_8bit(result.x_adv, SEVEN).float() / 255
    assert result.files[0].prediction.label == fast.classifier(png).argmax().item()
    assert [entry.name for entry in result.files] == ["PNG (8 bits)", "JPEG 75"]


def test_target_class(conditional: Pair) -> None:
    result = attack_image(conditional, SEVEN, 0.3, y_target=3)
    assert result.success is True
    assert result.after[0].label == 3
    assert "The image is of the target class <b>7</b> already" in panel(
        conditional, attack_image(conditional, SEVEN, None, 7)
    )


def test_success() -> None:
    assert [changed_class(1, 2, None), changed_class(1, 1, None)] == [True, False]
    assert [changed_class(1, 3, 3), changed_class(1, 2, 3), changed_class(3, 2, 3)] == [True, False, None]


def test_bad_input(fast: Pair) -> None:
    with pytest.raises(InputError, match=r"this generator was trained for eps 0\.3, got the larger 0\.5"):
        attack_image(fast, SEVEN, 0.5)
    with pytest.raises(InputError, match=r"eps must be in \(0, 1\]"):
        attack_image(fast, SEVEN, 0.0)
    with pytest.raises(InputError, match="this generator was trained untargeted, got y_target 3"):
        attack_image(fast, SEVEN, None, 3)
    with pytest.raises(InputError, match=r"expected one image \(1, 1, 28, 28\), got \(2, 1, 28, 28\)"):
        attack_image(fast, SEVEN.expand(2, -1, -1, -1))
    with pytest.raises(InputError, match="of the same 1 or 3 channels, got 3 and 1"):
        replace(fast, generator=Generator(channels=3, width=4, depth=1))


def test_a_black_box_has_no_gradient_attacks(fast: Pair) -> None:
    box = BlackBox.from_model(fast.classifier, 10)
    box.image_shape = (1, 28, 28)
    result = attack_image(replace(fast, classifier=box), SEVEN)
    assert [entry.name for entry in result.attacks] == ["one pass"]
    assert "Without FGSM and PGD" in panel(replace(fast, classifier=box), result)


def test_photos_of_a_classifier_in_colour_and_an_l2_generator() -> None:
    torch.manual_seed(0)
    model = build_target("cifar-resnet20", (3, 32, 32), 3).eval()
    model.classes = ("a<b", "c", "d")
    generator = Generator(3, 2.0, "l2", width=4, depth=1, labels=3).eval()
    pair = Pair("own", model, generator, ModelInput(32, 32), note="a < transfer")
    long = replace(pair, model_input=replace(pair.model_input, resize=9000))
    with pytest.raises(InputError, match="pixels expected, got 90000 x 9000 after resize 9000"):
        long.prepare(Image.new("L", (50, 5)))
    x, steps = pair.prepare(Image.new("L", (50, 40), 128))
    assert x.shape == (1, 3, 32, 32)
    assert steps == ["the largest centre crop, resized to 32 x 32"]
    html = panel(pair, attack_image(pair, x), steps)
    assert "a&lt;b" in html
    assert "a &lt; transfer" in html
    assert "a<b" not in html
    assert not pair.takes_digits


def test_pictures_from_a_browser() -> None:
    pixels = example_pixels()[2:3]
    assert list(decode_uri(data_uri(pixels)).tobytes()) == pixels.flatten().tolist()
    for uri in ("data:image/png;base64,AAAA", "data:image/png;base64,!", "http://x", None, "data:"):
        with pytest.raises(InputError, match="this picture cannot be read"):
            decode_uri(uri)
    assert sketch_html(True).count("<img") == 10
    assert "<img" not in sketch_html(False)


def test_classifier_of_a_generator(classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "classifier").symlink_to(classifier / "classifier")
    assert classifier_beside(str(tmp_path)) == tmp_path / "classifier"
    assert classifier_beside(str(tmp_path / "generator")) == tmp_path / "classifier"
    assert classifier_beside(str(tmp_path / "other")) is None
    assert classifier_beside(str(shipped("checkpoints/mnist5k-generator"))) == shipped("checkpoints/mnist5k-classifier")


def test_labels_of_shipped_generators() -> None:
    assert shipped_label("mnist-c-conditional") == "mnist-c-conditional (unrolled, any target class)"
    assert shipped_label("mine") == "mine"
