"""The lens node: blur and f-number of a typed lens or a photo's, and sweeps labelled with f-numbers."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import execution
import folder_paths
import nodes as host_nodes
import pytest
import torch
from comfy_api.latest import io
from flux import run_node
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from bokeh.nodes.lens import BokehLens
from bokeh.nodes.view import BokehSweepView
from bokeh.sweep.export import save_sweep
from bokeh.sweep.figure import draw
from bokeh.sweep.measure import measure_sweep
from bokeh.sweep.sheet import contact_sheet
from bokeh.sweep.table import markdown
from bokeh.sweep.values import Sweep

FULL_FRAME = "full frame, 36 x 24 mm"
LENS = {
    "mode": "f-number to blur",
    "photo": "no photo",
    "focal_length": 50.0,
    "f_number": 1.8,
    "focus_distance": 2.0,
    "sensor": FULL_FRAME,
    "sensor_width": 0.0,
    "behind_subject": 0.0,
    "width": 768,
    "height": 512,
    "blur": 15.0,
}
FROM_PHOTO = {**LENS, "focal_length": 0.0, "f_number": 0.0, "focus_distance": 0.0, "sensor": "from the photo"}
PHONE = {
    "FocalLength": IFDRational(686, 100),
    "FocalLengthIn35mmFilm": 24,
    "FNumber": IFDRational(178, 100),
    "SubjectDistance": IFDRational(1, 2),
}


@pytest.fixture
def photo():
    """Puts a photo with EXIF values into the host's input folder and gives its name."""
    made = []

    def photo(tags: dict, name: str = "phone.jpg", size=(4032, 3024)) -> str:
        image = Image.new("RGB", size)
        exif = image.getexif()
        exif.get_ifd(ExifTags.IFD.Exif).update({ExifTags.Base[tag]: value for tag, value in tags.items()})
        path = Path(folder_paths.get_input_directory(), name)
        image.save(path, exif=exif.tobytes())
        made.append(path)
        return name

    yield photo
    for path in made:
        path.unlink(missing_ok=True)


def lens(**changes) -> tuple:
    return run_node("BokehLens", **{**LENS, **changes})


def test_a_typed_lens_gives_blur_circle_of_confusion_and_depth_of_field():
    blur, coc, f_number, sweep, text, _ = lens(behind_subject=3.0)
    assert blur == pytest.approx(15.19468, rel=1e-6)
    # 2 * 15.19468 * (1/2 - 1/5) = 9.116808
    assert coc == pytest.approx(9.116808, rel=1e-6)
    assert f_number == 1.8
    assert (sweep.values, sweep.labels) == ((blur,), ("f/1.8",))
    lines = text.splitlines()
    assert lines[0].startswith("- **blur 15.19**: 50 mm, f/1.8, focused at 2 m")
    assert lines[1] == "- a background 3 m behind the subject: circle of confusion 9.1 px at 768 x 512 px"
    assert lines[2] == "- sharp from 1.92 m to 2.09 m; hyperfocal distance 46.3 m"
    assert len(lines) == 3


def test_a_background_without_end_is_the_default():
    _, coc, _, _, text, _ = lens()
    assert coc == pytest.approx(15.19468, rel=1e-6)
    assert "a background without end" in text


def test_a_blur_beyond_the_slider_is_lowered_with_a_note_that_keeps_the_number():
    blur, coc, _, _, text, lens_blur = lens(focal_length=85.0, f_number=1.4, focus_distance=1.5)
    assert blur == 30
    # K 58.35437 is not lowered in what the background shows: 2 K / 1.5
    assert coc == pytest.approx(77.80583, rel=1e-6)
    assert "**blur 58.35**" in text
    assert (
        text.splitlines()[-1] == "- Blur 58.4 is more than an adapter knows, so 30 comes out; lens_blur has all of it."
    )
    assert lens_blur == pytest.approx(58.35437, rel=1e-6)


def test_blur_to_f_number_is_the_inverse_and_needs_no_f_number():
    blur, _, f_number, sweep, *_ = lens(mode="blur to f-number", blur=15.19468, f_number=0.0)
    assert blur == 15.19468
    assert f_number == pytest.approx(1.8, rel=1e-6)
    assert sweep.labels == ("f/1.8",)
    again, *_ = lens(f_number=f_number)
    assert abs(again - blur) <= 1e-6


def test_a_sweep_comes_out_labelled_with_f_numbers_and_otherwise_as_it_was():
    given = Sweep((0.0, 1.7094, 3.4188, 6.8376, 13.6752, 19.536), 13.6752)
    *_, sweep, _, _ = lens(sweep=given)
    assert sweep.labels == ("pinhole", "f/16", "f/8", "f/4", "f/2", "f/1.4")
    assert (sweep.values, sweep.pivot, sweep.name) == (given.values, given.pivot, given.name)


def test_view_grid_report_and_files_take_the_labels(tmp_path):
    *_, sweep, _, _ = lens(sweep=Sweep((3.4188, 13.6752), 13.6752))
    images = torch.rand(2, 48, 64, 3, generator=torch.Generator().manual_seed(0))
    (shown,) = BokehSweepView.execute(images, sweep).ui["bokeh_sweep"]
    assert [(level["label"], level["caption"]) for level in shown["levels"]] == [("f/8", "f/8"), ("f/2", "f/2")]
    (grid,) = run_node("BokehSweepGrid", images=images, sweep=sweep, columns=0)
    assert torch.equal(grid, contact_sheet(images, ("f/8", "f/2"), marks=(1,)))
    report = measure_sweep(images, sweep)
    assert "mean alignment with f/2, " in markdown(report)
    assert "\n| 3.42 (f/8) | " in markdown(report)
    assert "\n| 13.68 (f/2, pivot) | " in markdown(report)
    plain = measure_sweep(images, Sweep(sweep.values, sweep.pivot))
    assert not torch.equal(draw(report, images), draw(plain, images))
    saved = save_sweep(images, sweep, tmp_path, "sweep")
    description = json.loads((saved.folder / "sweep.json").read_text())
    assert description["labels"] == ["f/8", "f/2"]
    assert description["values"] == [3.4188, 13.6752]


def test_a_photo_tells_the_whole_lens(photo):
    blur, *_ = run_node("BokehLens", **{**FROM_PHOTO, "photo": photo(PHONE), "width": 0, "height": 0})
    # 0.01340288 * (682.6667 / (6.86 / 24 * 43.27 / 1.25 = 9.894407)) = 0.01340288 * 68.99520
    assert blur == pytest.approx(0.9247345, rel=1e-6)


def test_a_picture_of_another_shape_is_cut_out_of_the_photos_sensor(photo):
    blur, *_ = run_node("BokehLens", **{**FROM_PHOTO, "photo": photo(PHONE), "width": 512, "height": 512})
    # the square on 7.420805 mm: 0.01340288 * 512 / 7.420805
    assert blur == pytest.approx(0.9247345, rel=1e-6)


def test_what_is_typed_goes_before_what_the_photo_says(photo):
    name = photo(PHONE)
    blur, _, f_number, _, text, _ = run_node(
        "BokehLens", **{**FROM_PHOTO, "photo": name, "f_number": 3.56, "width": 0, "height": 0}
    )
    assert f_number == 3.56
    assert blur == pytest.approx(0.9247345 / 2, rel=1e-6)
    assert "6.86 mm, f/3.6, focused at 0.5 m" in text


def test_what_neither_says_is_asked_for_by_name_with_the_photos_notes(photo):
    name = photo({"FNumber": IFDRational(18, 10), "SubjectDistance": IFDRational(0, 1)})
    with pytest.raises(ValueError) as error:  # noqa: PT011
        run_node("BokehLens", **{**FROM_PHOTO, "photo": name})
    assert str(error.value) == (
        "The lens is not complete, missing: the focal length in mm, the focus distance in m, the sensor. "
        "The photo phone.jpg does not say it. The photo's focus distance is 0 m, so it counts as missing. "
        "Type in what is missing."
    )


def test_a_note_on_the_photo_stays_when_the_value_was_typed(photo):
    name = photo({**PHONE, "SubjectDistance": IFDRational(0xFFFFFFFF, 1)})
    text = run_node("BokehLens", **{**FROM_PHOTO, "photo": name, "focus_distance": 0.5})[4]
    assert text.splitlines()[-1] == "- The photo's focus distance is infinity, so it counts as missing."


def test_a_fresh_lens_is_a_usual_one_and_says_so():
    schema = BokehLens.define_schema()
    fresh = {entry.id: getattr(entry, "default", None) for entry in schema.inputs if entry.id != "sweep"}
    fresh |= {entry.id: entry.options[0] for entry in schema.inputs if isinstance(entry, io.Combo.Input)}
    blur, *_, text, lens_blur = lens(**fresh)
    assert blur == lens(width=512)[0] == lens_blur
    assert "50 mm, f/1.8, focused at 2 m" in text
    assert not schema.is_output_node


MISSING = [({"sensor": "custom width"}, "the sensor"), ({"width": 0}, "the width in pixels")]


@pytest.mark.parametrize(("changes", "name"), MISSING)
def test_a_lens_that_is_not_complete_is_asked_for(changes, name):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        lens(**changes)
    assert str(error.value).startswith(f"The lens is not complete, missing: {name}")
    assert str(error.value).endswith("Type in what is missing, or choose a photo whose EXIF says it.")


def test_focus_inside_the_focal_length_and_other_sweeps_are_refused():
    with pytest.raises(ValueError, match=r"Focus distance is 0\.04 m, inside the focal length of 50 mm, where no lens"):
        lens(focus_distance=0.04)
    with pytest.raises(ValueError, match=r"This is a sweep of alpha, and f-numbers belong to blurs"):
        lens(sweep=Sweep((0.1, 0.9), name="alpha"))


def test_a_custom_width_is_that_of_the_picture():
    assert lens(sensor="custom width", sensor_width=36.0)[0] == lens()[0]
    # not cut out of anything: 512 px on 36 mm
    square = lens(sensor="custom width", sensor_width=36.0, width=512)[0]
    assert square == pytest.approx(15.19468 * 512 / 768, rel=1e-6)


def test_photos_are_listed_and_read_again_when_replaced(photo):
    name = photo(PHONE)
    Path(folder_paths.get_input_directory(), "notes.txt").write_text("no photo")
    (combo,) = [entry for entry in BokehLens.define_schema().inputs if entry.id == "photo"]
    assert combo.options[0] == "no photo"
    assert name in combo.options
    assert "notes.txt" not in combo.options
    node = host_nodes.NODE_CLASS_MAPPINGS["BokehLens"]
    before = node.fingerprint_inputs(**{**LENS, "photo": name})
    assert node.fingerprint_inputs(**{**LENS, "photo": name}) == before
    photo({**PHONE, "FNumber": IFDRational(28, 10)}, name, size=(80, 60))
    assert node.fingerprint_inputs(**{**LENS, "photo": name}) != before
    # What comes over a link is known to the host; an exception would run all behind this node at every queue.
    assert node.fingerprint_inputs(**{**LENS, "photo": None}) is None
    assert node.fingerprint_inputs(**{**LENS, "photo": "gone.jpg"}) == node.fingerprint_inputs(
        **{**LENS, "photo": "gone.jpg"}
    )


def test_no_file_is_touched_before_the_run():
    """A device like this one hangs whoever opens it."""
    prompt = {"1": {"class_type": "BokehLens", "inputs": {**LENS, "photo": "/dev/ptmx"}}}
    prompt["2"] = {"class_type": "PreviewAny", "inputs": {"source": ["1", 4]}}
    valid, _, _, errors = asyncio.run(execution.validate_prompt("x", prompt, None))
    assert not valid
    assert "There is no photo" in errors["1"]["errors"][0]["details"]
    assert host_nodes.NODE_CLASS_MAPPINGS["BokehLens"].validate_inputs(photo=None) is True


@pytest.fixture
def secret(photo):
    """A photo beside the input folder, and ways to it from inside."""
    name = photo(PHONE, "../secret.jpg")
    inside = Path(folder_paths.get_input_directory())
    (inside / "link.jpg").symlink_to(inside / name)
    os.mkfifo(inside / "pipe.jpg")
    yield [name, str((inside / name).resolve()), "link.jpg", "pipe.jpg", "/dev/ptmx", "secret.jpg [output]", "a\0b.jpg"]
    for file in ("link.jpg", "pipe.jpg"):
        (inside / file).unlink()


def test_only_photos_of_the_input_folder_are_read(secret):
    for name in secret:
        with pytest.raises(ValueError) as error:  # noqa: PT011
            run_node("BokehLens", **{**FROM_PHOTO, "photo": name})
        assert str(error.value).startswith(("There is no photo ", "pipe.jpg cannot be read (it is a pipe or a device)"))
        assert folder_paths.get_input_directory() not in str(error.value).replace(name, "")
