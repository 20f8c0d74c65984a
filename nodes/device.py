"""Where a node that has no model works, with the host asked for the memory."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import torch
from torch import Tensor

from ..host import is_out_of_memory


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


def where_it_fits(work: Callable[..., Tensor], need: int) -> Callable[..., Tensor]:
    """``work`` on tensors and settings, done with ``need`` bytes by ``device_for``'s device; the result is on the
    CPU."""
    device = device_for(need)

    def done(*tensors: Tensor, **settings: object) -> Tensor:
        nonlocal device
        try:
            return work(*(tensor.to(device) for tensor in tensors), **settings).cpu()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            # Somebody else took the memory in between; the processor's is slower but larger.
            device = torch.device("cpu")
        # Once the error is gone, and with it what the work had made until then.
        comfy.model_management.soft_empty_cache()
        return work(*(tensor.to(device) for tensor in tensors), **settings)

    return done
