"""The loss, the optimizer and the learning rate schedule."""

from app.checkpoint import Checkpoint
from app.cpu import optimizer
from app.recorder import Recorder
from common import losses, scores

import keras
import numpy as np
import pytest
import tensorflow as tf


def random_answer(seed=0, shape=(3, 8, 8), num_classes=4):
    rng = np.random.default_rng(seed)
    return rng.integers(0, num_classes, shape).astype(np.uint8), rng.normal(size=(*shape, num_classes))


def test_the_loss_matches_its_definition():
    labels, logits = random_answer()
    labels[0, :4] = labels[2] = 255  # ignored: half of the first image, all of the last
    labels[1][labels[1] == 3] = 0  # the second shows three of the four classes
    expected = []
    for label, logit in zip(labels, logits, strict=True):
        known = label != 255
        truth, predicted = label[known], np.exp(logit[known]) / np.exp(logit[known]).sum(axis=-1, keepdims=True)
        cross_entropy = -np.mean(np.log(predicted[np.arange(len(truth)), truth])) if len(truth) else 0
        dice = []
        for index in set(truth):
            both = predicted[truth == index, index].sum()
            dice.append(2 * both / (np.sum(truth == index) + predicted[:, index].sum()))
        expected.append(cross_entropy + (1 - np.mean(dice) if len(truth) else 0))
    assert expected[2] == 0
    assert float(losses.CrossEntropyAndDice()(labels, logits)) == pytest.approx(np.mean(expected), rel=1e-5)


def test_a_perfect_prediction_has_zero_loss():
    labels, _ = random_answer()
    assert float(losses.CrossEntropyAndDice()(labels, 50.0 * np.eye(4)[labels])) == pytest.approx(0, abs=1e-5)
    labels[:] = 1  # a single class
    assert float(losses.CrossEntropyAndDice()(labels, 50.0 * np.eye(4)[labels])) == pytest.approx(0, abs=1e-5)


def test_rare_classes_weigh_more():
    """Three classes of 1 %, 0.01 % and none of the pixels; their weight is part of the cross-entropy alone."""
    weights = losses.class_weights([98_990, 1_000, 10, 0])
    assert weights == [1, 2, 40, 1]
    assert losses.class_weights([90, 8, 2]) is losses.class_weights([]) is None
    labels, logits = random_answer()
    labels[0, :4] = 255
    plain, weighted = losses.CrossEntropyAndDice(), losses.CrossEntropyAndDice(weights)
    of_pixels = -np.log(np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True))
    more = 0
    for label, values in zip(labels, of_pixels, strict=True):
        known = label != 255
        own = values[known, label[known]]
        more += np.mean(own * (np.array(weights)[label[known]] - 1)) / len(labels)
    assert float(weighted(labels, logits) - plain(labels, logits)) == pytest.approx(more, rel=1e-4)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(weighted))
    assert copy.class_weights == weights


def trained(optimizer, steps=8):
    """The weights of a small network after some steps."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(5, 3), keras.layers.Conv2D(4, 3)])
    model.compile(optimizer, losses.CrossEntropyAndDice(), jit_compile=False)
    labels, _ = random_answer(shape=(16, 4, 4))
    images = np.random.default_rng(1).normal(size=(16, 8, 8, 3))
    model.fit(images, labels, batch_size=2, epochs=steps // 8, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])  # the second scales the loss
def test_adam_matches_keras(precision):
    keras.config.set_dtype_policy(precision)
    schedule = losses.warm_up_and_cosine(1e-2, 16)
    ours = trained(optimizer.FusedAdam(schedule))
    plain = trained(keras.optimizers.Adam(schedule))
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3 if precision == "mixed_float16" else 1e-6)
    untouched = trained(keras.optimizers.SGD(0.0))
    assert max(np.abs(one - other).max() for one, other in zip(ours, untouched, strict=True)) > 1e-2


def test_the_learning_rate_rises_and_falls():
    schedule = losses.warm_up_and_cosine(0.5, 100)
    rates = np.array([float(schedule(tf.constant(step))) for step in range(101)])
    assert rates[0] == 0 and rates.argmax() == 5 and rates.max() == pytest.approx(0.5) and rates[-1] < 1e-6
    assert np.all(np.diff(rates[:6]) > 0) and np.all(np.diff(rates[5:]) < 0)


def test_the_recorder_is_a_callback_like_any_other(tmp_path):
    """Plain Keras with it; a new history is never left beside the scores of an earlier run."""
    (tmp_path / "metrics.json").write_text("of an earlier run")
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(3, 1)(inputs), name="tiny")
    model.compile(optimizer.FusedAdam(0.1), losses.CrossEntropyAndDice(), metrics=scores.metrics(3), jit_compile=False)
    images, labels = np.random.default_rng(0).normal(size=(8, 4, 4, 3)), np.ones((8, 4, 4), np.uint8)
    kept = Checkpoint(tmp_path, tmp_path / "tiny.keras", "val_mean_iou")
    assert list(tmp_path.iterdir()) == [tmp_path / "metrics.json"]
    fit = {"validation_data": (images, labels), "epochs": 2, "verbose": 0}
    model.fit(images, labels, **fit, callbacks=[Recorder(kept, ("a", "b", "c"))])
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 3 and len(kept.rows) == 2
    assert 0 < kept.training_seconds < kept.seconds
    assert not (tmp_path / "metrics.json").exists()
    saved = keras.saving.load_model(tmp_path / "tiny.keras")
    best = max(row["val_mean_iou"] for row in kept.rows)
    assert kept.best == best and saved.count_params() == model.count_params()
