"""Small text encoders on the host's own classes and tokenizers, with random weights."""

from __future__ import annotations

import importlib

import comfy.sd
import comfy.text_encoders.flux
import comfy.text_encoders.genmo
import comfy.text_encoders.qwen_image
import comfy.text_encoders.z_image
import torch
from comfy.supported_models_base import ClipTarget


def flux_clip(width: int = 24, pooled: int = 12, seed: int = 0) -> comfy.sd.CLIP:
    """FLUX's pair of CLIP-L and T5 at these widths, those of the golden cases."""
    target = ClipTarget(comfy.text_encoders.flux.FluxTokenizer, comfy.text_encoders.flux.flux_clip())
    return _build(target, width, pooled, seed)


def mochi_clip(width: int = 24, seed: int = 0) -> comfy.sd.CLIP:
    """Mochi's T5, which hands an attention mask on."""
    target = ClipTarget(comfy.text_encoders.genmo.MochiT5Tokenizer, comfy.text_encoders.genmo.mochi_te())
    return _build(target, width, 12, seed)


def qwen_image_clip(width: int = 24) -> comfy.sd.CLIP:
    """Qwen-Image's, which pads nothing, and hands a mask on for a prompt that has padding."""
    encoder = comfy.text_encoders.qwen_image
    return _build(ClipTarget(encoder.QwenImageTokenizer, encoder.te()), width, 12, 0)


def z_image_clip(width: int = 24) -> comfy.sd.CLIP:
    """Z-Image's, which pads nothing, and hands a mask on for every prompt."""
    encoder = comfy.text_encoders.z_image
    return _build(ClipTarget(encoder.ZImageTokenizer, encoder.te()), width, 12, 0)


def anima_clip(width: int = 24) -> comfy.sd.CLIP:
    """Anima's, of newer hosts, which hands T5's token numbers on without a row of their own."""
    encoder = importlib.import_module("comfy.text_encoders.anima")
    return _build(ClipTarget(encoder.AnimaTokenizer, encoder.te()), width, 12, 0)


def _build(target: ClipTarget, width: int, pooled: int, seed: int) -> comfy.sd.CLIP:
    qwen = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    sizes = {
        "qwen25_7b_model_config": qwen,
        "qwen3_4b_model_config": qwen,
        "qwen3_06b_model_config": qwen,
        "clip_l_model_config": {
            "hidden_size": pooled,
            "intermediate_size": 2 * pooled,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "projection_dim": pooled,
        },
        "t5xxl_model_config": {
            "d_model": width,
            "d_ff": 2 * width,
            "d_kv": width // 2,
            "num_heads": 2,
            "num_layers": 2,
        },
    }
    clip = comfy.sd.CLIP(target, model_options={**sizes, "dtype": torch.float32})
    generator = torch.Generator().manual_seed(seed)
    for name, weight in clip.cond_stage_model.state_dict().items():
        # What looks at pictures is of its full size, and nothing here asks it.
        if ".visual." not in name:
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return clip
