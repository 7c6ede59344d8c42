"""Panoptic segmentation with kMaX-DeepLab and ReMaX on TensorFlow 2.

  import deeplab2
  model = deeplab2.load('exported')
  result = model('street.jpg')

`load` returns a Model, which returns a Result for an image. Mistakes are raised as UserError, one
line that says what would be right. Importing the package imports nothing else; `load` imports
TensorFlow.

Importing the package before TensorFlow changes three defaults of TensorFlow's, unless the
environment has set them: it does not print the lines about its build (and, without a GPU, an error
for that), it takes the memory of GPUs as it needs it and not all at once, and it loads tf_keras,
which the package uses, and not Keras 3 with scikit-learn and Matplotlib as well.
"""

from collections.abc import Iterable
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from deeplab2.errors import UserError
  from deeplab2.inference.model import Model
  from deeplab2.inference.result import Result

__all__ = ('Model', 'Result', 'UserError', 'load')

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2' if os.path.exists('/dev/nvidia0') else '3')
os.environ.setdefault('TF_FORCE_GPU_ALLOW_GROWTH', 'true')
os.environ.setdefault('TF_USE_LEGACY_KERAS', '1')


def load(
  source: 'str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]]',
  checkpoint: 'str | os.PathLike[str] | None' = None,
  *,
  overrides: Iterable[str] = (),
) -> 'Model':
  """Loads a model that segments images.

    model = deeplab2.load('exported')             a SavedModel, written by deeplab2-export
    model = deeplab2.load('model.tflite')         a LiteRT model, of deeplab2-export as well
    model = deeplab2.load('runs/my_run')          a run: its config and its newest checkpoint
    model = deeplab2.load(config, checkpoint)     a config and the checkpoint of such a model
    result = model('street.jpg')                  an image: a Result
    results = model(['a.jpg', 'b.png'])           several: a list of them, batch by batch

  An image is a path, a uint8 RGB array [height, width, 3], a PIL image or a tf.Tensor.

  Args:
    source: directory of a SavedModel or of a run; a .tflite file; or a config, the path of a
      textproto or the name of one that comes with the package, like 'coco/kmax_resnet50'.
    checkpoint: for a config: prefix of a checkpoint, a directory whose newest one is taken, or a
      file of PyTorch kMaX-DeepLab.
    overrides: of a config or run, 'a.b.c=value' each, as `--set` of the commands.

  Raises:
    UserError: there is no such model, or it is damaged.
  """
  from deeplab2.inference import loading

  return loading.load(source, checkpoint, overrides=overrides)


def __getattr__(name: str) -> Any:
  """Imports what is public when it is asked for."""
  if name == 'Model':
    from deeplab2.inference.model import Model

    return Model
  if name == 'Result':
    from deeplab2.inference.result import Result

    return Result
  if name == 'UserError':
    from deeplab2.errors import UserError

    return UserError
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  """Returns the public names with the others."""
  return sorted({*globals(), *__all__})
