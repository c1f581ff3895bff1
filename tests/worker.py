"""Trains unet_scratch as one of several devices or workers: `worker.py LOGICAL_CPUS FLAG...`, and keeps its weights."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "recipes"))

from common import runs

import numpy as np
import tensorflow as tf
import unet_scratch

cpus = int(sys.argv.pop(1))
if cpus > 1:
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * cpus)

finish = runs.finish


def keep_weights_and_finish(args, data, recorder):
    weights = recorder.model.get_weights()
    np.savez(args.output.with_name(f"weights-{recorder.device.team.worker}.npz"), *weights)
    finish(args, data, recorder)


runs.finish = keep_weights_and_finish
runs.start(unet_scratch.main)
