"""Tensors out of files that nobody vouches for: safetensors, and PyTorch's two kinds of pickle.

Everything is read into memory by plain reads, once: a mapping would end the whole process when somebody writes over the
file. What a file says of itself is checked before memory is taken for it. Of a pickle only what a dictionary of tensors
needs is understood: `torch.load` takes any size of memory and of time that the file asks for, and neither of its ways
looks at checksums.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from ..files import open_regular
from .settings import AdapterError

AGAIN = "Get the file again."
# Bytes. An adapter of a thousand tensors has a tenth of it.
_LONGEST_HEADER = 8_000_000
_LONGEST_PICKLE = 2_000_000
_LONGEST_KEY = 300
_MOST_DIMENSIONS = 8
# Weights hardly get smaller by packing; a bomb gets a thousand times so.
_DENSEST_PACKING, _SMALL = 16, 64_000_000

_SAFETENSORS = (
    {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    | {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8}
    | {"BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
)
_STORAGES = (
    {"DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16}
    | {"BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32}
    | {"ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool}
)


class _Damaged(Exception):
    """The file contradicts itself."""


class _NotPlain(Exception):
    """A pickle that holds something else than a dictionary of tensors needs."""


def read_stored(
    path: Path, called: str, check_names: Callable[[Mapping[object, object]], object]
) -> tuple[dict[object, object], dict[str, str]]:
    """What a file holds by name, tensors in memory of their own, and its metadata; its kind is found from its first
    bytes, never from its name.

    called: what sentences call the file. check_names: gets the names before the tensors are read, and raises for a file
    that is not worth it. Raises AdapterError for everything that is not a whole, plain file of tensors.
    """
    size = 0
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            return _read(file, size, called, check_names)
    except FileNotFoundError as error:
        raise AdapterError(f"{called}: there is no such file. Put it there, or choose another adapter.") from error
    except OSError as error:
        raise AdapterError(
            f"{called}: cannot be read ({error.strerror or error}). Expected a readable adapter file."
        ) from error
    except AdapterError:
        raise
    except _NotPlain as error:
        raise AdapterError(
            f"{called}: holds more than plain tensors (a pickle that could run code when opened) or is damaged, so it "
            "was not opened. Expected a dictionary of tensors: use the file as its authors published it."
        ) from error
    # There is no closed list of what a damaged file raises.
    except Exception as error:
        raise AdapterError(f"{called}: is damaged or cut off (it has {size:,} bytes). {AGAIN}") from error


def _read(
    file: BinaryIO, size: int, called: str, check_names: Callable[[Mapping[object, object]], object]
) -> tuple[dict[object, object], dict[str, str]]:
    head = file.read(16)
    file.seek(0)
    if not head:
        raise AdapterError(f"{called}: is empty. {AGAIN}")
    # Before the pickle, whose one byte 0x80 may be the lowest of a header's length as well.
    if head[8:9] == b"{" and head[6:8] == b"\0\0":
        return _read_safetensors(file, size, called, check_names)
    if head.startswith(b"PK\x03\x04"):
        return _read_zip(size, file, called, check_names), {}
    if head.startswith(b"\x80"):
        return _read_pickles(file, size, called, check_names), {}
    raise AdapterError(
        f"{called}: is neither a safetensors nor a PyTorch file (it begins with {head!r}). "
        f"Often that is a web page or a pointer saved in the file's place. {AGAIN}"
    )


def _read_safetensors(file: BinaryIO, size: int, called: str, check_names) -> tuple[dict[str, Tensor], dict[str, str]]:
    length = int.from_bytes(file.read(8), "little")
    start = 8 + length
    if start > size:
        raise _Damaged
    if length > _LONGEST_HEADER:
        raise AdapterError(
            f"{called}: describes itself in {length:,} bytes, expected at most {_LONGEST_HEADER:,}. "
            "Use the file as its authors published it."
        )
    header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", None) or {}
    if not all(type(value) is str for value in metadata.values()):
        raise _Damaged
    entries = {}
    for name, entry in header.items():
        begin, end = map(_count, entry["data_offsets"])
        if entry["dtype"] not in _SAFETENSORS:
            raise AdapterError(
                f'{called}: "{_key(name)}" is stored as {str(entry["dtype"])[:20]}, expected float32, bfloat16 or '
                "float16. Use the file as its authors published it."
            )
        dtype, shape = _SAFETENSORS[entry["dtype"]], _shape(entry["shape"])
        if math.prod(shape) * dtype.itemsize != end - begin or start + end > size:
            raise _Damaged
        entries[_key(name)] = begin, end, dtype, shape
    # Tensors that share bytes would take more memory than the file has.
    if sum(end - begin for begin, end, *_ in entries.values()) != size - start:
        raise _Damaged
    check_names(entries)
    tensors = {}
    for name, (begin, end, dtype, shape) in entries.items():
        file.seek(start + begin)
        tensors[name] = _tensor(file, end - begin, dtype).reshape(shape)
    return tensors, metadata


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    length: int

    @property
    def size(self) -> int:
        return self.length * self.dtype.itemsize


class _View(NamedTuple):
    """A tensor of a pickle: elements of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _read_zip(size: int, file: BinaryIO, called: str, check_names) -> dict[object, object]:
    with zipfile.ZipFile(_Sips(file)) as archive:
        found = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        # Other kinds of packing ask for memory by themselves.
        packed = {entry.compress_type for entry in archive.infolist()} - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
        if len(found) != 1 or packed:
            raise _Damaged
        root = found[0].removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and _entry(archive, f"{root}byteorder", 10) != b"little":
            raise _Damaged
        pickled = _entry(archive, found[0], _LONGEST_PICKLE)
        content = _dictionary(_Unpickler(io.BytesIO(pickled)).load(), called)
        check_names(content)
        views = _views(content, called)
        storages = {view.storage for view in views.values()}
        if sum(storage.size for storage in storages) > max(_SMALL, _DENSEST_PACKING * size):
            raise _Damaged
        loaded = {}
        for storage in storages:
            name = f"{root}data/{storage.key}"
            if archive.getinfo(name).file_size != storage.size:
                raise _Damaged
            # The end of an entry is where its checksum is looked at.
            with archive.open(name) as entry:
                loaded[storage.key] = _tensor(entry, storage.size, storage.dtype)
                if entry.read(1):
                    raise _Damaged
    return content | {name: _shown(view, loaded) for name, view in views.items()}


def _entry(archive: zipfile.ZipFile, name: str, longest: int) -> bytes:
    with archive.open(name) as entry:
        content = entry.read(longest + 1)
    if len(content) > longest:
        raise _Damaged
    return content


class _Sips(io.RawIOBase):
    """A file for zipfile, which reads a table of contents of any length at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size if 0 <= size <= _LONGEST_HEADER else _LONGEST_HEADER + 1)
        if len(content) > _LONGEST_HEADER:
            raise _Damaged
        return content


def _read_pickles(file: BinaryIO, size: int, called: str, check_names) -> dict[object, object]:
    """Files from before torch 1.6: a magic number, a version, the machine, the content, the storages' names, and the
    storages, each with its length before it."""
    pickles = io.BytesIO(file.read(_LONGEST_PICKLE))
    first = _Unpickler(pickles).load()
    if first != 0x1950A86A20F9469CFC6C:
        raise _NotPlain
    version, machine = _Unpickler(pickles).load(), _Unpickler(pickles).load()
    if version != 1001 or not machine["little_endian"]:
        raise _Damaged
    unpickler = _Unpickler(pickles)
    content = _dictionary(unpickler.load(), called)
    check_names(content)
    views = _views(content, called)
    loaded: dict[str, Tensor] = {}
    keys = _Unpickler(pickles).load()
    file.seek(pickles.tell())
    for key in keys:
        if type(key) is not str:
            raise _Damaged
        storage = unpickler.storages[key]
        if int.from_bytes(file.read(8), "little") != storage.length or key in loaded:
            raise _Damaged
        if storage.size > size - file.tell():
            raise _Damaged
        loaded[key] = _tensor(file, storage.size, storage.dtype)
    return content | {name: _shown(view, loaded) for name, view in views.items()}


def _dictionary(content: object, called: str) -> dict[object, object]:
    if type(content) is not dict:
        kind = "Tensor" if isinstance(content, _View) else type(content).__name__
        raise AdapterError(
            f"{called}: holds a {kind}, expected a dictionary of tensors. Use the file as its authors published it."
        )
    return {_key(name): value for name, value in content.items()}


def _views(content: Mapping[object, object], called: str) -> dict[object, _View]:
    """The tensors among what a pickle holds, checked against their storages."""
    views = {name: value for name, value in content.items() if isinstance(value, _View)}
    shown = stored = 0
    storages = set()
    for name, view in views.items():
        count = math.prod(view.shape)
        last = view.offset + sum((n - 1) * step for n, step in zip(view.shape, view.stride, strict=True))
        shown += count * view.storage.dtype.itemsize
        if view.storage not in storages:
            storages.add(view.storage)
            stored += view.storage.size
        if count and (last >= view.storage.length or count > view.storage.length):
            values = min(max(count, last + 1), 10**15)
            raise AdapterError(
                f'{called}: "{name}" is larger than what is stored for it (it takes {values:,} values, '
                f"{view.storage.length:,} are there). Use the file as its authors published it."
            )
    if shown > stored:
        raise AdapterError(
            f"{called}: several of its tensors are the same stored values. Expected each with values of its own: use "
            "the file as its authors published it."
        )
    return views


def _shown(view: _View, loaded: Mapping[str, Tensor]) -> Tensor:
    return loaded[view.storage.key].as_strided(view.shape, view.stride, view.offset)


def _tensor(file: BinaryIO, size: int, dtype: torch.dtype) -> Tensor:
    """The next ``size`` bytes of a file, flat."""
    if not size:
        return torch.empty(0, dtype=dtype)
    values = torch.empty(size, dtype=torch.uint8)
    into, done = memoryview(values.numpy()), 0
    for piece in _pieces(size):
        got = file.read(piece)
        if len(got) != piece:
            raise _Damaged
        into[done : done + piece] = got
        done += piece
    return values.view(dtype)


def _pieces(size: int) -> Iterator[int]:
    for done in range(0, size, _LONGEST_HEADER):
        yield min(_LONGEST_HEADER, size - done)


def _key(name: object) -> object:
    if isinstance(name, str) and len(name) > _LONGEST_KEY:
        raise _Damaged
    return name


def _shape(numbers: object) -> tuple[int, ...]:
    if not isinstance(numbers, list | tuple) or len(numbers) > _MOST_DIMENSIONS:
        raise _Damaged
    return tuple(map(_count, numbers))


def _count(number: object) -> int:
    if type(number) is not int or not 0 <= number < 2**62:
        raise _Damaged
    return number


class _Unpickler(pickle._Unpickler):
    """Understands what a dictionary of tensors is made of. Python's own code and not the one in C: that takes memory
    for 2**32 entries when a file asks for it. Keys are plain, as hashing nested ones can take for ever."""

    _KNOWN = (
        *(pickle.PROTO, pickle.FRAME, pickle.MARK, pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BINPERSID),
        *(pickle.EMPTY_DICT, pickle.EMPTY_LIST, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2),
        *(pickle.TUPLE3, pickle.APPEND, pickle.APPENDS, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT),
        *(pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINUNICODE),
        *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.BINGET, pickle.LONG_BINGET, pickle.STOP),
    )
    dispatch = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in _KNOWN}

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}
        # Functions of this one file: a pickle may write on what it gets.
        self._builders = {
            ("collections", "OrderedDict"): lambda: {},  # noqa: PIE807 - dict would take, and hash, what it is given
            ("torch._utils", "_rebuild_tensor_v2"): lambda *given: self._view(*given[:4]),
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        }

    def find_class(self, module: str, name: str) -> object:
        if module in ("torch", "torch.cuda") and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) not in self._builders:
            raise _NotPlain
        return self._builders[module, name]

    def persistent_load(self, pid: object) -> _Storage:
        kind, dtype, key, _, length, *view = pid
        if kind != "storage" or type(dtype) is not torch.dtype or type(key) is not str or any(view):
            raise _NotPlain
        storage = _Storage(key, dtype, _count(length))
        if self.storages.setdefault(key, storage) != storage:
            raise _Damaged
        return storage

    @staticmethod
    def _view(storage: object, offset: object, shape: object, stride: object) -> _View:
        if type(storage) is not _Storage:
            raise _NotPlain
        view = _View(storage, _count(offset), _shape(shape), _shape(stride))
        if len(view.shape) != len(view.stride):
            raise _Damaged
        return view

    def _set(self, pairs: list[object]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or any(type(key) not in (str, int) for key in pairs[::2]):
            raise _NotPlain
        target.update(zip(pairs[::2], pairs[1::2], strict=True))

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set_items(self) -> None:
        self._set(self.pop_mark())

    def _leave_out_state(self) -> None:
        self.stack.pop()

    dispatch |= {
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        # What modules add to their dictionaries of tensors: versions.
        pickle.BUILD[0]: _leave_out_state,
    }
