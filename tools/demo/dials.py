"""Other dials than an adapter for the judge of the demonstration models: words alone, and a slider LoRA."""

from __future__ import annotations

from pathlib import Path

from comfy.model_patcher import ModelPatcher

from ...attention.contents import BLURS
from ...attention.lora import install_lora, read_pieces
from ...stages.hooks import install_stages
from ...stages.prompts import stage_prompt
from ...stages.words import encode_words
from ...training.scenes import BLUR_WORDS
from ...weights.stored import read_stored
from .judge import CFG, Case, Painter

LADDER = tuple(wording for _, wording in BLUR_WORDS)


class WordsPainter(Painter):
    """Blur by what the prompt says of it, a prompt for each picture.

    Args:
        layout: share of the steps that all pictures take with the prompt that says nothing about blur, as GBSD (arXiv
            2306.08251) has a layout stage.
    """

    def __init__(self, model: ModelPatcher, clip, vae, cfg: float = CFG, layout: float = 0.0):
        super().__init__(model, clip, vae, cfg)
        self.layout = layout

    def dialled(self, model: ModelPatcher, case: Case, blurs: tuple[float, ...]) -> tuple[ModelPatcher, list]:
        rows = encode_words(self.clip, case.prompt, LADDER, blurs, blend=False)
        told = [[tokens, {**extra, BLURS: blurs}] for tokens, extra in rows]
        if not self.layout:
            return model, told
        plain = [[tokens, {**extra, BLURS: blurs}] for tokens, extra in self.prompt(case.prompt)]
        return install_stages(model), stage_prompt(model, plain, told, (0.0,), (self.layout,))


class LoraPainter(Painter):
    """Blur by the strength of a LoRA: -1 at blur 0, 1 at blur 30.

    Args:
        file: of the LoRA.
    """

    def __init__(self, model: ModelPatcher, clip, vae, cfg: float = CFG, *, file: Path):
        super().__init__(model, clip, vae, cfg)
        tensors, _ = read_stored(file, file.name, lambda names: None)
        self.pieces, _ = read_pieces(tensors, model, file.name)

    def dialled(self, model: ModelPatcher, case: Case, blurs: tuple[float, ...]) -> tuple[ModelPatcher, list]:
        return install_lora(model, self.pieces, -1.0, 1.0), self.prompt(case.prompt)
