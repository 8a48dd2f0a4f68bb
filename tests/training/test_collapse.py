"""Each way to collapse is noticed, and a healthy run is left in peace."""

import pytest
import torch

from advgan.training.card import generator_card
from advgan.training.validation import class_warnings, collapse_warnings

X = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
NOISE = 0.3 * torch.rand(X.shape, generator=torch.Generator().manual_seed(1)).sub(0.5).sign()


@pytest.mark.parametrize(
    ("delta", "kept", "caught", "message"),
    [
        (NOISE, 0.8, 0.7, None),
        (NOISE, 1.0, 1.0, "discriminator accuracy 100.0%"),
        (NOISE, 1.0, 0.0, "discriminator is constant"),
        (NOISE * 0 + 0.3, 0.8, 0.7, r"saturated at +eps"),
        (NOISE * 0 - 0.3, 0.8, 0.7, r"saturated at -eps"),
        (NOISE[:1].expand_as(NOISE), 0.8, 0.7, "all images get the same perturbation"),
        (NOISE * 0, 0.8, 0.7, "perturbation is zero"),
    ],
)
def test_collapse_warnings(delta, kept, caught, message):
    found = collapse_warnings(delta, X, 0.3, d_real_acc=kept, d_fake_acc=caught)
    assert found == [] if message is None else any(message in line for line in found)


@pytest.mark.parametrize("caught", [1.0, 0.0])
def test_without_a_gan_loss_the_discriminator_is_no_symptom(caught):
    assert collapse_warnings(NOISE, X, 0.3, d_real_acc=1.0, d_fake_acc=caught, with_gan=False) == []
    assert len(collapse_warnings(NOISE, X, 0.3, d_real_acc=1.0, d_fake_acc=caught)) == 1


SETTINGS = {
    **{"target": "t", "dataset": "d", "norm": "linf", "eps": 0.3, "y_target": None, "architecture": "patch"},
    **{"adversarial": "margin", "kappa": 5.0, "gan": "least-squares", "alpha": 0.0, "beta": 0.0},
    **{"batch_size": 16, "seed": 0},
}
METRICS = dict.fromkeys(("n_correct", "asr", "l2", "hinge_active", "step", "seconds"), 0.5)


def test_names_in_a_card_are_one_line_of_text():
    name = "<b>\x1b[31m\n# Certified\u202e"
    card = generator_card(SETTINGS | {"target": name, "y_target": name, "target_classes": [name]}, METRICS, 1.5)
    assert "# A one-pass attack on &lt;b>\\x1b[31m\\n# Certified\\u202e (d)\n" in card
    assert not any(text in card for text in ("\x1b", "\u202e", "\n# Certified", "<b>"))


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.05), (0.1, 0.05)])
def test_a_card_shows_the_terms_that_the_loss_had(alpha, beta):
    metrics = METRICS | ({"d_accuracy": 0.5} if alpha else {})
    card = generator_card(SETTINGS | {"alpha": alpha, "beta": beta}, metrics, 1.5)
    assert ("L_GAN" in card) == ("| discriminator's accuracy | 50.0% |" in card) == (alpha > 0)
    assert ("L_hinge (c = 1.5)" in card) == ("active hinge (l2 above c) | 50.0% |" in card) == (beta > 0)


def test_absorbing_class_is_named():
    attacked = torch.full((4,), 100.0)
    found = class_warnings(attacked, torch.tensor([95.0, 95.0, 10.0, 95.0]), torch.tensor([20.0, 30.0, 320.0, 30.0]))
    assert len(found) == 1
    assert "class 2 absorbs predictions" in found[0]
    guide = "a guide (--guide, in Python guide=True)"
    assert found[0].endswith(f"try the label as an input (--labels, in Python labels=True), {guide}, or more steps")
    hits, predicted = torch.tensor([95.0, 95.0, 10.0, 95.0]), torch.tensor([20.0, 30.0, 320.0, 30.0])
    (of_labels,) = class_warnings(attacked, hits, predicted, labels=True)
    assert of_labels.endswith(f"success 10% on its own images, 74% overall; try {guide} or more steps")
    assert class_warnings(attacked, torch.full((4,), 95.0), attacked) == []  # success everywhere
    assert class_warnings(attacked, torch.tensor([95.0, 95.0, 10.0, 95.0]), attacked) == []  # hard, but no sink


@pytest.mark.parametrize(("classes", "share", "warned"), [(10, 1.0, True), (10, 0.9, False), (100, 0.5, True)])
def test_nearly_all_images_in_one_class_are_a_warning(classes, share, warned):
    predicted = torch.zeros(classes).index_fill(0, torch.tensor([3, 4]), 64 * (1 - share))
    predicted[3] = 64 * share
    found = class_warnings(torch.zeros(classes), torch.zeros(classes), predicted)
    assert found == ([f"{share:.0%} of the perturbed images are predicted as class 3"] if warned else [])
