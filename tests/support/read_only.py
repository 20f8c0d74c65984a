"""A folder that really refuses writes, for root as well."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CAP_DAC_OVERRIDE = 1
_VERSION_3 = 0x20080522


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Take the write permission off `folder`, and off this thread root's capability to write all the same.

    chmod alone does not bind root, and a continuous-integration container runs as root.
    """
    mode = folder.stat().st_mode
    folder.chmod(0o555)
    before = _effective()
    if os.geteuid() == 0:
        _set_effective(before & ~(1 << _CAP_DAC_OVERRIDE))
    try:
        yield
    finally:
        _set_effective(before)
        folder.chmod(mode)


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


def _read() -> ctypes.Array:
    data = (_Data * 2)()
    _call("capget", data)
    return data


def _effective() -> int:
    return _read()[0].effective


def _set_effective(bits: int) -> None:
    data = _read()
    data[0].effective = bits
    _call("capset", data)


def _call(name: str, data: ctypes.Array) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(ctypes.byref(_Header(_VERSION_3, 0)), data) != 0:
        raise OSError(ctypes.get_errno(), name)
