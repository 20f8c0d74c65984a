"""The thin lens against cases worked out by hand, its inverse, and EXIF out of files that Pillow wrote."""

from __future__ import annotations

import base64
import io
import math

import pytest
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from bokeh.optics.exif import read_exif
from bokeh.optics.lens import (
    SENSORS,
    blur_of,
    coc_of,
    depth_of_field,
    f_number_labels,
    f_number_of,
    sensor_width_from_35mm,
    sensor_width_of,
)
from bokeh.optics.phone import read_portrait
from bokeh.training.depth_files import read_depth
from bokeh.training.entries import open_picture

# Camera: focal length mm, f-number, focus m, sensor width mm, picture px, K. The comments are K by hand:
# 1000 * f^2 S / (2 N (S - f)) * W / w, f in m, W the width of the picture when its shorter side is 512 px.
CAMERAS = {
    # 1000 * 0.0025 * 2 / (3.6 * 1.95) = 5 / 7.02 = 0.712251; 768 / 36 = 21.33333
    "full frame, 50 mm f/1.8 at 2 m": (50, 1.8, 2.0, 36.0, (768, 512), 15.19468),
    # 1000 * 0.007225 * 1.5 / (2.8 * 1.415) = 10.8375 / 3.962 = 2.735361; upright: 512 / 24 = 21.33333
    "full frame upright, 85 mm f/1.4 at 1.5 m": (85, 1.4, 1.5, 24.0, (4000, 6000), 58.35437),
    # 1000 * 0.000576 * 0.5 / (5.6 * 0.476) = 0.288 / 2.6656 = 0.1080432; 768 / 22.3 = 34.43946
    "APS-C Canon, 24 mm f/2.8 at 0.5 m": (24, 2.8, 0.5, 22.3, (1536, 1024), 3.720950),
    # 1000 * 0.003136 * 3 / (2.4 * 2.944) = 9.408 / 7.0656 = 1.331522; square: 512 / 15.6 = 32.82051
    "APS-C, 56 mm f/1.2 at 3 m, square": (56, 1.2, 3.0, 15.6, (512, 512), 43.70122),
    # 1000 * 0.000625 * 1 / (2.4 * 0.975) = 0.625 / 2.34 = 0.2670940; 682.6667 / 17.3 = 39.46050
    "Micro Four Thirds, 25 mm f/1.2 at 1 m": (25, 1.2, 1.0, 17.3, (1024, 768), 10.53966),
    # 1000 * 0.00066049 * 1.2 / (5.6 * 1.1743) = 0.792588 / 6.57608 = 0.1205259; 768 / 13.2 = 58.18182
    "1 inch, 25.7 mm f/2.8 at 1.2 m": (25.7, 2.8, 1.2, 13.2, (3000, 2000), 7.012417),
    # 1000 * 0.0000470596 * 0.5 / (3.56 * 0.49314) = 0.0235298 / 1.755578 = 0.01340288; 682.6667 / 9.894 = 68.99804
    "phone, 6.86 mm f/1.78 at 0.5 m": (6.86, 1.78, 0.5, 9.894, (4032, 3024), 0.9247726),
}
FORMATS = ("jpg", "tiff", "png", "webp")


@pytest.mark.parametrize("camera", CAMERAS)
def test_blur_of_real_cameras_as_worked_out_by_hand(camera):
    focal_length, f_number, focus, sensor_width, size, expected = CAMERAS[camera]
    assert blur_of(focal_length, f_number, focus, sensor_width, *size) == pytest.approx(expected, rel=2e-6)


def test_blur_to_f_number_and_back():
    for focal_length, _, focus, sensor_width, size, _ in CAMERAS.values():
        for blur in (0.1, 7.3, 30.0):
            f_number = f_number_of(blur, focal_length, focus, sensor_width, *size)
            assert blur_of(focal_length, f_number, focus, sensor_width, *size) == pytest.approx(blur, rel=1e-12)


def test_a_closed_aperture_is_blur_0_both_ways():
    assert f_number_of(0, 50, 2.0, 36.0, 768, 512) == math.inf
    assert blur_of(50, math.inf, 2.0, 36.0, 768, 512) == 0


def test_the_blur_is_the_same_at_every_resolution_and_twice_as_large_two_stops_wider():
    small = blur_of(50, 4.0, 2.0, 36.0, 768, 512)
    assert blur_of(50, 4.0, 2.0, 36.0, 6000, 4000) == pytest.approx(small)
    assert blur_of(50, 2.0, 2.0, 36.0, 768, 512) == pytest.approx(2 * small)


def test_a_disc_traced_through_the_lens_has_the_radius_that_k_says():
    """Two similar triangles behind a lens, without the equation of K: 50 mm f/2 at 3 m, a lamp at 8 m."""
    f, aperture, focus, lamp = 0.05, 0.025, 3.0, 8.0
    sensor_at = 1 / (1 / f - 1 / focus)
    image_at = 1 / (1 / f - 1 / lamp)
    radius = aperture / 2 * (sensor_at - image_at) / image_at
    pixels = radius * 1000 / 36.0 * 768
    k = blur_of(50, 2.0, focus, 36.0, 768, 512)
    assert k * abs(1 / lamp - 1 / focus) == pytest.approx(pixels, rel=1e-9)
    assert coc_of(k, focus, lamp - focus, 768, 512) == pytest.approx(2 * pixels, rel=1e-9)
    assert coc_of(k, focus, lamp - focus, 1536, 1024) == pytest.approx(4 * pixels, rel=1e-9)


def test_the_circle_of_confusion_grows_with_the_distance_to_its_limit():
    assert coc_of(10.0, 1.0, 0.0, 512, 512) == 0
    assert coc_of(10.0, 1.0, 1.0, 512, 512) == pytest.approx(10.0)
    # The sky behind a subject at 1 m: all of K on either side.
    assert coc_of(10.0, 1.0, math.inf, 512, 512) == pytest.approx(20.0)


def test_depth_of_field_as_in_the_tables():
    # H = 0.05^2 / (8 * 0.00003) + 0.05 = 10.46667; near = 5 * 10.41667 / (10.41667 + 4.95) = 3.389371;
    # far = 5 * 10.41667 / (10.46667 - 5) = 9.527439
    near, far, hyperfocal = depth_of_field(50, 8.0, 5.0, 36.0, 768, 512)
    assert (near, far, hyperfocal) == pytest.approx((3.389371, 9.527439, 10.46667), rel=2e-4)
    assert depth_of_field(50, 8.0, 10.5, 36.0, 768, 512).far == math.inf
    assert depth_of_field(50, 8.0, hyperfocal, 36.0, 768, 512).near == pytest.approx(hyperfocal / 2, rel=1e-2)
    assert depth_of_field(50, math.inf, 5.0, 36.0, 768, 512) == (0, math.inf, 0.05)


def test_sensor_width_from_the_focal_length_for_full_frame():
    # 6.86 / 24 * 43.27 / sqrt(1 + 0.75^2) = 12.36801 / 1.25 = 9.894407, of 9.8 mm in the data sheet
    assert sensor_width_from_35mm(6.86, 24, 4032, 3024) == pytest.approx(9.894407, rel=1e-6)
    assert sensor_width_from_35mm(6.86, 24, 3024, 4032) == pytest.approx(9.894407 * 3 / 4, rel=1e-6)
    assert sensor_width_from_35mm(50, 50, 6000, 4000) == pytest.approx(36.0, rel=1e-3)


def test_a_picture_is_cut_out_of_the_sensor_as_large_as_it_fits():
    full = SENSORS["full frame, 36 x 24 mm"]
    assert sensor_width_of(full, 768, 512) == 36
    assert sensor_width_of(full, 512, 768) == 24
    assert sensor_width_of(full, 512, 512) == 24
    assert sensor_width_of(full, 1920, 1080) == 36
    assert sensor_width_of(full, 800, 600) == 32
    for width, height in SENSORS.values():
        assert width > height
        assert sensor_width_of((width, height), round(100 * width), round(100 * height)) == pytest.approx(width)


def test_labels_read_as_on_a_lens_and_stay_apart():
    numbers = (0.95, 1.4142, 2.0, 2.828, 5.66, 11.3, 16.0, 128.2, math.inf)
    assert f_number_labels(numbers) == (
        *("f/0.95", "f/1.4", "f/2", "f/2.8", "f/5.7", "f/11", "f/16", "f/128", "pinhole"),
    )
    assert f_number_labels((1.42, 1.44, 1.42)) == ("f/1.42", "f/1.44", "f/1.42")
    assert f_number_labels((10.0, 20.0)) == ("f/10", "f/20")


WRONG = [
    ({"focal_length": 0}, "Focal length is 0 mm, expected a number above 0. Use the number on the lens, for"),
    ({"focal_length": -50}, "Focal length is -50 mm, expected a number above 0"),
    ({"f_number": 0}, "F-number is 0, expected a number above 0. Use the number behind the f/ of the aperture"),
    ({"f_number": math.nan}, "F-number is nan, expected a number above 0"),
    ({"focus_distance": 0}, "Focus distance is 0 m, expected a number above 0"),
    ({"focus_distance": math.inf}, "Focus distance is inf m, expected a number above 0"),
    (
        {"focus_distance": 0.05},
        "Focus distance is 0.05 m, inside the focal length of 50 mm, where no lens can focus; expected more than "
        "0.05 m. Use the distance in metres from the camera to what is sharp.",
    ),
    ({"sensor_width": 0}, "Sensor width is 0 mm, expected a number above 0"),
    ({"width": 0}, "The picture is 0 x 512 px, expected at least 1 x 1"),
]


def test_what_no_lens_can_be_is_refused_with_its_value():
    lens = {"focal_length": 50, "f_number": 1.8, "focus_distance": 2.0, "sensor_width": 36.0}
    for wrong, message in WRONG:
        with pytest.raises(ValueError) as error:  # noqa: PT011
            blur_of(**{**lens, "width": 768, "height": 512, **wrong})
        assert str(error.value).startswith(message)


def test_distances_and_blurs_below_0_are_refused():
    with pytest.raises(ValueError, match=r"Blur is -1, expected 0 or more"):
        f_number_of(-1, 50, 2.0, 36.0, 768, 512)
    with pytest.raises(ValueError, match=r"The background is -3 m behind the subject, expected 0 m or more"):
        coc_of(10, 2.0, -3.0, 768, 512)


def photo(path, tags: dict, orientation: int = 1, size=(60, 40)):
    """A photo with these EXIF values, by their names."""
    image = Image.new("RGB", size)
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = orientation
    exif.get_ifd(ExifTags.IFD.Exif).update({ExifTags.Base[name]: value for name, value in tags.items()})
    image.save(path, exif=exif.tobytes())
    return path


CAMERA = {
    "FocalLength": IFDRational(857, 10),
    "FocalLengthIn35mmFilm": 86,
    "FNumber": IFDRational(18, 10),
    "SubjectDistance": IFDRational(5, 2),
}


@pytest.mark.parametrize("ending", FORMATS)
def test_the_lens_is_read_from_every_format_and_an_upright_photo_has_the_size_it_is_looked_at(tmp_path, ending):
    exif = read_exif(photo(tmp_path / f"a.{ending}", CAMERA, orientation=6))
    assert (exif.focal_length, exif.focal_length_35mm, exif.f_number) == (85.7, 86.0, 1.8)
    assert (exif.focus_distance, exif.width, exif.height, exif.notes) == (2.5, 40, 60, ())
    with Image.open(tmp_path / f"a.{ending}") as image:
        assert read_exif(image) == exif


def test_what_a_photo_does_not_say_stays_open_without_a_note(tmp_path):
    exif = read_exif(photo(tmp_path / "a.jpg", {"FNumber": IFDRational(28, 10)}))
    assert (exif.f_number, exif.width, exif.height) == (2.8, 60, 40)
    assert (exif.focal_length, exif.focal_length_35mm, exif.focus_distance, exif.notes) == (None, None, None, ())
    Image.new("RGB", (60, 40)).save(tmp_path / "b.jpg")
    assert read_exif(tmp_path / "b.jpg").f_number is None


ABSURD = [
    ("FocalLength", IFDRational(0, 1), "focal length is 0 mm,"),
    ("FNumber", IFDRational(18, 0), "f-number is a fraction by 0"),
    ("FNumber", IFDRational(0, 0), "f-number is a fraction by 0"),
    ("FocalLengthIn35mmFilm", 0, "focal length for full frame is 0 mm,"),
    ("SubjectDistance", IFDRational(0xFFFFFFFF, 1), "focus distance is infinity,"),
    ("SubjectDistance", IFDRational(0, 10), "focus distance is 0 m,"),
    ("FocalLength", IFDRational(4_000_000_000, 1), "focal length is 4e+09 mm,"),
]


def test_absurd_values_count_as_missing_with_a_note(tmp_path):
    for tag, value, note in ABSURD:
        exif = read_exif(photo(tmp_path / "a.jpg", {**CAMERA, tag: value}))
        values = (exif.focal_length, exif.focal_length_35mm, exif.f_number, exif.focus_distance)
        assert values.count(None) == 1, tag
        (said,) = exif.notes
        assert said.startswith(f"The photo's {note}")
        assert said.endswith("counts as missing.")


def test_values_of_other_kinds_count_as_missing_with_a_note():
    for value in ("wide open", b"\x01\x02", -1.8, math.inf, math.nan, (1.8, 2.8)):
        image = Image.new("RGB", (60, 40))
        image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FNumber] = value
        exif = read_exif(image)
        assert exif.f_number is None, value
        assert len(exif.notes) == 1


@pytest.mark.parametrize("ending", ["png", "webp"])
def test_damaged_exif_counts_as_missing_with_a_note(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.new("RGB", (60, 40)).save(path, exif=b"Exif\0\0ZZ*\0garbage")
    exif = read_exif(path)
    assert (exif.f_number, exif.width, exif.height) == (None, 60, 40)
    assert exif.notes[0].startswith("The photo's EXIF is damaged (")


# The orientation "turned by a quarter", and a camera's name that is a number, which Pillow reads but cannot write.
UNWRITABLE = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + bytes.fromhex(
    "010f000b000000010000000501120003000000010006000000000000"
)
DAMAGED = b"Exif\0\0ZZ*\0garbage"


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_a_value_that_pillow_cannot_write_again_spoils_no_photo(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.new("RGB", (60, 40)).save(path, exif=UNWRITABLE)
    assert (read_exif(path).width, read_exif(path).height) == (40, 60)


@pytest.mark.parametrize(("exif", "size"), [(UNWRITABLE, (48, 64)), (DAMAGED, (64, 48))])
def test_damaged_exif_spoils_neither_a_portrait_nor_a_picture_to_train_on(tmp_path, exif, size):
    depth = io.BytesIO()
    Image.new("L", (8, 6), 90).save(depth, "PNG")
    xmp = f'<x GDepth:Data="{base64.b64encode(depth.getvalue()).decode()}"/>'
    path = tmp_path / "a.jpg"
    Image.new("RGB", (64, 48)).save(path, exif=exif, xmp=xmp.encode(), dpi=(72, 72))
    portrait = read_portrait(path)
    assert (portrait.image.size, portrait.disparity.shape) == (size, (size[1] // 8, size[0] // 8))
    assert open_picture(path).size == size
    assert read_depth(path).shape == size[::-1]


def test_files_that_are_no_photos_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"There is no photo .*gone\.jpg"):
        read_exif(tmp_path / "gone.jpg")
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.jpg is not a picture"):
        read_exif(tmp_path / "text.jpg")
    with pytest.raises(ValueError, match=r"cannot be read"):
        read_exif(tmp_path)
