from app.datasets import synthetic
from common.scores import BACKGROUND, PET

import cv2
import numpy as np
import pytest


def draw_many(count, **options):
    images, labels = zip(*(synthetic.draw(index, **options) for index in range(count)), strict=True)
    return np.stack(images), np.stack(labels)


def test_an_image_depends_on_seed_split_and_index_alone():
    image, label = synthetic.draw(7, "train", seed=3, image_size=64)
    again, label_again = synthetic.draw(7, "train", seed=3, image_size=64)
    assert image.shape == (64, 64, 3) and label.shape == (64, 64) and image.dtype == label.dtype == np.uint8
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(label, label_again)
    for other in ((8, "train", 3), (7, "test", 3), (7, "train", 4)):
        assert (synthetic.draw(*other, image_size=64)[0] != image).mean() > 0.5
    with pytest.raises(ValueError):
        synthetic.draw(0, "holiday")


@pytest.mark.parametrize("size", [64, 128])
def test_class_fractions_match_real_trimaps(size):
    _, labels = draw_many(400, image_size=size)
    fractions = np.bincount(labels.ravel(), minlength=3) / labels.size
    np.testing.assert_allclose(fractions, [0.30, 0.58, 0.12], atol=0.04)


def test_the_border_is_a_ring_between_pet_and_background():
    _, labels = draw_many(40, image_size=128)
    for label in labels:
        near_pet = cv2.dilate((label == PET).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        assert not (near_pet & (label == BACKGROUND)).any()


def test_no_color_threshold_finds_the_pets():
    """Even the best split of an image's colours, fitted to the true mask, misses the shape."""
    images, labels = draw_many(60, image_size=64)
    ious = []
    for image, label in zip(images, labels, strict=True):
        pet = label != BACKGROUND
        cell = (image // 64).astype(int) @ [16, 4, 1]  # 64 colours
        inside, total = np.bincount(cell[pet], minlength=64), np.bincount(cell.ravel(), minlength=64)
        guess = (inside > total / 2)[cell]
        ious.append((guess & pet).sum() / max(1, (guess | pet).sum()))
    assert np.mean(ious) < 0.8
