"""State dicts of PyTorch kMaX-DeepLab for tests, by the names measured from its models."""

import json

import numpy as np

from tests import conftest

NAMES = json.loads((conftest.GOLDENS / 'torch_kmax.json').read_text())
MODELS = tuple(NAMES['models'])

# How DeepLab2's layout becomes PyTorch's, by the names of the measured transforms.
_LAYOUTS = {
  'same': lambda x: x,
  'conv2d': lambda x: x.transpose(3, 2, 0, 1),
  'depthwise': lambda x: x.transpose(2, 3, 0, 1),
  'conv1d': lambda x: x.transpose(2, 1, 0),
  'pixel_sequence': lambda x: x[np.newaxis].transpose(3, 2, 0, 1),
  'qkv': lambda x: x[np.newaxis].transpose(2, 1, 0),
  'linear': lambda x: x.T,
  'layer_scale': lambda x: x.ravel(),
  'axial_similarity': lambda x: x.ravel(),
  'axial_retrieved': lambda x: x.ravel(),
  'slot_retrieved': lambda x: x.ravel(),
  'centers': lambda x: x[0].T,
  'class_kernel': lambda x: x.transpose(2, 1, 0),
  'class_bias': lambda x: x,
  'semantic_kernel': lambda x: x.transpose(3, 2, 0, 1),
  'semantic_bias': lambda x: x,
}


def rows(model):
  """Returns (torch key, released key, name of the transform, shape in PyTorch) of all tensors."""
  return [(*NAMES['rows'][row], tuple(shape)) for row, shape in NAMES['models'][model]['tensors']]


def counters(model):
  """Returns the keys of the counters of batches: one for each batch norm."""
  ending = 'running_var'
  return [
    key.removesuffix(ending) + 'num_batches_tracked'
    for key, *_ in rows(model)
    if key.endswith(ending)
  ]


def state_dict(model, values):
  """Returns what PyTorch's model saves.

  Args:
    model: one of MODELS.
    values: released key -> array in DeepLab2's layout. Keys of the model that are not there are
      left out.
  """
  orders = NAMES['orders'][model.partition('_')[0]]
  tensors = {}
  for key, released_key, transform, _ in rows(model):
    if released_key not in values:
      continue
    tensor = _LAYOUTS[transform](np.asarray(values[released_key]))
    kind = transform.partition('_')[0]
    if f'{kind}_order' in orders:
      ours, tensor = tensor, np.empty_like(tensor)
      tensor[orders[f'{kind}_order']] = ours
    tensors[key] = np.ascontiguousarray(tensor)
  for key in counters(model):
    if key.replace('num_batches_tracked', 'running_var') in tensors:
      tensors[key] = np.array(150000)
  return tensors
