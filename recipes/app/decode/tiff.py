"""TIFF files, and raw files of cameras, which are built like them: where the full picture is, and whether it is raw.

Adobe: TIFF, revision 6.0, 1992; Adobe: Digital Negative (DNG) Specification 1.7, 2023.
"""

import contextlib
import io
import mmap
import pathlib
import struct
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

RAW_ENDINGS = {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".k25", ".kdc"}
RAW_ENDINGS |= {".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw"}
RAW_ENDINGS |= {".x3f"}
RAW_STARTS = (b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"IIII", b"MMMM")
RAW_STARTS += (b"II\x1a\0\0\0HEAPCCDR",)
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

KIND, OLD_KIND, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262  # tags
ORIENTATION, PLANAR, SUB_DIRECTORIES, PROFILE, DNG_VERSION = 274, 284, 330, 34675, 50706
RAW_PHOTOMETRICS = {32803, 34892}  # behind a colour filter array; linear
RAW_COMPRESSIONS = {32767, 32769, 32770, 34713, 65000, 65535}  # Sony, Epson, Samsung, Nikon, Kodak, Pentax
INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # types
MOST_DIRECTORIES = 100  # that are searched
# Tags without which the pixels cannot be decoded; the others are metadata.
DECODING = {*range(256, 260), 262, 266, 273, *range(277, 280), 284, 292, 293, 317, *range(320, 326), 332, 338, 339, 347}
DECODING |= {*range(512, 533)}


class Directory(NamedTuple):
    """What describes one picture in a file."""

    place: int  # in the file, bytes
    values: dict[int, tuple[int, ...]]  # by tag; those of integers
    entries: dict[int, int]  # the places of the entries by tag
    next: int  # the place of the next directory, 0 if it is the last

    @property
    def pixels(self) -> int:
        return self.first(WIDTH) * self.first(HEIGHT)

    @property
    def is_reduced(self) -> bool:
        """Whether it is a smaller copy, or a mask, of another picture in the file."""
        return bool(self.first(KIND) & 0b101) or self.first(OLD_KIND) == 2

    @property
    def is_raw(self) -> bool:
        return self.first(PHOTOMETRIC) in RAW_PHOTOMETRICS or self.first(COMPRESSION) in RAW_COMPRESSIONS

    def first(self, tag: int) -> int:
        return self.values.get(tag, (0,))[0]


class Reader:
    """Reads the directories of a file, given as bytes."""

    def __init__(self, data: bytes):
        self.data = data
        self.order = "<" if data[:2] == b"II" else ">"
        self.is_big = data[2:4] in (b"+\0", b"\0+")  # BigTIFF: offsets of 64 bits
        self.offset, self.head = ("Q", 8) if self.is_big else ("I", 4)  # where the place of the first directory is

    def directories(self) -> Iterator[Directory]:
        """The directories in their order, each followed by its sub-directories; stops where the file is damaged."""
        seen = set()
        with contextlib.suppress(struct.error, IndexError, OverflowError):
            waiting = list(self._unpack(self.offset, self.head))
            while waiting and len(seen) < MOST_DIRECTORIES:
                place = waiting.pop(0)
                if place in seen or not place:
                    continue
                seen.add(place)
                directory = self.directory(place)
                yield directory
                waiting = [*directory.values.get(SUB_DIRECTORIES, ()), *waiting, directory.next]

    def directory(self, place: int) -> Directory:
        """Raises struct.error if the file ends before it does."""
        number, size, head = ("Q", 20, 12) if self.is_big else ("H", 12, 8)
        (count,) = self._unpack(number, place)
        values, entries = {}, {}
        start = place + struct.calcsize(number)
        for entry in range(start, start + size * count, size):
            tag, kind = self._unpack("HH", entry)
            (length,) = self._unpack(self.offset, entry + 4)
            entries[tag] = entry
            if kind in INTEGERS and 0 < length <= MOST_DIRECTORIES:
                code = f"{length}{INTEGERS[kind]}"
                fits = struct.calcsize(f"={code}") <= size - head
                with contextlib.suppress(struct.error, OverflowError):
                    where = entry + head if fits else self._unpack(self.offset, entry + head)[0]
                    values[tag] = self._unpack(code, where)
        (following,) = self._unpack(self.offset, start + size * count)
        return Directory(place, values, entries, following)

    def _unpack(self, code: str, place: int) -> tuple[int, ...]:
        return struct.unpack_from(self.order + code, self.data, place)


def is_raw(path: pathlib.Path, start: bytes) -> bool:
    """Whether a file, which starts with these bytes, is a raw file of a camera: by its content, whatever its ending."""
    if start.startswith(RAW_STARTS) or start[4:12] == b"ftypcrx ":
        return True
    if not start.startswith(TIFF_STARTS):
        return False
    if start[8:11] == b"CR\2" or start[8:12] + start[13:16] == b"IIIIwaR" or start[8:15] == b"MMMMRaw":
        return True  # of Canon, of Phase One
    if path.suffix.lower() in RAW_ENDINGS - {".dng"}:
        return True
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        directories = list(Reader(data).directories())
    is_dng = any(DNG_VERSION in directory.entries for directory in directories)
    return any(one.is_raw for one in directories) or (is_dng and all(one.is_reduced for one in directories))


def open_full(path: pathlib.Path, rebuild: bool = False) -> Image.Image:
    """Opens the full picture of a TIFF file: the first one, unless that is a preview of another one.

    `rebuild` leaves out the metadata that may keep Pillow from reading it. Raises what Image.open raises.
    `info["white_is_zero"]` says whether zeros are white in a picture of more than 8 bits, which Pillow does not invert.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = Reader(data)
        directories = list(reader.directories())
        if not directories:
            return Image.open(path)
        first, full = directories[0], _full(directories)
        if full.first(PLANAR) == 2 and full.first(BITS) > 8 and len(full.values[BITS]) > 1:  # Pillow mixes them up
            raise ValueError("channels of 16 bits in planes of their own; save it with the channels interleaved")
        image = None
        if full is first and not rebuild:
            with contextlib.suppress(Exception):  # the rebuilt one fails in the same way, if it fails
                image = Image.open(path)
        image = image or Image.open(io.BytesIO(_rebuilt(reader, first, full)))
    image.info["white_is_zero"] = _has_white_zeros(full)
    return image


def _full(directories: list[Directory]) -> Directory:
    """The one of the full picture."""
    first = directories[0]
    of_first = first.values.get(SUB_DIRECTORIES, ())
    rivals = [
        one
        for one in directories
        if not one.is_reduced and (first.is_reduced or one.place in of_first or _is_preview(first, one))
    ]
    return max([first, *rivals], key=lambda one: one.pixels)  # the first of equals


def _is_preview(small: Directory, large: Directory) -> bool:
    """Whether a picture looks like a smaller copy of another one: of the same proportions, at most half as wide."""
    ratio = small.first(WIDTH) * large.first(HEIGHT) / max(1, small.first(HEIGHT) * large.first(WIDTH))
    return 0.9 < ratio < 1.1 and large.pixels >= 4 * small.pixels


def _has_white_zeros(directory: Directory) -> bool:
    return directory.first(PHOTOMETRIC) == 0 and directory.first(BITS) > 8


def _rebuilt(reader: Reader, first: Directory, full: Directory) -> bytes:
    """The file with a new directory, the first and only one: what decodes the full picture, upright and in colour."""
    number, size = ("Q", 20) if reader.is_big else ("H", 12)
    entries = {tag: place for tag, place in full.entries.items() if tag in DECODING}
    for tag in (ORIENTATION, PROFILE):
        place = full.entries.get(tag, first.entries.get(tag))
        if place is not None:
            entries[tag] = place
    rebuilt = bytearray(reader.data)
    rebuilt += bytes(len(rebuilt) % 2)  # directories lie at even places
    struct.pack_into(reader.order + reader.offset, rebuilt, reader.head, len(rebuilt))
    rebuilt += struct.pack(reader.order + number, len(entries))
    for tag in sorted(entries):
        entry = reader.data[entries[tag] : entries[tag] + size]
        if tag == PHOTOMETRIC and _has_white_zeros(full):  # Pillow lacks some kinds of these: zero becomes black
            entry = struct.pack(f"{reader.order}HH{reader.offset}H", tag, 3, 1, 1).ljust(size, b"\0")
        rebuilt += entry
    return bytes(rebuilt + struct.pack(reader.order + reader.offset, 0))
