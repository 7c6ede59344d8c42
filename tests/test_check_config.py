"""What check_config.py says of right and of wrong configs."""

import pytest
import tensorflow as tf

from deeplab2.commands import check_config as check_config_lib
from tests.checkpoint import files
from tests.config import configs

_REST = ', everything else from scratch'


@pytest.fixture(scope='module')
def check_config():
  return check_config_lib


@pytest.fixture
def published(tmp_path, monkeypatch):
  monkeypatch.delenv('PRETRAINED_WEIGHTS', raising=False)
  path = tmp_path / 'published.textproto'
  path.write_text(configs.kmax('cityscapes_panoptic', 'convnext_tiny'))
  return str(path)


def test_what_a_config_leaves_open(check_config, published, capsys):
  assert check_config.main(['--no_sizes', published]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == f'{published}: loads'
  source = 'the default of cityscapes_panoptic'
  assert f'  filled in: model_options.kmax.num_mask_slots = 256: {source}' in lines
  assert f'  filled in: model_options.kmax.decoder_layers = [2, 2, 2]: {source}' in lines
  assert any(
    'pixel_decoder_stages = [{ filters: 512 num_blocks: 1 type: AXIAL }, ' in line for line in lines
  )
  needed = '  still needed: ${PRETRAINED_WEIGHTS} of model_options.backbone.pretrained_weights'
  assert needed in lines
  assert not any('parameters' in line for line in lines)


def test_what_is_given_is_not_filled_in(check_config, published, capsys):
  assert (
    check_config.main(['--no_sizes', published, '--set', 'model_options.kmax.num_mask_slots=64'])
    == 0
  )
  assert 'num_mask_slots' not in capsys.readouterr().out


def test_files_that_are_not_there_are_named(check_config, published, tmp_path, capsys):
  (tmp_path / 'val-0.tfrecord').touch()
  (tmp_path / 'ckpt-7.index').touch()
  assert (
    check_config.main(
      [
        '--no_sizes',
        published,
        '--set',
        f'train_dataset_options.file_pattern={tmp_path}/train-*',
        '--set',
        f'eval_dataset_options.file_pattern={tmp_path}/val-*',
        '--set',
        f'model_options.initial_checkpoint={tmp_path}/ckpt-7',
        '--set',
        f'model_options.backbone.pretrained_weights={tmp_path}/ckpt-8',
      ]
    )
    == 0
  )
  output = capsys.readouterr().out
  train, backbone = [line for line in output.splitlines() if line.startswith('  not there: ')]
  field = 'train_dataset_options.file_pattern'
  assert f'{field} = ["{tmp_path}/train-*"]: no file matches' in train
  field = 'model_options.backbone.pretrained_weights'
  assert f'{field} = "{tmp_path}/ckpt-8": {tmp_path}/ckpt-8: no such checkpoint' in backbone
  assert '${EXPERIMENT_NAME}' in output and '${TRAIN_SET}' not in output


@pytest.mark.parametrize(
  'initial, source, said',
  [
    ('', '', 'everything from scratch'),
    (
      '',
      'imagenet',
      f'the backbone from imagenet (Keras Applications){_REST}',
    ),
    ('', '{}/x.h5', f'the backbone from {{}}/x.h5{_REST}'),
    ('{}/backbone', '', f'the backbone from {{}}/backbone{_REST}'),
    ('{}/whole', 'imagenet', 'the whole model from {}/whole'),
    ('{}/nothing', '', 'the model, or its backbone, from {}/nothing'),
    ('${{LATER}}', '', 'the model, or its backbone, from ${{LATER}}'),
  ],
)
def test_what_a_new_run_starts_with(
  check_config, published, tmp_path, capsys, initial, source, said
):
  keys = {'backbone': ['encoder/_stem/x'], 'whole': ['encoder/_stem/x', 'pixel_decoder/x']}
  for name, stored in keys.items():
    files.write(tmp_path / name, {key + files.SUFFIX: tf.zeros([1]) for key in stored})
  options = (('initial_checkpoint', initial), ('backbone.pretrained_weights', source))
  sets = [f'--set=model_options.{name}={value.format(tmp_path)}' for name, value in options]
  assert check_config.main(['--no_sizes', published, *sets]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert f'  a new run starts with: {said.format(tmp_path)}' in lines
  absent = [line for line in lines if line.startswith('  not there: ') and 'h5' in line]
  assert len(absent) == (source == '{}/x.h5')


def test_a_dataset_that_is_not_known_is_wrong(check_config, published, capsys):
  sets = [
    argument
    for field in ('train', 'eval')
    for argument in ('--set', f'{field}_dataset_options.dataset=city')
  ]
  assert check_config.main(['--no_sizes', published, *sets]) == 2
  assert "dataset 'city' is unknown; choose from" in capsys.readouterr().out


def test_a_config_without_dataset_loads(check_config, tmp_path, capsys):
  path = tmp_path / 'least.textproto'
  start = configs.SMALL.index('trainer_options')
  path.write_text(configs.SMALL[:start] + 'train_dataset_options { crop_size: [65, 65] }')
  assert check_config.main([str(path)]) == 0
  output = capsys.readouterr().out
  source = 'the default (of COCO; no dataset is named)'
  assert f'  filled in: model_options.kmax.num_mask_slots = 128: {source}' in output
  assert '56.37 M parameters' in output  # COCO's, see docs/models.md.


@pytest.mark.parametrize(
  'override, words',
  [
    ('model_options.backbone.name=kmax_moat', "is no backbone; choose from ['kmax_axial_resnet50'"),
    (
      'model_options.backbone={name: "kmax_mobilenet_v3_small" drop_path_keep_prob: 0.5}',
      'kmax_mobilenet_v3_small has no drop path; must be 1.0.',
    ),
    (
      'model_options.backbone={name: "kmax_moat0_pretrain_224_1k" stem_max_pool: true}',
      'kmax_moat0_pretrain_224_1k has none; kmax_resnet50 can have one.',
    ),
    (
      'model_options.max_deeplab.auxiliary_semantic_head.output_channels=18',
      'must be 19, the classes of cityscapes_panoptic.',
    ),
    ('model_options.kmax.num_mask_slots=1000', 'must be below the label divisor 1000'),
  ],
)
def test_what_cannot_be_built_does_not_load_without_sizes(
  check_config, published, capsys, override, words
):
  assert check_config.main(['--no_sizes', published, f'--set={override}']) == 2
  (line,) = capsys.readouterr().out.splitlines()
  assert line.startswith('wrong: ') and override.split('=')[0] in line and words in line


def test_sizes_by_part(check_config, tmp_path, capsys):
  config = 'shapes/kmax_mobilenet_v3_small'  # By name.
  assert check_config.main([config]) == 0
  text = capsys.readouterr().out
  # MobileNetV3-Small without classifier, as in tests/model/backbones/test_mobilenet_v3.py.
  assert '    backbone: 0.93 M parameters' in text
  assert 'training alone has' in text and 'G multiply-adds at ' in text


def test_a_wrong_config_is_one_line_and_the_others_are_still_checked(
  check_config, published, tmp_path, capsys
):
  other = tmp_path / 'other.textproto'
  other.write_text('model_options { backbone { name: "resnet50" } panoptic_deeplab {} }')
  broken = tmp_path / 'broken.textproto'
  broken.write_text('model_options { backbones { } }')
  code = check_config.main(
    ['--no_sizes', str(tmp_path / 'none'), str(other), str(broken), str(tmp_path), published]
  )
  output = capsys.readouterr()
  assert code == 2
  wrong = [line for line in output.out.splitlines() if line.startswith('wrong: ')]
  assert len(wrong) == 4
  assert f'{tmp_path}/none: no such file' in wrong[0]
  assert f'{other}:1: ' in wrong[1] and 'meta architecture panoptic_deeplab' in wrong[1]
  assert f'{broken}:1' in wrong[2] and 'no such field' in wrong[2]
  assert f'{tmp_path}: is a directory' in wrong[3]
  assert f'{published}: loads' in output.out
  assert '4 of 5 configs are wrong' in output.err


def test_a_reason_of_several_lines_is_shown_on_one(check_config, monkeypatch, capsys):
  def unreachable(path, mode):
    del mode
    raise tf.errors.UnavailableError(None, None, f'no such host\n\t when reading {path}')

  monkeypatch.setattr(tf.io.gfile, 'isdir', lambda path: False)
  monkeypatch.setattr(tf.io.gfile, 'GFile', unreachable)
  assert check_config.main(['gs://bucket/config']) == 2
  (line,) = capsys.readouterr().out.splitlines()
  assert line == 'wrong: gs://bucket/config: cannot be read (no such host).'


def test_a_model_that_cannot_be_built_is_wrong(check_config, published, capsys):
  assert check_config.main([published, '--set', 'model_options.backbone.name=kmax_resnet51']) == 2
  assert "is no backbone; choose from ['kmax_axial_resnet50'" in capsys.readouterr().out


def test_the_list_names_the_configs_of_the_package(check_config, capsys):
  assert check_config.main(['--no_sizes', 'nothing_like_it']) == 2
  assert 'deeplab2-config --list names all.' in capsys.readouterr().out
  assert check_config.main(['--list']) == 0
  names = capsys.readouterr().out.split()
  assert 'shapes/kmax_mobilenet_v3_small' in names
  assert check_config.main(['--no_sizes', names[0]]) == 0
  assert capsys.readouterr().out.startswith(f'{names[0]}: loads')
  assert check_config.main([]) == 2
  assert 'give a config; see --help.' in capsys.readouterr().err
