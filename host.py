"""Everything that differs between the ComfyUI versions that the pack serves, each with the versions it is about.

The oldest is 0.3.75. "Newer" is what 0.33 has; between them it is found out by looking, not by the version's number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.ldm.flux.model
import comfy.model_management
import comfy.model_patcher
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP

# When the host calls after cloning a model; hosts before several GPUs know only the first.
CLONED = [
    getattr(CallbacksMP, name)
    for name in ("ON_CLONE", "ON_DEEPCLONE_MULTIGPU", "ON_MATCH_MULTIGPU_CLONES")
    if hasattr(CallbacksMP, name)
]

# FLUX fields that newer hosts require and older ones do not know.
FLUX_FIELDS: dict[str, Any] = (
    {"txt_ids_dims": []} if "txt_ids_dims" in comfy.ldm.flux.model.FluxParams.__dataclass_fields__ else {}
)


def new_patcher(make: Callable[..., ModelPatcher], *inputs: Any, module: Any) -> ModelPatcher:
    """The host's handle on ``module``, on its usual devices.

    Args:
        make, inputs: the function that made ``module`` and calls this, and what it was called with: newer hosts make a
            second copy for a second GPU from them.
    """
    # A patcher of the old kind among those of a run makes newer hosts make room for ALL its models at once.
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", ModelPatcher)
    patcher = kind(
        module,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    patcher.cached_patcher_init = (make, inputs)
    return patcher


@contextmanager
def training() -> Iterator[None]:
    """Newer hosts leave out kernels that have no gradient while this is on."""
    before = getattr(comfy.model_management, "in_training", None)
    if before is None:
        yield
        return
    comfy.model_management.in_training = True
    try:
        yield
    finally:
        comfy.model_management.in_training = before


def make_findable(schema: Any, words: list[str]) -> Any:
    """A node's schema with search words: a keyword of its constructor on newer hosts only, and as an attribute ignored
    by older ones."""
    schema.search_aliases = words
    return schema
