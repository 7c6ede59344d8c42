"""The numbers of an evaluation for people and for JSON files, in percent."""

from collections.abc import Mapping, Sequence
from typing import Any

from deeplab2 import structures
from deeplab2.metrics import instance_ap
from deeplab2.metrics import mean_iou
from deeplab2.metrics import panoptic_quality

# Which crowd regions of the ground truth excuse predictions of their class.
ALL_CROWDS = 'all crowd regions of a class in an image'
LAST_CROWD = "the last crowd region of a class in an image, as panopticapi's"

# Tags of DeepLab2 for what COCO calls by other names.
AP_TAGS = (
  'AP_Mask',
  'AP_Mask_@IoU=0.5',
  'AP_Mask_@IoU=0.75',
  'AP_Mask_small',
  'AP_Mask_medium',
  'AP_Mask_large',
  'AR_Mask_maxdets=1',
  'AR_Mask_maxdets=10',
  'AR_Mask_maxdets=100',
  'AR_Mask_small',
  'AR_Mask_medium',
  'AR_Mask_large',
)


def qualities(result: panoptic_quality.ProtocolResult) -> dict[str, float]:
  """Returns PQ, SQ and RQ of all, things and stuff."""
  return {
    f'{tag}{group}': 100 * value
    for group, quality in (('', result.all), ('_things', result.things), ('_stuff', result.stuff))
    for tag, value in zip(('PQ', 'SQ', 'RQ'), quality[:3], strict=True)
  }


def per_class(
  result: panoptic_quality.ProtocolResult,
  iou: mean_iou.MeanIoUResult,
  label_space: structures.LabelSpace,
  class_names: Sequence[str],
) -> list[dict[str, Any]]:
  """Returns the numbers of every class, by ascending dataset id; counts are sums over images."""
  return [
    {
      'id': index,
      'name': class_names[index],
      'isthing': index in label_space.thing_ids,
      'PQ': 100 * result.pq[index],
      'SQ': 100 * result.sq[index],
      'RQ': 100 * result.rq[index],
      'IoU': 100 * iou.per_class[index],
      'TP': int(result.tp[index]),
      'FN': int(result.fn[index]),
      'FP': int(result.fp[index]),
    }
    for index in sorted(label_space.class_order)
  ]


def precisions(ap: instance_ap.InstanceAPResult) -> dict[str, float | None]:
  """Returns COCO's twelve numbers; None where the ground truth has nothing of that size (-1)."""
  return {tag: 100 * value if value >= 0 else None for tag, value in zip(AP_TAGS, ap, strict=True)}


def quality_lines(rows: Mapping[str, panoptic_quality.Quality]) -> list[str]:
  """Returns a table of qualities by name."""
  return [
    f'{"":24}    PQ     SQ     RQ  classes',
    *(
      f'{name:24}{_percents(quality[:3])}{quality.num_classes:9}' for name, quality in rows.items()
    ),
  ]


def other_lines(iou: mean_iou.MeanIoUResult, ap: instance_ap.InstanceAPResult | None) -> list[str]:
  """Returns the lines of mIoU and of AP, if there is one."""
  lines = [f'{"mIoU":24}{100 * iou.mean:6.2f}']
  if ap is not None:
    lines.append(f'{"AP of instances":24}{100 * max(ap.ap, 0):6.2f}')
  return lines


def class_lines(
  result: panoptic_quality.ProtocolResult,
  iou: mean_iou.MeanIoUResult,
  label_space: structures.LabelSpace,
  class_names: Sequence[str],
) -> list[str]:
  """Returns a table of the classes that occur."""
  lines = []
  if not result.all.num_classes:
    lines.append('No class occurs, neither in the labels nor in the predictions: 0 means nothing.')
  lines.append(f'{"class":24}    PQ     SQ     RQ    IoU     TP     FN     FP')
  for index in sorted(label_space.class_order):
    counts = [int(values[index]) for values in (result.tp, result.fn, result.fp)]
    if any(counts):
      ratios = (result.pq[index], result.sq[index], result.rq[index], iou.per_class[index])
      lines.append(
        f'{class_names[index][:23]:24}{_percents(ratios)}'
        + ''.join(f'{count:7}' for count in counts)
      )
  return lines


def _percents(ratios):
  return ' '.join(f'{100 * ratio:6.2f}' for ratio in ratios)
