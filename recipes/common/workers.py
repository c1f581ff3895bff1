"""More than one GPU or machine: who trains together, and what Keras needs mended for it."""

import json
import os
import zlib
from collections.abc import Callable
from typing import NamedTuple

from common.files import InputError, in_one_line

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import trainer


class Team(NamedTuple):
    """The processes that train together. The first of them, the chief, writes the files."""

    strategy: tf.distribute.Strategy
    worker: int = 0  # which of them this process is
    workers: int = 1

    @property
    def is_chief(self) -> bool:
        return self.worker == 0

    def share(self, pipeline: Callable[[int, int], tf.data.Dataset], batch_size: int):
        """The training data of this process: its part of each batch.

        Args:
          pipeline: gives the pipeline of one worker's parts, from its number and how many there are.
          batch_size: images in the whole batch, over all workers and GPUs.
        """
        if self.workers == 1:  # the strategy itself shares a batch out among the GPUs of one machine
            return pipeline(0, 1)
        for_each_gpu = batch_size // self.strategy.num_replicas_in_sync
        return self.strategy.distribute_datasets_from_function(
            lambda _: pipeline(self.worker, self.workers).rebatch(for_each_gpu)
        )

    def all_of(self, dataset: tf.data.Dataset):
        """The validation data of this process: each worker scores all of it, so that all of them know the same."""
        return dataset if self.workers == 1 else self.strategy.distribute_datasets_from_function(lambda _: dataset)

    def agree(self, facts: dict, is_finished: bool) -> bool:
        """Makes sure that all workers are about the same; returns whether the chief's run is finished.

        Raises:
          InputError: where the facts of the workers differ, for what they train together would be nonsense.
        """
        if self.workers == 1:
            return is_finished
        digest = zlib.crc32(json.dumps(facts, sort_keys=True).encode())
        own = self.strategy.run(lambda: tf.constant([[digest, is_finished]], tf.int64))
        of_all = self.strategy.gather(own, axis=0).numpy()
        if of_all[:, 1].any():
            return True
        if len(set(of_all[:, 0].tolist())) > 1:
            raise InputError(
                "TF_CONFIG: the workers differ; give all the same flags, one shared --output, and --resume or not"
            )
        return False

    def synchronize(self, model: keras.Model) -> None:
        """Lets batch normalisation see the whole batch, where several GPUs or workers share it."""
        if self.strategy.num_replicas_in_sync > 1:
            for layer in model.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.synchronized = True


def assemble(batch_size: int) -> Team:
    """Finds out who trains together: the cluster that TF_CONFIG names, or all devices of this machine.

    With a cluster it has to come before TensorFlow is used for anything else, and waits for the other workers.

    Raises:
      InputError: where a batch cannot be shared out evenly, or TF_CONFIG makes no sense.
    """
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG") or "{}")
        tasks = (
            [(kind, index) for kind in ("chief", "worker") for index in range(len(cluster["cluster"].get(kind, ())))]
            if cluster
            else []
        )
        own = (cluster["task"]["type"], int(cluster["task"]["index"])) if tasks else None
        if tasks and own not in tasks:
            raise ValueError(f"task {own} is not in the cluster")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"TF_CONFIG: cannot be understood ({type(error).__name__}: {error})") from error
    if len(tasks) > 1:
        mend_keras()
        try:
            team = Team(tf.distribute.MultiWorkerMirroredStrategy(), tasks.index(own), len(tasks))
        except tf.errors.UnknownError as error:  # "Could not start gRPC server"
            raise InputError(f"TF_CONFIG: {in_one_line(error)}; is the port of {own[0]} {own[1]} in use?") from error
    else:
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        names = [device.name for device in devices]
        team = Team(tf.distribute.MirroredStrategy(names) if len(names) > 1 else tf.distribute.get_strategy())
    if batch_size % team.strategy.num_replicas_in_sync:
        parts = team.strategy.num_replicas_in_sync
        raise InputError(f"--batch-size: {batch_size} cannot be shared by {parts} devices; use a multiple of {parts}")
    return team


def mend_keras() -> None:
    """Mends what keeps `fit` of Keras 3.12 to 3.15 from working under MultiWorkerMirroredStrategy.

    Before the first step Keras averages a batch over the workers to learn its shape, which they cannot do with images;
    and it averages each step's metrics along an axis that single numbers do not have.
    """

    def build(model, iterator=None, data_batch=None):
        if iterator is not None:
            _, _, batches = next(iter(iterator))
            of_one_device = model.distribute_strategy.experimental_local_results
            data_batch = tf.nest.map_structure(lambda values: of_one_device(values)[0], next(batches))
        with model.distribute_strategy.scope():
            model._symbolic_build(data_batch=data_batch)

    def reduce_per_replica(values, strategy, reduction):
        return tf.nest.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), values)

    trainer.TensorFlowTrainer._maybe_symbolic_build = build
    trainer.reduce_per_replica = reduce_per_replica
