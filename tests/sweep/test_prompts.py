"""Prompts that carry the blur: the template, and the rows that the text encoder makes of it."""

from __future__ import annotations

import nodes as host_nodes
import pytest
import torch
from flux import run_node
from text_encoders import anima_clip, flux_clip, mochi_clip

from bokeh.sweep.prompts import DEFAULT_TEMPLATE, encode_rows, fill
from bokeh.sweep.values import Sweep

SWEEP = Sweep((1.0, 8.0, 15.0, 8.0), 15.0)


@pytest.fixture(scope="module")
def clip():
    return flux_clip()


def prompt(clip, template=DEFAULT_TEMPLATE, blur=15.0, lowest=1.0, sweep=None):
    inputs = {"clip": clip, "template": template, "blur": blur, "lowest": lowest, "sweep": sweep}
    return host_nodes.NODE_CLASS_MAPPINGS["BokehPrompt"].EXECUTE_NORMALIZED(**inputs)


def host_encode(clip, text: str) -> list:
    """The host's own prompt node, with round brackets written as text."""
    escaped = text.replace("(", r"\(").replace(")", r"\)")
    return run_node("CLIPTextEncode", clip=clip, text=escaped)[0]


# The template


def test_the_default_is_the_prompt_of_the_release():
    assert fill(DEFAULT_TEMPLATE, (12.25, 30.0), ("", "")) == (
        "Set dof_cond = 12.25 (stronger background defocus); preserve subject sharpness; keep composition, lighting, "
        "and colors unchanged.",
        "Set dof_cond = 30.00 (stronger background defocus); preserve subject sharpness; keep composition, lighting, "
        "and colors unchanged.",
    )


def test_every_field_and_brackets_in_the_text():
    texts = fill("{label}: {blur:g} {K:05.1f} {{x}} {K}", (1.5, 30.0), ("f/8", "f/1.4"))
    assert texts == ("f/8: 1.5 001.5 {x} 1.5", "f/1.4: 30 030.0 {x} 30.0")
    assert fill("no field at all", (1.0, 2.0), ("a", "b")) == ("no field at all", "no field at all")


ADVICE = "Write {K}, {blur} or {label}, with a format as in {K:.2f}, and {{ }} for curly brackets in the text."
WRONG = [
    ("blur {k}", "The template has the field {k}, which nothing fills. "),
    ("blur {}", "The template has the field {}, which nothing fills. "),
    ("blur {0}", "The template has the field {0}, which nothing fills. "),
    ("{K.real}", "The template has the field {K.real}, which nothing fills. "),
    ("{label[0]}", "The template has the field {label[0]}, which nothing fills. "),
    ("blur {K", "The curly brackets of the template do not pair ("),
    ("blur K}", "The curly brackets of the template do not pair ("),
    ("{K:.2q}", "A format in the template does not fit its field ("),
    ("{label:.2f}", "A format in the template does not fit its field ("),
    ("{K:{width}}", "A format in the template does not fit its field ("),
    ("{K:>1000000000}", "A format in the template does not fit its field ("),
    ("{K:.999999999f}", "A format in the template does not fit its field ("),
    ("{K:.7f}", "A format in the template does not fit its field ("),
    ("{blur:099999999.2f}", "A format in the template does not fit its field ("),
    ("{label:9}", "A format in the template does not fit its field ("),
    ("{K!r}", "The template has the field {K!r}, which nothing fills. "),
    ("{K" * 100_000, "The curly brackets of the template do not pair ("),
]


@pytest.mark.parametrize(("template", "message"), WRONG)
def test_templates_that_cannot_be_filled_are_refused_before_the_run(template, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        fill(template, (1.0,), ("blur 1",))
    assert str(error.value).startswith(message)
    assert str(error.value).endswith(ADVICE)
    node = host_nodes.NODE_CLASS_MAPPINGS["BokehPrompt"]
    assert node.validate_inputs(template=template) == str(error.value)


def test_good_and_linked_templates_pass_the_check_before_the_run():
    node = host_nodes.NODE_CLASS_MAPPINGS["BokehPrompt"]
    assert node.validate_inputs(template=DEFAULT_TEMPLATE) is True
    assert node.validate_inputs(template=None) is True


# The rows


def test_every_row_is_what_the_host_encodes_for_its_blur(clip):
    (conditioning, text) = prompt(clip, sweep=SWEEP).result
    ((tokens, extra),) = conditioning
    assert (tokens.shape, extra["pooled_output"].shape) == ((4, 256, 24), (4, 12))
    lines = text.splitlines()
    assert lines == list(fill(DEFAULT_TEMPLATE, SWEEP.values, SWEEP.labels))
    for row, line in enumerate(lines):
        ((expected, options),) = host_encode(clip, line)
        assert torch.equal(tokens[row : row + 1], expected)
        assert torch.equal(extra["pooled_output"][row : row + 1], options["pooled_output"])
    assert not torch.equal(tokens[0], tokens[1])
    assert torch.equal(tokens[1], tokens[3])


def test_a_slider_gets_one_row(clip):
    (conditioning, text) = prompt(clip, blur=22.0).result
    ((expected, _),) = host_encode(clip, text)
    assert "dof_cond = 22.00 (" in text
    assert torch.equal(conditioning[0][0], expected)


def test_round_brackets_are_text_and_no_emphasis(clip):
    """The host's own prompt node would weight and drop them."""
    ((rows, _),) = encode_rows(clip, ["a (soft) background"])
    ((weighted, _),) = run_node("CLIPTextEncode", clip=clip, text="a (soft) background")[0]
    ((escaped, _),) = encode_rows(clip, [r"a \(soft\) background"])
    assert not torch.equal(rows, weighted)
    assert torch.equal(rows, escaped)
    words = clip.tokenizer.t5xxl.tokenizer("a (soft) background")["input_ids"]
    plain = [(token, 1.0) for token in words] + [(0, 1.0)] * (256 - len(words))
    ((expected, _),) = clip.encode_from_tokens_scheduled({**clip.tokenize(""), "t5xxl": [plain]})
    assert torch.equal(rows, expected)


def test_each_different_text_is_encoded_once(clip):
    seen = []
    ((rows, _),) = encode_rows(clip, ["a", "b", "a", "a"], lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    assert rows.shape[0] == 4


def test_blurs_under_the_lowest_are_raised_with_a_note(clip):
    output = prompt(clip, "{K:g}", sweep=Sweep((0.0, 0.5, 4.0)))
    assert output.result[1].splitlines() == ["1", "1", "4"]
    note, texts = output.ui.value.split("\n\n")
    assert note == "Blur 0, 0.5 was raised to 1: the adapter knows 1 to 30."
    assert texts.splitlines() == ["1", "1", "4"]
    output = prompt(clip, "{K:g}", lowest=0.0, sweep=Sweep((0.0, 0.5, 4.0)))
    assert output.result[1].splitlines() == ["0", "0.5", "4"]
    assert output.ui.value == "0\n0.5\n4"


def test_labels_of_a_sweep_can_be_written(clip):
    sweep = Sweep((1.0, 8.0), captions=("f/16", "f/2"))
    assert prompt(clip, "shot at {label}", sweep=sweep).result[1] == "shot at f/16\nshot at f/2"


def test_texts_longer_than_the_usual_minimum_are_padded_to_the_longest_as_the_tokenizer_pads(clip):
    texts = ["flower " * 300 + "x" * extra for extra in (0, 40)]
    lengths = [len(clip.tokenize(text)["t5xxl"][0]) for text in texts]
    assert 256 < lengths[0] < lengths[1]
    ((rows, extra),) = encode_rows(clip, texts)
    assert rows.shape == (2, lengths[1], 24)
    ((longest, options),) = host_encode(clip, texts[1])
    assert torch.equal(rows[1:], longest)
    assert torch.equal(extra["pooled_output"][1:], options["pooled_output"])
    padded = clip.tokenize(texts[0])
    padded["t5xxl"][0] += [(0, 1.0)] * (lengths[1] - lengths[0])
    ((expected, _),) = clip.encode_from_tokens_scheduled(padded)
    assert torch.equal(rows[:1], expected)


def test_short_texts_beside_long_ones_keep_their_own_row_of_clip(clip):
    """CLIP splits a long text into sections of 77; FLUX uses the first one's summary."""
    texts = ["a cat", "a cat " * 60]
    assert [len(clip.tokenize(text)["l"]) for text in texts] == [1, 2]
    ((_, extra),) = encode_rows(clip, texts)
    ((_, options),) = host_encode(clip, texts[0])
    torch.testing.assert_close(extra["pooled_output"][:1], options["pooled_output"])


def test_attention_masks_come_along_row_by_row():
    clip = mochi_clip()
    ((rows, extra),) = encode_rows(clip, ["a cat", "a cat on a bench in the park"])
    assert extra["attention_mask"].shape == (2, 256)
    for row, text in enumerate(("a cat", "a cat on a bench in the park")):
        ((expected, options),) = host_encode(clip, text)
        torch.testing.assert_close(rows[row : row + 1], expected)
        assert torch.equal(extra["attention_mask"][row : row + 1], options["attention_mask"])


def test_without_a_text_encoder_the_node_says_so():
    with pytest.raises(ValueError, match=r"There is no text encoder: .* Load one with DualCLIPLoader\."):
        prompt(None)


def test_an_encoder_that_cannot_pad_is_named_with_its_token_counts(clip):
    class WithoutPadding(type(clip.tokenizer)):
        def tokenize_with_weights(self, text, return_word_ids=False, **_):
            return super().tokenize_with_weights(text, return_word_ids)

    other = clip.clone()
    other.tokenizer = WithoutPadding()
    with pytest.raises(ValueError, match=r"makes 3\d\d and 3\d\d tokens of the prompts, so they do not fit"):
        encode_rows(other, ["flower " * 300, "flower " * 320])


def test_an_encoder_that_hands_on_what_has_no_rows_is_refused():
    pytest.importorskip("comfy.text_encoders.anima", reason="hosts before Anima")
    clip = anima_clip()
    assert len(encode_rows(clip, ["a cat"])) == 1
    with pytest.raises(ValueError, match="hands on t5xxl_ids for one prompt at a time"):
        encode_rows(clip, ["a cat", "a cat on a bench"])
