"""Makes and checks the manifest of a data set of blur pairs: `python tools/pairs.py make|check ...`.

`training/manifest.py` says what a manifest is, `training/folders.py` how the folders are to be called. Needs NumPy
and Pillow; where this Python lacks them, it sets up the host like the other tools and runs in its environment.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

from inside import load_pack, run_inside

INSIDE = "COMFYUI_BOKEH_PAIRS"


def main(arguments: list[str]) -> int:
    """The command line; the exit code is 1 when something is wrong with the data."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not (os.environ.get(INSIDE) or all(map(importlib.util.find_spec, ("numpy", "PIL")))):
        return run_inside(__file__, arguments, INSIDE)
    load_pack()
    try:
        return options.command(options)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def make(options: argparse.Namespace) -> int:
    """Find the pictures of a folder, check them and write the manifest."""
    from bokeh.training.folders import LENS_VALUES, MANIFEST_NAME, ScanOptions, scan_folder
    from bokeh.training.manifest import ManifestError, check_rows, write_manifest

    folder = options.folder.resolve()
    lens = {key: value for key in LENS_VALUES if (value := getattr(options, key)) is not None}
    scan = scan_folder(
        folder,
        ScanOptions(
            caption=options.caption,
            focus=options.focus,
            near_is_bright=not options.near_is_dark,
            metric=options.metric,
            lens=lens,
        ),
        _ask if options.ask else None,
    )
    rows = scan.rows
    for line in scan.skipped.lines():
        print(line)
    if not rows:
        print("No picture is left, so no manifest was written.", file=sys.stderr)
        return 1
    try:
        checked = check_rows(rows, folder, options.size, _progress())
    except ManifestError as error:
        print(error, file=sys.stderr)
        bad = {row for row, _ in error.problems}
        rows = [row for number, row in enumerate(rows, start=1) if number not in bad]
        if not options.leave_out_bad or not rows:
            print("No manifest was written; --leave-out-bad writes the good rows.", file=sys.stderr)
            return 1
        print(f"Bad rows left out: {len(bad)}")
        checked = check_rows(rows, folder, options.size)
    path = folder / MANIFEST_NAME
    write_manifest(path, rows)
    print(f"{_counts(checked)}\nThe manifest: {path}")
    return 0


def check(options: argparse.Namespace) -> int:
    """Check every row of a manifest."""
    from bokeh.training.manifest import read_manifest

    print(_counts(read_manifest(options.manifest, options.size, _progress())))
    return 0


def _counts(rows: list) -> str:
    groups = sum(row.depth is not None for row in rows)
    photos = len(rows) - groups
    return f"Good rows: {len(rows)}; sharp pictures with depth: {groups}; photos with their own blur: {photos}"


def _ask(photo: Path, missing: list[str]) -> dict[str, float]:
    """Have the user type what a photo's EXIF lacks; nothing typed skips the photo."""
    from bokeh.training.folders import LENS_VALUES

    given: dict[str, float] = {}
    for key in missing:
        while key not in given:
            text = input(f"{photo.name}: {LENS_VALUES[key]} (empty skips it): ").strip()
            if not text:
                return given
            try:
                given[key] = float(text.replace(",", "."))
            except ValueError:
                print(f"{text} is not a number, expected one such as 1.8")
    return given


def _progress() -> Callable[[int, int], None] | None:
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        print(f"\rchecked {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Make or check the manifest of a data set of blur pairs.")
    commands = parser.add_subparsers(required=True)
    made = commands.add_parser(
        "make",
        help="write FOLDER/manifest.jsonl from the folders sharp, depth, masks and wild",
        description="Write FOLDER/manifest.jsonl. sharp/NAME.jpg: pictures sharp all over, their depth in "
        "depth/NAME.png, .npy or .npz and, if there are any, subject masks in masks/NAME.png. wild/NAME.jpg: photos "
        "with EXIF. Captions in NAME.txt beside the picture.",
    )
    made.set_defaults(command=make)
    made.add_argument("folder", type=Path, metavar="FOLDER")
    made.add_argument("--caption", help="for pictures without a .txt; default: they are skipped")
    made.add_argument("--focus", type=float, help="disparity 0..1 (1 = nearest) for pictures without a mask")
    made.add_argument("--near-is-dark", action="store_true", help="larger values of the depth maps are farther")
    made.add_argument("--metric", action="store_true", help="the values of the depth maps are distances")
    for key, text in (
        ("focal-length", "mm"),
        ("f-number", "such as 1.8"),
        ("focus-distance", "m to the subject"),
        ("sensor-width", "mm"),
    ):
        made.add_argument(f"--{key}", type=float, metavar="X", help=f"{text}; for photos whose EXIF lacks it")
    made.add_argument("--ask", action="store_true", help="ask for what the EXIF of a photo lacks, photo by photo")
    made.add_argument("--leave-out-bad", action="store_true", help="leave bad pictures out instead of stopping")
    checked = commands.add_parser("check", help="name every bad row of a manifest")
    checked.set_defaults(command=check)
    checked.add_argument("manifest", type=Path, metavar="MANIFEST")
    for command in (made, checked):
        command.add_argument("--size", type=int, default=512, help="short side in px to train at; default: 512")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (KeyboardInterrupt, EOFError):
        print("\nStopped; nothing was written.", file=sys.stderr)
        sys.exit(130)
