"""PNG files, compressed by Intel's ISA-L: about three times as fast as by OpenCV, into files of about the same size."""

import pathlib
import struct

from app.files import replacing

import numpy as np
from isal import isal_zlib

COLOR_TYPES = {("uint8", ()): 0, ("uint16", ()): 0, ("uint8", (3,)): 2, ("uint8", (4,)): 6}  # grey, RGB, RGBA


def write(path: pathlib.Path, picture: np.ndarray) -> None:
    """Writes a picture (W3C: Portable Network Graphics, 2003).

    Args:
      path: the file.
      picture: uint8 [H, W, 3] is written as RGB, [H, W, 4] as RGBA, uint8 or uint16 [H, W] as grey.
    """
    height, width, *channels = picture.shape
    color_type = COLOR_TYPES[picture.dtype.name, tuple(channels)]
    big_endian = picture.astype(picture.dtype.newbyteorder(">"), order="C", copy=False)
    rows = big_endian.reshape(height, -1).view(np.uint8)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 2  # the filter: each row holds the differences to the one above
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])

    header = struct.pack(">2I5B", width, height, 8 * picture.itemsize, color_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", isal_zlib.compress(filtered, level=1)), (b"IEND", b""))
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, content in chunks:
            checksum = isal_zlib.crc32(content, isal_zlib.crc32(name))
            file.writelines([struct.pack(">I", len(content)), name, content, struct.pack(">I", checksum)])
