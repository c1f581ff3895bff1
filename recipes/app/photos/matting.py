"""A network's coarse answer, made to follow the photo: outlines, and the opacity of hair.

Where two colours mix, the opacity is close to a linear function of the colour, so in every small window one is fitted
to it (He, Sun, Tang: Fast Matting Using Large Kernel Matting Laplacian Matrices, CVPR 2010). The network decides where
it is sure, the photo where it is not.
"""

import functools

import cv2
import numpy as np
from scipy.sparse.linalg import LinearOperator, cg

# Chosen on training photos. More steps would soften the outline.
SIDE = 128  # pixels of the longer side of the copy in which the equations are solved
RADIUS = 2  # of a window in it
REGULARITY = 1e-5  # of the linear functions: larger values make them flatter; of colours 0..1
STEPS = 10
STEEPEST = 3.0  # slope of a linear function at full size, where a photo has noise
CONTRAST = 8.0  # of the answer towards which the network pulls


class Guide:
    """A photo, ready for answers to be fitted to it.

    Args:
      photo: uint8 [H, W, 3].
    """

    def __init__(self, photo: np.ndarray):
        self.photo = photo
        scale = min(1.0, SIDE / max(photo.shape))
        self.size = tuple(max(1, round(side * scale)) for side in photo.shape[1::-1])
        self.colors = cv2.resize(photo, self.size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        self.mean = _mean(self.colors)
        products = self.colors[..., :, np.newaxis] * self.colors[..., np.newaxis, :]
        variance = _mean(products.reshape(*self.colors.shape[:2], 9)).reshape(products.shape)
        variance -= self.mean[..., :, np.newaxis] * self.mean[..., np.newaxis, :]
        self.inverse = np.linalg.inv(variance + REGULARITY * np.eye(3, dtype=np.float32))

    def fit(self, probabilities: np.ndarray) -> np.ndarray:
        """Enlarges probabilities float32 [h, w], 0..1, to float32 [H, W], 0..1, with the photo's edges."""
        answer = cv2.resize(np.ascontiguousarray(probabilities), self.size, interpolation=cv2.INTER_LINEAR).ravel()
        sure = (2 * answer - 1) ** 2
        wanted = ((answer - 0.5) * CONTRAST + 0.5).clip(0, 1)

        def equations(opacity):  # what the windows make of it should be what it is
            return opacity - _apply(self._functions(opacity), self.colors).ravel() + sure * opacity

        operator = LinearOperator((answer.size, answer.size), equations, dtype=np.float32)
        opacity, _ = cg(operator, sure * wanted, x0=wanted, rtol=1e-4, maxiter=STEPS)
        functions = self._functions(opacity)
        slopes = functions[..., :3]
        steep = np.maximum(1, np.linalg.norm(slopes, axis=-1, keepdims=True) / STEEPEST)
        functions[..., 3] += (slopes * (1 - 1 / steep) * self.colors).sum(-1)
        functions[..., :3] /= steep
        functions = cv2.resize(functions, self.photo.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        return _apply(functions, self.photo * np.float32(1 / 255)).clip(0, 1)

    def _functions(self, opacity: np.ndarray) -> np.ndarray:
        """The linear functions of the colour around each pixel, [h, w, 4]: three slopes and a constant."""
        opacity = opacity.astype(np.float32).reshape(*self.colors.shape[:2], 1)
        means = _mean(np.concatenate([self.colors * opacity, opacity], axis=-1))
        slopes = np.einsum("hwij,hwj->hwi", self.inverse, means[..., :3] - self.mean * means[..., 3:])
        constant = means[..., 3:] - (slopes * self.mean).sum(-1, keepdims=True)
        return _mean(np.concatenate([slopes, constant], axis=-1))


def _apply(functions: np.ndarray, colors: np.ndarray) -> np.ndarray:
    return np.einsum("hwi,hwi->hw", functions[..., :3], colors) + functions[..., 3]


_mean = functools.partial(cv2.blur, ksize=(2 * RADIUS + 1, 2 * RADIUS + 1), borderType=cv2.BORDER_REFLECT_101)
