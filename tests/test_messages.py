"""Every message that names an option or a flag has a test that follows what it advises."""

import ast
import pathlib
import re

from deeplab2.config import config_pb2

ROOT = pathlib.Path(__file__).parents[1]
_FRESH = 'model_options.restore_semantic_last_layer_from_initial_checkpoint'

# Sentence -> the test that follows it: of test_advice.py, or FILE::TEST.
ADVICE = {
  'deeplab2-config --list names all': 'tests/test_check_config.py::test_the_list_names_the_configs_of_the_package',
  'needs labels, and eval_dataset_options.decode_groundtruth_label is false; set one of them '
  'otherwise.': 'tests/trainer/test_experiment.py::test_a_report_needs_labels_and_an_evaluation',
  '--report: --mode={} evaluates nothing; choose one that does, or leave it out.': 'tests/trainer/test_experiment.py::test_a_report_needs_labels_and_an_evaluation',
  '{} was evaluated once; --mode=train_and_eval with evaluator_options.eval_interval evaluates on '
  'the way.': 'tests/trainer/test_experiment.py::test_train_and_eval',
  '{}: is no run: neither evaluations (eval/metrics-<step>.json) nor checkpoints are there; give '
  'MODEL_DIR/<experiment_name> of a run.': 'tests/report/test_runs.py::test_directories_that_are_no_run',
  'python -m deeplab2.trainer.train --config_file={} --mode=eval --model_dir={} --report': 'tests/trainer/test_experiment.py::test_a_report_and_a_writer_of_the_users_own',
  '{}; evaluate again with --mode=eval --report.': 'tests/trainer/test_experiment.py::test_a_report_and_a_writer_of_the_users_own',
  '--output={}: must end in .html.': 'tests/report/test_page.py::test_output_must_be_html',
  'differs from train_dataset_options.dataset = "{}"; one model has the classes of one dataset.': 'test_one_dataset',
  '--output_dir={}: there are checkpoints; give a new directory.': 'test_a_new_directory_for_what_is_converted',
  'To start from scratch, give another experiment_name.': 'test_another_experiment_name',
  '{} No other checkpoint there is whole. To start from scratch, give another experiment_name.': 'test_another_experiment_name',
  '{}: holds results of an earlier training ({}), but no checkpoint to go on from. Put its '
  'checkpoints back, give another experiment_name, or move these files away to start from '
  'scratch.': 'tests/trainer/test_run_directory.py::'
  'test_results_without_checkpoints_are_not_written_over_and_the_advice_works',
  'it has {} mask slots, the model {}: set model_options.kmax.num_mask_slots={}': 'test_a_released_checkpoint_of_another_number_of_slots_or_in_a_run',
  '{} is not of a run of this program; to start from it, give another experiment_name and '
  'model_options.initial_checkpoint={}.': 'test_a_released_checkpoint_of_another_number_of_slots_or_in_a_run',
  f'to start with its other layers alone, set {_FRESH}=false': 'test_another_number_of_classes',
  'a run keeps its classes: to train on with others, give another experiment_name, '
  f'model_options.initial_checkpoint={{prefix}} and {_FRESH}=false': 'test_another_number_of_classes',
  '{}; see --help.': 'test_help',
  'must be a multiple of steps_per_loop {}, like {}.': 'test_options',
  'cannot split train_dataset_options.batch_size = {} evenly over {} replicas; take a batch of {}, or '
  'other parts.': 'test_parts_of_batches',
  '{}: has no moving averages of the variables, which trainer_options.ema_decay asks for; '
  'evaluator_options.use_raw_weights=true takes the variables themselves.': 'tests/trainer/test_experiment.py::test_a_checkpoint_without_averages',
  'must not be less than min_scale_factor {}.': 'test_options',
  'cannot be kept with data_service, whose workers draw independently; remove one of them.': 'test_options',
  'must be the name of a directory within --model_dir.': 'test_names_of_runs',
  'ends no earlier than training, training_number_of_steps = {}: the base learning rate is never '
  'reached; take fewer.': 'test_warm_up',
  'has no effect without on_corrupt: SKIP.': 'test_options_that_are_warned_of',
  'must not exceed the crop_size {} on either side.': 'test_options',
  'the environment variable {} is not set; export it, or give the value by --set {}=...': 'test_environment_variables',
  'between 0 and {}, the number of decoder layers (model_options.kmax.decoder_layers = {})': 'test_options',
  'must be 1 with mask_loss_activation SIGMOID, which scores all pixels.': 'test_options',
  'must be true where gate_masks is false: it is about the gate.': 'test_options',
  'must be false unless mask_loss_activation is SIGMOID: a softmax scores all slots anyway.': 'test_options',
  'there are {}; high_resolution_stride {} takes {}, from stride 32 on.': 'test_options',
  'must be {} names, one for each of pixel_decoder_stages.': 'test_options',
  'needs model_options.kmax.semantic_decoder: pixels are sampled on the grid of the masks; take '
  '0 for all pixels.': 'test_options',
  'must be "feature_semantic": model_options.kmax.semantic_decoder reads no other.': 'test_options',
  'must be three numbers, unless aspp_use_only_1x1_proj_conv is true.': 'test_options',
  '--set {}: write field.of.a.message=value.': 'test_options',
  '--set {}: {} takes {}.': 'test_options',
  '--set {}: there is no {}; {}': 'test_options',
  '--set {}: {}': 'test_options',
  '--set {}: {} holds no fields.': 'test_options',
  '--set {}: give the whole list, {}=[...].': 'test_options',
  '--set {}: {} has {} entries; name one by its number from 0, {}[0], or give the whole list, '
  '{}=[...].': 'test_options',
  'only kMaX-DeepLab is built here: max_deeplab with a backbone named kmax_...': 'test_options',
  'is missing; only kMaX-DeepLab is built here: max_deeplab with a backbone named kmax_...': 'test_options',
  'meta architecture {} is not supported; only kMaX-DeepLab is built here: max_deeplab with a '
  'backbone named kmax_...': 'test_options',
  'meta architecture max_deeplab without k-means is not supported; only kMaX-DeepLab is built '
  'here: max_deeplab with a backbone named kmax_...': 'test_options',
  'imagenet: Keras Applications have no weights of {} of width {}, but of {}; take one of these, or '
  'set model_options.backbone.pretrained_weights to a file or checkpoint.': 'tests/checkpoint/test_keras_weights.py::test_what_cannot_be_fetched',
  '{}: weights of a backbone that are in no checkpoint; give them by '
  'model_options.backbone.pretrained_weights={}.': 'tests/checkpoint/test_pretrained.py::test_weights_given_as_a_checkpoint_and_the_advice_works',
  'imagenet: {} cannot be had ({}). Without network, put this file into {}, or set '
  'model_options.backbone.pretrained_weights=keras:FILE.': 'tests/checkpoint/test_pretrained.py::test_without_network_and_the_advice_works',
  '{}: its squeeze-and-excite ends in a {}, and that of the configuration in a {}, with which these '
  'weights mean something else: set model_options.backbone.squeeze_excite_gate={}, or take other '
  'weights.': 'tests/checkpoint/test_gates.py::test_the_wrong_gate_is_refused_and_the_advice_works',
  '{}: the batch norm is folded into these weights, so that training with statistics of batches '
  'would start from noise; take it out with images: python -m deeplab2.checkpoint.convert '
  '--config_file=CONFIG --checkpoint={} --statistics_images=IMAGES --output_dir=NEW, and give that '
  'directory.': 'tests/checkpoint/test_convert.py::test_folded_weights_are_unfolded_as_advised',
  '{}: holds {}, where the configuration has {}{}: {}. Take the weights of that network, or set '
  'model_options.backbone.name and model_options.backbone.backbone_width_multiplier to what the '
  'file holds.': 'tests/checkpoint/test_keras_weights.py::test_weights_of_another_network',
  '--statistics_images={}: is for weights whose batch norm is folded in ({}), and --checkpoint={} is '
  'none; leave it out.': 'tests/checkpoint/test_convert.py::test_images_that_are_of_no_use',
  '{}: ResNet-50 of timm and torchvision has a max-pooling behind its stem; set '
  'model_options.backbone.stem_max_pool=true.': 'tests/checkpoint/test_timm_weights.py::test_resnet50_is_exact_but_for_the_colour_of_zeros',
  ', and {} runs of unknown time: give --seconds_per_step.': 'tests/test_ablation_hours.py::test_dry_run_says_what_is_left_and_how_long',
  '--train_eval={}: must be 1 or more.': 'tests/test_ablation.py::test_mistakes_are_one_line',
  '{}: {} was {}, and is {} now; give it another name, or another '
  '--output_dir.': 'tests/test_ablation.py::test_a_variant_keeps_its_overrides',
  '--train_eval: {} is evaluated on its training records anyway ({}).': 'tests/test_ablation.py::test_training_images_that_are_the_unseen_ones',
  '--hours={}: no run is finished that tells how long one takes; give '
  '--seconds_per_step.': 'tests/test_ablation_hours.py::test_nothing_is_started_that_would_not_end_in_time',
  '--statistics_images={}: no such directory.': 'tests/checkpoint/test_convert.py::test_images_that_are_of_no_use',
  '--statistics_images={}: no image ({}).': 'tests/checkpoint/test_convert.py::test_images_that_are_of_no_use',
  'This run is finished: it is at step %d, and training_number_of_steps is %d. Nothing was done; '
  '--mode=eval evaluates it.': 'test_a_finished_run_is_evaluated',
  '{}: no checkpoint appeared within {} seconds (evaluator_options.continuous_eval_timeout): '
  'nothing to evaluate.': 'test_what_can_be_evaluated',
  '{}: there is no checkpoint, and model_options.initial_checkpoint is not set: nothing to '
  'evaluate.': 'test_what_can_be_evaluated',
  'without labels there is nothing to measure; set evaluator_options.save_coco_results=true, '
  'evaluator_options.save_raw_predictions=true or evaluator_options.save_predictions=true.': 'test_images_without_labels',
  '%s, %d of %d images had more segments than the model has mask slots: %d segments were not '
  'learned from; a larger model_options.kmax.num_mask_slots takes them in.': 'tests/loss/test_matching.py::test_more_slots_take_in_more_segments',
  'an image has {} segments ({}), and those beyond the slots are not learned from; '
  'model_options.kmax.num_mask_slots={} would be enough.': 'tests/trainer/test_slots.py::test_a_training_says_it_at_its_start_and_the_advice_works',
  '{}: the run in {} was started with another model: {}. A run keeps its model: take the old values, '
  'or give another experiment_name to start a new one.': 'tests/trainer/test_run_record.py::test_another_model_is_refused_by_name_and_the_advice_works',
  '--num_gpus={}: this machine has {} GPUs; give 0 (the CPU) to {}, or leave it out to use all.': 'test_number_of_gpus',
  'The set has %d batches, fewer than eval_steps = %d: all were evaluated.': 'tests/trainer/test_run_directory.py::test_fewer_batches_than_asked_for_are_said',
  '--output_dir={}: no run of this grid has reached step {}: nothing to report.': 'tests/test_ablation.py::test_table_and_image',
  '{}: the runs there have {}; give another --output_dir for {}.': 'test_flags_of_ablation',
  '{} It is not known what the runs there have; give another --output_dir.': 'test_flags_of_ablation',
  '--jobs={}: must be 1 or more.': 'test_flags_of_ablation',
  '--backbones: {} is none of {}.': 'test_flags_of_models_table',
  '--output={}: must end in one of {}.': 'test_flags_of_plot_run',
  '--run={}: neither eval/metrics-*.json nor train/events* is there with anything to draw; give '
  'the directory of one run.': 'test_flags_of_plot_run',
  "{}: has no list 'categories'; --dataset names the classes instead ({}, or a JSON "
  'file).': 'tests/evaluation/test_evaluate_predictions.py::test_other_files',
  '{}: has no prediction of {} of the {} images of {}: {}; add them, or evaluate the others alone '
  'with --only_predicted.': 'tests/evaluation/test_evaluate_predictions.py::test_missing_images_and_the_advice_works',
  '--set {}={} # was {}': 'tests/trainer/test_experiment.py::test_thresholds_are_tuned',
  '; --listed_areas takes areas from the JSON, as panopticapi does': 'tests/evaluation/test_evaluate_predictions.py::test_listed_areas_and_the_advice_works',
}
# Sentences that name an option or flag, and advise nothing: data, commands that are run, notes.
NO_ADVICE = (
  '<li style=',
  'pixel_decoder_stages {',
  'high_resolution_stride: ',
  '%s: model_options.kmax takes %s',
  'eval_dataset_options.batch_size = %d is rounded up',
  '--gin_param=set_up.',
  '# Models: sizes',
  '--master={}: no such TPU can be reached',
  '--master=slurm: Slurm says nothing of a cluster',
  '--mode=continuous_eval is for one host',
  '{}: does not hold the whole state of the optimizer (see ',
  '{} hours are left with --jobs=',
)
MODULES = [
  *(ROOT / 'deeplab2' / 'config').glob('*.py'),
  *(ROOT / 'deeplab2' / 'checkpoint').glob('*.py'),
  *(ROOT / 'deeplab2' / 'trainer').glob('*.py'),
  *(ROOT / 'deeplab2' / 'evaluation').glob('*.py'),
  *(ROOT / 'deeplab2' / 'report').glob('*.py'),
  *(ROOT / 'deeplab2' / f'{name}.py' for name in ('assemble', 'locks', 'files', 'command_line')),
  *(ROOT / 'scripts' / f'{name}.py' for name in ('ablation', 'model_size', 'models_table')),
  *(
    ROOT / 'deeplab2' / 'commands' / f'{name}.py' for name in ('plot_run', 'report', 'check_config')
  ),
]


def _option_names(descriptor, found):
  for field in descriptor.fields:
    if '_' in field.name:
      found.add(field.name)
    if field.message_type is not None and field.message_type.full_name not in found:
      found.add(field.message_type.full_name)
      _option_names(field.message_type, found)
  return found


_OPTIONS = '|'.join(
  sorted(
    map(re.escape, _option_names(config_pb2.ExperimentOptions.DESCRIPTOR, set())),
    key=len,
    reverse=True,
  )
)
_MENTION = re.compile(rf'--[a-z]\w*|(?<!\w)({_OPTIONS})\b')


def _sentences(path):
  """Yields what the texts of a module say that name an option or a flag, values as {}."""
  tree = ast.parse(path.read_text())
  names = {
    target.id: node.value.value
    for node in tree.body
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    for target in node.targets
    if isinstance(target, ast.Name)
  }

  def text(node):
    if isinstance(node, ast.Constant):
      return node.value if isinstance(node.value, str) else ''
    return ''.join(
      part.value
      if isinstance(part, ast.Constant)
      else str(names.get(getattr(part.value, 'id', None), '{}'))
      for part in node.values
    )

  left_out = set()
  for node in ast.walk(tree):
    if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
      left_out.add(node.body[0].value)
    if isinstance(node, ast.keyword) and node.arg == 'help':
      left_out.update(ast.walk(node.value))
    if isinstance(node, ast.JoinedStr):
      left_out.update(part for value in node.values for part in ast.walk(value))
  for node in ast.walk(tree):
    if isinstance(node, (ast.Constant, ast.JoinedStr)) and node not in left_out:
      sentence = ' '.join(text(node).replace('{{', '{').replace('}}', '}').split())
      if len(sentence.split()) > 2 or sentence.startswith('--'):
        if _MENTION.search(sentence) and ' ' in sentence:
          yield sentence


def test_every_message_that_names_an_option_is_followed():
  found = {
    sentence: path.name
    for path in MODULES
    if '_pb2' not in path.name
    for sentence in _sentences(path)
    if not sentence.startswith(NO_ADVICE)
  }
  assert not {sentence: name for sentence, name in found.items() if sentence not in ADVICE}
  assert not set(ADVICE) - set(found), 'no longer said'


def test_the_tests_that_follow_advice_exist():
  for place in set(ADVICE.values()):
    file, _, name = place.rpartition('::')
    tree = ast.parse((ROOT / (file or 'tests/test_advice.py')).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, place


def test_sentences_are_found(tmp_path):
  path = tmp_path / 'module.py'
  path.write_text('''"""Doc with --flag in it."""
_NAME = 'model_options.backbone'
def f(x):
  """Says --nothing of it."""
  raise UserError(f'{x}: give --output_dir or '
                  f'{_NAME}.drop_path_keep_prob={x}.')
parser.add_argument('--flag', help='Like --other of that.')
raise UserError('an option like batch_size in words')
raise UserError('no option at all')
''')
  assert sorted(_sentences(path)) == [
    'an option like batch_size in words',
    '{}: give --output_dir or model_options.backbone.drop_path_keep_prob={}.',
  ]
