from common import losses, scores

import keras
import numpy as np
import pytest

TRIMAP = ("pet", "background", "border")


def test_confusion_matrix_by_hand():
    labels = np.array([[0, 0, 1], [1, 2, 2]], np.uint8)
    predictions = np.array([[0, 1, 1], [1, 2, 0]], np.uint8)
    matrix = np.array(scores.confusion_matrix(labels, predictions, 3))
    np.testing.assert_array_equal(matrix, [[1, 1, 0], [0, 2, 0], [1, 0, 1]])


def test_report_by_hand():
    report = scores.report([[50, 5, 5], [10, 100, 0], [4, 6, 20]], TRIMAP)
    assert report["pixel_accuracy"] == pytest.approx(170 / 200)
    assert report["iou"] == pytest.approx({"pet": 50 / 74, "background": 100 / 121, "border": 20 / 35})
    assert report["dice"] == pytest.approx({"pet": 100 / 124, "background": 200 / 221, "border": 40 / 55})
    assert report["mean_iou"] == pytest.approx((50 / 74 + 100 / 121 + 20 / 35) / 3)
    # With pet and border merged: 79 hits, 11 misses, 10 false positives.
    assert report["pet_iou_binary"] == pytest.approx(79 / 100)


def test_an_absent_class_has_no_score():
    report = scores.report([[3, 1, 0], [0, 4, 0], [0, 0, 0]], ("sky", "road", "moon"))
    assert report["iou"]["moon"] is None and report["dice"]["moon"] is None
    assert report["mean_iou"] == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert "pet_iou_binary" not in report


def test_the_metric_accumulates_the_same_matrix_over_batches():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (5, 8, 8)).astype(np.uint8)
    logits = rng.normal(size=(5, 8, 8, 3)).astype(np.float32)
    metric = scores.ConfusionMatrix(3)
    for batch in np.array_split(np.arange(5), 2):
        metric.update_state(labels[batch], logits[batch])
    whole = scores.confusion_matrix(labels, logits.argmax(-1), 3)
    np.testing.assert_array_equal(metric.matrix, whole)
    assert float(metric.result()) == pytest.approx(scores.report(whole, TRIMAP)["mean_iou"])
    metric.reset_state()
    assert not np.any(metric.matrix)


def test_the_matrix_counts_every_pixel_of_a_large_split():
    metric = scores.ConfusionMatrix(2)
    metric.counts.assign([[[scores.CARRY - 1, 0], [0, 0]], [[2**40 // scores.CARRY - 1, 0], [0, 0]]])  # 2**40 - 1
    metric.update_state(np.zeros((1, 1, 1), np.uint8), np.array([[[[1.0, 0.0]]]]))
    assert int(np.array(metric.matrix)[0, 0]) == 2**40
    metric.update_state(np.zeros((1, 1, 1), np.uint8), np.array([[[[1.0, 0.0]]]]))
    assert int(np.array(metric.matrix)[0, 0]) == 2**40 + 1


def test_the_metric_works_in_a_compiled_training_step():
    """On a GPU Keras compiles the step with XLA; XLA on a CPU refuses the same operations."""
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(3, 1)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=[scores.ConfusionMatrix(3)], jit_compile=True)
    history = model.fit(np.ones((2, 4, 4, 3)), np.ones((2, 4, 4), np.uint8), verbose=0).history
    assert 0 <= history["mean_iou"][0] <= 1


def test_tensorflow_may_keep_all_variables_on_a_gpu():
    """It has no int32 variables there."""
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(3, 1), keras.layers.Dropout(0.5)])
    model.compile("adam", losses.CrossEntropyAndDice(), metrics=scores.metrics(3))
    model.fit(np.ones((2, 4, 4, 3)), np.ones((2, 4, 4), np.uint8), verbose=0)
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    assert not [variable.path for variable in variables if variable.dtype == "int32"]


def test_accuracy_and_mean_iou_share_one_matrix():
    """Both are correct and skip ignored labels."""
    accuracy, confusion = scores.metrics(3)
    assert [variable.path for variable in accuracy.variables] == []
    labels = np.array([[[0, 1, 2, 255]] * 4] * 2, np.uint8)
    logits = np.eye(3, dtype=np.float32)[[[[0, 1, 1, 1]] * 4] * 2]
    for metric in (accuracy, confusion):
        metric.update_state(labels, logits)
    expected = scores.report(scores.confusion_matrix(labels, logits.argmax(-1), 3), TRIMAP)
    assert float(accuracy.result()) == pytest.approx(expected["pixel_accuracy"]) == pytest.approx(2 / 3)
    assert float(confusion.result()) == pytest.approx(expected["mean_iou"]) == pytest.approx(0.5)


def test_trimap_class_names_in_any_order():
    assert scores.is_trimap(TRIMAP) and scores.is_trimap(TRIMAP[::-1])
    assert not scores.is_trimap(("pet", "background"))


def test_a_model_saved_with_loss_and_metrics_loads_with_them(tmp_path):
    """As one that is compiled and saved by a person who copied losses.py and scores.py."""
    pixels = keras.Input((8, 8, 3))
    model = keras.Model(pixels, keras.layers.Conv2D(3, 1)(pixels))
    optimizer = keras.optimizers.Adam(losses.warm_up_and_cosine(1e-3, 10))
    model.compile(optimizer, losses.CrossEntropyAndDice(), metrics=scores.metrics(3))
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(0, 1, (4, 8, 8, 3)).astype(np.float32), rng.integers(0, 3, (4, 8, 8), np.uint8)
    model.fit(images, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for part in (slice(0, 4), slice(0, 2)):  # the second counts from zero again
        expected = model.evaluate(images[part], labels[part], verbose=0, return_dict=True)
        assert loaded.evaluate(images[part], labels[part], verbose=0, return_dict=True) == pytest.approx(expected)
        assert expected["accuracy"] > 0
    loaded.fit(images, labels, verbose=0)
    loaded.save(tmp_path / "again.keras")
    keras.saving.load_model(tmp_path / "again.keras")
