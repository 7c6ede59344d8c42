"""How deep in a backbone its variables lie, for learning rates that fall towards the images."""

from collections.abc import Iterable, Sequence

import tf_keras

_BLOCKS_PER_GROUP = 3


def groups(
  stem: Sequence[tf_keras.layers.Layer], stages: Iterable[Sequence[tf_keras.layers.Layer]]
) -> list[list[tf_keras.layers.Layer]]:
  """Groups the layers of a backbone by depth, as ConvNeXt's fine-tuning does.

  (Liu et al. 2022, appendix A; facebookresearch/ConvNeXt, optim_factory.py.) The stem is a group,
  and so are up to three consecutive blocks of a stage: ConvNeXt-T has 7 groups, larger ones 13.

  Args:
    stem: the layers before the first block.
    stages: the blocks of every stage. What precedes a block, such as a downsampling, is part of it.

  Returns:
    The groups from the images on, none of them empty.
  """
  found = [list(stem)]
  for blocks in stages:
    for start in range(0, len(blocks), _BLOCKS_PER_GROUP):
      found.append(list(blocks[start : start + _BLOCKS_PER_GROUP]))
  return found
