"""Random weights of the network behind LPIPS, in the file that torchvision would fetch."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision


def save_random_backbone(file: Path) -> None:
    """Write a state that torchvision's VGG-16 takes; the classifier, which LPIPS leaves out, is one number all over."""
    torch.manual_seed(0)
    with torch.device("meta"):
        network = torchvision.models.vgg16()
    state = {}
    for name, weight in network.state_dict().items():
        if name.startswith("classifier"):
            # Saved as the one number that it repeats.
            state[name] = torch.zeros(()).expand(weight.shape)
        else:
            state[name] = torch.randn(weight.shape) * (2 / max(1, weight[0].numel())) ** 0.5
    torch.save(state, file)
