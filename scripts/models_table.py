"""Writes docs/models.md: parameters and multiply-adds of every backbone on every data set.

  python scripts/models_table.py [--output=docs/models.md] [--backbones=resnet50,...]

What stands below the heading of the weights is written by hand and stays. The rest is counted as by
scripts/model_size.py on the models of the configs below, with one backbone after the other.
`OUTPUT.part` holds what is done until all is. Takes a quarter of an hour for all, three minutes for
those with published results:
--backbones=resnet50,axial_resnet50,convnext_tiny,convnext_small,convnext_base,convnext_large
"""

import concurrent.futures
import multiprocessing
import os
import sys

import tqdm

from deeplab2 import assemble
from deeplab2 import command_line
from deeplab2 import errors
from deeplab2 import files
from deeplab2 import model_size
from deeplab2.config import load
from deeplab2.model.backbones import registry

# Title -> (config, sizes of the evaluation crop).
_DATASETS = {
  'COCO': ('configs/coco/kmax_resnet50.textproto', ((1281, 1281),)),
  'Cityscapes': ('configs/cityscapes/remax/resnet50.textproto', ((1025, 2049),)),
  'ADE20K': ('configs/ade20k/remax/resnet50.textproto', ((641, 641), (1281, 1281))),
}
_SPAWN = multiprocessing.get_context('spawn')
_OFF = [
  'trainer_options.loss_options.remask.enable=false',
  'trainer_options.loss_options.reclass.enable=false',
  'model_options.backbone.drop_path_keep_prob=1.0',
]

# (dataset, backbone) -> PQ of the val set by the official script. COCO at 1281 and Cityscapes:
# DeepLab2, g3doc/projects/kmax_deeplab.md. ADE20K at 1281: README of bytedance/kmax-deeplab, whose
# ResNet-50 is its own PyTorch training and whose ConvNeXt-L is the released TensorFlow checkpoint.
_PUBLISHED = {
  ('COCO', 'resnet50'): 53.0,
  ('COCO', 'axial_resnet50'): 56.2,
  ('COCO', 'convnext_tiny'): 55.3,
  ('COCO', 'convnext_small'): 56.3,
  ('COCO', 'convnext_base'): 57.2,
  ('COCO', 'convnext_large'): 57.9,
  ('Cityscapes', 'resnet50'): 64.3,
  ('Cityscapes', 'axial_resnet50'): 66.4,
  ('Cityscapes', 'convnext_tiny'): 66.3,
  ('Cityscapes', 'convnext_small'): 67.3,
  ('Cityscapes', 'convnext_base'): 68.0,
  ('Cityscapes', 'convnext_large'): 68.4,
  ('ADE20K', 'resnet50'): 42.2,
  ('ADE20K', 'convnext_large'): 50.7,
}
_HEADER = """# Models: sizes, and what is published

Counted by `python scripts/models_table.py`, which makes this file.
Parameters are trainable ones. *Inference* counts those that inference reads; *whole* those of a
checkpoint, with the semantic branch and the predictors of the decoder's layers, which only training
needs. Multiply-adds are those of convolutions, matrix products and einsums at batch 1,
post-processing left out. ReMaX changes none of these numbers.

PQ is that of others, on the val set by the official script, from a released checkpoint unless said:
nothing of it was trained or measured here. COCO (at 1281) and Cityscapes:
[DeepLab2](https://github.com/google-research/deeplab2/blob/main/g3doc/projects/kmax_deeplab.md).
ADE20K (at 1281): [PyTorch kMaX-DeepLab](https://github.com/bytedance/kmax-deeplab), its own
training for ResNet-50, the released checkpoint for ConvNeXt-L. A dash: not published there.

The name is what `model_options.backbone.name` takes behind `kmax_`. MOAT models exist without
relative positions too: `_no_pe` before the last part of the name.
"""
# The part of the file that is written by hand, and stays.
_BY_HAND = '## Weights to start from'


def row(title: str, name: str) -> str:
  """Returns the line of one backbone on one data set."""
  path, crops = _DATASETS[title]
  config = load.load(path, [*_OFF, f'model_options.backbone.name=kmax_{name}'])
  model = assemble.model(config)
  graphs = [model_size.inference_graph(model, crop) for crop in crops]
  cells = [
    name,
    _millions(model.backbone.trainable_variables),
    _millions(graphs[0].variables),
    _millions(model.trainable_variables),
  ]
  cells += [f'{sum(model_size.multiply_adds(graph).values()) / 1e9:.2f}' for graph in graphs]
  return '| ' + ' | '.join([*cells, str(_PUBLISHED.get((title, name), '–'))]) + ' |'


def _millions(variables):
  return f'{model_size.parameters(variables) / 1e6:.2f}'


def main(arguments) -> int:
  """Runs the command line; returns its exit code."""
  parser = command_line.Parser(__doc__)
  parser.add_path('--output', default='docs/models.md')
  parser.add_argument('--backbones', help='Only these, with commas between.')

  def run():
    """Builds every backbone on every dataset and writes the table."""
    options = parser.parse_args(arguments)
    names = [name for name in registry.BACKBONES if '_no_pe' not in name]
    if options.backbones:
      names = options.backbones.split(',')
      for name in names:
        if name not in registry.BACKBONES:
          raise errors.UserError(
            f'--backbones: {name!r} is none of {", ".join(registry.BACKBONES)}.'
          )
    by_hand = _by_hand(options.output)
    lines = [_HEADER]
    part = f'{options.output}.part'
    _write(part, lines)  # What cannot be written is better known before a quarter of an hour.
    bar = tqdm.tqdm(total=len(names) * len(_DATASETS), unit=' model')
    for title, (_, crops) in _DATASETS.items():
      sizes = [f'G multiply-adds at {height}x{width}' for height, width in crops]
      titles = ['backbone', 'M parameters of the backbone', 'inference', 'whole', *sizes, 'PQ']
      lines += [f'## {title}', '| ' + ' | '.join(titles) + ' |', '|---' * len(titles) + '|']
      for name in names:
        # In a process of its own, which gives the memory back: all models together take 30 GB.
        with concurrent.futures.ProcessPoolExecutor(1, _SPAWN) as pool:
          lines.append(pool.submit(row, title, name).result())
        _write(part, lines)
        bar.update()
      lines.append('')
    if by_hand:
      lines.append(by_hand)
    bar.close()
    _write(options.output, lines)
    files.remove_if_exists(part)

  return command_line.run(run)


def _by_hand(path):
  """Returns what a file has from the heading of its handwritten part on, '' without one."""
  if not os.path.exists(path):
    return ''
  _, heading, rest = files.read_text(path).partition(_BY_HAND)
  return heading + rest


def _write(path, lines):
  files.write_whole(path, '\n'.join(lines).encode())


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
