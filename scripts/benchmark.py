"""Measures one part of the system; the last line printed is one JSON object.

  python scripts/benchmark.py PART --config_file=CONFIG [--records='FILES*'] [--set a.b=c ...]

`input` measures an image of --records through the training pipeline, and its stages one by one;
`train` a whole step (forward, losses, backward, update) on a made batch; `remax` such steps without
and with ReMask and ReClass by turns, in one process, and their ratios; `infer` the network, the
post-processing and both together on one made image; `compiled` the network compiled by XLA
(`jit_compile=True`); `litert` the model converted to LiteRT, from a uint8 image of the evaluation
size to its map, on 1 and 2 threads, each in a process without TensorFlow, in the formats
--quantize; `eval` one update of panoptic quality; `matching` one assignment.

`cpu_ms` is the process time of all threads and hardly depends on what else the machine does;
`wall_ms` does. `first_call_s` holds tracing and the first run. `peak_mb` is the peak resident
memory of the process, TensorFlow itself (about 500 MB) included; on a GPU, `device_peak_mb` is the
peak of what TensorFlow's allocator gave out there.
"""

import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf

from deeplab2 import assemble
from deeplab2 import command_line
from deeplab2 import errors
from deeplab2 import kernels
from deeplab2 import structures
from deeplab2.config import load
from deeplab2.data import augment
from deeplab2.data import copy_paste
from deeplab2.data import pipeline
from deeplab2.data import targets
from deeplab2.data import tfrecord
from deeplab2.loss import assignment
from deeplab2.metrics import panoptic_quality
from deeplab2.trainer import trainer
from deeplab2.trainer import training


def measure(run, repeats: int) -> dict:
  """Calls `run` once, then `repeats` times; returns times in ms, first call in s, peak in MB."""
  gpus = tf.config.list_logical_devices('GPU')
  started = time.perf_counter()
  run()
  first_call = time.perf_counter() - started
  for gpu in gpus:  # The first call tries algorithms, which need more.
    tf.config.experimental.reset_memory_stats(gpu.name)
  wall, cpu = zip(*(_times_ms(run) for _ in range(repeats)), strict=True)
  peaks = [tf.config.experimental.get_memory_info(gpu.name)['peak'] for gpu in gpus]
  on_device = {'device_peak_mb': round(max(peaks) / 2**20)} if peaks else {}
  return {
    'wall_ms_median': round(statistics.median(wall), 3),
    'wall_ms_min': round(min(wall), 3),
    'cpu_ms_median': round(statistics.median(cpu), 3),
    'peak_mb': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    'first_call_s': round(first_call, 2),
    **on_device,
  }


def _times_ms(run, *arguments) -> tuple[float, float]:
  """Calls `run`; returns wall time and process time in ms."""
  wall, cpu = time.perf_counter(), time.process_time()
  run(*arguments)
  return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)


def synthetic_labels(
  label_space: structures.LabelSpace, size, segments: int, seed: int
) -> np.ndarray:
  """Returns an int32 panoptic map [H, W] of `segments` Voronoi cells, two thirds of them things."""
  generator = np.random.default_rng(seed)
  height, width = size
  centers = generator.uniform(size=(segments, 2)) * (height, width)
  rows, columns = np.mgrid[:height, :width]
  distance = (rows[..., None] - centers[:, 0]) ** 2 + (columns[..., None] - centers[:, 1]) ** 2
  cell = np.argmin(distance, axis=-1)
  ids, used = [], {}
  for index in range(segments):
    if index % 3 or not label_space.stuff_ids:
      class_id = int(generator.choice(label_space.thing_ids))
      used[class_id] = used.get(class_id, 0) + 1
      ids.append(class_id * label_space.label_divisor + used[class_id])
    else:
      ids.append(int(generator.choice(label_space.stuff_ids)) * label_space.label_divisor)
  return np.asarray(ids, np.int32)[cell]


def synthetic_sample(config, field: str) -> structures.Sample:
  """Returns a training batch of the config's size: noise, with about 20 segments an image."""
  options = config.value(field)
  height, width = options.crop_size
  space = assemble.dataset_info(config).label_space
  target_options = targets.TargetOptions(max_thing_id=options.max_thing_id)
  images, maps = [], []
  for index in range(options.batch_size):
    label = synthetic_labels(space, (height, width), segments=20, seed=index)
    maps.append(
      targets.make_targets(tf.constant(label), tf.constant('made'), space, target_options)
    )
    images.append(np.random.default_rng(index).uniform(0, 255, (height, width, 3)))
  stacked = structures.Targets(*(tf.stack(parts) for parts in zip(*maps, strict=True)))
  return structures.Sample(tf.constant(np.stack(images), tf.float32), stacked)


def benchmark_input(config, options) -> dict:
  """Measures one image through the training pipeline, pipeline threads included."""
  if not options.records:
    raise errors.UserError('--records is missing: the TFRecord files to read.')
  dataset_options = config.options.train_dataset_options
  dataset_options.file_pattern[:] = [options.records]
  batches = iter(assemble.train_dataset(config))
  num_batches = -(-20 // dataset_options.batch_size)
  result = measure(lambda: [next(batches) for _ in range(num_batches)], options.repeats)
  images = dataset_options.batch_size * num_batches
  for name in ('wall_ms_median', 'wall_ms_min', 'cpu_ms_median'):
    result[name] = round(result[name] / images, 3)
  return result | {'stages_cpu_ms': input_stages(config, options.records)}


def input_stages(config, records: str, images: int = 40) -> dict[str, float]:
  """Returns the CPU time an image of each stage of the training input, each run by itself.

  The stages of the other image, for copy-paste, begin with `other`. Shuffling and batching belong
  to no stage, and calls one by one cost more than inside the pipeline: the sum is not the whole.
  """
  settings = assemble.train_input(config)
  space, policy, paste = settings['label_space'], settings['policy'], settings['paste']
  files = pipeline.find_files([records])
  stored = list(tf.data.TFRecordDataset(files).repeat().take(images + 1))
  spent: dict[str, float] = {}

  def timed(name, function, *arguments):
    started = time.process_time()
    result = function(*arguments)
    tf.nest.map_structure(lambda tensor: tensor.numpy(), result)
    spent[name] = spent.get(name, 0) + time.process_time() - started
    return result

  decode = tf.function(lambda serialized: tfrecord.parse_example(serialized, True))

  def augmenter(scale, policy, void_id):
    """Returns the augmentation of one image and its label as a graph, as the pipeline calls it."""

    @tf.function(
      input_signature=[
        tf.TensorSpec([None, None, 3], tf.uint8),
        tf.TensorSpec([None, None, 1], tf.int32),
        tf.TensorSpec([2], tf.int64),
      ]
    )
    def augmented(image, label, seed):
      return augment.augment(
        image,
        label[..., 0],
        augment.draw(seed, scale),
        policy=policy,
        crop_size=settings['crop_size'],
        resize=settings['resize'],
        void_id=void_id,
      )

    return augmented

  plain = augmenter(settings['scale'], None, space.void_id)
  full = augmenter(settings['scale'], policy, space.void_id)
  other = paste and augmenter(
    settings['scale'].times(paste.scale), policy, copy_paste.padding_id(space)
  )
  pasted = tf.function(
    lambda *arguments: copy_paste.paste(
      *arguments[:4], name=tf.constant(''), space=space, settings=paste, seed=arguments[4]
    )
  )
  target = tf.function(
    lambda label: targets.make_targets(label, tf.constant(''), space, settings['target_options'])
  )

  def run(number):
    seed = tf.constant([0, number], tf.int64)
    image, label = timed('decode', decode, stored[number])[:2]
    timed('resize_crop_flip', plain, image, label, seed)
    image, label = timed('with_autoaugment', full, image, label, seed)
    if paste:
      pair = timed('other_decode', decode, stored[number + 1])[:2]
      pair = timed('other_augment', other, *pair, seed)
      image, label = timed('copy_paste', pasted, image, label, *pair, seed)
    timed('targets', target, label)

  run(0)  # Traces.
  spent.clear()
  for number in range(images):
    run(number)
  with_autoaugment = spent.pop('with_autoaugment')
  if policy:
    spent['autoaugment'] = with_autoaugment - spent['resize_crop_flip']
  return {name: round(1e3 * seconds / images, 2) for name, seconds in spent.items()}


def benchmark_train(config, options) -> dict:
  """Measures a training step: forward, all losses, backward, update."""
  step = synthetic_trainer(config)
  return measure(lambda: step.train(1), options.repeats)


def benchmark_remax(config, options) -> dict:
  """Measures training steps without and with ReMask and ReClass by turns."""
  losses = config.options.trainer_options.loss_options
  steps = {}
  for name, enable in (('plain', False), ('remax', True)):
    losses.remask.enable = losses.reclass.enable = enable
    steps[name] = synthetic_trainer(config)
    steps[name].train(2)  # The first steps are slower.
  times = {name: [] for name in steps}
  for _ in range(options.repeats):
    for name, step in steps.items():
      times[name].append(_times_ms(step.train, 1))
  result = {}
  medians = {name: np.median(durations, axis=0).tolist() for name, durations in times.items()}
  for index, statistic in enumerate(('wall_ms_median', 'cpu_ms_median')):
    result[statistic] = {name: round(value[index], 1) for name, value in medians.items()}
    result[statistic]['ratio'] = round(result[statistic]['remax'] / result[statistic]['plain'], 3)
  return result


def synthetic_trainer(config) -> trainer.Trainer:
  """Returns a trainer of the config's model from scratch on a made batch."""
  options = config.options.trainer_options
  model = assemble.model(config, training=True, precision=options.precision)
  sample = synthetic_sample(config, 'train_dataset_options')
  batch = config.options.train_dataset_options.batch_size // options.gradient_accumulation_steps
  dataset = tf.data.Dataset.from_tensor_slices(sample).take(batch)
  dataset = dataset.batch(batch, drop_remainder=True)  # As in training, graphs know the size.
  return training.create_trainer(
    config,
    model,
    training.create_state(config, model),
    dataset.cache().repeat(),
    global_step=tf.Variable(0, dtype=tf.int64),
  )


def benchmark_infer(config, options) -> dict:
  """Measures the network; `postprocessing` and `both` hold the other two parts."""
  model = assemble.model(config)
  merge = assemble.post_processing(config)
  image = synthetic_image(config)
  network = tf.function(model.infer)
  both = tf.function(lambda x: merge(*model.infer(x)[:2]))
  logits = synthetic_logits(network(image), confident=30)
  merging = tf.function(lambda: merge(*logits))
  # `both` goes first, so that its first call holds all tracing.
  together = measure(lambda: both(image).panoptic.numpy(), options.repeats)
  result = measure(lambda: network(image).mask_logits.numpy(), options.repeats)
  postprocessing = measure(lambda: merging().panoptic.numpy(), options.repeats)
  return result | {'postprocessing': postprocessing, 'both': together}


def benchmark_compiled(config, options) -> dict:
  """Measures the network compiled by XLA, and how far its class logits are from the plain ones."""
  model = assemble.model(config)
  image = synthetic_image(config)
  network = tf.function(model.infer, jit_compile=True)
  result = measure(lambda: network(image).mask_logits.numpy(), options.repeats)
  plain = tf.function(model.infer)(image).class_logits.numpy()
  difference = np.abs(network(image).class_logits.numpy() - plain).max()
  return result | {'class_logits_difference': float(difference), 'of_std': float(plain.std())}


def synthetic_image(config) -> tf.Tensor:
  """Returns noise [1, H, W, 3] of the config's evaluation size, float32 from 0 to 255."""
  (height, width), _ = assemble.eval_fit(config)
  return tf.constant(np.random.default_rng(0).uniform(0, 255, (1, height, width, 3)), tf.float32)


def synthetic_logits(prediction, confident: int):
  """Returns logits of `prediction`'s shapes with `confident` compact masks of a sure class."""
  _, height, width, slots = prediction.mask_logits.shape
  generator = np.random.default_rng(0)
  centers = generator.uniform(size=(confident, 2)) * (height, width)
  rows, columns = np.mgrid[:height, :width]
  distance = np.hypot(rows[..., None] - centers[:, 0], columns[..., None] - centers[:, 1])
  masks = generator.normal(size=(1, height, width, slots))
  masks[..., :confident] += 12.0 - distance / max(height, width) * 100
  classes = generator.normal(size=prediction.class_logits.shape)
  classes[..., -1] += 8.0
  classes[:, np.arange(confident), generator.integers(0, classes.shape[-1] - 1, confident)] += 20.0
  return tf.constant(masks, tf.float32), tf.constant(classes, tf.float32)


def benchmark_litert(config, options) -> dict:
  """Measures the LiteRT model: seconds of CPU to convert it, and by format its size and runs."""
  from deeplab2.inference import litert
  from deeplab2.inference import segmenter

  model = segmenter.create(config, assemble.model(config))
  started = time.process_time()
  converted = litert.convert(model, 'panoptic')
  result: dict = {'convert_cpu_s': round(time.process_time() - started, 1)}
  runner = pathlib.Path(__file__).with_name('run_litert.py')
  with tempfile.TemporaryDirectory() as directory:
    for form in options.quantize.split(','):
      path = pathlib.Path(directory, f'{form}.tflite')
      path.write_bytes(litert.quantize(converted, form))
      result[form] = {'file_mb': round(path.stat().st_size / 1e6, 1)}
      for threads in (1, 2):
        command = [sys.executable, str(runner), f'--model={path}', f'--threads={threads}']
        command += [f'--size={model.crop_size[0]},{model.crop_size[1]}']
        command += [f'--repeats={options.repeats}']
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result[form][f'threads_{threads}'] = json.loads(done.stdout)
  return result


def benchmark_eval(config, options) -> dict:
  """Measures one update of panoptic quality: an image of 28 segments, half of them moved."""
  space = assemble.dataset_info(config).label_space
  (height, width), _ = assemble.eval_fit(config)
  ground_truth = synthetic_labels(space, (height, width), segments=28, seed=0)
  prediction = np.roll(ground_truth, 5, axis=1)
  metric = panoptic_quality.PanopticQuality(space)
  return measure(lambda: metric.update(ground_truth, prediction), options.repeats)


def benchmark_matching(config, options) -> dict:
  """Measures one assignment of a batch with 20 valid rows an image."""
  size = config.options.train_dataset_options.batch_size
  stuff_ids = assemble.dataset_info(config).label_space.stuff_ids
  rows = config.options.train_dataset_options.max_thing_id + len(stuff_ids)
  slots = config.options.model_options.kmax.num_mask_slots
  generator = np.random.default_rng(0)
  cost = tf.constant(-(generator.uniform(size=(size, rows, slots)) ** 2), tf.float32)
  is_valid = tf.constant(generator.permuted(np.tile(np.arange(rows) < 20, [size, 1]), axis=1))
  assign = tf.function(assignment.assign)
  return measure(lambda: assign(cost, is_valid).numpy(), options.repeats)


PARTS = {
  'input': benchmark_input,
  'train': benchmark_train,
  'remax': benchmark_remax,
  'infer': benchmark_infer,
  'compiled': benchmark_compiled,
  'litert': benchmark_litert,
  'eval': benchmark_eval,
  'matching': benchmark_matching,
}


def main(arguments) -> int:
  """Runs the command line; returns its exit code."""
  parser = command_line.Parser(__doc__)
  parser.add_argument('part', choices=PARTS)
  parser.add_argument('--config_file', required=True)
  parser.add_overrides()
  parser.add_argument('--records', help='input: TFRecord files to read, a pattern.')
  parser.add_argument(
    '--kernels',
    choices=kernels.FORMS,
    default='auto',
    help='Form of the kernels (deeplab2/kernels); auto: by the devices.',
  )
  parser.add_argument(
    '--quantize', default='none', help='litert: formats to measure, of none,float16,dynamic_int8.'
  )
  parser.add_argument('--repeats', type=int, default=10, help='Measured calls after the first.')

  def run():
    options = parser.parse_args(arguments)
    config = load.load(options.config_file, options.set)
    with kernels.use(options.kernels):
      result = PARTS[options.part](config, options)
    named = {'part': options.part, 'config': options.config_file, 'set': options.set}
    print(json.dumps({**named, **result}))

  return command_line.run(run)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
