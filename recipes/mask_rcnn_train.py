"""A small Mask R-CNN of your own: finds and outlines cats and dogs, or whatever you annotated.

Trains the Mask R-CNN of tf-models-official, with MobileNetV2 as its backbone, on Oxford-IIIT Pet, where each photo has
one pet, or on a folder with COCO annotations. Scenes are composed anew in every epoch: photos at random scales, with
more instances pasted into them (copy-paste), and some scenes without any instance. Saves COCO's average precisions,
curves, a mosaic and a SavedModel that mask_rcnn_hub.py can load.

Needs:   two CPU cores and 6 GB of memory; at 320 px a step of 8 scenes takes 0.7 s, so 30 epochs on the pets take
         three hours. The first run downloads 800 MB of photos and 9 MB of weights. Few photos get more epochs: it
         needs 2,000 steps.
Run:     python recipes/mask_rcnn_train.py                      train on Oxford-IIIT Pet
         python recipes/mask_rcnn_train.py --data DIR           train on DIR/images and DIR/annotations.json
         python recipes/mask_rcnn_hub.py cat.jpg --model weights/mask_rcnn_train    use it
Expect:  the weights in this repository, trained for 14 epochs on the pets and some further photos, reach an average
         precision of 0.78 (boxes) and 0.75 (masks); see weights/README.md.
Papers:  He, Gkioxari, Dollar, Girshick: Mask R-CNN, ICCV 2017;
         Lin, Dollar, Girshick et al.: Feature Pyramid Networks for Object Detection, CVPR 2017;
         Ghiasi et al.: Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation, CVPR 2021.
"""

from app import cli
from app.detect import network, training

import tf_keras

IMAGE_SIZE = 320
EPOCHS = 30
BATCH_SIZE = 8
LEARNING_RATE = 1e-3  # the highest, after the warm-up; it ends at 0
WARM_UP = 100  # steps
FILTERS = 96  # channels of the feature pyramid and the heads
PROPOSALS = 100  # regions that the heads look at; the heads take as long as the rest of the network
DETECTIONS = 20  # the most in a photo, raised if a photo of the data has more instances
WEIGHT_DECAY = 4e-5
EMA_MOMENTUM = 0.998  # averages the weights of about the last 500 steps, or of the last tenth of a short training
MAX_GRADIENT_NORM = 10.0


@cli.program()
def main() -> None:
    run = training.start(
        "mask_rcnn_train",
        __doc__,
        image_size=IMAGE_SIZE,
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
    )
    data = training.load_data(run)
    detections = max(DETECTIONS, data.max_instances)
    task = network.task(  # of tf-models-official: the model and its losses
        run.image_size,
        1 + len(data.categories),  # with the background
        filters=FILTERS,
        proposals=max(PROPOSALS, 2 * detections),
        detections=detections,
        weight_decay=WEIGHT_DECAY,
    )
    model = task.build_model()
    network.load_encoder_weights(model, run.encoder_weights)
    steps = run.epochs * data.steps_per_epoch
    warm_up = min(WARM_UP, steps // 5)
    learning_rate = tf_keras.optimizers.schedules.CosineDecay(
        0.0, steps - warm_up, warmup_target=run.learning_rate, warmup_steps=warm_up
    )
    ema_momentum = max(0.0, min(EMA_MOMENTUM, 1 - 10 / steps))
    optimizer = tf_keras.optimizers.Adam(
        learning_rate, global_clipnorm=MAX_GRADIENT_NORM, use_ema=True, ema_momentum=ema_momentum
    )
    train_step = network.make_train_step(task, model, optimizer)
    training.fit(run, data, model, train_step, optimizer)  # scores and keeps the averaged weights after each epoch
    training.report(run, data)


if __name__ == "__main__":
    main()
