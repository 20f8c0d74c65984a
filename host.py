"""Everything that differs between the ComfyUI versions that the pack serves, each with the versions it is about.

The oldest is 0.3.75. "Newer" is what 0.33 has; between them it is found out by looking, not by the version's number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.ldm.flux.model
import comfy.model_management
import comfy.model_patcher
import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP
from comfy_api.latest import io

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


def krea2() -> tuple[type, ...]:
    """The class of Krea 2's network, where the host has it (0.33 does, 0.3.75 does not)."""
    try:
        from comfy.ldm.krea2.model import SingleStreamDiT
    except ImportError:
        return ()
    return (SingleStreamDiT,)


def flux_file_names(state: dict[str, Any]) -> dict[str, Any]:
    """FLUX weights under the names that files have and every host reads: newer hosts call the q/k norms' ``scale``
    ``weight``."""
    return {re.sub(r"((query|key)_norm)\.weight$", r"\1.scale", name): weight for name, weight in state.items()}


def new_patcher(make: Callable[..., ModelPatcher], *inputs: Any, module: Any) -> ModelPatcher:
    """The host's handle on ``module``, on its usual devices.

    Args:
        make, inputs: the function that made ``module`` and calls this, and what it was called with: newer hosts make a
            second copy from them, for a second GPU or to keep it where it is (compiled models, LoRAs on a prompt).
    """
    # A patcher of the old kind among those of a run makes newer hosts make room for ALL its models at once.
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", ModelPatcher)
    patcher = kind(
        module,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    patcher.cached_patcher_init = (_made_again, (make, inputs))
    return patcher


def _made_again(make: Callable[..., ModelPatcher], inputs: tuple, disable_dynamic: bool = False) -> ModelPatcher:
    patcher = make(*inputs)
    if not disable_dynamic:
        return patcher
    return ModelPatcher(patcher.model, load_device=patcher.load_device, offload_device=patcher.offload_device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out on the device: the allocators of newer hosts say so by errors of another class too."""
    if hasattr(comfy.model_management, "is_oom"):
        return comfy.model_management.is_oom(error)
    return isinstance(error, comfy.model_management.OOM_EXCEPTION)


def free_memory(model: BaseModel, device: torch.device) -> int:
    """Bytes that a call of ``model``, which is being sampled, may take: newer hosts give up its weights for them."""
    owner = model.current_patcher
    return getattr(owner, "get_free_memory", comfy.model_management.get_free_memory)(device)


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


# Newer hosts look for words of its own in a node's schema, and their page makes apps of workflows.
_IS_NEWER = "search_aliases" in io.Schema.__dataclass_fields__


def make_findable(schema: io.Schema, words: list[str], in_name: str | None) -> io.Schema:
    """A node's schema with search words; older hosts search names alone, so there ``in_name`` joins the name."""
    schema.search_aliases = words
    if in_name and not _IS_NEWER:
        schema.display_name = f"{schema.display_name} ({in_name})"
    return schema


def as_app_result(files: list[dict]) -> dict[str, list[dict]]:
    """Pictures for the ``ui`` of a node that shows them by a script of its own: newer pages show them as the result of
    an app and in the queue, and let the node keep them out of itself; older ones would draw them over the script's."""
    return {"images": files} if _IS_NEWER else {}
