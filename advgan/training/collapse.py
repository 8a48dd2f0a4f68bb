"""Warnings of collapse: the ways in which the training of a generative attack fails without an error."""

from torch import Tensor

from advgan.evaluation.metrics import LargestClass


def collapse_warnings(
    delta: Tensor,
    x: Tensor,
    eps: float | None,
    *,
    d_real_acc: float,
    d_fake_acc: float,
    universal: bool = False,
    with_gan: bool = True,
) -> list[str]:
    """One line for each sign of collapse on validation images; none for a healthy training.

    delta, x      (n, c, h, w) perturbations and clean images, n >= 2
    eps           the linf bound; None for another norm, where tanh cannot saturate
    d_real_acc    accuracy of the discriminator on clean images
    d_fake_acc    its accuracy on perturbed images
    with_gan      whether there is a discriminator
    """
    warnings = []
    if with_gan and d_real_acc > 0.99 and d_fake_acc > 0.99:
        lower = min(d_real_acc, d_fake_acc)
        warnings.append(f"discriminator accuracy {lower:.1%}: the GAN loss gives almost no gradient")
    elif with_gan and (d_real_acc < 0.01 or d_fake_acc < 0.01):
        warnings.append(
            f"the discriminator is constant: accuracy {d_real_acc:.1%} on clean, {d_fake_acc:.1%} on perturbed images"
        )
    if eps is not None:
        unclipped = (x >= eps) & (x <= 1 - eps)  # elsewhere the box shortens one side
        signed = delta[unclipped] / eps if unclipped.any() else (delta / eps).flatten()
        for sign, bound in ((1, "+eps"), (-1, "-eps")):
            if (sign * signed > 0.95).float().mean() > 0.95:
                warnings.append(
                    f"tanh is saturated at {bound} in nearly every pixel: no gradient reaches the generator"
                )
    spread, size = delta.var(dim=0).sum().sqrt(), delta.flatten(1).norm(dim=1).mean()
    if size < 1e-6:
        warnings.append("the perturbation is zero")
    elif spread / size < 0.02 and not universal:
        warnings.append(f"all images get the same perturbation (spread {spread / size:.1%} of its length)")
    return warnings


def class_warnings(attacked: Tensor, hits: Tensor, predicted: Tensor, *, labels: bool = False) -> list[str]:
    """Warnings of an untargeted generator: nearly all images in one class (`LargestClass`), and each class that absorbs
    predictions while its own images resist, a usual plateau.

    attacked, hits   (k,) eligible images of each class, and the successes among them
    predicted        (k,) perturbed images predicted as each class
    labels           whether the label is an input already
    """
    tries = "a guide (--guide)" if labels else "the label as an input (--labels), a guide (--guide),"
    rate, mean = hits / attacked.clamp_min(1), hits.sum() / attacked.sum().clamp_min(1)
    fair = predicted.sum() / len(predicted)
    stuck = (attacked >= 5) & (rate < 0.7 * mean) & (predicted > 2 * fair)
    largest = LargestClass.of(predicted, int(predicted.sum()))
    text = f"{largest.most / largest.n:.0%} of the perturbed images are predicted as class {largest.y}"
    advice = f"{mean:.0%} overall; try {tries} or more steps"
    return ([text] if largest.too_many else []) + [
        f"class {c} absorbs predictions: ASR {rate[c]:.0%} on its own images, {advice}"
        for c in stuck.nonzero().flatten().tolist()
    ]
