"""Prompts that carry the blur: a template filled for every value, and a conditioning with one row for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch

# K is what the release of BokehDepth (arXiv 2512.12425) calls a blur.
FIELDS = ("K", "blur", "label")
DEFAULT_TEMPLATE = (
    "Set dof_cond = {K:.2f} (stronger background defocus); preserve subject sharpness; "
    "keep composition, lighting, and colors unchanged."
)
# A doubled bracket, or a field: its name and what follows the name.
_FIELD = re.compile(r"(\{\{|\}\})|\{([^{}:]*)(:[^{}]*(?:\{[^{}]*\}[^{}]*)*)?\}")
# Zeros in front make prompts equally long. No length can be asked for that fills the memory.
_NUMBER = re.compile(r":(0[1-9])?(\.[0-6])?[fg]?")
_ADVICE = "Write {K}, {blur} or {label}, with a format as in {K:.2f}, and {{ }} for curly brackets in the text."

# The host's name of FLUX.2's encoder, whose tokenizer pads in front, with tokens that the encoder sees.
_FLUX2 = "mistral3_24b"

Conditioning = list[list]


def fill(template: str, blurs: Sequence[float], labels: Sequence[str]) -> tuple[str, ...]:
    """The template for every blur. Fields: ``{K}`` and ``{blur}``, the number, with a precision of at most 6 digits as
    in ``{K:.2f}``, ``{K:05.2f}`` and ``{K:.3g}``; ``{label}`` ("f/2.8", "blur 12"); ``{{`` and ``}}`` for brackets.

    Args:
        labels: one for each blur.

    Raises:
        ValueError: for anything else in curly brackets.
    """
    # Python's own formatting takes widths of any size and reads attributes.
    parts = _FIELD.split(template)
    for text, name, wanted in zip(parts[::4], [*parts[2::4], None], [*parts[3::4], None], strict=True):
        if "{" in text or "}" in text:
            raise ValueError(f"The curly brackets of the template do not pair (one stands alone). {_ADVICE}")
        if name is not None and name not in FIELDS:
            raise ValueError(f"The template has the field {{{_short(name)}}}, which nothing fills. {_ADVICE}")
        if wanted and (name == "label" or not _NUMBER.fullmatch(wanted)):
            raise ValueError(
                f"A format in the template does not fit its field ({{{name}{_short(wanted)}}}: K and blur take a "
                f"precision of at most 6 digits, label takes none). {_ADVICE}"
            )

    def written(blur: float, label: str) -> str:
        def field(found: re.Match) -> str:
            if found[1]:
                return found[1][0]
            if found[2] == "label":
                return label
            return format(blur, (found[3] or "")[1:])

        return _FIELD.sub(field, template)

    return tuple(written(blur, label) for blur, label in zip(blurs, labels, strict=True))


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "..."


def encode_rows(
    clip, texts: Sequence[str], on_encoded: Callable[[int, int], None] | None = None, emphasis: bool = False
) -> Conditioning:
    """One conditioning whose row i is ``texts[i]``, encoded by the host's text encoder, each different text once.

    All rows get the token count of the longest: T5 as the host's tokenizer pads (zeros up to a minimum length, 256 for
    FLUX, raised to the longest text beyond that), CLIP by whole sections of an empty text, as the host does for SDXL,
    and Mistral by zeros in front of what it makes of a text alone, as FLUX.2 does.

    Args:
        clip: a CLIP of the host.
        emphasis: whether round brackets emphasise, as in the host's own node, or are read as they stand.
        on_encoded: called with the number of texts done and of all.

    Raises:
        ValueError: without a text encoder, for one that gives the texts different token counts, and for one that hands
            on something that has no rows.
    """
    if clip is None:
        raise ValueError("There is no text encoder: this checkpoint holds none. Load one with DualCLIPLoader.")
    different = list(dict.fromkeys(texts))
    encoded, tokenized = {}, _tokenize(clip, different, emphasis)
    for done, (text, tokens) in enumerate(zip(different, tokenized, strict=True), 1):
        encoded[text] = clip.encode_from_tokens_scheduled(tokens)
        if on_encoded is not None:
            on_encoded(done, len(different))
    if _FLUX2 in tokenized[0]:
        _pad_in_front([entry for entries in encoded.values() for entry in entries])
    counts = sorted({entry[0].shape[1] for entries in encoded.values() for entry in entries})
    if len(counts) > 1:
        raise ValueError(
            f"This text encoder makes {' and '.join(map(str, counts))} tokens of the prompts, so they do not fit into "
            "one batch. Write the template so that all are equally long, for example {K:05.2f} in place of {K}."
        )
    return [_join(entries) for entries in zip(*(encoded[text] for text in texts), strict=True)]


def _tokenize(clip, texts: Sequence[str], emphasis: bool) -> list[dict[str, list]]:
    """Tokens of every text, of the same shape for each encoder in ``clip``."""
    if not emphasis:
        # The host reads (...) as emphasis and drops the brackets; prompts of the release have some.
        texts = [re.sub(r"(?<!\\)([()])", r"\\\1", text) for text in texts]
    tokens = [clip.tokenize(text) for text in texts]
    longest = {}
    for name in tokens[0]:
        if name == _FLUX2:
            continue
        lengths = {len(section) for entry in tokens for section in entry[name]}
        if len(lengths) > 1:
            longest[f"{name}_min_length"] = max(lengths)
    if longest:
        tokens = [clip.tokenize(text, tokenizer_options=longest) for text in texts]
    for name in tokens[0]:
        sections = max(len(entry[name]) for entry in tokens)
        for entry in tokens:
            while len(entry[name]) < sections:
                entry[name] += clip.tokenize("")[name]
    return tokens


def _pad_in_front(entries: Sequence[list]) -> None:
    """Bring prompts to the longest one's token count with zeros in front, as FLUX.2 does itself to reach 512."""
    longest = max(entry[0].shape[1] for entry in entries)
    for entry in entries:
        missing, mask = longest - entry[0].shape[1], entry[1].get("attention_mask")
        entry[0] = torch.nn.functional.pad(entry[0], (0, 0, missing, 0))
        if mask is not None:
            entry[1] = {**entry[1], "attention_mask": torch.nn.functional.pad(mask, (missing, 0))}


def _join(entries: Sequence[list]) -> list:
    """Conditionings of one row each -> one with a row for each; what is no tensor is the same in all.

    Raises ValueError for a tensor of one prompt that has no row of its own."""
    if any("attention_mask" in extra for _, extra in entries):
        # Some encoders hand a mask on only where there is padding, which the longest text has none of.
        entries = [
            [tokens, {"attention_mask": tokens.new_ones(tokens.shape[:2], dtype=torch.long), **extra}]
            for tokens, extra in entries
        ]
    joined = dict(entries[0][1])
    for name, value in joined.items():
        if isinstance(value, torch.Tensor):
            parts = [extra.get(name) for _, extra in entries]
            if len(parts) > 1 and any(part is None or part.shape != (1, *value.shape[1:]) for part in parts):
                raise ValueError(
                    f"This text encoder hands on {name} for one prompt at a time (as that of Anima does), so one batch "
                    "cannot hold several prompts. Use Bokeh LoRA, or another model."
                )
            joined[name] = torch.cat(parts)
    return [torch.cat([entry[0] for entry in entries]), joined]
