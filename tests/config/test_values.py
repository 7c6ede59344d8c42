"""Bounds of single values, at the bounds themselves."""

import pytest

from deeplab2 import errors
from deeplab2.config import config_pb2
from deeplab2.config import experiment
from deeplab2.config import values

NUMBER = 'trainer_options.solver_options.base_learning_rate'
NUMBERS = 'train_dataset_options.crop_size'
TEXT = 'trainer_options.solver_options.optimizer'


def _config(number=1.0, numbers=(), text=''):
  return experiment.Config(
    config_pb2.ExperimentOptions(
      trainer_options=dict(solver_options=dict(base_learning_rate=number, optimizer=text)),
      train_dataset_options=dict(crop_size=numbers),
    ),
    'f',
    '',
    {},
  )


@pytest.mark.parametrize(
  'check, good, bad',
  [
    (values.positive, [1e-30, 5], [0, -1, float('nan'), float('inf')]),
    (values.not_negative, [0, 5], [-1e-30, float('nan'), float('inf')]),
    (values.probability, [0, 1], [-0.1, 1.1, float('nan')]),
    (values.positive_probability, [1e-30, 1], [0, 1.1, float('nan')]),
  ],
)
def test_bounds(check, good, bad):
  for number in good:
    check(_config(number), NUMBER)
  for number in bad:
    with pytest.raises(errors.UserError, match='base_learning_rate = .*: must be '):
      check(_config(number), NUMBER)


def test_every_number_of_a_list():
  values.positive(_config(numbers=[]), NUMBERS)
  values.positive(_config(numbers=[1, 2]), NUMBERS)
  with pytest.raises(errors.UserError, match=r'crop_size = \[1, 0\].*: must be greater than 0.'):
    values.positive(_config(numbers=[1, 0]), NUMBERS)


def test_one_of():
  values.one_of(_config(text='sgd'), TEXT, ('adam', 'sgd'))
  with pytest.raises(errors.UserError, match='optimizer = "SGD".*: must be one of adam, sgd.'):
    values.one_of(_config(text='SGD'), TEXT, ('adam', 'sgd'))
