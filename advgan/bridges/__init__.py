"""Bridges to other libraries: AdvGAN as one of their attacks, their attacks in comparisons.

    from advgan.bridges.torchattacks import AdvGAN      AdvGAN(model, generator)(images, labels)
    from advgan.bridges.foolbox import AdvGAN           AdvGAN(generator)(fmodel, images, labels, epsilons=[0.1, 0.3])
    from advgan.bridges.art import AdvGAN               AdvGAN(classifier, generator).generate(x)

    advgan compare --attacks pgd foolbox:LinfPGD:steps=40 torchattacks:AutoAttack art:FastGradientMethod

One file per library, imported at its first use; the libraries: pip install 'advgan[bridges]'. Importing this
package registers the names `foolbox:`, `torchattacks:` and `art:` of their attacks.
"""

from advgan.bridges import foreign
from advgan.core.lazy import lazy

__all__ = ["foreign"]

__getattr__, __dir__ = lazy(__name__)
