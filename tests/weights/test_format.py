"""Recognising, checking and naming the tensors of an adapter."""

from __future__ import annotations

import pytest
import torch
from adapter_files import official_config, official_tensors

from bokeh.weights.format import AdapterError, build_adapter

EXPECTED = (
    'Expected tensors named like "adapter_modules.0.to_v_bokeh.down.weight" (Bokeh Diffusion), '
    '"adapter_modules.0.to_v_dof.down.weight" (BokehDepth) or "blocks.0.v.down.weight" (this pack\'s own format).'
)
GET_AGAIN = "The file is incomplete: get it again."
AS_PUBLISHED = "Use the file as its authors published it."
OWN_CONFIG = "Use the config.json that belongs to this file, or remove it."
THREE = ["transformer_blocks.0", "transformer_blocks.1", "single_transformer_blocks.0"]


def error_of(tensors: dict, settings: dict | None = None) -> str:
    with pytest.raises(AdapterError) as caught:
        build_adapter(tensors, settings, "FILE")
    return str(caught.value)


def test_authors_file_is_named_canonically_without_its_context_keys():
    tensors = official_tensors(blocks=(0, 2), parts="qk")
    adapter = build_adapter(tensors, None, "FILE")
    assert adapter.settings.blocks == (0, 2)
    assert adapter.settings.variant == "text-to-image"
    embedding = [f"embedding.{leaf}" for leaf in ("0.weight", "0.bias", "2.weight", "2.bias")]
    pairs = [f"blocks.{i}.{part}.{leaf}.weight" for i in (0, 2) for part in "vqk" for leaf in ("down", "up")]
    assert sorted(adapter.tensors) == sorted(embedding + pairs)
    for i in (0, 2):
        for part, module in (("v", "to_v_bokeh"), ("q", "to_q_adp"), ("k", "to_k_adp")):
            for leaf in ("down", "up"):
                kept = adapter.tensors[f"blocks.{i}.{part}.{leaf}.weight"]
                assert kept.data_ptr() == tensors[f"adapter_modules.{i}.{module}.{leaf}.weight"].data_ptr()


def test_everything_is_inferred_without_settings():
    settings = build_adapter(official_tensors(parts="q"), None, "FILE").settings
    assert (settings.width, settings.context_dim, settings.rank) == (32, 12, 4)
    assert (settings.unfreeze_q, settings.unfreeze_k) == (True, False)
    assert (settings.lora_alpha, settings.lora_scale, settings.bokeh_scale) == (None, 1.0, 1.0)
    assert settings.block_names is None


def test_settings_are_taken_over():
    config = official_config(THREE, lora_alpha=8, lora_scale=0.5, bokeh_scale=2)
    settings = build_adapter(official_tensors(), config, "FILE").settings
    assert (settings.lora_alpha, settings.lora_scale, settings.bokeh_scale) == (8.0, 0.5, 2.0)
    assert settings.block_names == tuple(THREE)


@pytest.mark.parametrize("prefix", ["adapter_modules.", ""])
@pytest.mark.parametrize("rank", [4, None])
def test_image_to_image_keys_with_and_without_prefix(prefix, rank):
    tensors = official_tensors(kind="dof", prefix=prefix, rank=rank, bias=True)
    adapter = build_adapter(tensors, None, "FILE")
    assert adapter.settings.variant == "image-to-image"
    assert adapter.settings.rank == rank
    leaf = "weight" if rank is None else "up.weight"
    assert adapter.tensors[f"blocks.1.v.{leaf}"] is not None
    assert torch.equal(adapter.tensors[f"blocks.1.q.{leaf}"], tensors[f"{prefix}1.to_q_adp.{leaf}"])
    assert ("blocks.1.v.bias" in adapter.tensors) == (rank is None)


def test_alpha_means_nothing_for_full_matrices():
    adapter = build_adapter(official_tensors(rank=None), {"lora_alpha": 128}, "FILE")
    assert adapter.settings.lora_alpha is None


def test_gaps_in_the_blocks_are_allowed():
    names = ["transformer_blocks.1", "single_transformer_blocks.0", "single_transformer_blocks.2"]
    tensors = official_tensors(blocks=(1, 2, 4))
    assert build_adapter(tensors, official_config(names), "FILE").settings.blocks == (1, 2, 4)


def test_own_names_are_recognised():
    source = build_adapter(official_tensors(), official_config(THREE, lora_alpha=2), "FILE")
    again = build_adapter(source.tensors, {"variant": "text-to-image", "lora_alpha": 2, "blocks": THREE}, "FILE")
    assert again.settings == source.settings
    assert again.tensors.keys() == source.tensors.keys()


@pytest.mark.parametrize(
    ("change", "said", "shown"),
    [
        ({"lora_rank": 8}, "lora_rank = 8", "lora_rank = 4"),
        ({"lora_rank": None}, "lora_rank = null (full matrices)", "lora_rank = 4"),
        ({"attn_hidden_dim": 3072}, "attn_hidden_dim = 3072", "attn_hidden_dim = 32"),
        ({"bokeh_context_dim": 768}, "bokeh_context_dim = 768", "bokeh_context_dim = 12"),
        ({"bokeh_hidden_dim": 64}, "bokeh_hidden_dim = 64", "bokeh_hidden_dim = 8"),
        ({"bokeh_input_dim": 2}, "bokeh_input_dim = 2", "bokeh_input_dim = 1"),
        ({"unfreeze_q": False}, "unfreeze_q = false", "unfreeze_q = true"),
        ({"unfreeze_k": False}, "unfreeze_k = false", "unfreeze_k = true"),
        ({"variant": "image-to-image"}, "variant = image-to-image", "variant = text-to-image"),
    ],
)
def test_contradiction_names_both_values(change, said, shown):
    assert error_of(official_tensors(), official_config(THREE, **change)) == (
        f"FILE: its settings say {said}, but its tensors have {shown}. {OWN_CONFIG}"
    )


@pytest.mark.parametrize(
    ("blocks", "sentence"),
    [
        (THREE[:2], "its settings name 2 different blocks, but its tensors adapt 3 blocks."),
        ([*THREE[:2], THREE[1]], "its settings name 2 different blocks, but its tensors adapt 3 blocks."),
        (
            ["transformer_blocks.0", "transformer_blocks.5", "single_transformer_blocks.0"],
            'its settings name the block "transformer_blocks.5", but it has no tensors of block 5 (it has 0, 1, 2).',
        ),
        (
            ["transformer_blocks.0", "single_transformer_blocks.0", "single_transformer_blocks.4"],
            "its settings name the single blocks 0, 4, but its tensors have the indices 1, 2 after the double blocks, "
            "which no model fits.",
        ),
        (
            ["transformer_blocks.2", "single_transformer_blocks.0", "single_transformer_blocks.1"],
            "its settings name the single blocks 0, 1, but its tensors have the indices 0, 1 after the double blocks, "
            "which no model fits.",
        ),
        (
            ["down_blocks.0", "transformer_blocks.0", "transformer_blocks.1"],
            'its settings name the block "down_blocks.0", expected names like "transformer_blocks.0" or '
            '"single_transformer_blocks.0".',
        ),
    ],
)
def test_block_names_that_do_not_fit_the_tensors(blocks, sentence):
    assert error_of(official_tensors(), official_config(blocks)) == f"FILE: {sentence} {OWN_CONFIG}"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("lora_alpha", "8", "a number, or null"),
        ("lora_scale", float("nan"), "a number"),
        ("lora_scale", None, "a number"),
        ("lora_rank", True, "a whole number of at least 1, or null"),
        ("lora_rank", 0, "a whole number of at least 1, or null"),
        ("attn_hidden_dim", 32.0, "a whole number of at least 1"),
        ("unfreeze_q", 1, "true or false"),
        ("blocks", "transformer_blocks.0", "a list of block names, or null"),
        ("variant", "video", '"text-to-image" or "image-to-image"'),
    ],
)
def test_setting_of_the_wrong_type(key, value, expected):
    assert error_of(official_tensors(), official_config(THREE) | {key: value}) == (
        f"FILE: its settings say {key} = {value!r}, expected {expected}. {OWN_CONFIG}"
    )


@pytest.mark.parametrize("leaf", ["0.weight", "0.bias", "2.weight", "2.bias"])
def test_missing_embedding_tensor(leaf):
    tensors = official_tensors()
    del tensors[f"embedding_layer.{leaf}"]
    assert error_of(tensors) == f"FILE: the blur embedding lacks embedding_layer.{leaf}. {GET_AGAIN}"


@pytest.mark.parametrize(
    "key",
    [
        "adapter_modules.0.to_k_bokeh.down.weight",
        "adapter_modules.1.to_v_bokeh.up.weight",
        "adapter_modules.1.to_q_adp.down.weight",
        "adapter_modules.2.to_k_adp.up.weight",
    ],
)
def test_missing_block_tensor(key):
    tensors = official_tensors()
    del tensors[key]
    assert error_of(tensors) == (
        f'FILE: "{key}" is missing. Expected all adapted blocks alike (low-rank pairs): the file is incomplete, get it '
        "again."
    )


def test_blocks_of_which_only_some_have_a_query_adapter():
    tensors = official_tensors(parts="k") | {
        key: value for key, value in official_tensors().items() if key.startswith("adapter_modules.2.to_q_adp")
    }
    assert error_of(tensors) == (
        'FILE: block 2 has "adapter_modules.2.to_q_adp.down.weight", but block 0 has nothing of the kind. '
        "Expected all adapted blocks alike: the file is incomplete, get it again."
    )


def test_blocks_without_a_value():
    tensors = {key: value for key, value in official_tensors().items() if "_bokeh" not in key}
    assert error_of(tensors) == (
        'FILE: "adapter_modules.0.to_k_bokeh.down.weight" is missing. Expected all adapted blocks alike (low-rank '
        "pairs): the file is incomplete, get it again."
    )


def test_low_rank_pair_among_full_matrices():
    tensors = official_tensors(blocks=(0,), kind="dof", rank=None) | {
        key: value for key, value in official_tensors(blocks=(1,), kind="dof").items() if "embedding" not in key
    }
    assert error_of(tensors) == (
        'FILE: "adapter_modules.1.to_k_dof.weight" is missing. Expected all adapted blocks alike (full matrices): '
        "the file is incomplete, get it again."
    )


@pytest.mark.parametrize(
    ("key", "shape", "wanted"),
    [
        ("embedding_layer.0.weight", (8, 2), "[any, 1]"),
        ("embedding_layer.2.weight", (12, 7), "[any, 8]"),
        ("adapter_modules.1.to_v_bokeh.down.weight", (6, 12), "[4, 12]"),
        ("adapter_modules.1.to_k_bokeh.up.weight", (48, 4), "[32, 4]"),
        ("adapter_modules.2.to_q_adp.down.weight", (4, 12), "[4, 32]"),
        ("adapter_modules.0.to_v_bokeh.up.weight", (0, 4), "[any, any]"),
    ],
)
def test_shape_that_does_not_fit(key, shape, wanted):
    assert error_of(official_tensors() | {key: torch.zeros(shape)}) == (
        f'FILE: "{key}" has shape {list(shape)}, expected {wanted} to fit the tensors before it. {AS_PUBLISHED}'
    )


@pytest.mark.parametrize(
    ("value", "what"), [(float("nan"), "NaN"), (float("inf"), "infinite"), (-float("inf"), "infinite")]
)
@pytest.mark.parametrize(
    "key", ["embedding_layer.2.bias", "adapter_modules.1.to_q_adp.up.weight", "adapter_modules.1.to_k_bokeh.up.weight"]
)
def test_value_that_is_not_finite_names_its_tensor(key, value, what):
    tensors = official_tensors()
    tensors[key].view(-1)[-1] = value
    assert error_of(tensors) == (
        f'FILE: "{key}" holds {what} values, expected finite numbers. '
        "The file is damaged or its training diverged: get it again or use another adapter."
    )


def test_integer_tensor_is_refused():
    key = "adapter_modules.1.to_q_adp.up.weight"
    assert error_of(official_tensors() | {key: torch.zeros(32, 4, dtype=torch.int8)}) == (
        f'FILE: "{key}" is stored as int8, expected float32, bfloat16 or float16. {AS_PUBLISHED}'
    )


@pytest.mark.parametrize(
    "key",
    [
        "lora_unet_input_blocks_4_1_proj_in.lora_down.weight",
        "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha",
    ],
)
def test_ordinary_lora_belongs_in_a_lora_loader(key):
    assert error_of({key: torch.zeros(4, 4)}) == (
        f'FILE: this is a LoRA (its first key is "{key}"), not a bokeh adapter. '
        f"Load it with a LoRA loader node, and choose a bokeh adapter here. {EXPECTED}"
    )


@pytest.mark.parametrize(
    "key", ["model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "transformer_blocks.0.attn.to_q.weight"]
)
def test_whole_model_belongs_in_a_model_loader(key):
    assert error_of({key: torch.zeros(4, 4)}) == (
        f'FILE: this is a whole model or checkpoint (its first key is "{key}"), not a bokeh adapter. '
        f"Load it with a model loader node, and choose a bokeh adapter here. {EXPECTED}"
    )


def test_unrelated_and_empty_files():
    assert error_of({"decoder.conv_in.weight": torch.zeros(1)}) == (
        f'FILE: this is not a bokeh adapter (its first key is "decoder.conv_in.weight"). {EXPECTED}'
    )
    assert error_of({}) == f"FILE: holds 0 tensors but no adapted block. {EXPECTED}"
    only_embedding = {key: value for key, value in official_tensors().items() if "embedding" in key}
    assert error_of(only_embedding) == f"FILE: holds 4 tensors but no adapted block. {EXPECTED}"


def test_stray_tensor_and_stray_value():
    assert error_of(official_tensors() | {"step": torch.zeros(1)}) == (
        f'FILE: 1 of its tensors belong to no bokeh adapter, the first is "step". {AS_PUBLISHED}'
    )
    assert error_of(official_tensors() | {"embedding_layer.0.bias": [1.0]}) == (
        f'FILE: "embedding_layer.0.bias" holds a list, expected a tensor. {EXPECTED}'
    )


def test_two_kinds_in_one_file():
    mixed = official_tensors(blocks=(0,)) | official_tensors(blocks=(1,), kind="dof")
    assert error_of(mixed) == (
        'FILE: "adapter_modules.0.to_k_bokeh.down.weight" and "adapter_modules.1.to_k_dof.down.weight" belong to '
        "different kinds of adapter. Expected one kind in one file; use the file as its authors published it."
    )


def test_same_weight_twice():
    twice = official_tensors(kind="dof") | official_tensors(kind="dof", prefix="")
    assert error_of(twice) == (
        'FILE: "adapter_modules.0.to_k_dof.down.weight" and "0.to_k_dof.down.weight" are the same weight twice. '
        "Remove one of them."
    )


def test_own_names_without_settings():
    assert error_of(build_adapter(official_tensors(), None, "FILE").tensors) == (
        "FILE: the file is in this pack's own format but its settings are missing (lora_alpha, variant, ...): "
        "its metadata was lost. Convert the original adapter again."
    )
