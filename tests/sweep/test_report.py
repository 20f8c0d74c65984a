"""The report of a sweep: its numbers are those of the measures, its text and figure hold for odd sweeps."""

import json

import pytest
import torch
from flux import run_node
from half_blurred import LEVELS, SWEEP, assert_refused, check_text_and_figure, left_half, pictures, plain_picture
from lpips_backbone import save_random_backbone

from bokeh.sweep import measures, trend
from bokeh.sweep.figure import draw
from bokeh.sweep.measure import measure_pictures, measure_sweep
from bokeh.sweep.table import headline, markdown
from bokeh.sweep.values import Sweep
from bokeh.sweep.verdict import verdict


@pytest.fixture(autouse=True)
def empty_hub(tmp_path, monkeypatch):
    """No weights for LPIPS, whatever the machine has."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))


def test_the_numbers_are_those_of_the_measures():
    images = pictures()
    report = measure_sweep(images, SWEEP, left_half())
    assert [area.area for area in report.areas] == ["picture", "subject", "background"]
    background = measures.background_area(left_half(), images)
    for area, mask in zip(report.areas, (None, left_half(), background), strict=True):
        assert area.laplacian == pytest.approx(measures.laplacian_variance(images, mask).tolist())
        assert area.brenner == pytest.approx(measures.brenner(images, mask).tolist())
    whole = measures.laplacian_variance(images).tolist()
    assert report.picture.lvcorr_k == pytest.approx(trend.lvcorr_k(LEVELS, whole))
    assert report.picture.by_rank == pytest.approx(trend.by_rank(LEVELS, trend.windows_sharpness(images).tolist()))
    assert report.followed.by_rank == pytest.approx(1)
    assert report.areas[2].in_order == 1
    # The left half is the same in all pictures.
    assert report.kept_sharpness == pytest.approx(1, abs=0.01)
    assert report.score == pytest.approx(report.kept_sharpness)
    alignment = measures.alignment(images, images[1]).tolist()
    assert report.alignment == pytest.approx(alignment)
    assert report.consistency == pytest.approx((alignment[0] + alignment[2] + alignment[3]) / 3)
    assert report.ms_ssim == pytest.approx(measures.ms_ssim(images, images[1]).tolist())
    assert report.psnr[1] is None
    assert report.psnr[3] == pytest.approx(measures.psnr(images, images[1])[3].item())


def test_pictures_measured_in_parts_give_the_same_numbers(monkeypatch):
    images = pictures()
    masks = torch.stack([left_half().roll(4 * i, 1) for i in range(4)])
    whole = measure_sweep(images, SWEEP, masks)
    monkeypatch.setitem(measure_sweep.__globals__, "PIXELS_AT_ONCE", 3 * 96 * 128)
    parts = measure_sweep(images, SWEEP, masks)
    assert whole.kept == pytest.approx(parts.kept)
    for one, other in zip(whole.areas, parts.areas, strict=True):
        assert one.laplacian == pytest.approx(other.laplacian)
    assert whole.alignment == pytest.approx(parts.alignment)


def test_without_a_mask_the_whole_picture_counts():
    report = measure_sweep(pictures(), SWEEP)
    assert [area.area for area in report.areas] == ["picture"]
    assert report.followed is report.focused is report.picture
    # The half that nobody blurred is found.
    assert report.kept_sharpness == pytest.approx(1, abs=0.01)


def test_markdown_has_a_row_for_every_level():
    report = measure_sweep(pictures(), SWEEP, left_half())
    text = markdown(report)
    kept = f"kept sharpness {report.kept_sharpness:.3f}"
    assert f"**Bokeh score {report.score:.3f}** (background)" in text
    assert f"**LVCorr (K) {report.picture.lvcorr_k:.3f}**, {kept}: " in text
    assert "(reference)" not in text
    assert f"**Consistency {report.consistency:.3f}**: mean alignment with blur 10" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables]
    assert [row[0] for row in rows] == [
        "area",
        "---",
        "picture",
        "background",
        "blur",
        "---:",
        "0",
        "10 (pivot)",
        "20",
        "30",
    ]
    levels = rows[4:]
    assert {len(row) for row in levels} == {11}
    assert levels[3][8:] == ["1.000", "1.000", "equal"]
    assert "LPIPS (VGG" not in text


def test_lpips_of_neighbouring_levels_is_reported_where_its_network_is_at_hand(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    save_random_backbone(tmp_path / "checkpoints" / "vgg16-397923af.pth")
    images, sweep = pictures(), Sweep((30.0, 0.0, 20.0, 10.0), pivot=10.0)
    report = measure_sweep(images, sweep)
    network, _ = measures.lpips_network()
    order = [1, 3, 2, 0]
    expected = measures.lpips(images[order[1:]], images[order[:-1]], network).tolist()
    assert [report.lpips[row] for row in order] == [None, *(pytest.approx(number) for number in expected)]
    assert report.neighbours_lpips == pytest.approx(sum(expected) / 3)
    assert report.notes == ()
    assert f"**LPIPS (VGG, neighbours) {report.neighbours_lpips:.3f}**: " in markdown(report)
    assert "| LPIPS to the level before |" in markdown(report)


def test_without_its_network_it_is_said_how_to_have_lpips():
    report = measure_sweep(pictures(), SWEEP)
    assert report.lpips is None
    assert report.notes[-1].startswith("LPIPS is left out: ")
    assert f"- {report.notes[-1]}" in markdown(report)


def test_one_level_is_said_and_not_a_number():
    images = pictures(1)
    report = measure_sweep(images, Sweep((7.0,), pivot=7.0))
    assert report.score is report.picture.lvcorr_k is report.followed.by_rank is None
    assert report.consistency is None
    assert report.notes[0] == "One picture only: LVCorr and consistency need at least two levels."
    check_text_and_figure(report, images)


@pytest.mark.parametrize("value", [None, 0.0, 0.5])
def test_equal_pictures_are_said_and_not_a_number(value):
    images = pictures()[:1].expand(4, -1, -1, -1) if value is None else torch.full((4, 96, 128, 3), value)
    report = measure_sweep(images, SWEEP)
    assert report.score is report.picture.lvcorr_k is report.followed.by_rank is None
    assert report.consistency == pytest.approx(1)
    assert report.notes[0] == "All pictures are equally sharp (picture), so LVCorr is not defined."
    check_text_and_figure(report, images)


def test_equal_requests_are_said_and_not_a_number():
    images = pictures()
    report = measure_sweep(images, Sweep((5.0,) * 4))
    assert report.score is report.picture.lvcorr_k is report.followed.by_rank is None
    assert report.areas[0].in_order is None
    assert report.notes[0] == "All pictures have the same blur, so LVCorr is not defined."
    check_text_and_figure(report, images)


@pytest.mark.parametrize(
    ("sweep", "size"),
    [
        (Sweep((0.0, 1.0, 30.0), pivot=15.0), (96, 40)),
        (Sweep((30.0, 0.0, 0.0, 12.5), pivot=0.0), (40, 160)),
        (Sweep((0.0, 0.25, 1.0), name="alpha"), (64, 64)),
        (Sweep(tuple(i * 30 / 99 for i in range(100)), pivot=15.0), (32, 32)),
    ],
)
def test_the_figure_holds_for_odd_sweeps(sweep, size):
    images = pictures(len(sweep), *size)
    figure = draw(measure_sweep(images, sweep), images)
    assert figure.shape[0] == 1
    assert figure.shape[2:] == (1200, 3)
    assert figure.dtype == torch.float32
    assert figure.min() >= 0
    assert figure.max() == 1
    margin = torch.cat([figure[:, :6].flatten(), figure[:, -6:].flatten(), figure[:, :, :6].flatten()])
    assert margin.min() == 1, "something is drawn over the edge"


def test_thumbnails_stand_apart_and_the_pivot_is_among_them():
    images = torch.zeros(40, 32, 32, 3)
    images[..., 0] = torch.linspace(0.2, 0.6, 40)[:, None, None]
    images[..., 2] = 0.9
    sweep = Sweep(tuple(float(i) ** 2 for i in range(40)), pivot=17.0**2, name="alpha")
    figure = draw(measure_sweep(images, sweep), images)[0]
    # Along a line through the thumbnails each shows as one run of its own colour.
    blue = (figure[..., 2] - 0.9).abs() < 0.01
    blue &= (figure[..., 1] < 0.01) & (figure[..., 0] > 0.19)
    line = figure[blue.sum(1).argmax()]
    runs = torch.unique_consecutive((line * 255).round()[:, 0][blue[blue.sum(1).argmax()]])
    assert len(runs) == 9
    assert (runs.diff() > 0).all()
    pivot = (images[17, 0, 0, 0] * 255).round()
    assert (runs - pivot).abs().min() <= 1


def test_drawing_leaves_matplotlib_as_it_was():
    import matplotlib
    from matplotlib import _pylab_helpers

    before = dict(matplotlib.rcParams)
    images = pictures()
    first = draw(measure_sweep(images, SWEEP), images)
    assert dict(matplotlib.rcParams) == before
    assert not _pylab_helpers.Gcf.figs
    assert torch.equal(first, draw(measure_sweep(images, SWEEP), images))


def test_progress_counts_every_picture_and_can_stop():
    seen = []
    measure_sweep(pictures(), SWEEP, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def stop(done, total):
        raise InterruptedError(f"{done} of {total}")

    with pytest.raises(InterruptedError, match=r"^1 of 4$"):
        measure_sweep(pictures(), SWEEP, progress=stop)


def test_bad_input_is_named():
    images = pictures()
    mismatch = (
        "There are 3 pictures, but the sweep has 4 values. Connect the pictures that were sampled with this very "
        "sweep, all of them and in their order."
    )
    assert_refused(lambda: measure_sweep(images[:3], SWEEP), mismatch)
    report = measure_sweep(images, SWEEP)
    assert_refused(lambda: draw(report, images[:3]), mismatch)
    assert_refused(
        lambda: measure_sweep(images, SWEEP, torch.zeros(1, 64, 64)),
        "The mask is 64 x 64 px, but the pictures are 128 x 96 px. Scale the mask to the pictures' size; a picture "
        "loaded without transparency gives an empty mask of 64 x 64 px.",
    )


# Against the plain model's picture


def test_sharpness_is_set_against_the_plain_picture_in_each_area():
    images, plain = pictures(), plain_picture()
    report = measure_sweep(images, SWEEP, left_half(), plain=plain)
    whole, subject, background = report.areas
    assert whole.plain is None
    assert report.focused is subject
    # Half the contrast is a quarter of the variance and of the squared gradient.
    assert report.gains(subject) == pytest.approx((4.0, 4.0), rel=1e-3)
    laplacian, brenner = background.ratios
    area = measures.background_area(left_half(), images)
    expected = measures.laplacian_variance(images, area) / measures.laplacian_variance(plain, area)
    assert laplacian == pytest.approx(expected.tolist())
    assert brenner == pytest.approx((measures.brenner(images, area) / measures.brenner(plain, area)).tolist())
    assert report.gains(background)[0] == pytest.approx(expected.mean().item())
    text = markdown(report)
    mean = f"x{expected.mean():.2f}"
    gains = f"subject Laplacian x4.00, Brenner x4.00; background Laplacian {mean}"
    assert f"**Sharpness over the plain picture**, mean: {gains}" in text
    assert "subject Laplacian x4.00, Brenner x4.00" in headline(report)
    assert "| Laplacian over plain, background | Brenner over plain, background |" in text
    assert "over plain, picture" not in text
    # The sweep's own measures are as they were.
    assert report.score == measure_sweep(images, SWEEP, left_half()).score


def test_pictures_of_no_sweep_are_held_against_the_plain_one():
    images, plain = pictures(2), plain_picture()
    report, together = measure_pictures(images, plain, left_half()[None].expand(2, -1, -1))
    assert torch.equal(together, torch.cat((plain, images)))
    assert report.gains(report.focused) == pytest.approx((4.0, 4.0), rel=1e-3)
    assert report.score is report.picture.lvcorr_k is report.followed.by_rank is None
    assert report.notes[0] == "The pictures are no sweep, so LVCorr is not defined."
    alignment = measures.alignment(together, plain[0]).tolist()
    assert report.consistency == pytest.approx((alignment[1] + alignment[2]) / 2)
    assert "mean alignment with plain" in markdown(report)
    check_text_and_figure(report, together)
    without_mask, _ = measure_pictures(images[:1], plain)
    assert without_mask.focused.area == "picture"
    assert without_mask.gains(without_mask.focused) == pytest.approx((4.0, 4.0), rel=1e-3)


def test_a_flat_plain_picture_is_said_and_not_a_number():
    images = pictures()
    report = measure_sweep(images, SWEEP, left_half(), plain=torch.full((1, 96, 128, 3), 0.5))
    assert report.gains(report.focused) == (None, None)
    assert "subject Laplacian not defined, Brenner not defined" in markdown(report)
    check_text_and_figure(report, images)


def test_a_plain_picture_that_does_not_fit_is_named():
    images = pictures()
    assert_refused(
        lambda: measure_sweep(images, SWEEP, plain=images[:2]),
        "There are 2 plain pictures, expected one: the picture of the same seed and size without Bokeh Stage or a blur "
        "adapter. ImageFromBatch picks one out of a batch.",
    )
    assert_refused(
        lambda: measure_pictures(images, torch.zeros(1, 64, 64, 3)),
        "The plain picture is 64 x 64 px, but the pictures are 128 x 96 px. Sample it at their size, with the same "
        "seed.",
    )


@pytest.mark.parametrize("masked", [False, True])
def test_a_sweep_over_alpha_is_not_said_to_follow_a_blur(masked):
    sweep = Sweep((0.0, 0.3, 0.6, 1.0), name="alpha", decimals=2)
    report = measure_sweep(pictures(), sweep, left_half() if masked else None)
    assert report.score is report.kept_sharpness is None
    text = markdown(report)
    assert "**LVCorr (alpha) " in text
    assert "how sharpness falls with the alpha; whole picture." in text
    assert "(K)" not in text
    assert "Bokeh score" not in text
    assert "mean alignment with alpha 0.60" in text or "mean alignment with alpha 0.30" in text


def test_the_node_gives_the_gains_of_subject_and_rest():
    images, plain = pictures(1), plain_picture()
    plot, text, numbers = run_node("BokehReport", images=images, plain=plain, mask=left_half()[None])
    report, together = measure_pictures(images, plain, left_half())
    numbers = json.loads(numbers)
    for area in report.areas[-2:]:
        gains = numbers["laplacian_gain"][area.area], numbers["brenner_gain"][area.area]
        assert gains == pytest.approx(report.gains(area))
    assert torch.equal(plot, draw(report, together))
    assert (numbers["lvcorr_k"], numbers["consistency"]) == (None, report.consistency)
    assert text.endswith(markdown(report))
    assert text.startswith(f"**{verdict(report, together)}**")
    assert_refused(
        lambda: run_node("BokehReport", images=images),
        "The report has nothing to hold the pictures against. Connect the sweep they come from, or the plain model's "
        "picture of the same seed.",
    )


def test_the_verdict_says_in_words_what_the_numbers_say():
    images = pictures()
    report = measure_sweep(images, SWEEP, left_half())
    least = min((0, 2, 3), key=lambda row: report.alignment[row])
    assert verdict(report, images).startswith("The blur follows the request; the scene ")
    assert verdict(report, images).endswith(f"{LEVELS[least]:g} is the least alike.")
    turned = measure_sweep(images.flip(0), SWEEP, left_half())
    assert verdict(turned, images.flip(0)).startswith("The blur hardly follows the request; ")
    one = measure_sweep(images[:1], Sweep((7.0,)))
    assert verdict(one, images[:1]) == "One picture says nothing about a sweep."


def test_the_verdict_says_when_the_subject_is_lost():
    images = pictures()
    everything = torch.cat((images[..., 64:, :], images[..., 64:, :]), 2)
    assert "everything is blurred, the subject too" in verdict(measure_sweep(everything, SWEEP), everything)
    assert "everything" not in verdict(measure_sweep(images, SWEEP), images)
