"""Trains unet_scratch on logical CPUs or as a worker and saves its weights: `worker.py LOGICAL_CPUS FLAG...`."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "recipes"))

from app.training import runs

import numpy as np
import tensorflow as tf
import unet_scratch

cpus = int(sys.argv.pop(1))
if cpus > 1:
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * cpus)

report = runs.Run.report


def keep_weights_and_report(run, data):
    np.savez(run.output.with_name(f"weights-{run.team.worker}.npz"), *run.recorder.model.get_weights())
    report(run, data)


runs.Run.report = keep_weights_and_report
unet_scratch.main()
