"""The messages: DeepLab2's fields, this project's own, and fresh generated code."""

import hashlib
import json
import pathlib

import pytest

from deeplab2.config import config_pb2
from deeplab2.config import dataset_pb2
from deeplab2.config import evaluator_pb2
from deeplab2.config import model_pb2
from deeplab2.config import textproto
from deeplab2.config import trainer_pb2

REPOSITORY = pathlib.Path(__file__).parents[2]
MODULES = (config_pb2, dataset_pb2, evaluator_pb2, model_pb2, trainer_pb2)
GOLDEN = json.loads((REPOSITORY / 'tests' / 'goldens' / 'proto_fields.json').read_text())
_TYPES = {
  'bool': 8,
  'float': 2,
  'int32': 5,
  'int64': 3,
  'string': 9,
  'enum': 14,
  'message': 11,
}


def _messages():
  found = {}

  def add(descriptor):
    found[descriptor.full_name] = descriptor
    for nested in descriptor.nested_types:
      add(nested)

  for module in MODULES:
    for descriptor in module.DESCRIPTOR.message_types_by_name.values():
      add(descriptor)
  return found


MESSAGES = _messages()


@pytest.mark.parametrize('name', GOLDEN['messages'])
def test_fields_of_the_reference(name):
  for golden in GOLDEN['messages'][name]:
    field = MESSAGES[name].fields_by_name[golden['name']]
    assert field.number == golden['number']
    assert textproto.is_repeated(field) == (golden['label'] == 'repeated')
    if field.message_type is not None:
      assert field.message_type.full_name == golden['type']
    else:
      assert field.type == _TYPES[golden['type']]
    oneof = field.containing_oneof
    assert (oneof.name if oneof else None) == golden['oneof']
    if golden['default'] is None:
      assert not field.has_default_value
    else:
      assert field.has_default_value
      # Decimal text in the golden, float32 in the descriptor.
      float32 = isinstance(golden['default'], float)
      assert field.default_value == (
        pytest.approx(golden['default'], rel=1e-7) if float32 else golden['default']
      )


def test_every_message_of_the_reference_is_there():
  assert set(GOLDEN['messages']) <= set(MESSAGES)
  assert GOLDEN['package'] == config_pb2.DESCRIPTOR.package


def test_packed_as_in_the_reference():
  # On the wire: field 15, wire type 2 (length-delimited), four bytes.
  options = evaluator_pb2.EvaluatorOptions(eval_scales=[1.0])
  assert options.SerializeToString() == bytes([15 << 3 | 2, 4]) + b'\x00\x00\x80\x3f'


def test_fields_of_this_project_start_at_100():
  own = {
    name: {
      field.name: field.number
      for field in descriptor.fields
      if field.name not in {golden['name'] for golden in GOLDEN['messages'][name]}
    }
    for name, descriptor in MESSAGES.items()
    if name in GOLDEN['messages']
  }
  assert {name: fields for name, fields in own.items() if fields} == {
    'deeplab2.ModelOptions': {'kmax': 100},
    'deeplab2.ModelOptions.BackboneOptions': {'squeeze_excite_gate': 100, 'stem_max_pool': 101},
    'deeplab2.ModelOptions.MaXDeepLabOptions': {'transformer_decoder_drop_path_keep_prob': 100},
    'deeplab2.DatasetOptions': {
      'shuffle_buffer_size': 102,
      'seed': 103,
      'on_corrupt': 104,
      'max_corrupt_fraction': 105,
      'data_service': 106,
    },
    'deeplab2.EvaluatorOptions': {
      'instance_ap': 100,
      'use_raw_weights': 101,
      'report': 110,
      'save_coco_results': 115,
      'measure_losses': 116,
    },
    'deeplab2.LossOptions': {
      'remask': 100,
      'reclass': 101,
      'mask_loss_activation': 102,
      'mask_loss_all_slots': 103,
    },
    'deeplab2.SolverOptions': {'warmup_start_learning_rate': 100, 'backbone_layer_decay': 101},
    'deeplab2.TrainerOptions': {
      'precision': 100,
      'jit_compile': 101,
      'recompute': 102,
      'gradient_accumulation_steps': 103,
      'ema_decay': 104,
      'profile_steps': 105,
    },
  }


def test_generated_code_is_fresh():
  directory = REPOSITORY / 'deeplab2' / 'config'
  lines = (directory / 'generated.sha256').read_text().splitlines()
  recorded = dict(line.split('  ')[::-1] for line in lines)
  files = [*directory.glob('*.proto'), *directory.glob('*_pb2.py'), *directory.glob('*_pb2.pyi')]
  actual = {
    str(path.relative_to(REPOSITORY)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in files
  }
  assert actual == recorded, 'run scripts/generate_protos.py'


def test_generated_code_has_no_gate_on_the_runtime():
  for path in (REPOSITORY / 'deeplab2' / 'config').glob('*_pb2.py'):
    assert 'ValidateProtobufRuntimeVersion' not in path.read_text()
