"""Bokeh Words: one prompt a blur, found by value, on the demonstration's way through real encoders and samplers."""

from __future__ import annotations

import nodes as host_nodes
import pytest
import torch
from families import build_case
from flux import relative_error, run_node
from text_encoders import flux_clip, mochi_clip, qwen_image_clip, z_image_clip

from bokeh.attention.contents import BLURS
from bokeh.attention.install import install
from bokeh.attention.rows import Pivot, Plan
from bokeh.stages.words import DEFAULT_WORDINGS, levels, place, read_wordings, texts
from bokeh.sweep.prompts import encode_rows
from bokeh.sweep.values import Sweep

LADDER = "sharp\nsoft\nblurred"


@pytest.fixture(scope="module")
def clip():
    return flux_clip(pooled=16)


def words(clip, sweep, wordings=LADDER, blend=False, prompt="a cup"):
    (conditioning, text) = run_node("BokehWords", clip=clip, sweep=sweep, prompt=prompt, wordings=wordings, blend=blend)
    return conditioning, text


def test_every_blur_takes_the_nearest_wording_of_an_evenly_spaced_ladder():
    assert [place(blur, 3) for blur in (0.0, 15.0, 30.0)] == [0, 1, 2]
    assert texts("a cup.", ("sharp", "soft", "blurred"), (0.0, 7.0, 8.0, 22.0, 23.0, 30.0)) == (
        "a cup, sharp",
        "a cup, sharp",
        "a cup, soft",
        "a cup, soft",
        "a cup, blurred",
        "a cup, blurred",
    )
    assert texts("", ("sharp", "soft"), (0.0,)) == ("sharp",)
    assert len(read_wordings(DEFAULT_WORDINGS)) == 5


def test_the_pivots_blur_has_a_prompt_even_when_it_is_not_listed():
    assert levels(Sweep((0.0, 8.0, 8.0, 30.0), 15.0)) == (0.0, 8.0, 30.0, 15.0)
    assert levels(Sweep((0.0, 15.0), 15.0)) == (0.0, 15.0)


def test_rows_are_what_the_host_encodes_and_carry_their_blurs(clip):
    conditioning, text = words(clip, Sweep((30.0, 0.0), 15.0))
    ((tokens, extra),) = conditioning
    assert extra[BLURS] == (30.0, 0.0, 15.0)
    for row, prompt in enumerate(("a cup, blurred", "a cup, sharp", "a cup, soft")):
        expected = run_node("CLIPTextEncode", clip=clip, text=prompt)[0][0]
        assert torch.equal(tokens[row], expected[0][0])
        assert torch.equal(extra["pooled_output"][row], expected[1]["pooled_output"][0])
    assert text.splitlines() == ["30: a cup, blurred", "0: a cup, sharp", "15: a cup, soft"]


def test_two_wordings_are_blended_by_embedding(clip):
    ((tokens, extra),) = words(clip, Sweep((0.0, 12.0, 30.0), 12.0), "sharp\nblurred", blend=True)[0]
    ((ends, ends_extra),) = encode_rows(clip, ["a cup, sharp", "a cup, blurred"])
    torch.testing.assert_close(tokens[1], 0.6 * ends[0] + 0.4 * ends[1])
    pooled = ends_extra["pooled_output"]
    torch.testing.assert_close(extra["pooled_output"][1], 0.6 * pooled[0] + 0.4 * pooled[1])
    torch.testing.assert_close(tokens[[0, 2]], ends)


def test_masks_of_the_encoder_come_along():
    clip = mochi_clip()
    for blend in (False, True):
        ((tokens, extra),) = words(clip, Sweep((0.0, 30.0), 15.0), blend=blend)[0]
        assert extra["attention_mask"].shape[0] == len(tokens) == 3


@pytest.mark.parametrize("blend", [False, True])
@pytest.mark.parametrize("family", ["qwen-image", "z-image"])
def test_prompts_of_encoders_that_pad_nothing_go_into_one_batch(family, blend):
    """The longest has no padding, so Qwen-Image's encoder hands a mask on for the others alone. Z-Image's network takes
    none of several rows."""
    case, clip = build_case(family), {"qwen-image": qwen_image_clip, "z-image": z_image_clip}[family]()
    conditioning, _ = words(clip, Sweep((0.0, 30.0), 15.0), DEFAULT_WORDINGS, blend)
    ((tokens, extra),) = conditioning
    lengths = extra["attention_mask"].sum(1)
    assert lengths[0] < lengths[1] == tokens.shape[1]
    model = install(case.model, None, Plan((0.0, 30.0), Pivot(15.0, 0.0), True))
    rows = case.run(model, 2, 4.0, positive=conditioning)
    for row in range(2):
        mask = {"attention_mask": extra["attention_mask"][row : row + 1]} if family == "qwen-image" else {}
        alone = case.run(case.model, 1, 4.0, positive=[[tokens[row : row + 1], mask]])
        assert relative_error(rows[row : row + 1], alone) <= 1e-5


def test_emphasis_in_the_scene_and_in_the_wordings_is_the_hosts(clip):
    ((tokens, _),) = words(clip, Sweep((0.0, 30.0), 30.0), "(sharp:1.4)\n(blurred:0.6)", prompt="a (red cup:1.3)")[0]
    for row, wording in enumerate(("(sharp:1.4)", "(blurred:0.6)")):
        expected = run_node("CLIPTextEncode", clip=clip, text=f"a (red cup:1.3), {wording}")[0][0]
        assert torch.equal(tokens[row], expected[0][0])


@pytest.mark.parametrize("scenes", [1, 2])
@pytest.mark.parametrize("pivot", [15.0, 30.0])
def test_a_sweep_finds_its_prompts_by_value(clip, scenes, pivot):
    """In another order than the sweep's, the pivot's among them: each row is the picture of its own prompt."""
    case = build_case("flux")
    listed = (30.0, 0.0)
    conditioning, _ = words(clip, Sweep((0.0, 30.0), pivot))
    grounding = Pivot(pivot, 0.0)
    rows = case.run(
        install(case.model, None, Plan(listed, grounding, one_scene=True)), 2 * scenes, positive=conditioning
    )
    for row, blur in zip(rows[:2], listed, strict=True):
        alone = run_node("CLIPTextEncode", clip=clip, text=f"a cup, {'blurred' if blur else 'sharp'}")[0]
        assert relative_error(row[None], case.run(case.model, 1, positive=alone)) <= 1e-5


def test_the_scene_is_held_while_the_words_change(clip):
    case = build_case("flux")
    conditioning, _ = words(clip, Sweep((0.0, 30.0), 15.0))
    rows = {}
    for grounding in (0.0, 1.0):
        plan = Plan((0.0, 30.0), Pivot(15.0, grounding), one_scene=True)
        rows[grounding] = case.run(install(case.model, None, plan), 2, positive=conditioning)
    assert relative_error(rows[1.0][:1], rows[1.0][1:]) < relative_error(rows[0.0][:1], rows[0.0][1:])


def test_a_blur_without_a_prompt_is_refused(clip):
    case = build_case("flux")
    conditioning, _ = words(clip, Sweep((0.0, 30.0), 15.0))
    with pytest.raises(ValueError, match=r"written for the blurs 0, 30, 15, but a picture of this run has blur 8"):
        case.run(install(case.model, None, Plan((0.0, 8.0), Pivot(15.0), one_scene=True)), 2, positive=conditioning)


def test_mistakes_get_a_sentence(clip):
    node = host_nodes.NODE_CLASS_MAPPINGS["BokehWords"]
    assert "expected two at least" in node.validate_inputs("sharp")
    assert node.validate_inputs(None) is True
    with pytest.raises(ValueError, match="This is a sweep of alpha, but words are about blur"):
        words(clip, Sweep((0.5, 1.0), None, "alpha"))
    with pytest.raises(ValueError, match="There is no text encoder"):
        words(None, Sweep((0.0, 30.0), 15.0))


class Flux2Words:
    """FLUX.2's way: a prompt at its own length; padding, where it is asked for, in front and seen by what follows."""

    @staticmethod
    def tokenize(text, tokenizer_options=None):
        ids = [(100 + len(word), 1.0) for word in text.split()]
        return {
            "mistral3_24b": [
                [(11, 1.0)] * ((tokenizer_options or {}).get("mistral3_24b_min_length", 1) - len(ids)) + ids
            ]
        }

    @staticmethod
    def encode_from_tokens_scheduled(tokens):
        ids = torch.tensor([[token for token, _ in section] for section in tokens["mistral3_24b"]], dtype=torch.float32)
        seen = ids.cumsum(1)[..., None].expand(-1, -1, 36) / 1000
        return [[seen, {"pooled_output": None, "attention_mask": torch.ones(ids.shape)}]]


def test_flux_2_gets_each_prompt_as_it_gets_it_alone():
    """Whose network fills up with zeros in front, up to 512 tokens."""
    network, clip = build_case("flux.2").model.model, Flux2Words()
    prompts = ["a cup", "a cup on a table in the kitchen"]

    def reaches(tokens: torch.Tensor) -> torch.Tensor:
        conds = network.extra_conds(
            cross_attn=tokens, pooled_output=None, noise=torch.zeros(1, 128, 8, 8), device="cpu"
        )
        return conds["c_crossattn"].cond

    ((rows, extra),) = encode_rows(clip, prompts)
    assert extra["attention_mask"].shape == rows.shape[:2]
    for row, prompt in zip(rows, prompts, strict=True):
        ((alone, _),) = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        assert torch.equal(reaches(row[None]), reaches(alone))
