"""The colours of video frames: tags, guesses where they are missing, and HDR brought to BT.709."""

import functools

from app import hdr

import av
import cv2
import numpy as np

# The codes of ITU-T H.273, which video files carry.
UNKNOWN = 2
BT709, BT601, BT2020 = 1, 5, 9  # matrices; primaries too
MATRICES = {1: BT709, 4: 4, 5: BT601, 6: BT601, 7: 7, 9: BT2020, 10: BT2020}  # those that FFmpeg's scaler knows
P3 = 11, 12  # primaries
LIMITED, FULL = 1, 2  # ranges
FULL_FORMATS = ("yuvj", "gray", "ya", "mono")  # unless tagged otherwise
# Linear light of wider primaries to that of BT.709; the two kinds of P3 are taken as Display P3.
FROM_P3 = np.float32([[1.2249, -0.2247, -0.0002], [-0.0420, 1.0419, 0.0001], [-0.0197, -0.0786, 1.0983]])
FROM_BT2020 = np.float32([[1.6605, -0.5876, -0.0729], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1188]])
TO_BT709 = {BT709: np.eye(3, dtype=np.float32), BT2020: FROM_BT2020, **dict.fromkeys(P3, FROM_P3)}
LUMINANCE = np.float32([0.2627, 0.6780, 0.0593])  # of BT.2020
GAMMA = 2.2  # of a screen
KNEE = 0.85  # of white: brighter light is compressed, so that highlights keep some shape


def rgb(frame: av.VideoFrame, stream: av.VideoStream) -> np.ndarray:
    """The pixels of a frame as uint8 [H, W, 3]: RGB, BT.709. Changes the frame's tags. Raises what PyAV raises."""
    matrix, primaries, transfer, is_full = tags(frame, stream)
    # FFmpeg's scaler goes by the frame's own tags. It refuses some of the others, and must not convert by them.
    frame.color_primaries = frame.color_trc = UNKNOWN
    if not frame.format.is_rgb:
        frame.colorspace = matrix
        frame.color_range = FULL if is_full else LIMITED
    if transfer in (hdr.PQ, hdr.HLG) or primaries in (BT2020, *P3):
        return to_bt709(frame.reformat(format="rgb48le").to_ndarray(), primaries, transfer)
    return frame.reformat(format="rgb24").to_ndarray()


def tags(frame: av.VideoFrame, stream: av.VideoStream) -> tuple[int, int, int, bool]:
    """The matrix, primaries and transfer function of a frame, codes of H.273, and whether its range is full.

    What is not tagged follows from the other tags; without any, from the size: from 720p on BT.709, below BT.601. A
    frame counts as 720p if its shorter side has 720 pixels or its longer one 1280, so upright and wide ones do too.
    """
    codec = stream.codec_context

    def tag(name):
        return next((value for one in (frame, codec) if (value := getattr(one, name)) not in (0, UNKNOWN)), UNKNOWN)

    matrix, primaries, transfer = tag("colorspace"), tag("color_primaries"), tag("color_trc")
    matrix = MATRICES.get(matrix, UNKNOWN)
    if transfer in (hdr.PQ, hdr.HLG) or BT2020 in (matrix, primaries):
        matrix = BT2020 if matrix == UNKNOWN else matrix
        primaries = BT2020 if primaries == UNKNOWN else primaries
    if matrix == UNKNOWN:
        short, long = sorted((frame.width, frame.height))
        by_size = BT709 if short >= 720 or long >= 1280 else BT601
        matrix = MATRICES.get(primaries, by_size)
    color_range = frame.color_range or codec.color_range
    is_full = color_range == FULL or (not color_range and frame.format.name.startswith(FULL_FORMATS))
    return matrix, primaries, transfer, is_full


def to_bt709(signal: np.ndarray, primaries: int, transfer: int) -> np.ndarray:
    """Converts RGB of wide primaries or of HDR, uint16 [H, W, 3], to BT.709, uint8 [H, W, 3].

    HDR's reference white, which BT.2408 sets at 203 cd/m2 for PQ and at a signal of 75 % for HLG, becomes white; HLG
    is shown as on a display of 600 cd/m2 (a system gamma of 1.1 in BT.2100).
    """
    light = _light(transfer).take(signal)
    if transfer == hdr.HLG:
        light *= cv2.pow(cv2.transform(light, LUMINANCE[np.newaxis]), 0.1)[..., np.newaxis]
    light = cv2.transform(light, TO_BT709.get(primaries, TO_BT709[BT709]))
    if transfer in (hdr.PQ, hdr.HLG):
        brightest = np.maximum(cv2.max(cv2.max(light[..., 0], light[..., 1]), light[..., 2]), KNEE)
        compressed = KNEE + (1 - KNEE) * (1 - cv2.exp((KNEE - brightest) / (1 - KNEE)))
        light *= (compressed / brightest)[..., np.newaxis]
    np.clip(light, 0, 1, out=light)
    light *= 65535
    return _screen().take(light.astype(np.uint16))


@functools.cache
def _light(transfer: int) -> np.ndarray:
    """Linear light, 1 where white is, for each signal of 16 bits: float32 [65536]."""
    signal = np.linspace(0, 1, 65536)
    if transfer == hdr.PQ:
        light = hdr.pq(signal)
    elif transfer == hdr.HLG:
        light = hdr.hlg(signal) / hdr.hlg(0.75)
    else:
        light = signal**GAMMA
    return light.astype(np.float32)


@functools.cache
def _screen() -> np.ndarray:
    """The 8-bit signal of a screen for each light of 16 bits: uint8 [65536]."""
    return np.rint(255 * np.linspace(0, 1, 65536) ** (1 / GAMMA)).astype(np.uint8)
