"""The published algorithms of panopticapi and boundary-iou-api, mask by mask, for tests.

https://github.com/cocodataset/panopticapi, https://github.com/bowenc0221/boundary-iou-api
"""

import collections

import numpy as np

from tests.metrics.test_boundaries import eroded_boundary


def panoptic_counts(images, *, boundary=False, all_crowds=False):
  """Returns {category: [iou, tp, fp, fn]}.

  Args:
    images: (true ids [H, W], true segments, predicted ids, predicted segments), the segments as the
      JSON lists them.
    boundary: whether the IoU is the lesser of masks' and boundaries'.
    all_crowds: whether all crowds of a class excuse, not the last one.
  """
  counts = collections.defaultdict(lambda: [0.0, 0, 0, 0])
  for true_ids, truths, predicted_ids, predictions in images:
    void = true_ids == 0
    found_truths, found_predictions = set(), set()
    for truth in truths:
      for prediction in predictions:
        if truth['iscrowd'] or truth['category_id'] != prediction['category_id']:
          continue
        one, other = true_ids == truth['id'], predicted_ids == prediction['id']
        iou = (one & other).sum() / ((one | other) & ~(other & void)).sum()
        if boundary:
          one, other = eroded_boundary(one), eroded_boundary(other)
          iou = min(iou, (one & other).sum() / ((one | other) & ~(other & void)).sum())
        if iou > 0.5:
          entry = counts[truth['category_id']]
          entry[0] += iou
          entry[1] += 1
          found_truths.add(truth['id'])
          found_predictions.add(prediction['id'])
    crowds = collections.defaultdict(list)
    for truth in truths:
      if truth['iscrowd']:
        crowds[truth['category_id']].append(truth['id'])
      elif truth['id'] not in found_truths:
        counts[truth['category_id']][3] += 1
    for prediction in predictions:
      if prediction['id'] in found_predictions:
        continue
      mask = predicted_ids == prediction['id']
      excusing = crowds[prediction['category_id']]
      excused = void | np.isin(true_ids, excusing if all_crowds else excusing[-1:])
      if (mask & excused).sum() / mask.sum() <= 0.5:
        counts[prediction['category_id']][2] += 1
  return counts
