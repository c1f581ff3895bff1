"""High dynamic range: what the signals of HLG and PQ stand for, in photos and in videos."""

import numpy as np

PQ, HLG = 16, 18  # code points of the transfer functions, ITU-T H.273
WHITE = 203  # cd/m2 of white (ITU-R BT.2408)


def pq(signal: np.ndarray) -> np.ndarray:
    """The light of a signal 0..1, 1 where white is (SMPTE ST 2084)."""
    root = signal ** (32 / 2523)
    light = np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root)
    return light ** (8192 / 1305) * 10000 / WHITE


def hlg(signal: np.ndarray) -> np.ndarray:
    """The light of the scene, 0..1, of a signal 0..1 (ITU-R BT.2100)."""
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12)
