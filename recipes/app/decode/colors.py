"""Colours of a photo in sRGB, whatever its file measures them in.

A file says so by an ICC profile, by the code points of ITU-T H.273, by primaries and gamma (PNG) or by its EXIF data.
All but the first are turned into a profile too, so that one way leads to sRGB.
"""

import io
import pathlib
import struct
from collections.abc import Sequence

from app import hdr

import numpy as np
from PIL import Image, ImageCms

SRGB = ImageCms.createProfile("sRGB")
MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # Pillow's, by ICC's name of a colour space
HEAD = 65536  # bytes of a file, before its pixels
SAME = 2  # of 255: a profile that changes no colour by more is one of sRGB

# CIE xy of red, green, blue and white.
D65 = (0.3127, 0.3290)
SRGB_PRIMARIES = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, *D65)
ADOBE_PRIMARIES = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06, *D65)
ADOBE_GAMMA = 563 / 256
PRIMARIES = {  # by code point, ITU-T H.273, table 2; of the others most are close to sRGB
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *D65),  # BT.2020
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351),  # DCI P3
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *D65),  # Display P3
}
XYZ_D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A picture without alpha as RGB, converted from its profile to sRGB; one that does not fit is passed over."""
    if image.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        return ImageCms.applyTransform(image, ImageCms.buildTransform(lab, SRGB, "LAB", "RGB"))
    if image.mode not in ("L", "CMYK"):
        image = image.convert("RGB") if image.mode != "RGB" else image
    transform = _transform(profile, image.mode) if profile else None
    if transform is None:
        return image.convert("RGB") if image.mode != "RGB" else image
    return ImageCms.applyTransform(image.convert(transform.input_mode), transform)


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None if it is broken, does not fit the mode of the picture, or changes nothing."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        own_mode = MODES[source.profile.xcolor_space]
        if own_mode != mode and (mode, own_mode) != ("L", "RGB"):
            return None
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        transform = ImageCms.buildTransform(source, SRGB, own_mode, "RGB", flags=flags)
        if own_mode == "RGB":
            levels = np.linspace(0, 255, 6).astype(np.uint8)
            colors = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
            converted = np.asarray(ImageCms.applyTransform(Image.fromarray(colors), transform))
            if np.abs(converted.astype(int) - colors).max() <= SAME:
                return None
        return transform
    except Exception:  # ImageCms fails in many ways
        return None


def profile_of(image: Image.Image, path: pathlib.Path) -> bytes | None:
    """The ICC profile of a picture opened from a file, or one made of what else that says; None if sRGB, or nothing."""
    icc = _jpeg_2000_profile(path) if image.format == "JPEG2000" else image.info.get("icc_profile")
    if icc:
        return icc if isinstance(icc, bytes) else None
    primaries, transfer = _code_points(image, path)
    if primaries in PRIMARIES or transfer in (4, 5, 8, hdr.PQ, hdr.HLG):
        return make_profile(PRIMARIES.get(primaries, SRGB_PRIMARIES), transfer_curve(transfer))
    if image.format == "PNG" and "srgb" not in image.info:
        return _png_profile(image.info.get("gamma"), image.info.get("chromaticity"))
    if _is_adobe_rgb(image):
        return make_profile(ADOBE_PRIMARIES, np.linspace(0, 1, 256) ** ADOBE_GAMMA)
    return None


def _jpeg_2000_profile(path: pathlib.Path) -> bytes | None:
    """The ICC profile of a JPEG 2000 file, which Pillow does not read: that of a box colr of method 2 (ISO 15444-1)."""
    with path.open("rb") as file:
        before, found, after = file.read(HEAD).partition(b"colr\2")
    return after[2 : int.from_bytes(before[-4:], "big") - 9] if found else None


def _code_points(image: Image.Image, path: pathlib.Path) -> tuple[int, int]:
    """Of the primaries and of the transfer function; (2, 2), unspecified, if there are none."""
    if image.format == "HEIF":
        codes = image.info.get("nclx_profile") or {}
        return int(codes.get("color_primaries", 2)), int(codes.get("transfer_characteristics", 2))
    if image.format not in ("AVIF", "PNG"):
        return 2, 2
    with path.open("rb") as file:
        head = file.read(HEAD)  # Pillow does not read them
    if image.format == "AVIF" and b"colrnclx" in head:
        return struct.unpack(">HH", head.split(b"colrnclx", 1)[1][:4].ljust(4, b"\0"))
    if image.format == "PNG" and b"\0\0\0\x04cICP" in head.split(b"IDAT", 1)[0]:
        return tuple(head.split(b"\0\0\0\x04cICP", 1)[1][:2].ljust(2, b"\0"))
    return 2, 2


def transfer_curve(transfer: int) -> np.ndarray:
    """The light, 0..1, of the values 0..255 of a transfer function, given by its code point; sRGB's for unknown ones.

    High dynamic range is cut off above white; HLG is shown as on a display of 1000 cd/m2 (ITU-R BT.2100).
    """
    values = np.linspace(0, 1, 256)
    if transfer == hdr.PQ:
        return np.minimum(1, hdr.pq(values))
    if transfer == hdr.HLG:
        return np.minimum(1, hdr.hlg(values) ** 1.2 * 1000 / hdr.WHITE)
    gamma = {4: 2.2, 5: 2.8, 8: 1.0}.get(transfer)
    if gamma is not None:
        return values**gamma
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _png_profile(gamma: float | None, chromaticity: Sequence[float] | None) -> bytes | None:
    """Of a PNG's chunks gAMA and cHRM, as Pillow reads them."""
    white_x, white_y, *primaries = chromaticity or (*D65, *SRGB_PRIMARIES[:6])
    primaries = (*primaries, white_x, white_y)
    has_srgb_curve = not gamma or abs(gamma - 1 / 2.2) < 0.01
    if has_srgb_curve and np.allclose(primaries, SRGB_PRIMARIES, atol=0.005):
        return None
    return make_profile(primaries, transfer_curve(1) if has_srgb_curve else np.linspace(0, 1, 256) ** (1 / gamma))


def _is_adobe_rgb(image: Image.Image) -> bool:
    """Whether a camera says so in its EXIF data and nowhere else (CIPA DC-010: DCF 2.0, the index R03)."""
    exif = image.info.get("exif")
    if not isinstance(exif, bytes) or b"R03\0" not in exif:
        return False
    try:
        return image.getexif().get_ifd(0xA005).get(1) == "R03"
    except Exception:  # odd EXIF data
        return False


def make_profile(primaries: Sequence[float], curve: Sequence[float]) -> bytes | None:
    """An ICC profile (ICC.1:2022) from primaries, xy of red, green, blue and white, and the light, 0..1, of all values.

    None if the primaries are none.
    """
    xy = np.reshape(primaries, (4, 2)).astype(np.float64)
    with np.errstate(all="ignore"):
        xyz = np.vstack([xy.T[0] / xy.T[1], np.ones(4), (1 - xy.sum(axis=1)) / xy.T[1]])  # one column each
        try:
            colorants = xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])
            cones = (BRADFORD @ XYZ_D50) / (BRADFORD @ xyz[:, 3])
            colorants = np.linalg.solve(BRADFORD, cones[:, np.newaxis] * (BRADFORD @ colorants))  # as seen under D50
        except np.linalg.LinAlgError:
            return None
    if not np.isfinite(colorants).all() or np.abs(colorants).max() > 2:
        return None

    def fixed(xyz):
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *np.rint(np.multiply(xyz, 65536)).astype(int))

    samples = np.rint(np.multiply(curve, 65535)).astype(">u2")
    tone = b"curv\0\0\0\0" + struct.pack(">I", len(samples)) + samples.tobytes()
    tags = {b"wtpt": fixed(XYZ_D50), **dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(fixed, colorants.T), strict=True))}
    tags |= {b"rTRC": tone, b"gTRC": tone, b"bTRC": tone}
    table, content = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">2I", 128 + 4 + 12 * len(tags) + len(content), len(data))
        content += data
    size = 128 + len(table) + len(content)
    header = struct.pack(">I4xI4s4s4s12x4s", size, 0x04000000, b"mntr", b"RGB ", b"XYZ ", b"acsp").ljust(68, b"\0")
    return (header + fixed(XYZ_D50)[8:]).ljust(128, b"\0") + table + content
