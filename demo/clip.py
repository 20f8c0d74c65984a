"""The text side as the host's CLIP, so that CLIPTextEncode and every other text node work unchanged.

Tokens carry the names of FLUX's two encoders: ``l`` gives the pooled vector, ``t5xxl`` the token vectors. That lets
CLIPTextEncodeFlux take two texts here as well.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import comfy.model_management
import comfy.sd
import torch
from comfy.sd1_clip import escape_important, token_weights, unescape_important
from comfy.supported_models_base import ClipTarget
from torch import Tensor, nn

from .words import TOKENS, WORDS, embed, split

# One (word number, weight) each, or with the word's place in the text as a third member.
Tokens = list[tuple]


class DemoTokenizer:
    """Text -> numbers of the words the model knows, with weights such as ``(red:1.3)``; the rest is reported.

    Args:
        report: called for every text with what was left out of it, as a sentence; "" when nothing was.
        embedding_directory, tokenizer_data: what the host passes to every tokenizer; neither has a use here.
    """

    def __init__(
        self,
        report: Callable[[str], None] | None = None,
        embedding_directory: str | None = None,
        tokenizer_data: dict | None = None,
    ) -> None:
        self.report = report

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, disable_weights: bool = False, **options
    ) -> dict[str, list[Tokens]]:
        """One section of tokens for each encoder. ``options`` are those of other tokenizers."""
        known, unknown = [], []
        parts = [(text, 1.0)] if disable_weights else token_weights(escape_important(text), 1.0)
        for part, weight in parts:
            words, others = split(part if disable_weights else unescape_important(part))
            known += [(WORDS.index(word), weight) for word in words]
            unknown += others
        self._tell(unknown, [WORDS[number] for number, _ in known[TOKENS:]])
        tokens = known[:TOKENS]
        if return_word_ids:
            # 0 stands for tokens that are no word.
            tokens = [(*token, place) for place, token in enumerate(tokens, start=1)]
        return {"l": [tokens], "t5xxl": [tokens]}

    def state_dict(self) -> dict:
        """What the host saves of a tokenizer beside the text model's weights."""
        return {}

    def _tell(self, unknown: list[str], surplus: list[str]) -> None:
        sentences = []
        if unknown:
            pronoun = "it" if len(set(unknown)) == 1 else "them"
            sentences.append(f"The demo model does not know {_quote(unknown)} and leaves {pronoun} out.")
            sentences.append(f"It knows: {', '.join(WORDS)}.")
        if surplus:
            sentences.append(f"The demo model reads the first {TOKENS} words it knows; left out: {_quote(surplus)}.")
        message = " ".join(sentences)
        if message:
            logging.warning(message)
        if self.report is not None:
            self.report(message)


class DemoText(nn.Module):
    """Word numbers -> conditioning. All layers are the last one: there is nothing to skip with CLIPSetLastLayer.

    Args:
        device, dtype, model_options: what the host passes to every text model.
    """

    def __init__(
        self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None, model_options: dict | None = None
    ) -> None:
        super().__init__()
        self.dtypes = {torch.float32}
        # The host reserves memory by a model's size, and a size of 0 is one it never meets.
        self.placeholder = nn.Parameter(torch.zeros(1, device=device), requires_grad=False)

    def set_clip_options(self, options: dict) -> None:
        """Layer, projection and device are choices that this model does not have."""

    def reset_clip_options(self) -> None:
        """See `set_clip_options`."""

    def encode_token_weights(self, tokens: dict[str, list[Tokens]]) -> tuple[Tensor, Tensor]:
        """Token vectors [1, 8 x sections, 32] and the pooled vector [1, 32], both float32."""
        device = comfy.model_management.intermediate_device()
        vectors = torch.cat([_embed(section)[0] for section in tokens["t5xxl"]])
        pooled = _embed(tokens["l"][0])[1]
        return vectors[None].to(device), pooled[None].to(device)


def demo_clip(report: Callable[[str], None] | None = None) -> comfy.sd.CLIP:
    """The demonstration model's CLIP; ``report`` as in `DemoTokenizer`."""
    return comfy.sd.CLIP(ClipTarget(functools.partial(DemoTokenizer, report), DemoText))


def _embed(section: Tokens) -> tuple[Tensor, Tensor]:
    return embed([token[0] for token in section], [token[1] for token in section])


def _quote(words: list[str]) -> str:
    return ", ".join(f'"{word}"' for word in dict.fromkeys(words))
