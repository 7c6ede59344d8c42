"""Options that are refused, and options that are ignored with a warning."""

from absl import logging as absl_logging
import pytest

from deeplab2 import errors
from deeplab2.config import config_pb2
from deeplab2.config import load
from deeplab2.config import scope

from . import configs


@pytest.mark.parametrize(
  'override, named',
  [
    ('model_options.deeplab_v3={}', 'model_options.deeplab_v3'),
    ('model_options.deeplab_v3_plus={}', 'model_options.deeplab_v3_plus'),
    ('model_options.panoptic_deeplab={}', 'model_options.panoptic_deeplab'),
    ('model_options.motion_deeplab={}', 'model_options.motion_deeplab'),
    ('model_options.vip_deeplab={}', 'model_options.vip_deeplab'),
    ('model_options.max_deeplab=', 'model_options.max_deeplab'),
    ('model_options.backbone.name=max_deeplab_s', 'model_options.backbone.name = "max_deeplab_s"'),
    ('model_options.backbone={}', 'model_options.backbone.name = "resnet50" (default)'),
    ('model_options.backbone.output_stride=16', 'model_options.backbone.output_stride = 16'),
    ('trainer_options.loss_options.center_loss={}', 'trainer_options.loss_options.center_loss'),
    ('trainer_options.loss_options.depth_loss={}', 'trainer_options.loss_options.depth_loss'),
    ('train_dataset_options.use_two_frames=true', 'train_dataset_options.use_two_frames = true'),
    ('eval_dataset_options.use_next_frame=true', 'eval_dataset_options.use_next_frame = true'),
    (
      'eval_dataset_options.cameras_to_use=front',
      'eval_dataset_options.cameras_to_use = ["front"]',
    ),
  ],
)
def test_refused_by_name(small, override, named):
  with pytest.raises(errors.UserError) as error:
    small(override)
  assert f': {named}: ' in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'override',
  [
    'model_options.backbone.output_stride=32',
    'evaluator_options.eval_scales=1.0',
    'train_dataset_options.use_two_frames=false',
    'trainer_options.solver_options.weight_decay=0',
  ],
)
def test_defaults_that_are_spelled_out_pass(small, override, monkeypatch):
  monkeypatch.setattr(absl_logging, 'warning', lambda *args: pytest.fail(str(args)))
  small(override)


@pytest.mark.parametrize(
  'override, named',
  [
    (
      'trainer_options.solver_options.weight_decay=0.1',
      '--set: trainer_options.solver_options.weight_decay = 0.1: has no effect',
    ),
    ('train_dataset_options.sigma=4', '--set: train_dataset_options.sigma = 4: has no effect'),
    (
      'evaluator_options.merge_semantic_and_instance_with_tf_op=false',
      '--set: evaluator_options.merge_semantic_and_instance_with_tf_op = false: has no effect',
    ),
    (
      'model_options.max_deeplab.pixel_space_head.max_value_after_activation=1',
      '--set: model_options.max_deeplab.pixel_space_head.max_value_after_activation = 1: has no',
    ),
  ],
)
def test_ignored_with_one_warning(small, override, named, monkeypatch):
  warnings = []
  monkeypatch.setattr(absl_logging, 'warning', lambda text, *args: warnings.append(text % args))
  small(override)
  assert len(warnings) == 1
  assert warnings[0].startswith(named)


@pytest.mark.parametrize(
  'meta', ['deeplab_v3', 'deeplab_v3_plus', 'panoptic_deeplab', 'motion_deeplab', 'vip_deeplab']
)
def test_other_models_parse(write, meta):
  path = write(f'model_options {{ backbone {{ name: "resnet50" }} {meta} {{}} }}')
  assert load.parse(path).options.model_options.WhichOneof('meta_architecture') == meta


def test_tables_name_existing_fields():
  seen = {}

  def add(descriptor):
    seen[descriptor.name] = set(descriptor.fields_by_name)
    for field in descriptor.fields:
      if field.message_type is not None and field.message_type.name not in seen:
        add(field.message_type)

  add(config_pb2.ExperimentOptions.DESCRIPTOR)
  for table in (scope.REFUSED, scope.IGNORED):
    for message, names in table.items():
      assert set(names) <= seen[message]


def test_published_configs_have_nothing_to_warn_of(write, monkeypatch):
  monkeypatch.setattr(absl_logging, 'warning', lambda *args: pytest.fail(str(args)))
  for dataset, backbones in configs.BACKBONES.items():
    load.load(write(configs.kmax(dataset, backbones[0])))
