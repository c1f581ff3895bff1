"""The objects that Mask R-CNN finds: a cutout for each, and detections.json over several runs."""

import json
import shutil

from app import photos
from app.detect import cutouts, detector, instances, results
from app.predict import png

import cv2
import detectors
import mask_rcnn_hub
import numpy as np
import pytest
from PIL import Image

FUR = (200, 60, 40)
GRASS = (40, 160, 60)


def disc(height, width, y, x, radius):
    rows, columns = np.ogrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def painted(*masks, colors=(FUR, (60, 60, 220), (230, 220, 60)), background=GRASS, softness=0.0):
    """A photo, uint8 [H, W, 3], of objects in front of a plain background."""
    photo = np.full((*masks[0].shape, 3), background, np.float32)
    for mask, color in zip(masks, colors, strict=False):
        opacity = np.float32(mask)
        if softness:
            opacity = cv2.GaussianBlur(opacity, (0, 0), softness)
        photo += opacity[..., np.newaxis] * (np.float32(color) - photo)
    return np.rint(photo).astype(np.uint8)


def found(*masks, scores=(0.9, 0.8, 0.7, 0.6)):
    return [detectors.thing(17, mask, score) for mask, score in zip(masks, scores, strict=False)]


def cut(photo, objects, number):
    numbers = instances.instance_map(photo.shape[:2], objects)
    return cutouts.cut_out(photo, numbers, number, objects[number - 1])


def opacity_in_photo(made, shape):
    frame = np.zeros(shape, np.uint8)
    height, width = made.picture.shape[:2]
    frame[made.top : made.top + height, made.left : made.left + width] = made.picture[..., 3]
    return frame


def run(command_line, scenes, folder, *flags):
    """Runs the recipe over scenes, with a detector that knows them; returns detections.json."""
    model = detectors.save(folder / "models" / str(len(list((folder / "models").glob("*")))), scenes)
    flags = ("--model", model, "--output", folder / "output", *flags)
    status, _, err = command_line(mask_rcnn_hub, *scenes, *flags)
    assert (status, err) == (0, "")
    return json.loads((folder / "output" / "detections.json").read_text())


def written(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*_cutout.png")}


@pytest.mark.parametrize("side", [60, 400, 2000])
def test_a_cutout_has_a_soft_edge_and_the_colours_of_its_object(side):
    mask = disc(side, side * 2, side // 2, side, side // 4)
    softness = max(1, side / 200)
    photo = painted(mask, softness=softness)
    made = cut(photo, found(mask), 1)
    opacity = opacity_in_photo(made, mask.shape)
    truth = cv2.GaussianBlur(np.float32(mask), (0, 0), softness)
    assert np.abs(opacity / 255 - truth).mean() < 0.01
    clear = made.picture[..., 3] == 0
    assert (made.picture[clear] == 0).all()  # black
    soft = (made.picture[..., 3] > 60) & (made.picture[..., 3] < 250)
    part = photo[made.top :, made.left :][: soft.shape[0], : soft.shape[1]]
    errors = [np.abs(picture[soft][:, :3].astype(int) - FUR).mean() for picture in (made.picture, part)]
    assert errors[0] < 0.6 * errors[1] and errors[0] < 20  # most of the grass is gone


def test_a_cutout_is_cropped_with_a_margin():
    mask = np.zeros((300, 400), bool)
    mask[100:200, 150:350] = True
    made = cut(painted(mask), found(mask), 1)
    height, width = made.picture.shape[:2]
    assert abs(made.top - 96) <= 3 and abs(made.left - 146) <= 3
    assert abs(height - 108) <= 6 and abs(width - 208) <= 6
    for edge in (made.picture[0], made.picture[-1], made.picture[:, 0], made.picture[:, -1]):
        assert not edge[..., 3].any()


def test_objects_that_touch_do_not_share_pixels():
    """Not even where both have the same colour; along the line where they touch the edge is a pixel soft."""
    left = disc(240, 400, 120, 140, 70)
    right = disc(240, 400, 120, 250, 70)
    for colors in ((FUR, (60, 60, 220)), (FUR, FUR)):
        photo = painted(right, left, colors=colors[::-1])
        objects = found(left, right)
        numbers = instances.instance_map(photo.shape[:2], objects)
        shown = [opacity_in_photo(cut(photo, objects, number), numbers.shape) for number in (1, 2)]
        assert not shown[0][numbers == 2].any() and not shown[1][numbers == 1].any()
        for number in (1, 2):
            assert (shown[number - 1][numbers == number] > 127).mean() > 0.98
        row = shown[1][120, 205:215]  # the first one is in front, up to column 210
        assert set(row[:6]) == {0} and 0 < row[6] < 255 and row[7] > 230


def test_hidden_objects_have_no_cutout():
    """The same object found twice; an object that is hidden by less than half has one."""
    mask = disc(200, 200, 100, 100, 60)
    larger = disc(200, 200, 100, 100, 66)
    photo = painted(mask)
    objects = found(mask, larger, mask)
    assert cut(photo, objects, 1) and not cut(photo, objects, 2) and not cut(photo, objects, 3)
    assert cut(photo, found(disc(200, 200, 100, 40, 60), mask), 2)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (9, 1), (2, 2), (5, 7)])
def test_tiny_photos_and_objects(height, width):
    photo = np.full((height, width, 3), 90, np.uint8)
    whole = np.ones((height, width), bool)
    made = cut(photo, found(whole), 1)
    assert made.picture.shape == (height, width, 4) and (made.picture == (90, 90, 90, 255)).all()
    corner = np.zeros((height, width), bool)
    corner[-1, -1] = True
    made = cut(photo, found(corner), 1)
    assert opacity_in_photo(made, (height, width))[-1, -1] > 0


def test_an_object_of_one_pixel_in_a_photo():
    mask = np.zeros((300, 400), bool)
    mask[150, 200] = True
    made = cut(painted(mask), found(mask), 1)
    assert opacity_in_photo(made, mask.shape)[150, 200] > 0
    assert made.picture.shape[0] <= 9


def test_a_mask_within_a_larger_part_of_the_photo():
    """As detectors give them: the result does not depend on how much of the photo the mask covers."""
    mask = disc(200, 300, 90, 60, 50)
    objects = found(mask)
    tight = [objects[0]._replace(mask=mask[40:141, 10:111], top=40, left=10)]
    photo = painted(mask, softness=1)
    whole, part = cut(photo, objects, 1), cut(photo, tight, 1)
    assert whole[1:] == part[1:]
    np.testing.assert_array_equal(whole.picture, part.picture)


def test_a_panorama():
    mask = np.zeros((30, 40_000), bool)
    mask[10:20, 50:-50] = True
    made = cut(painted(mask), found(mask), 1)
    assert made.picture.shape[1] > 39_900 and made.picture[15 - made.top, 20_000, 3] == 255


def test_thin_objects_stay_whole():
    """Where a fit would lose them: a line, and objects that interlock."""
    line = np.zeros((300, 400), bool)
    line[150, 20:380] = True
    opacity = opacity_in_photo(cut(painted(line), found(line), 1), line.shape)
    assert opacity[line].min() > 127 and not opacity[:140].any()
    stripes = np.zeros((100, 120), bool)
    stripes[::2] = True
    objects = found(stripes, ~stripes)
    for number, mask in enumerate((stripes, ~stripes), 1):
        opacity = opacity_in_photo(cut(painted(stripes), objects, number), mask.shape)
        assert opacity[mask].min() > 100 and not opacity[~mask].any()


def test_objects_at_the_borders_of_the_photo():
    """Are opaque up to the border, and the picture ends there."""
    for y, x in ((0, 0), (0, 199), (149, 0), (149, 199), (75, 0), (149, 100)):
        mask = disc(150, 200, y, x, 40)
        made = cut(painted(mask), found(mask), 1)
        height, width = made.picture.shape[:2]
        assert made.top >= 0 and made.top + height <= 150 and made.left >= 0 and made.left + width <= 200
        assert opacity_in_photo(made, mask.shape)[y, x] > 240


def test_files_and_places(command_line, tmp_path):
    """Only sure objects have a cutout, and only with --cutouts."""
    scenes = detectors.drawn_scenes(tmp_path / "photos", 2)  # scores of 0.95, 0.65 and 0.35
    detections = run(command_line, scenes, tmp_path)
    assert written(tmp_path / "output") == set() and not any("cutout" in one for one in detections)
    detections = run(command_line, scenes, tmp_path, "--cutouts")
    expected = {f"{path.stem}_{number}_cutout.png" for path in scenes for number in (1, 2)}
    assert written(tmp_path / "output") == expected
    for one in detections:
        assert ("cutout" in one) == (one["score"] >= 0.5)
        if "cutout" in one:
            path = tmp_path / "output" / one["cutout"]["file_name"]
            picture = np.asarray(Image.open(path))
            left, top, width, height = one["cutout"]["bbox"]
            assert picture.shape == (height, width, 4)
            part = photos.read(tmp_path / one["file_name"])[top : top + height, left : left + width]
            opaque = picture[..., 3] == 255
            assert opaque.mean() > 0.3
            np.testing.assert_array_equal(picture[opaque][:, :3], part[opaque])


def test_min_score_decides_about_cutouts_too(command_line, tmp_path):
    scenes = detectors.drawn_scenes(tmp_path / "photos", 1)
    for score, numbers in ((0, (1, 2, 3)), (0.9, (1,)), (1, ())):
        run(command_line, scenes, tmp_path, "--cutouts", "--min-score", score)
        assert written(tmp_path / "output") == {
            f"{path.stem}_{number}_cutout.png" for path in scenes for number in numbers
        }


def test_cutouts_of_an_earlier_run_do_not_remain(command_line, tmp_path):
    """Those of the same photo; nothing else is removed."""
    output = tmp_path / "output"
    (path,) = scenes = detectors.drawn_scenes(tmp_path / "photos", 1)
    renamed = path.rename(path.with_name("dog[1].png"))
    scenes = {renamed: scenes[path]}
    run(command_line, scenes, tmp_path, "--cutouts")
    others = [
        "dog[1]_x_cutout.png",
        "dog[1]_2_1_cutout.png",
        "dog[1]_cutout.png",
        "1_7_cutout.png",
        "dog1_1_cutout.png",
    ]
    others += ["dog[1]_03_cutout.png", "dog[1]_9_cutout.jpg"]
    for name in (*others, "dog[1]_40_cutout.png"):
        (output / name).write_text("of someone")
    assert written(output) >= {"dog[1]_1_cutout.png", "dog[1]_2_cutout.png"}
    run(command_line, {renamed: scenes[renamed][:1]}, tmp_path, "--cutouts")
    assert all((output / name).read_text() == "of someone" for name in others)
    left = written(output) - set(others)
    assert left == {"dog[1]_1_cutout.png"}
    run(command_line, {renamed: scenes[renamed][:1]}, tmp_path)  # without the flag they would no longer fit
    assert written(output) - set(others) == set()


def test_a_second_run_keeps_what_the_first_found(command_line, tmp_path, monkeypatch):
    one, two, three = scenes = detectors.drawn_scenes(tmp_path / "photos", 3)
    first = run(command_line, {one: scenes[one], two: scenes[two]}, tmp_path)
    second = run(command_line, {three: scenes[three], two: scenes[two][:1]}, tmp_path)
    assert [entry for entry in second if entry["file_name"] == str(one)] == first[:3]
    assert [entry["file_name"] for entry in second[3:]] == [str(three)] * 3 + [str(two)]
    assert [entry["image_id"] for entry in second[3:]] == [3, 3, 3, 2]

    monkeypatch.chdir(two.parent)  # the same photo, named in another way
    link = tmp_path / "link.png"
    link.symlink_to(two)
    model = detectors.save(tmp_path / "last", {two: scenes[two][:2]})
    for name, count, image_id in ((two.name, 8, 2), (f"../photos/{two.name}", 8, 2), (link, 10, 4)):
        assert command_line(mask_rcnn_hub, name, "--model", model, "--output", tmp_path / "output")[0] == 0
        third = json.loads((tmp_path / "output" / "detections.json").read_text())
        assert len(third) == count and [entry["image_id"] for entry in third[-2:]] == [image_id] * 2


def test_a_photo_that_fails_keeps_its_earlier_detections(command_line, tmp_path):
    one, two = scenes = detectors.drawn_scenes(tmp_path / "photos", 2)
    first = run(command_line, scenes, tmp_path)
    one.write_bytes(b"damaged")
    flags = ("--model", tmp_path / "models" / "0", "--output", tmp_path / "output")
    status, _, err = command_line(mask_rcnn_hub, one, two, *flags)
    assert status == 1 and err.count("\n") == 1
    assert json.loads((tmp_path / "output" / "detections.json").read_text()) == first


def test_image_ids_never_collide(tmp_path):
    names = (
        "00123.jpg",
        "123.jpg",
        "a.jpg",
        "1.jpg",
        "x/1.jpg",
        "9007199254740993.jpg",
        "٤.jpg",
        "0.jpg",
        "b.jpg",
        "-5.jpg",
    )
    paths = [tmp_path / name for name in names]
    ids = results.image_ids(paths, [])
    assert ids == dict(zip(paths, (123, 2, 3, 1, 5, 6, 4, 0, 7, 8), strict=True))
    earlier = [{"file_name": str(path), "image_id": number} for path, number in ids.items()]
    more = [tmp_path / name for name in ("7.jpg", "77.jpg", "c.jpg", "b.jpg", "y/123.jpg")]
    assert list(results.image_ids(more, earlier).values()) == [9, 77, 10, 7, 11]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "{}",
        '"text"',
        "7",
        "[7]",
        '{"images": [], "annotations": []}',
        '[{"image_id": 3, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]',
        '[{"image_id": "3", "file_name": "a.jpg"}]',
        "[" * 100_000,
        b"\xff\xfe[]",
    ],
)
def test_a_foreign_detections_json_is_not_replaced(command_line, tmp_path, content):
    """The run is refused before any work."""
    (path,) = detectors.drawn_scenes(tmp_path / "photos", 1)
    output = tmp_path / "output"
    output.mkdir()
    content = content if isinstance(content, bytes) else content.encode()
    (output / "detections.json").write_bytes(content)
    status, out, err = command_line(mask_rcnn_hub, path, "--model", "small", "--output", output)
    assert status == 2 and out == "" and err.count("\n") == 1
    assert f"--output {output}: detections.json there was not written by this recipe" in err
    assert "name another folder" in err and len(err) < 500
    assert {file.name: file.read_bytes() for file in output.iterdir()} == {"detections.json": content}


def test_names_in_subfolders(tmp_path):
    """Output names may have folders in them."""
    mask = disc(90, 120, 40, 50, 20)
    objects = found(mask)
    made = mask_rcnn_hub.save(tmp_path, "100CANON/IMG_1", painted(mask), objects, cutout_score=0.5)
    assert made[1]["file_name"] == "100CANON/IMG_1_1_cutout.png" and (tmp_path / made[1]["file_name"]).exists()
    png.write(tmp_path / "100CANON" / "IMG_1_2_cutout.png", np.zeros((1, 1), np.uint8))
    old = cutouts.of_earlier_runs(tmp_path, ["100CANON/IMG_1", "IMG_1", "101CANON/IMG_1"])
    assert old == {"100CANON/IMG_1": {f"100CANON/IMG_1_{number}_cutout.png" for number in (1, 2)}}
    cutouts.remove(tmp_path, old["100CANON/IMG_1"], kept=made)
    assert written(tmp_path) == {"100CANON/IMG_1_1_cutout.png"}


def test_coarse_masks_are_fitted_again(tmp_path):
    """A detector's mask is cut out with its probabilities, which leave more room than its outline."""
    mask = disc(300, 400, 150, 200, 80)
    photo = painted(mask, softness=2)
    path = tmp_path / "1.png"
    Image.fromarray(photo).save(path)
    shutil.copy(path, tmp_path / "2.png")
    predict = detector.from_saved_model(str(detectors.save(tmp_path / "model", {path: found(mask)})))
    objects = detector.detect(predict, photo, {17: "cat"}, 0.3, 10)
    assert objects[0].probabilities.dtype == np.float32 and max(objects[0].probabilities.shape) <= 128
    opacity = opacity_in_photo(cut(photo, objects, 1), mask.shape)
    assert np.abs(opacity / 255 - cv2.GaussianBlur(np.float32(mask), (0, 0), 2)).mean() < 0.01
