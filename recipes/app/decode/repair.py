"""Leaves out metadata that keep Pillow from reading a good photo."""

import zlib

ADOBE, EXIF, COMMENT, SCAN = 0xEE, 0xE1, 0xFE, 0xDA  # markers of JPEG
LEAST = {b"gAMA": 4, b"cHRM": 32, b"pHYs": 9, b"sRGB": 1, b"iCCP": 4}  # bytes in parts of a PNG


def without_metadata(data: bytes) -> bytes:
    """A JPEG, PNG or AVIF file without the metadata that may be damaged; raises ValueError for other files."""
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data.startswith(b"\x89PNG"):
        return _png(data)
    if data[4:8] == b"ftyp" and b"avif" in data[:64]:
        return data.replace(b"Exif", b"none", 1)  # the type of a part
    raise ValueError("nothing to leave out")


def _jpeg(data: bytes) -> bytes:
    """Keeps Exif data, of which Pillow reads what it can, and Adobe's part, which says how colours are coded."""
    kept = data[:2]
    place = 2
    while data[place] == 0xFF and data[place + 1] != SCAN:
        marker = data[place + 1]
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4])
        is_metadata = 0xE0 <= marker <= 0xEF or marker == COMMENT
        if not is_metadata or marker == EXIF or (marker == ADOBE and end - place >= 16):
            kept += data[place:end]
        place = end
    return kept + data[place:]


def _png(data: bytes) -> bytes:
    """Leaves out optional parts whose checksum is wrong, or that are too short."""
    kept = data[:8]
    place = 8
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        name = data[place + 4 : place + 8]
        content = data[place + 8 : end - 4]
        is_whole = zlib.crc32(name + content) == int.from_bytes(data[end - 4 : end])
        if name[:1].isupper() or (is_whole and len(content) >= LEAST.get(name, 0)):
            kept += data[place:end]
        place = end
    return kept
