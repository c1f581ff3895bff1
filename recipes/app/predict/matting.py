"""Coarse probabilities of a network, fitted to the edges of the photo: outlines, and the opacity of hair.

Where two colours mix, the opacity is close to a linear function of the colour, so one is fitted to it in every small
window (He, Sun, Tang: Fast Matting Using Large Kernel Matting Laplacian Matrices, CVPR 2010). The network decides where
it is sure, the photo where it is not.
"""

import cv2
import numpy as np
from scipy.sparse.linalg import LinearOperator, cg

MAX_SIDE = 1500  # pixels of the longer side of a result, which is enlarged for a larger photo
# Chosen on training photos.
SIDE = 128  # pixels of the longer side of the copy in which the equations are solved
WINDOW = (5, 5)  # pixels of it


class Guide:
    """A photo, or a part of one, uint8 [H, W, 3], ready for probabilities to be fitted to it."""

    def __init__(self, photo: np.ndarray):
        self.photo = shrunk(photo, MAX_SIDE)
        self.small = shrunk(photo, SIDE).astype(np.float32) / 255
        # Of the colours in each window: the mean [h, w, 3], and the inverse of the regularized covariance [h, w, 3, 3].
        self.mean = cv2.blur(self.small, WINDOW)
        products = self.small[..., :, np.newaxis] * self.small[..., np.newaxis, :]
        covariance = cv2.blur(products.reshape(*self.small.shape[:2], 9), WINDOW).reshape(products.shape)
        covariance -= self.mean[..., :, np.newaxis] * self.mean[..., np.newaxis, :]
        self.inverse = np.linalg.inv(covariance + 1e-5 * np.eye(3, dtype=np.float32))  # more would flatten the fits

    def fit(self, probabilities: np.ndarray) -> np.ndarray:
        """Enlarges probabilities float32 [h, w], 0..1, to the size of `photo`, float32 0..1, with the photo's edges."""
        size = self.small.shape[1::-1]
        coarse = cv2.resize(np.ascontiguousarray(probabilities), size, interpolation=cv2.INTER_LINEAR).ravel()
        certainty = (2 * coarse - 1) ** 2
        target = ((coarse - 0.5) * 8.0 + 0.5).clip(0, 1)

        def equations(opacity):  # it equals the mean of its windows' fits, and the target where the network is sure
            return opacity - _apply(self._fits(opacity), self.small).ravel() + certainty * opacity

        operator = LinearOperator((coarse.size, coarse.size), equations, dtype=np.float32)
        opacity, _ = cg(operator, certainty * target, x0=target, rtol=1e-4, maxiter=10)  # more would soften the outline
        fits = self._fits(opacity)
        slopes = fits[..., :3]
        excess = np.maximum(1, np.linalg.norm(slopes, axis=-1, keepdims=True) / 3.0)  # steep fits amplify noise
        fits[..., 3] += (slopes * (1 - 1 / excess) * self.small).sum(-1)
        fits[..., :3] /= excess
        fits = cv2.resize(fits, self.photo.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        return _apply(fits, self.photo * np.float32(1 / 255)).clip(0, 1)

    def _fits(self, opacity: np.ndarray) -> np.ndarray:
        """The mean linear function of the colour around each pixel, [h, w, 4]: three slopes and a constant."""
        opacity = opacity.astype(np.float32).reshape(*self.small.shape[:2], 1)
        means = cv2.blur(np.concatenate([self.small * opacity, opacity], axis=-1), WINDOW)
        slopes = np.einsum("hwij,hwj->hwi", self.inverse, means[..., :3] - self.mean * means[..., 3:])
        constant = means[..., 3:] - (slopes * self.mean).sum(-1, keepdims=True)
        return cv2.blur(np.concatenate([slopes, constant], axis=-1), WINDOW)


def shrunk(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture whose longer side is at most `side` pixels."""
    scale = min(1.0, side / max(picture.shape[:2]))
    size = tuple(max(1, round(length * scale)) for length in picture.shape[1::-1])
    return picture if scale == 1 else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _apply(fits: np.ndarray, colors: np.ndarray) -> np.ndarray:
    return np.einsum("hwi,hwi->hw", fits[..., :3], colors) + fits[..., 3]
