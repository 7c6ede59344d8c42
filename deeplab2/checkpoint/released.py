"""Loading DeepLab2's public checkpoints: whole models, and backbones trained on ImageNet.

Four layouts are understood, by the keys of the backbone: `encoder/...` of models and classifiers of
DeepLab2, `backbone/_encoder/...` of Model Garden's classifiers, keys without a place in front, as
Keras writes the weights of a backbone alone, and names of variables, as MOAT's classifiers have.
Every tensor of the file and every variable of the model is accounted for before anything is
changed.
"""

from collections.abc import Callable, Iterable, Mapping
import re
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab2 import errors
from deeplab2.checkpoint import reading
from deeplab2.checkpoint import released_keys

_ENCODER = 'encoder/'
_MODEL_GARDEN_ENCODER = 'backbone/_encoder/'
# Keys of a backbone that was saved alone.
_BARE_ENCODER = re.compile(r'(downsample_layers/\d+|stages/\d+|_stem|_stage\d+|_blocks/\d+)/')
# What only a whole kMaX-DeepLab has.
_WHOLE = ('pixel_decoder/', 'transformer_decoder/')
# Read by nobody but the trainer that wrote them.
_BOOKKEEPING = re.compile(
  r'(global_step|save_counter|_CHECKPOINTABLE_OBJECT_GRAPH)$|(backbone_)?optimizer/|'
  r'.*/\.OPTIMIZER_SLOT/'
)
_LAST_SEMANTIC_LAYER = 'semantic_last_layer/'
_CLASS_HEADS = re.compile(rf'{_LAST_SEMANTIC_LAYER}|(.*/_?)?transformer_class_head/')
# (family of a backbone, keys that only it has, keys of a block), the first that has keys.
_FAMILIES = tuple(
  (family, re.compile(f'encoder/{sign}'), re.compile(f'encoder/{block}'))
  for family, sign, block in (
    ('ConvNeXt', 'stages/', r'stages/\d+/layer_with_weights-\d+/'),
    ('MOAT', r'_blocks/\d+/\d+/', r'_blocks/\d+/\d+/'),
    ('MobileNetV3', '_blocks/', r'_blocks/\d+/'),
    ('Axial-ResNet', r'_stage\d+/_block\d+/_attention/', r'_stage\d+/_block\d+/'),
    ('ResNet', r'_stage\d+/', r'_stage\d+/_block\d+/'),
  )
)
_MOVING_STATISTICS = re.compile('/moving_(mean|variance)$')
_NOTHING = re.compile('(?!)')


class Report(NamedTuple):
  """The account of every tensor and variable, by released key."""

  matched: tuple[str, ...]
  skipped: tuple[str, ...]  # Class heads left as they were initialised, as asked.
  missing: tuple[str, ...]  # Variables that the checkpoint does not have: left as they were too.
  unused: tuple[str, ...]  # Tensors of a classifier next to the backbone.

  def summary(self) -> str:
    """Returns a line for people."""
    parts = [f'{len(self.matched)} tensors matched']
    if self.skipped:
      parts.append(f'skipped, as class heads: {", ".join(self.skipped)}')
    if self.missing:
      parts.append(
        f'{len(self.missing)} variables start from scratch: {errors.listed(self.missing)}'
      )
    if self.unused:
      parts.append(f'{len(self.unused)} tensors are of no use here: {errors.listed(self.unused)}')
    return '; '.join(parts)


class _Stored(NamedTuple):
  """A checkpoint under the keys of `encoder/...`."""

  sources: Mapping[str, str]  # Our key -> the checkpoint's own, with TensorFlow's ending.
  shapes: Mapping[str, tuple[int, ...]]  # By our key.
  unused: tuple[str, ...]  # Keys next to a backbone.
  is_whole: bool  # Not just a backbone.
  may_lack: re.Pattern  # Keys of variables that need not be there.


def _of_model_garden(key):
  is_ours = key.startswith(_MODEL_GARDEN_ENCODER)
  return _ENCODER + key.removeprefix(_MODEL_GARDEN_ENCODER) if is_ours else None


def _of_deeplab2(key):
  return key if key.startswith(_ENCODER) else None


def _of_keras(key):
  return _ENCODER + key if _BARE_ENCODER.match(key) else None


# Each turns a key of a backbone into ours, others into None. The first that knows any is taken.
_LAYOUTS: tuple[Callable[[str], str | None], ...] = (
  _of_model_garden,
  _of_deeplab2,
  _of_keras,
  released_keys.of_moat_name,
)


def is_released(reader: reading.Reader) -> bool:
  """Says whether a checkpoint has a backbone as above."""
  return _layout(reader.stripped_shapes()) is not None


def is_whole(reader: reading.Reader) -> bool:
  """Says whether a checkpoint with a backbone as above holds a whole kMaX-DeepLab."""
  return _stored(reader).is_whole


def load(
  reader: reading.Reader,
  model: tf.Module,
  *,
  fresh_class_heads: bool = False,
  backbone_alone: bool = False,
  for_classes: str = '',
) -> Report:
  """Fills the variables of a whole model.

  Args:
    reader: of the checkpoint.
    model: with its variables created.
    fresh_class_heads: leave the last semantic layer, and the class heads if they have another
      number of classes, as they were initialised.
    backbone_alone: whether a checkpoint of the backbone alone will do; all else is left as it was.
    for_classes: what to do about another number of classes, for the error.

  Raises:
    UserError: if the checkpoint cannot be read, is no whole kMaX-DeepLab (or backbone, if that
      will do), lacks a variable, has an unknown tensor, or one of another shape. No variable has
      been changed then.
  """
  prefix, stored = reader.prefix, _stored(reader)
  variables = released_keys.of_model(model)
  if not stored.is_whole:
    if not backbone_alone:
      raise errors.UserError(
        f'{prefix}: holds a backbone, {_described(stored.shapes)}, where a whole kMaX-DeepLab is '
        'expected; training can start from it.'
      )
    backbone = {key: value for key, value in variables.items() if key.startswith(_ENCODER)}
    matched = _fill_backbone(reader, stored, backbone)
    return Report(matched, (), tuple(key for key in variables if key not in matched), stored.unused)
  skipped = set()
  if fresh_class_heads:
    skipped = {key for key in variables if key.startswith(_LAST_SEMANTIC_LAYER)}
    skipped |= heads_of_other_classes(variables, stored.shapes, _CLASS_HEADS)
  wanted = {key: value for key, value in variables.items() if key not in skipped}
  _fill(reader, _without(stored, skipped), wanted, for_classes)
  return Report(tuple(wanted), tuple(sorted(skipped)), (), ())


def load_backbone(reader: reading.Reader, backbone: tf.Module) -> Report:
  """Fills a backbone from a checkpoint of it alone, a classifier, or a whole model.

  Raises:
    UserError: if the checkpoint cannot be read, or is not of exactly this backbone. No variable
      has been changed then.
  """
  stored = _stored(reader)
  rest = [key for key in stored.shapes if not key.startswith(_ENCODER)]
  variables = released_keys.of_model(backbone, 'backbone')
  matched = _fill_backbone(reader, _without(stored, rest), variables)
  missing = tuple(key for key in variables if key not in matched)
  return Report(matched, (), missing, (*rest, *stored.unused))


def _stored(reader):
  """Returns the tensors of a checkpoint by our keys, without TensorFlow's bookkeeping."""
  shapes = reader.stripped_shapes()
  layout = _layout(shapes)
  shapes = {key: shape for key, shape in shapes.items() if not _BOOKKEEPING.match(key)}
  if layout is None:
    raise errors.UserError(
      f'{reader.prefix}: holds no backbone of DeepLab2; it has {errors.listed(shapes)}.'
    )
  is_whole = layout is _of_deeplab2 and any(key.startswith(_WHOLE) for key in shapes)
  sources, unused = {}, []
  for key in shapes:
    ours = key if is_whole else layout(key)
    if ours is None:
      unused.append(key)
    else:
      sources[ours] = key + reading.SUFFIX if reader.has(key + reading.SUFFIX) else key
  return _Stored(
    sources,
    {ours: shapes[key.removesuffix(reading.SUFFIX)] for ours, key in sources.items()},
    tuple(unused),
    is_whole,
    # DeepLab2 reads trainable variables alone of them.
    _MOVING_STATISTICS if layout is released_keys.of_moat_name else _NOTHING,
  )


def _layout(keys):
  """Returns which of _LAYOUTS a checkpoint has, None if it has no backbone."""
  return next((layout for layout in _LAYOUTS if any(map(layout, keys))), None)


def heads_of_other_classes(
  variables: Mapping[str, tf.Variable], stored: Mapping[str, tuple[int, ...]], head: re.Pattern
) -> set[str]:
  """Returns the keys of the heads that a checkpoint has with another number of classes.

  Args:
    variables: by key.
    stored: shapes by key.
    head: matches the start of a key of a head, all of it that its tensors have in common.
  """
  heads: dict[str, list[str]] = {}
  for key in variables:
    found = head.search(key)
    if found:
      heads.setdefault(key[: found.end()], []).append(key)
  return {
    key
    for keys in heads.values()
    for key in keys
    if any(stored.get(one, (None,))[-1:] != tuple(variables[one].shape)[-1:] for one in keys)
  }


def _without(stored, keys):
  shapes = {key: shape for key, shape in stored.shapes.items() if key not in keys}
  return stored._replace(shapes=shapes)


def _fill_backbone(reader, stored, variables):
  """Fills a backbone; returns the keys that were filled."""
  wanted = {
    key: variable
    for key, variable in variables.items()
    if key in stored.shapes or not stored.may_lack.search(key)
  }
  _fill(reader, stored, wanted)
  return tuple(wanted)


def _fill(reader, stored, variables, for_classes=''):
  """Assigns the checkpoint's values to `variables`, by our keys, once all of them are matched."""
  prefix = reader.prefix
  _check_backbone(prefix, stored, variables)
  complaints = _differences(stored.shapes, variables)
  if complaints:
    raise errors.UserError(
      f'{prefix}: this checkpoint does not fit the configuration: {complaints}.'
    )
  _check_shapes(prefix, stored, variables, for_classes)
  for key, variable in variables.items():
    value = reader.get(stored.sources[key])
    variable.assign(np.asarray(value).astype(variable.dtype.as_numpy_dtype))


def _check_backbone(prefix, stored, variables):
  ours, theirs = (
    [key for key in keys if key.startswith(_ENCODER)] for keys in (variables, stored.shapes)
  )
  complaints = _differences(theirs, ours)
  if complaints:
    found, expected = _described(theirs), _described(ours)
    raise errors.UserError(
      f'{prefix}: holds the backbone {found}, '
      + (f'where the configuration has {expected}: ' if found != expected else 'but ')
      + f'{complaints}.'
    )


def _check_shapes(prefix, stored, variables, for_classes):
  wrong = [
    (key, list(stored.shapes[key]), variable.shape.as_list())
    for key, variable in variables.items()
    if stored.shapes[key] != tuple(variable.shape)
  ]
  if not wrong:
    return

  def has_other_classes(entry):
    key, theirs, ours = entry
    return bool(_CLASS_HEADS.match(key)) and theirs[-1:] != ours[-1:]

  key, theirs, ours = max(wrong, key=has_other_classes)
  if has_other_classes((key, theirs, ours)):
    cause = f'it was trained with {theirs[-1]} classes, not {ours[-1]}: {for_classes}'
  elif key.endswith('cluster_centers'):
    cause = (
      f'it has {theirs[1]} mask slots, the model {ours[1]}: set '
      f'model_options.kmax.num_mask_slots={theirs[1]}'
    )
  else:
    cause = 'it is of a model with other widths'
  others = f' and {len(wrong) - 1} more' if len(wrong) > 1 else ''
  raise errors.UserError(
    f'{prefix}: does not fit the model: {key} is {theirs} there and {ours} here{others}; {cause}.'
  )


def _differences(stored: Iterable[str], wanted: Iterable[str]) -> str:
  """Returns the missing and the surplus keys of a checkpoint as text, '' if there are none."""
  stored, wanted = set(stored), set(wanted)
  complaints = []
  if wanted - stored:
    complaints.append(f'it lacks {errors.listed(sorted(wanted - stored), 1)}')
  if stored - wanted:
    complaints.append(f'it has {errors.listed(sorted(stored - wanted), 1)} in addition')
  return '; '.join(complaints)


def _described(keys):
  """Returns family and depth of the backbone with these keys."""
  for family, sign, block in _FAMILIES:
    if any(sign.match(key) for key in keys):
      return f'{family} with {len({found[0] for found in map(block.match, keys) if found})} blocks'
  return 'of an unknown family'
