"""Which classifier a generator was trained on."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

import advgan
from advgan.evaluation.loading import LoadedGenerator, TargetModel

FILE = """from torch import nn
def build():
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    net.image_shape = (1, 4, 4)
    return net
"""


def test_training_in_memory_and_the_same_model_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    run = tmp_path / "run"
    settings = {"max_steps": 1, "width": 4, "depth": 1, "workers": 0, "progress": False}
    generator = advgan.fit(model, torch.rand(40, 1, 4, 4), eps=0.3, output_dir=run, **settings)
    (tmp_path / "net.py").write_text(FILE)
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    save_file({name: value + 1 for name, value in model.state_dict().items()}, tmp_path / "other.safetensors")
    loaded = LoadedGenerator(run, generator)
    name = f"{tmp_path / 'net.py'}:build@{tmp_path}"
    assert loaded.trained_on(TargetModel("same", advgan.load_classifier(f"{name}/net.safetensors")))
    assert not loaded.trained_on(TargetModel("other", advgan.load_classifier(f"{name}/other.safetensors")))
    defended = advgan.load_classifier(f"{name}/net.safetensors+bit-depth:bits=1")
    assert not loaded.trained_on(TargetModel("defended", defended))
