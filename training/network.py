"""The MODEL side of training: the host's network with an adapter that learns, by the hooks that sampling uses.

Three things in the host stand between its network and gradients, and are answered here and nowhere else:

- Its blocks write ``x += ...`` over values that the backward pass needs. They get tensors whose ``+=`` makes a
  new one (``_OutOfPlace``).
- Weights that were loaded inside a node are inference tensors, which autograd refuses. While training lasts, others
  over the same memory stand in their places (``plain``).
- Its fastest attention has no gradient. Attention goes to the host's own functions that have one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import torch
from comfy.ldm.modules.attention import attention_basic, attention_pytorch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..attention.attend import CALL, Call, attend, row_index
from ..attention.dials import LORA
from ..attention.equations import Grounding
from ..attention.families import find
from ..attention.install import adapt, block_places, compute_dtype
from ..attention.module import AdapterModule
from ..attention.patches import patch
from ..host import training
from ..weights.format import Adapter
from .checkpoint import TrainingError
from .pictures import Text
from .plain import without_inference_tensors
from .recipe import Unit


class Network:
    """A model of the host whose adapter learns.

    Args:
        model: of a family that adapters are made for; a clone of it is used, and between runs of ``ready`` nothing of
            training is on it.
        adapter: what training starts from. Its tensors are copied.
        autocast: compute in bfloat16 what the model would compute in float32.
        checkpointing: compute blocks a second time in the backward pass instead of keeping their activations.
    """

    def __init__(self, model: ModelPatcher, adapter: Adapter, autocast: bool, checkpointing: bool):
        if LORA in model.model_options["transformer_options"]:
            raise TrainingError(
                "This model carries a Bokeh LoRA, whose strength follows the blur of a sweep, and training has none. "
                "Connect the model from before Bokeh LoRA."
            )
        self.device = model.load_device
        self.dtype = torch.bfloat16 if autocast else compute_dtype(model)
        self.autocast = autocast
        self.clone, self.weights = self._install(model, adapter)
        network = self.clone.model.diffusion_model
        family = find(network)
        self.guided = family.guided
        for block in family.blocks(network):
            # Not by patches_replace: what it hands out as the original block is, by the time of the backward pass, the
            # last block of all.
            name = f"diffusion_model.{block}.forward"
            patch(self.clone, name, _with_gradients(self.clone.get_model_object(name), checkpointing))

    def _install(self, model: ModelPatcher, adapter: Adapter) -> tuple[ModelPatcher, dict[str, nn.Parameter]]:
        """A clone with what learns on it, and the weights that learn by their names in the file."""
        tensors = {name: tensor.float().clone() for name, tensor in adapter.tensors.items()}
        self.adapter = Adapter(adapter.settings, tensors, adapter.source)
        self.module = AdapterModule(self.adapter, torch.float32).to(self.device).requires_grad_(True)
        clone = adapt(model, self.adapter, self.module, block_places(model, self.adapter))
        return clone, self.module.named_weights()

    def proofs(self) -> list[nn.Parameter]:
        """The weights that have a gradient from the first step on where gradients pass through every block."""
        return [weight for name, weight in self.weights.items() if name.endswith(".v.up.weight")]

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Gradients on and training's patches on the model; both gone afterwards, whatever happens."""
        base = self.clone.model
        with ExitStack() as stack:
            stack.enter_context(without_inference_tensors(self.clone, self.refusal))
            stack.enter_context(gradients())
            learning = [weight for weight in base.parameters() if weight.requires_grad]
            try:
                base.requires_grad_(False)
                yield
            finally:
                self.clone.unpatch_model(unpatch_weights=False)
                for weight in learning:
                    weight.requires_grad_(True)

    def load(self, shape: tuple[int, ...]) -> None:
        """Bring the model to its device, if another model (VAE, text encoder) pushed it out since the last call.

        shape: of the latents [n, C, h, w] of a step, for the memory to be kept free.
        """
        loaded = any(entry.model is self.clone for entry in comfy.model_management.current_loaded_models)
        if not loaded or self.clone.object_patches.keys() - self.clone.object_patches_backup.keys():
            # Activations are kept for the backward pass: more than sampling needs.
            memory = 4 * self.clone.memory_required(list(shape))
            comfy.model_management.load_models_gpu([self.clone], memory_required=memory)

    def noisy(self, unit: Unit) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What a unit's rows are trained on, as ``noisy`` gives it."""
        parts = (part.to(self.device) for part in (unit.latents, unit.noise, unit.sigmas))
        return noisy(self.clone.get_model_object("model_sampling"), *parts)

    def velocity(
        self,
        x: Tensor,
        sigmas: Tensor,
        annotations: Tensor,
        text: Text,
        pivots: tuple[int, ...],
        guidance: float,
    ) -> Tensor:
        """(x - denoised) / sigma, [n, C, ..., h, w] float32: the velocity of flow models, the noise of the others;
        inside ``ready`` and after ``load``.

        Args:
            x: noisy latents [n, C, ..., h, w]. sigmas: [n]. annotations: [n], blur / 30 or -1.
            text: one for each row.
            pivots: for each row the row that holds its scene; its own number when it is not grounded.
            guidance: for models that take it.
        """
        x, sigmas = x.to(self.device), sigmas.to(self.device)
        scale = self.adapter.settings.bokeh_scale
        values = [scale * value for value in self.module.values(annotations.to(self.device))]
        bias = [value.to(self.dtype)[:, None] for value in values]
        call = Call(len(x), bias, self._grounding(pivots), differentiable)
        # Options of other nodes (caches, samplers' tricks) belong to sampling and stay out.
        options = {CALL: call, "optimized_attention_override": attend}
        inputs = self._inputs(x, text, guidance)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            denoised = self.clone.model.apply_model(x, sigmas, transformer_options=options, **inputs)
        return (x - denoised) / sigmas.view(-1, *[1] * (x.ndim - 1))

    def _inputs(self, x: Tensor, text: Text, guidance: float) -> dict[str, object]:
        """What the host makes of a prompt for this model: padding, sizes, guidance, each under its argument's name."""
        context, pooled, mask = (None if part is None else part.to(self.device) for part in text)
        prompt = {"cross_attn": context, "pooled_output": pooled, "model_conds": {}}
        prompt |= {} if mask is None else {"attention_mask": mask}
        prompt |= {"guidance": guidance} if self.guided else {}
        (entry,) = comfy.samplers.encode_model_conds(self.clone.model.extra_conds, [prompt], x, self.device, "positive")
        made = entry["model_conds"].items()
        return {name: cond.process_cond(batch_size=len(x), area=None).cond for name, cond in made}

    @contextmanager
    def cuts(self) -> Iterator[list[str]]:
        """The names of the modules through which no gradient passes, as they run. A kernel without a backward pass may
        say nothing, and what goes round it (the residual stream, the adapter) hides that later."""
        found: list[str] = []
        network = self.clone.model.diffusion_model

        def watch(name: str):
            def hook(module: nn.Module, inputs: tuple, output: object) -> None:
                into = any(isinstance(value, Tensor) and value.requires_grad for value in inputs)
                if into and "forward" in vars(module):
                    output = type(module).forward(module, *inputs)
                if into and isinstance(output, Tensor) and not output.requires_grad:
                    found.append(name)

            return hook

        with ExitStack() as stack:
            for name, module in network.named_modules():
                if not any(module.children()):
                    stack.callback(module.register_forward_hook(watch(name)).remove)
            yield found

    def refusal(self, why: str) -> TrainingError:
        """That this model cannot be trained on, with the kinds of its weights, which are what it usually is about."""
        kinds = {
            " ".join(
                filter(None, (type(weight).__name__.replace("Parameter", ""), str(weight.dtype).rpartition(".")[2]))
            )
            for weight in self.clone.model.diffusion_model.parameters()
        }
        return TrainingError(
            f"This model cannot be trained on: {why}. Its weights are of the kinds {', '.join(sorted(kinds))}. Load "
            "the same model from a bf16, fp16 or fp8 file with Load Diffusion Model, and connect the text encoder and "
            "the VAE that belong to it."
        )

    def _grounding(self, pivots: tuple[int, ...]) -> Grounding | None:
        targets = [row for row, pivot in enumerate(pivots) if pivot != row]
        if not targets:
            return None
        parts = (targets, [pivots[row] for row in targets], [row for row, pivot in enumerate(pivots) if pivot == row])
        with_keys = self.adapter.settings.unfreeze_k
        return Grounding(*(row_index(part, self.device) for part in parts), with_keys=with_keys)


def noisy(sampling: nn.Module, latents: Tensor, noise: Tensor, shares: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a model is trained on, in its own scale.

    Args:
        sampling: the model's ``model_sampling``.
        latents, noise: [n, C, ..., h, w]. shares: [n], how far each is on the way to pure noise: sigma for flow models,
            the share of the schedule for the others.

    Returns:
        latents with their noise [n, C, ..., h, w]; their noise levels sigma [n]; the target of ``Network.velocity``:
        noise - z for flow models, the noise for the others; and each row's weight [n]. A model that predicts v is as
        good at every level if its errors count (sigma / sigma_data)^2 + 1 times (Salimans & Ho, arXiv 2202.00512,
        section 4; Karras et al., arXiv 2206.00364, table 1).
    """
    if isinstance(sampling, comfy.model_sampling.CONST):
        return sampling.noise_scaling(shares, noise, latents), shares, noise - latents, torch.ones_like(shares)
    shares = shares.clamp(1e-4, 1 - 1e-4)
    if type(sampling).percent_to_sigma is comfy.model_sampling.ModelSamplingDiscrete.percent_to_sigma:
        # What the host's function says, of all at once: one by one a GPU is waited for as often as there are rows.
        sigmas = sampling.sigma(999 * shares)
    else:
        sigmas = torch.tensor([sampling.percent_to_sigma(1 - share) for share in shares.tolist()]).to(shares)
    predicts_v = isinstance(sampling, comfy.model_sampling.V_PREDICTION)
    weights = (sigmas / sampling.sigma_data) ** 2 + 1 if predicts_v else torch.ones_like(sigmas)
    return sampling.noise_scaling(sigmas, noise, latents), sigmas, noise, weights


@contextmanager
def gradients() -> Iterator[None]:
    """Inside a node too: nodes run in inference mode."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(training())
        yield


class _OutOfPlace(Tensor):
    """A tensor whose ``+=`` leaves it alone and gives a new one; anything else gives plain tensors."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __iadd__(self, other: Tensor) -> Tensor:
        return torch.add(self.as_subclass(Tensor), other).as_subclass(_OutOfPlace)


def _with_gradients(forward: Callable, checkpointing: bool) -> Callable:
    """A block's forward that writes over none of its inputs."""

    def run(*args, **kwargs):
        out = forward(*map(_kept, args), **{name: _kept(value) for name, value in kwargs.items()})
        return tuple(map(_plain, out)) if isinstance(out, tuple) else _plain(out)

    def with_gradients(*args, **kwargs):
        # The host writes the next block's number into the same dictionary, and a second forward must find its own.
        args = [dict(value) if isinstance(value, dict) else value for value in args]
        kwargs = {name: dict(value) if isinstance(value, dict) else value for name, value in kwargs.items()}
        if checkpointing and torch.is_grad_enabled():
            return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
        return run(*args, **kwargs)

    return with_gradients


def _kept(value: object) -> object:
    return value.as_subclass(_OutOfPlace) if type(value) is Tensor else value


def _plain(value: object) -> object:
    return value.as_subclass(Tensor) if isinstance(value, _OutOfPlace) else value


def differentiable(func, q: Tensor, *args, **kwargs) -> Tensor:
    """Attention override: a function of the host's that has a gradient."""
    # On a CPU the plain matrix products are several times faster than the backward pass of the fused function.
    kept = attention_basic if q.device.type == "cpu" else attention_pytorch
    return kept(q, *args, **kwargs)
