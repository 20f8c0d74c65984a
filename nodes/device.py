"""Where a node that has no model works, with the host asked for the memory."""

from __future__ import annotations

import comfy.model_management
import torch


def device_for(need: int) -> torch.device:
    """The host's device if it has ``need`` bytes, once models that are not running make room, and knows Fourier
    transforms and complex numbers, which some do not; else the CPU."""
    device = comfy.model_management.get_torch_device()
    if device.type == "cpu":
        return device
    comfy.model_management.free_memory(need, device)
    if comfy.model_management.get_free_memory(device) < need:
        return torch.device("cpu")
    try:
        spectrum = torch.fft.rfft2(torch.ones(2, 2, device=device))
        torch.fft.irfft2(spectrum * spectrum, s=(2, 2))
    except (RuntimeError, NotImplementedError):
        return torch.device("cpu")
    return device
