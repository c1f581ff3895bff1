"""What photos say about themselves beside their pixels: colour profiles, transparency, previews, raw data, EXIF."""

import struct
import zlib

from app import inputs, photos
from app.cli import InputError
from app.decode import colors, picture, tiff
from app.predict import cutout

import numpy as np
import pytest
from pictures import PICTURE, save
from PIL import Image, ImageCms

# Linear sRGB to the linear RGB of other spaces, computed from their primaries elsewhere (https://www.brucelindbloom.com).
FROM_SRGB = {
    "Display P3": [[0.8225, 0.1774, 0], [0.0332, 0.9669, 0], [0.0171, 0.0724, 0.9108]],
    "Adobe RGB": [[0.7152, 0.2848, 0], [0, 1, 0], [0, 0.0412, 0.9588]],
    "ProPhoto RGB": [[0.5293, 0.3300, 0.1406], [0.0984, 0.8735, 0.0283], [0.0169, 0.1178, 0.8653]],
    "linear sRGB": np.eye(3),
    "BT.2020": [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]],
}
PROPHOTO = (0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001, 0.3457, 0.3585)
SPACES = {  # primaries, and a gamma, or None for the curve of sRGB
    "Display P3": (colors.PRIMARIES[12], None),
    "Adobe RGB": (colors.ADOBE_PRIMARIES, 563 / 256),
    "ProPhoto RGB": (PROPHOTO, 1.8),
    "linear sRGB": (colors.SRGB_PRIMARIES, 1.0),
}


def in_space(name, values=PICTURE):
    """The same colours in another space, uint8."""
    gamma = SPACES[name][1] if name in SPACES else None
    values = values / 255
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    light = light @ np.transpose(FROM_SRGB[name])
    if gamma is None:
        coded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055)
    else:
        coded = light ** (1 / gamma)
    return np.rint(coded.clip(0, 1) * 255).astype(np.uint8)


def profile(name):
    primaries, gamma = SPACES[name]
    curve = colors.transfer_curve(13) if gamma is None else np.linspace(0, 1, 256) ** gamma
    return colors.make_profile(primaries, curve)


def error(path, expected=PICTURE):
    """The mean difference inside the four tiles, 0..255."""
    difference = np.abs(photos.read(path).astype(int) - expected)
    return difference.reshape(2, 24, 2, 32, 3)[:, 6:18, :, 6:26].mean()


def chunks(path, *added):
    """Adds chunks, (name, content), to a PNG."""
    data = path.read_bytes()
    more = b""
    for name, content in added:
        more += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    path.write_bytes(data[:33] + more + data[33:])  # after IHDR
    return path


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".tif", ".heic", ".avif"])
@pytest.mark.parametrize("space", ["Display P3", "Adobe RGB"])
def test_photos_with_a_profile_come_out_in_srgb(tmp_path, ending, space):
    options = {"quality": 95} if ending != ".tif" else {}
    options |= {"icc_profile": profile(space)}
    Image.fromarray(in_space(space)).save(tmp_path / f"a{ending}", **options)
    assert error(tmp_path / f"a{ending}") < 3 < np.abs(in_space(space).astype(int) - PICTURE).mean()


def test_a_profile_in_a_jpeg_2000(tmp_path):
    Image.fromarray(in_space("Adobe RGB")).save(tmp_path / "a.jp2")
    icc = profile("Adobe RGB")
    own = struct.pack(">I4s3B", 15, b"colr", 1, 0, 0) + struct.pack(">I", 16)
    head, rest = (tmp_path / "a.jp2").read_bytes().split(own)
    head = bytearray(head)
    (length,) = struct.unpack_from(">I", head, head.find(b"jp2h") - 4)
    struct.pack_into(">I", head, head.find(b"jp2h") - 4, length + len(icc) - 4)
    colr = struct.pack(">I4s3B", 11 + len(icc), b"colr", 2, 0, 0) + icc
    (tmp_path / "a.jp2").write_bytes(bytes(head) + colr + rest)
    assert error(tmp_path / "a.jp2") < 3


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_profiles_of_any_mode(tmp_path, space, mode):
    image = Image.fromarray(in_space(space))
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "a.png", icc_profile=profile(space))
    assert error(tmp_path / "a.png") < 3


def test_the_profile_of_srgb_changes_nothing(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(noise).save(tmp_path / "a.png", icc_profile=icc)
    np.testing.assert_array_equal(photos.read(tmp_path / "a.png"), noise)


def tags(space, connection, **contents):
    """An ICC profile."""
    table, data = struct.pack(">I", len(contents)), b""
    for name, content in contents.items():
        table += name.encode() + struct.pack(">2I", 132 + 12 * len(contents) + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    device = b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(">I4xI4s4s4s12x4s", 128 + len(table) + len(data), 0x02000000, device, space, connection, b"acsp")
    return head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061) + bytes(48) + table + data


WHITE = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)


def grey_profile(gamma):
    return tags(b"GRAY", b"XYZ ", wtpt=WHITE, kTRC=b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * gamma)))


def cmyk_profile():
    """Of inks between white paper and these colours: cyan is a mid grey, whatever else is printed black."""
    lab = np.zeros((2, 2, 2, 2, 3), np.uint8) + np.uint8([0, 128, 128])
    lab[0, 0, 0, 0], lab[1, 0, 0, 0] = (255, 128, 128), (137, 128, 128)  # L* = 53.6: 128 in sRGB
    ramp = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + struct.pack(">9i", *(65536 * np.eye(3, dtype=int).ravel()))
    return tags(b"CMYK", b"Lab ", wtpt=WHITE, A2B0=table + 4 * ramp + lab.tobytes() + 3 * ramp)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_profiles(tmp_path, mode):
    grey = np.full((48, 64), 55, np.uint8)  # of linear light: 128 in sRGB
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    image.save(tmp_path / "a.png", icc_profile=grey_profile(1.0))
    assert np.abs(photos.read(tmp_path / "a.png").astype(int) - 128).max() <= 2


@pytest.mark.parametrize("ending", [".jpg", ".tif"])
def test_cmyk_profiles(tmp_path, ending):
    cyan = np.zeros((48, 64, 4), np.uint8)
    cyan[:, :32, 0] = 255
    Image.fromarray(cyan, "CMYK").save(tmp_path / f"a{ending}", icc_profile=cmyk_profile())
    pixels = photos.read(tmp_path / f"a{ending}").astype(int)
    assert np.abs(pixels[:, 8:24] - 128).max() <= 3 and pixels[:, 40:].min() >= 253


def test_lab(tmp_path):
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(srgb, lab, "RGB", "LAB")
    ImageCms.applyTransform(Image.fromarray(PICTURE), transform).save(tmp_path / "a.tif")
    assert error(tmp_path / "a.tif") < 3


@pytest.mark.parametrize(
    ("mode", "icc"),
    [
        ("RGB", b"no profile"),
        ("RGB", profile("Display P3")[:300]),
        ("RGB", cmyk_profile()),
        ("RGB", grey_profile(1.0)),
        ("RGBA", b"\0" * 200),
        ("L", cmyk_profile()),
        ("CMYK", profile("Display P3")),
    ],
)
def test_a_profile_that_does_not_fit_is_passed_over(tmp_path, mode, icc):
    image = Image.fromarray(PICTURE).convert(mode)
    image.save(tmp_path / "a.tif", icc_profile=icc)
    assert error(tmp_path / "a.tif", np.asarray(image.convert("RGB"))) < 1


def test_a_grey_picture_with_a_profile_of_rgb(tmp_path):
    Image.new("L", (64, 48), 55).save(tmp_path / "a.png", icc_profile=profile("linear sRGB"))
    assert np.abs(photos.read(tmp_path / "a.png").astype(int) - 128).max() <= 2


@pytest.mark.parametrize(("code", "space"), [(12, "Display P3"), (9, "BT.2020")])
@pytest.mark.parametrize("ending", [".heic", ".avif", ".png"])
def test_code_points_instead_of_a_profile(tmp_path, ending, code, space):
    path = tmp_path / f"a{ending}"
    image = Image.fromarray(in_space(space))
    if ending == ".heic":
        image.save(path, quality=95, color_primaries=code, transfer_characteristics=13, matrix_coefficients=6)
    elif ending == ".avif":
        image.save(path, quality=95)
        data = bytearray(path.read_bytes())
        struct.pack_into(">H", data, data.find(b"colrnclx") + 8, code)
        path.write_bytes(data)
    else:
        image.save(path)
        chunks(path, (b"cICP", bytes([code, 13, 0, 1])))
    assert error(path) < 3 < np.abs(np.asarray(image).astype(int) - PICTURE).mean()


@pytest.mark.parametrize("transfer", [16, 18])
def test_high_dynamic_range(tmp_path, transfer):
    """What is white on paper is white, and greys keep their order."""
    grey = np.arange(256, dtype=np.uint8)
    Image.fromarray(np.tile(grey, (3, 8, 1)).transpose(1, 2, 0)).save(tmp_path / "a.png")
    chunks(tmp_path / "a.png", (b"cICP", bytes([9, transfer, 0, 1])))
    line = photos.read(tmp_path / "a.png")[0].astype(int)
    white = {16: 0.58, 18: 0.75}[transfer]  # ITU-R BT.2408, table 1
    assert abs(int(np.argmax(line[:, 1] >= 254)) - 255 * white) <= 3
    assert (np.diff(line[:, 1]) >= 0).all() and np.ptp(line, axis=1).max() <= 2


@pytest.mark.parametrize(
    ("added", "space"),
    [
        ([(b"gAMA", struct.pack(">I", 100000))], "linear sRGB"),
        (
            [
                (b"gAMA", struct.pack(">I", 45470)),
                (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)),
            ],
            "Adobe RGB",
        ),
    ],
)
def test_gamma_and_primaries_of_a_png(tmp_path, added, space):
    Image.fromarray(in_space(space)).save(tmp_path / "a.png")
    assert error(chunks(tmp_path / "a.png", *added)) < 3


@pytest.mark.parametrize(
    "added",
    [
        [(b"gAMA", struct.pack(">I", 45455))],
        [(b"gAMA", struct.pack(">I", 0))],
        [(b"cHRM", bytes(32))],
        [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100000))],
    ],
)
def test_a_png_that_says_srgb_or_nonsense(tmp_path, added):
    np.testing.assert_array_equal(photos.read(chunks(save(tmp_path / "a"), *added)), PICTURE)


def test_adobe_rgb_by_exif_data_alone(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0xA001: 65535, 0xA005: {1: "R03"}})
    Image.fromarray(in_space("Adobe RGB")).save(tmp_path / "a.jpg", quality=95, exif=exif)
    assert error(tmp_path / "a.jpg") < 3


OWN = np.dstack([PICTURE, np.full(PICTURE.shape[:2], 255, np.uint8)])
OWN[:24, :32, 3], OWN[24:, 32:, 3] = 0, 128  # the first tile is transparent, the last half so


def keyed(path, mode, key):
    """A PNG whose colour `key` is transparent."""
    Image.fromarray(PICTURE).convert(mode).save(path.with_suffix(".png"), transparency=key)
    return path.with_suffix(".png")


def transparent(path, ending=".png", mode="RGBA", **options):
    path = path.with_suffix(ending)
    Image.fromarray(OWN).convert(mode).save(path, **options)
    return path


def sub_byte_key(path):
    """Four grey values, of 2 bits each; the third is transparent."""
    rows = np.repeat(np.uint8([0b00011011]), 16).reshape(1, 16).repeat(48, axis=0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    path = path.with_suffix(".png")
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    data = path.read_bytes()
    for name, content in (
        (b"IHDR", struct.pack(">2I5B", 64, 48, 2, 0, 0, 0, 0)),
        (b"tRNS", struct.pack(">H", 2)),
        (b"IDAT", body),
        (b"IEND", b""),
    ):
        data += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    path.write_bytes(data)
    return path


ALPHA = {
    "png": transparent,
    "webp": lambda path: transparent(path, ".webp", lossless=True, exact=True),
    "heic": lambda path: transparent(path, ".heic", quality=95),
    "avif": lambda path: transparent(path, ".avif", quality=95),
    "tiff": lambda path: transparent(path, ".tif"),
    "tiff lzw": lambda path: transparent(path, ".tif", compression="tiff_lzw"),
    "jpeg 2000": lambda path: transparent(path, ".jp2"),
    "tga": lambda path: transparent(path, ".tga"),
}


@pytest.mark.parametrize("kind", ALPHA)
def test_transparent_photos(tmp_path, kind):
    path = ALPHA[kind](tmp_path / "a")
    photo = photos.read_with_alpha(path)
    np.testing.assert_array_equal(photo.pixels, photos.read(path))
    assert photo.pixels.shape == PICTURE.shape and photo.transparent.shape == OWN.shape
    inside = np.zeros((2, 24, 2, 32), bool)
    inside[:, 6:18, :, 6:26] = True
    inside = inside.reshape(48, 64)
    difference = np.abs(photo.transparent.astype(int) - OWN)
    assert difference[..., 3][inside].max() <= 2
    seen = inside & (OWN[..., 3] > 0)
    assert difference[seen].max() <= 8
    assert (photo.pixels[:24, :32][inside[:24, :32]] == picture.PLAIN).all()
    mixed = (PICTURE[-8, -8].astype(float) * 128 + np.multiply(picture.PLAIN, 127)) / 255
    assert np.abs(photo.pixels[-8, -8] - mixed).max() <= 5


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: keyed(path, "RGB", tuple(PICTURE[0, 0].tolist())), (0, 255, 255, 255)),
        (
            lambda path: keyed(path, "L", Image.fromarray(PICTURE).convert("L").getpixel((0, 0))),
            (0, 255, 255, 255),
        ),
        (lambda path: transparent(path, mode="LA"), (0, 255, 255, 128)),
        (lambda path: transparent(path, ".webp", mode="RGBA", lossless=True), (0, 255, 255, 128)),
        (lambda path: transparent(path, ".tif", mode="LA"), (0, 255, 255, 128)),
    ],
)
def test_other_ways_of_transparency(tmp_path, make, expected):
    alpha = photos.read_with_alpha(make(tmp_path / "a")).transparent[..., 3]
    assert (alpha[8, 8], alpha[8, -8], alpha[-8, 8], alpha[-8, -8]) == expected


def test_palettes_with_transparency(tmp_path):
    palette = Image.fromarray(PICTURE).quantize(4)
    hidden = palette.getpixel((0, 0))
    palette.save(tmp_path / "a.gif", transparency=hidden)
    palette.save(tmp_path / "a.png", transparency=hidden)
    palette.save(tmp_path / "b.png", transparency=bytes(0 if index == hidden else 255 for index in range(4)))
    for name in ("a.gif", "a.png", "b.png"):
        photo = photos.read_with_alpha(tmp_path / name)
        assert (photo.transparent[..., 3] == np.where(OWN[..., 3] == 0, 0, 255)).all(), name
        assert (photo.pixels[:24, :32] == picture.PLAIN).all() and (photo.pixels[24:] == PICTURE[24:]).all(), name


def test_transparent_colours_of_other_depths(tmp_path):
    grey = np.asarray(Image.fromarray(PICTURE).convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(tmp_path / "a.png", transparency=int(grey[0, 0]))
    alpha = photos.read_with_alpha(tmp_path / "a.png").transparent[..., 3]
    np.testing.assert_array_equal(alpha, np.where(OWN[..., 3] == 0, 0, 255))
    alpha = photos.read_with_alpha(sub_byte_key(tmp_path / "b")).transparent[..., 3]
    np.testing.assert_array_equal(alpha[0, :8], [255, 255, 0, 255] * 2)


def test_premultiplied_colours(tmp_path):
    """A TIFF may hold colours that are multiplied by their alpha already."""
    values = OWN.copy()
    values[..., :3] = np.rint(OWN[..., :3] * (OWN[..., 3:] / 255))
    Image.fromarray(values).save(tmp_path / "a.tif")
    change_tag(tmp_path / "a.tif", 338, 1)
    photo = photos.read_with_alpha(tmp_path / "a.tif")
    assert np.abs(photo.transparent[24:].astype(int) - OWN[24:]).max() <= 2


def test_what_is_opaque_has_no_alpha(tmp_path):
    for number, (mode, ending) in enumerate([("RGBA", ".png"), ("LA", ".png"), ("RGBA", ".webp"), ("RGBA", ".tif")]):
        path = save(tmp_path / str(number), ending, mode, **({"lossless": True} if ending == ".webp" else {}))
        assert photos.read_with_alpha(path).transparent is None
    Image.fromarray(OWN * np.uint8([1, 1, 1, 0])).save(tmp_path / "unused.tga")  # though there is room for one
    photo = photos.read_with_alpha(tmp_path / "unused.tga")
    assert photo.transparent is None and (photo.pixels == PICTURE).all()


def test_transparency_with_a_profile(tmp_path):
    values = np.dstack([in_space("Display P3"), OWN[..., 3]])
    Image.fromarray(values).save(tmp_path / "a.png", icc_profile=profile("Display P3"))
    photo = photos.read_with_alpha(tmp_path / "a.png")
    assert np.abs(photo.transparent.astype(int) - OWN).mean() < 2


def test_a_cutout_keeps_what_was_transparent():
    """The alphas are multiplied, the colours are the photo's own, and no hidden or plain colour gets into them."""
    opacity = np.zeros((60, 80), np.float32)
    opacity[:, 20:] = 1
    own = np.zeros((60, 80, 4), np.uint8)
    own[...] = (200, 120, 60, 255)
    own[:30, :40, 3], own[40:, 60:, 3] = 0, 128
    results = []
    for hidden in ((0, 255, 0), (255, 0, 255)):
        own[:30, :40, :3] = hidden
        seen = own[..., :3].copy()
        seen[own[..., 3] == 0], seen[40:, 60:] = picture.PLAIN, (162, 118, 82)
        results.append(cutout.cut_out(seen, opacity, own))
    np.testing.assert_array_equal(*results)
    alpha = cutout.alpha(opacity)
    np.testing.assert_allclose(results[0][..., 3], alpha * (own[..., 3] / 255), atol=1)
    visible = results[0][..., 3] > 0
    assert np.abs(results[0][visible][:, :3] - (200.0, 120.0, 60.0)).max() <= 2
    assert not results[0][~visible].any()


def tiff_file(*pages, order="<", magic=42, after_head=b""):
    """A TIFF of pages, each {tag: value}; a value is an integer, bytes, or a list of pages: sub-directories."""
    data = bytearray(struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", magic, 0) + after_head)

    def directory(page):
        entries = b""
        for tag, value in sorted(page.items()):
            if isinstance(value, list):
                kind, values = "I", [directory(sub) for sub in value]
            elif isinstance(value, bytes):
                kind, values = "B", list(value)
            else:
                kind, values = "I", [value]
            content = struct.pack(f"{order}{len(values)}{kind}", *values)
            if len(content) > 4:
                data.extend(content)
                content = struct.pack(f"{order}I", len(data) - len(content))
            entries += struct.pack(f"{order}HHI", tag, {"B": 1, "I": 4}[kind], len(values)) + content.ljust(4, b"\0")
        place = len(data)
        data.extend(struct.pack(f"{order}H", len(page)) + entries + bytes(4))
        return place

    link = 4
    for page in pages:
        place = directory(page)
        struct.pack_into(f"{order}I", data, link, place)
        link = len(data) - 4
    return bytes(data)


def change_tag(path, tag, value):
    """Changes the value of a tag of a little-endian TIFF."""
    data = bytearray(path.read_bytes())
    (directory,) = struct.unpack_from("<I", data, 4)
    places = range(directory + 2, len(data), 12)
    entry = next(place for place in places if struct.unpack_from("<H", data, place) == (tag,))
    struct.pack_into("<I", data, entry + 8, value)
    path.write_bytes(data)


def page(pixels, **more):
    """An uncompressed grey page; the values are those of `pixels`, uint8, all of one value, as there is no strip."""
    height, width = pixels
    base = {254: 0, 256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1, 278: height, 279: width * height, 273: 8}
    return base | {int(tag[1:]): value for tag, value in more.items()}


SMALL, LARGE = (20, 30), (40, 60)
CFA = page(LARGE, t262=32803)
THUMBNAIL = page(SMALL, t254=1)
PIXELS = b"\x96" * 4096  # of all pages
RAW = {
    "a.dng": tiff_file({**THUMBNAIL, 50706: b"\1\4\0\0", 330: [CFA]}, after_head=PIXELS),
    "is a dng.tif": tiff_file({**THUMBNAIL, 50706: b"\1\4\0\0", 330: [CFA]}, after_head=PIXELS),
    "is a dng.jpg": tiff_file({**THUMBNAIL, 50706: b"\1\4\0\0", 330: [CFA]}, after_head=PIXELS, order=">"),
    "linear.dng": tiff_file({**THUMBNAIL, 50706: b"\1\4\0\0", 330: [page(LARGE, t262=34892)]}, after_head=PIXELS),
    "raw first.dng": tiff_file({**CFA, 50706: b"\1\4\0\0", 330: [THUMBNAIL]}, after_head=PIXELS),
    "preview alone.dng": tiff_file({**THUMBNAIL, 50706: b"\1\4\0\0"}, after_head=PIXELS),
    "a.nef": tiff_file({**THUMBNAIL, 330: [THUMBNAIL, page(LARGE, t259=34713, t262=32803)]}, after_head=PIXELS),
    "says nothing.nef": tiff_file(page(SMALL), after_head=PIXELS),
    "a.pef": tiff_file(page(SMALL), CFA, after_head=PIXELS, order=">"),
    "is a pef.tiff": tiff_file(page(SMALL), CFA, after_head=PIXELS, order=">"),
    "is an arw.png": tiff_file({**THUMBNAIL, 330: [page(LARGE, t259=32767)]}, after_head=PIXELS),
    "a.cr2": tiff_file(page(SMALL), after_head=b"CR\2\0" + PIXELS),
    "is a cr2.tif": tiff_file(page(SMALL), after_head=b"CR\2\0" + PIXELS),
    "a.orf": b"IIRO\x08\0\0\0" + PIXELS,
    "a.rw2": b"IIU\0\x18\0\0\0" + PIXELS,
    "a.raf": b"FUJIFILMCCD-RAW 0201" + PIXELS,
    "a.cr3": b"\0\0\0\x18ftypcrx \0\0\0\1" + PIXELS,
    "a.x3f": b"FOVb\0\0\2\0" + PIXELS,
}


@pytest.mark.parametrize("name", RAW)
def test_raw_files_are_never_read_by_their_preview(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(RAW[name])
    with pytest.raises(InputError, match=f"{name}: a raw file of a camera; export it as JPEG"):
        photos.read(path)
    assert photos.size(path) is None and photos.is_picture(path)
    unnamed = path.rename(tmp_path / "unnamed")  # by its content a photo, not a video
    assert photos.is_picture(unnamed) and not inputs.is_video(unnamed)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "pages",
    [
        [page(LARGE), page(SMALL)],
        [THUMBNAIL, page(LARGE)],
        [page(SMALL, t255=2), THUMBNAIL, page((80, 90), t254=4), page(LARGE)],  # one is a mask
        [{**THUMBNAIL, 330: [page(LARGE)]}],
        [{**page(SMALL), 330: [page(LARGE)]}],
        [{**page(LARGE), 330: [page(SMALL, t254=1)]}],
        [{**page(LARGE), 50706: b"\1\4\0\0"}],
        [page(LARGE, t254=1)],  # there is no other
        [page(LARGE), page((80, 90))],  # a document's first page
    ],
)
def test_the_full_page_of_a_tiff(tmp_path, pages, order):
    (tmp_path / "a.tif").write_bytes(tiff_file(*pages, after_head=PIXELS, order=order))
    pixels = photos.read(tmp_path / "a.tif")
    assert pixels.shape == (*LARGE, 3) and photos.size(tmp_path / "a.tif") == LARGE[::-1]
    assert (pixels == 0x96).all()


def test_a_full_page_behind_a_preview_is_turned_too(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff_file({**THUMBNAIL, 274: 6, 330: [page(LARGE)]}, after_head=PIXELS))
    assert photos.size(tmp_path / "a.tif") == LARGE and photos.read(tmp_path / "a.tif").shape == (*LARGE[::-1], 3)


@pytest.mark.parametrize("ending", [".ico", ".icns"])
def test_the_largest_of_icons(tmp_path, ending):
    Image.new("RGB", (128, 128), (200, 40, 30)).save(tmp_path / f"a{ending}", sizes=[(16, 16), (32, 32), (128, 128)])
    pixels = photos.read(tmp_path / f"a{ending}")
    assert pixels.shape[1::-1] == photos.size(tmp_path / f"a{ending}") and len(pixels) >= 128


UPRIGHT = np.arange(48 * 64 * 3, dtype=np.uint32).reshape(48, 64, 3) % 251
UPRIGHT = np.uint8(UPRIGHT)
STORED = {  # as a camera stores what is upright, by EXIF's orientation
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT),
    7: UPRIGHT[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", [".png", ".webp", ".tif", "lzw.tif"])
def test_orientations(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {".webp": {"lossless": True}, "lzw.tif": {"compression": "tiff_lzw"}}.get(kind, {})
    path = tmp_path / f"a{kind}"
    Image.fromarray(np.ascontiguousarray(STORED[orientation])).save(path, exif=exif, **options)
    np.testing.assert_array_equal(photos.read(path), UPRIGHT)
    assert photos.size(path) == (64, 48) and photos.is_turned(path) == (orientation != 1)


@pytest.mark.parametrize("orientation", [5, 6, 8])
@pytest.mark.parametrize("ending", [".heic", ".avif", ".jpg"])
def test_sizes_of_turned_photos(tmp_path, ending, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{ending}"
    Image.fromarray(np.ascontiguousarray(STORED[orientation])).save(path, exif=exif.tobytes())
    assert photos.size(path) == (64, 48) == photos.read(path).shape[1::-1]


def exif_data(*entries):
    """EXIF data of entries (tag, type, count, four bytes), big-endian."""
    body = struct.pack(">H", len(entries))
    for tag, kind, count, content in entries:
        body += struct.pack(">HHI", tag, kind, count) + content
    return b"Exif\0\0MM\0*\0\0\0\x08" + body + bytes(4)


SIX = (0x0112, 3, 1, b"\0\6\0\0")
ODD = {  # EXIF data, and whether they turn the photo by 90 degrees
    "a long compression": (exif_data((259, 4, 1, b"\0\1\x11\x70"), SIX), True),
    "a negative width": (exif_data((256, 9, 1, b"\xff\xff\xff\xff"), SIX), True),
    "GPS that is text": (exif_data(SIX, (0x8825, 2, 4, b"abc\0")), True),
    "a directory beyond the end": (exif_data(SIX, (0x8769, 4, 1, b"\x7f\xff\xff\xff")), True),
    "a text beyond the end": (exif_data((0x010F, 2, 99999, b"\x7f\xff\xff\xff"), SIX), None),
    "an unknown type": (exif_data((0x0111, 77, 1, b"\0\0\0\0"), SIX), True),
    "a long orientation": (exif_data((0x0112, 4, 1, b"\0\0\0\6")), True),
    "a float": (exif_data((0x0112, 11, 1, struct.pack(">f", 6.5))), False),
    "text": (exif_data((0x0112, 2, 2, b"6\0\0\0")), False),
    "two values": (exif_data((0x0112, 3, 2, b"\0\6\0\6")), True),
    "zero": (exif_data((0x0112, 3, 1, b"\0\0\0\0")), False),
    "nine": (exif_data((0x0112, 3, 1, b"\0\x09\0\0")), False),
    "huge": (exif_data((0x0112, 4, 1, b"\xff\xff\xff\xff")), False),
    "cut": (exif_data(SIX)[:20], False),
    "nonsense": (b"Exif\0\0nonsense", False),
    "empty": (b"Exif\0\0", False),
    "a bad header": (b"Exif\0\0MM\0*\xff\xff\xff\xff", False),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".avif", ".heic"])
def test_odd_exif_data_never_make_a_photo_unreadable(tmp_path, ending, kind):
    exif, is_turned = ODD[kind]
    path = tmp_path / f"a{ending}"
    if ending == ".avif":  # its encoder takes no odd ones
        Image.fromarray(PICTURE).save(path, exif=exif_data(*[(tag, 3, 1, bytes(4)) for tag in range(0xA401, 0xA415)]))
        data = path.read_bytes()
        start = data.find(b"MM\0*")
        assert start > 0
        content = exif[6:]
        path.write_bytes(data[:start] + content + data[start + len(content) :])
        is_turned = None
    elif ending == ".heic":
        Image.fromarray(PICTURE).save(path, exif=exif)
        is_turned = None  # as its boxes say
    else:
        Image.fromarray(PICTURE).save(path, exif=exif)
    pixels = photos.read(path)
    assert photos.size(path) == pixels.shape[1::-1]
    if is_turned is not None:
        assert pixels.shape == ((64, 48, 3) if is_turned else (48, 64, 3)) and photos.is_turned(path) == is_turned


@pytest.mark.parametrize(
    "entry",
    [
        {0x010F: b"\0" * 10},
        {0x8769: 0x7FFFFFFF},
        {0x8825: 3},
        {0x0112: 99},
        {0x0112: b"\6"},
        {34675: b"\0" * 10},
    ],
)
def test_odd_tags_in_a_tiff(tmp_path, entry):
    (tmp_path / "a.tif").write_bytes(tiff_file(page(LARGE) | entry, after_head=PIXELS))
    assert photos.read(tmp_path / "a.tif").shape == (*LARGE, 3) and photos.size(tmp_path / "a.tif") == LARGE[::-1]


def test_a_tag_beyond_the_end_of_a_tiff(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff_file(page(LARGE, t271=b"a camera"), after_head=PIXELS))
    change_tag(tmp_path / "a.tif", 271, 0x7FFFFFFF)
    assert (photos.read(tmp_path / "a.tif") == 0x96).all() and photos.size(tmp_path / "a.tif") == LARGE[::-1]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("bits", "kind", "white"), [(8, "B", 255), (16, "H", 65535), (32, "f", 1.0)])
def test_grey_whose_zero_is_white(tmp_path, bits, kind, white, order):
    """Light pixels are light, in whatever depth."""
    values = np.linspace(0, 1, 64).reshape(1, 64).repeat(32, axis=0)
    stored = np.rint((1 - values) * white) if bits < 32 else 1 - values
    strip = stored.astype(f"{order}{np.dtype(kind).str[1:]}").tobytes()
    base = page((32, 64), t258=bits, t262=0, t279=len(strip), t339=3 if bits == 32 else 1)
    (tmp_path / "a.tif").write_bytes(tiff_file(base, after_head=strip, order=order))
    assert np.abs(photos.read(tmp_path / "a.tif")[..., 1] - 255 * values).max() <= 1.5


def test_directories_in_a_ring_end(tmp_path):
    data = bytearray(tiff_file(page(LARGE), after_head=PIXELS))
    data[-4:] = data[4:8]  # the next is the first
    assert len(list(tiff.Reader(bytes(data)).directories())) == 1
    (tmp_path / "a.tif").write_bytes(data)
    assert photos.read(tmp_path / "a.tif").shape == (*LARGE, 3)


def png_part(name, content, checksum=None):
    checksum = zlib.crc32(name + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


BROKEN_METADATA = {
    "profile without a number.jpg": b"\xff\xe2\0\x0eICC_PROFILE\0",
    "profile cut.jpg": b"\xff\xe2\0\x0fICC_PROFILE\0\1",
    "short jfif.jpg": b"\xff\xe0\0\x09JFIF\0\1\1",
    "short adobe.jpg": b"\xff\xee\0\x09Adobe\0\x64",
    "exif.png": png_part(b"eXIf", b"MM\0*", checksum=1),
    "profile.png": png_part(b"iCCP", b"a\0\0x", checksum=1),
    "text.png": png_part(b"tEXt", b"a\0b", checksum=1),
    "short profile.png": png_part(b"iCCP", b"\0"),
    "short gamma.png": png_part(b"gAMA", b"\0"),
    "short chromaticity.png": png_part(b"cHRM", b"\0" * 8),
    "short resolution.png": png_part(b"pHYs", b""),
    "short intent.png": png_part(b"sRGB", b""),
}


@pytest.mark.parametrize("name", BROKEN_METADATA)
def test_broken_metadata_are_passed_over(tmp_path, name):
    path = save(tmp_path / "good", name[-4:])
    expected = photos.read(path)
    data = path.read_bytes()
    place = 2 if name.endswith(".jpg") else 8 + 25  # after the start of the image, or the header
    (tmp_path / name).write_bytes(data[:place] + BROKEN_METADATA[name] + data[place:])
    np.testing.assert_array_equal(photos.read(tmp_path / name), expected)
    assert photos.size(tmp_path / name) == expected.shape[1::-1]


@pytest.mark.parametrize("ending", [".tif", ".mpo"])
def test_a_small_first_picture_is_a_preview(tmp_path, ending):
    """If it is of the same proportions, and a later one at least twice as wide; pages of a document are not."""
    sizes = {"preview": (30, 20), "page": (300, 150)}
    for name, size in sizes.items():
        first = Image.new("RGB", size, (0, 0, 200))
        path = tmp_path / f"{name}{ending}"
        first.save(path, save_all=True, append_images=[Image.new("RGB", (300, 200), (200, 0, 0))])
    assert photos.read(tmp_path / f"preview{ending}").shape == (200, 300, 3)
    assert photos.size(tmp_path / f"preview{ending}") == (300, 200)
    if ending == ".tif":
        assert photos.read(tmp_path / "page.tif").shape == (150, 300, 3)


def test_planes_of_16_bits_are_a_line(tmp_path):
    """Pillow would read them as 8 bits."""
    planes = np.arange(3 * 6 * 8, dtype="<u2").reshape(3, 6, 8) * 400
    entries = [(256, 3, 1, 8), (257, 3, 1, 6), (258, 3, 3, 200), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 3, 210)]
    entries += [(277, 3, 1, 3), (278, 3, 1, 6), (279, 4, 3, 230), (284, 3, 1, 2)]
    data = b"II*\0" + struct.pack("<IH", 8, len(entries))
    data += b"".join(struct.pack("<HHII", *entry) for entry in entries) + b"\0" * 4
    data = data.ljust(200, b"\0") + struct.pack("<3H", 16, 16, 16)
    data = data.ljust(210, b"\0") + struct.pack("<3I", *(256 + 96 * plane for plane in range(3)))
    data = data.ljust(230, b"\0") + struct.pack("<3I", 96, 96, 96)
    (tmp_path / "planar.tif").write_bytes(data.ljust(256, b"\0") + planes.tobytes())
    with pytest.raises(InputError, match=r"planar.tif: .*interleaved"):
        photos.read(tmp_path / "planar.tif")


def test_an_mpeg_file_is_no_photo(tmp_path):
    (tmp_path / "film").write_bytes(b"\0\0\1\xb3\x0a\0\x78\x13" + b"\0" * 64)
    assert photos.size(tmp_path / "film") is None and not photos.is_picture(tmp_path / "film")
