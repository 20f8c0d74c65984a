"""Finds the browser that the page's tests drive. Standard library only."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "msedge")

MISSING = (
    "No Chromium was found, and the page's tests need one. Debian and Ubuntu: 'apt-get install chromium'. "
    "Elsewhere: install Chromium, Google Chrome or Microsoft Edge, or set CHROMIUM_PATH to the program."
)


def _usual_places() -> list[Path]:
    if sys.platform == "darwin":
        names = ("Chromium", "Google Chrome", "Microsoft Edge")
        return [
            root / f"{name}.app" / "Contents" / "MacOS" / name
            for root in (Path("/Applications"), Path.home() / "Applications")
            for name in names
        ]
    if os.name == "nt":
        roots = [os.environ.get(name) for name in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA")]
        programs = ("Chromium/Application/chrome.exe", "Google/Chrome/Application/chrome.exe")
        programs += ("Microsoft/Edge/Application/msedge.exe",)
        return [Path(root) / program for root in roots if root for program in programs]
    return [Path("/usr/lib/chromium/chromium"), Path("/snap/bin/chromium"), Path("/opt/google/chrome/chrome")]


def find_chromium() -> Path:
    """The browser to drive: CHROMIUM_PATH, else one on PATH, else one in its usual place.

    Raises:
        FileNotFoundError: there is none, with how to install one; or CHROMIUM_PATH names no program.
    """
    if named := os.environ.get("CHROMIUM_PATH"):
        found = shutil.which(named)
        if found is None:
            raise FileNotFoundError(f"CHROMIUM_PATH is {named}, which is not a program. {MISSING}")
        return Path(found)
    for name in NAMES:
        if found := shutil.which(name):
            return Path(found)
    for place in _usual_places():
        if place.is_file():
            return place
    raise FileNotFoundError(MISSING)
