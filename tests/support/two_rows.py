"""Grounding stated plainly: two rows a target, the equations written out, by none of the pack's hooks."""

from __future__ import annotations

import torch

STEPS = 2  # grounded ones, of 4


def two_rows(
    case, adapter, blur: float, pivot: float, cfg: float, chosen=None, positive=None, guider=None, negatives=(1,)
) -> torch.Tensor:
    """The picture of one target, grounded in half of the steps, in a batch of [target, pivot]: q/k adapters by torch's
    own hooks on the projections that the case lists, attention told apart by the order of its calls. A ``guider`` (a
    model -> GUIDER) of another kind than the host's has ``negatives`` among its branches."""
    model = case.model.clone()
    network = model.model.diffusion_model
    device = model.load_device
    tensors = {} if adapter is None else {name: tensor.to(device) for name, tensor in adapter.tensors.items()}
    chosen = list(range(len(case.kind.projections))) if chosen is None else chosen
    state = {"call": 0}
    handles = [network.register_forward_pre_hook(lambda *_: state.update(call=0))]

    def low_rank(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ tensors[f"{name}.down.weight"].T @ tensors[f"{name}.up.weight"].T

    def value(number: int, a: float) -> torch.Tensor:
        e = torch.relu(
            torch.tensor([[a]], device=device) @ tensors["embedding.0.weight"].T + tensors["embedding.0.bias"]
        )
        return low_rank(f"blocks.{number}.v", e @ tensors["embedding.2.weight"].T + tensors["embedding.2.bias"])

    def adapt(number: int, part: str, module: str, start: int) -> None:
        width = tensors[f"blocks.{number}.{part}.up.weight"].shape[0]

        def hook(module, inputs, output):
            output = output.clone()
            output[..., start : start + width] += low_rank(
                f"blocks.{number}.{part}", output[..., start : start + width].clone()
            )
            return output

        handles.append(network.get_submodule(module).register_forward_hook(hook))

    for number, place in enumerate(chosen if tensors else ()):
        q, q_start, k, k_start = case.kind.projections[place]
        adapt(number, "q", q, q_start)
        adapt(number, "k", k, k_start)

    def soft(q, k, v):
        return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v

    def override(func, q, k, v, heads, mask=None, *args, skip_reshape=False, transformer_options, **kwargs):
        place = case.kind.calls[state["call"]]
        state["call"] += 1
        if place not in chosen:
            return func(q, k, v, heads, mask, *args, skip_reshape=skip_reshape, **kwargs)
        number = chosen.index(place)
        if not skip_reshape:
            q, k, v = (x.flatten(2).unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        on = float(transformer_options["sigmas"][0]) > float(case.kind.sigmas[STEPS])
        out = []
        for chunk, role in enumerate(transformer_options["cond_or_uncond"]):
            target, held = 2 * chunk, 2 * chunk + 1
            for row, shown in ((target, blur), (held, pivot)):
                queries, keys, values = q[row], k[row], v[row]
                if on and role not in negatives and row == target:
                    queries = q[held]
                    keys, values = torch.cat((keys, k[held]), 1), torch.cat((values, values), 1)
                picture = soft(queries, keys, values).transpose(0, 1).flatten(1)
                out.append(picture + value(number, -1.0 if role in negatives else shown / 30) if tensors else picture)
        return torch.stack(out)

    model.model_options["transformer_options"]["optimized_attention_override"] = override
    try:
        out = case.run(model, 2, cfg, positive=positive, guider=guider)
    finally:
        for handle in handles:
            handle.remove()
    assert state["call"] == len(case.kind.calls)
    return out[:1]
