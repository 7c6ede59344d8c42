"""Exact assignment of rows to columns at the least total cost, for a batch, inside the graph.

Shortest augmenting paths (Jonker & Volgenant 1987; Crouse 2016, "On implementing 2D rectangular
assignment algorithms"): rows are added one after the other, each by one run of Dijkstra's algorithm
over the columns with reduced costs. All examples of the batch advance together; every step is a few
operations on [B, columns]. Only rows that take part cost time. There is no other form for GPUs and
TPUs, where loops of small operations are slow: every step needs the one before, and what only
comes near the least cost would be another loss.
"""

from typing import NamedTuple

import tensorflow as tf

_INFINITY = float('inf')


class _State(NamedTuple):
  """Assignment of the rows so far, with dual prices. n columns, m rows."""

  column_of_row_bm: tf.Tensor  # int32, -1 for none
  row_of_column_bn: tf.Tensor  # int32, -1 for none
  row_price_bm: tf.Tensor
  column_price_bn: tf.Tensor


class _Search(NamedTuple):
  """Dijkstra's algorithm from one row of each example."""

  step: tf.Tensor  # int32, scalar
  row_b: tf.Tensor  # int32, whose columns are looked at next
  sink_b: tf.Tensor  # int32, the free column that was reached, -1 before
  length_b: tf.Tensor  # length of the shortest path to `row_b`
  distance_bn: tf.Tensor
  previous_bn: tf.Tensor  # int32, the row before each column on its shortest path
  is_done_bn: tf.Tensor  # bool


def assign(cost_brs: tf.Tensor, is_valid_br: tf.Tensor) -> tf.Tensor:
  """Assigns valid rows to distinct columns so that the sum of their costs is least.

  If there are more valid rows than columns, as many are assigned as there are columns: those that
  give the least sum. Costs that are not finite count as the largest finite one (-inf: the least),
  so any input ends after at most rows * columns steps. Works under XLA.

  Args:
    cost_brs: [B, R, S] float32.
    is_valid_br: [B, R] bool; the other rows stay out.

  Returns:
    [B, R] int32, the column of each row; -1 for invalid and for left-over rows.
  """
  cost_brs = _finite(tf.stop_gradient(cost_brs), is_valid_br)
  num_rows, num_columns = cost_brs.shape[1:3]
  # Valid rows first, so that the loop over rows ends with the last of them.
  order_br = tf.argsort(tf.cast(~is_valid_br, tf.int32), axis=1, stable=True)
  count_b = tf.reduce_sum(tf.cast(is_valid_br, tf.int32), axis=1)
  cost_bmn = _with_spare_columns(tf.gather(cost_brs, order_br, batch_dims=1))

  batch, num_all = tf.shape(cost_bmn)[0], cost_bmn.shape[2]
  state = _State(
    tf.fill([batch, num_rows], -1),
    tf.fill([batch, num_all], -1),
    tf.zeros([batch, num_rows]),
    tf.zeros([batch, num_all]),
  )

  def add_row(row, state):
    return row + 1, _add_row(cost_bmn, row, row < count_b, state)

  _, state = tf.while_loop(
    lambda row, _: row < tf.reduce_max(count_b),
    add_row,
    (tf.constant(0), state),
    maximum_iterations=num_rows,
  )
  column_bm = tf.where(state.column_of_row_bm < num_columns, state.column_of_row_bm, -1)
  return tf.gather(column_bm, tf.argsort(order_br, axis=1), batch_dims=1)


def _finite(cost_brs, is_valid_br):
  """Replaces costs that are not finite; those of invalid rows become 0."""
  usable = tf.math.is_finite(cost_brs) & is_valid_br[:, :, tf.newaxis]
  highest = tf.reduce_max(tf.where(usable, cost_brs, -_INFINITY), axis=[1, 2], keepdims=True)
  lowest = tf.reduce_min(tf.where(usable, cost_brs, _INFINITY), axis=[1, 2], keepdims=True)
  highest = tf.where(tf.math.is_finite(highest), highest, 0.0)
  lowest = tf.where(tf.math.is_finite(lowest), lowest, 0.0)
  substitute = tf.where(cost_brs == -_INFINITY, lowest, highest)
  cost_brs = tf.where(tf.math.is_finite(cost_brs), cost_brs, substitute)
  return tf.where(is_valid_br[:, :, tf.newaxis], cost_brs, 0.0)


def _with_spare_columns(cost_bmn):
  """Appends columns for rows that may be left over, more expensive than any other.

  Whenever a row is in a spare column while another column is free, moving it there lowers the sum:
  so the best assignment leaves over only as many rows as it must.
  """
  num_rows, num_columns = cost_bmn.shape[1:3]
  if num_rows <= num_columns:
    return cost_bmn
  highest = tf.reduce_max(cost_bmn, axis=[1, 2], keepdims=True)
  lowest = tf.reduce_min(cost_bmn, axis=[1, 2], keepdims=True)
  spare = 2.0 * highest - lowest + 1e-3 * tf.abs(highest) + 1e-30
  spare = tf.tile(spare, [1, num_rows, num_rows - num_columns])
  return tf.concat([cost_bmn, spare], axis=2)


def _add_row(cost_bmn, row, is_active_b, state):
  """Assigns row number `row` too, in the examples that are active."""
  search = _shortest_path(cost_bmn, row, is_active_b, state)
  state = _updated_prices(row, is_active_b, state, search)
  return _augmented(row, is_active_b, state, search)


def _shortest_path(cost_bmn, row, is_active_b, state):
  """Finds the shortest path of reduced costs from `row` to a free column, for each example."""
  batch = tf.shape(cost_bmn)[0]
  _, num_rows, num_columns = cost_bmn.shape

  def look(search):
    """Returns the _Search after the columns [B, n] of its rows have been looked at.

    The nearest column that is not done yet is done then; it is the sink if it is free, and else its
    row is the next one. Nothing changes in examples that have a sink.
    """
    reduced_bn = (
      search.length_b[:, tf.newaxis]
      + tf.gather(cost_bmn, search.row_b, batch_dims=1)
      - tf.gather(state.row_price_bm, search.row_b, batch_dims=1)[:, tf.newaxis]
      - state.column_price_bn
    )
    is_open_b = search.sink_b < 0
    is_shorter_bn = (
      is_open_b[:, tf.newaxis] & ~search.is_done_bn & (reduced_bn < search.distance_bn)
    )
    distance_bn = tf.where(is_shorter_bn, reduced_bn, search.distance_bn)
    previous_bn = tf.where(is_shorter_bn, search.row_b[:, tf.newaxis], search.previous_bn)
    reachable_bn = tf.where(search.is_done_bn, _INFINITY, distance_bn)
    nearest_b = tf.argmin(reachable_bn, axis=1, output_type=tf.int32)
    owner_b = tf.gather(state.row_of_column_bn, nearest_b, batch_dims=1)
    is_new_bn = is_open_b[:, tf.newaxis] & (
      tf.range(num_columns)[tf.newaxis] == nearest_b[:, tf.newaxis]
    )
    length_b = tf.where(is_open_b, tf.gather(distance_bn, nearest_b, batch_dims=1), search.length_b)
    return _Search(
      search.step + 1,
      tf.where(is_open_b & (owner_b >= 0), owner_b, search.row_b),
      tf.where(is_open_b & (owner_b < 0), nearest_b, search.sink_b),
      length_b,
      distance_bn,
      previous_bn,
      search.is_done_bn | is_new_bn,
    )

  start = _Search(
    tf.constant(0),
    tf.fill([batch], row),
    # An example without this row has nothing to look for.
    tf.where(is_active_b, -1, 0),
    tf.zeros([batch]),
    tf.fill([batch, num_columns], _INFINITY),
    tf.fill([batch, num_columns], -1),
    tf.zeros([batch, num_columns], tf.bool),
  )
  return tf.while_loop(
    lambda search: tf.reduce_any(search.sink_b < 0),
    lambda search: (look(search),),
    (start,),
    maximum_iterations=min(num_rows, num_columns),
  )[0]


def _updated_prices(row, is_active_b, state, search):
  """Changes prices so that reduced costs stay non-negative and are 0 along the paths."""
  gain_bn = tf.where(
    search.is_done_bn & is_active_b[:, tf.newaxis],
    search.length_b[:, tf.newaxis] - search.distance_bn,
    0.0,
  )
  # A row that was passed gains what its column gave; the new row gains the whole length.
  column_bm = tf.maximum(state.column_of_row_bm, 0)
  row_gain_bm = tf.where(
    state.column_of_row_bm >= 0, tf.gather(gain_bn, column_bm, batch_dims=1), 0.0
  )
  is_row_bm = (tf.range(state.row_price_bm.shape[1])[tf.newaxis] == row) & (
    is_active_b[:, tf.newaxis]
  )
  row_gain_bm = tf.where(is_row_bm, search.length_b[:, tf.newaxis], row_gain_bm)
  return state._replace(
    row_price_bm=state.row_price_bm + row_gain_bm, column_price_bn=state.column_price_bn - gain_bn
  )


def _augmented(row, is_active_b, state, search):
  """Walks back from the sinks and hands every column on the path to the row before it."""
  rows_m = tf.range(state.column_of_row_bm.shape[1])[tf.newaxis]
  columns_n = tf.range(state.row_of_column_bn.shape[1])[tf.newaxis]

  def hand_over(is_open_b, column_b, column_of_row_bm, row_of_column_bn):
    row_b = tf.gather(search.previous_bn, column_b, batch_dims=1)
    is_column_bn = is_open_b[:, tf.newaxis] & (columns_n == column_b[:, tf.newaxis])
    is_row_bm = is_open_b[:, tf.newaxis] & (rows_m == row_b[:, tf.newaxis])
    next_b = tf.gather(column_of_row_bm, tf.maximum(row_b, 0), batch_dims=1)
    return (
      is_open_b & (row_b != row),
      tf.where(is_open_b, tf.maximum(next_b, 0), column_b),
      tf.where(is_row_bm, column_b[:, tf.newaxis], column_of_row_bm),
      tf.where(is_column_bn, row_b[:, tf.newaxis], row_of_column_bn),
    )

  _, _, column_of_row_bm, row_of_column_bn = tf.while_loop(
    lambda is_open_b, *_: tf.reduce_any(is_open_b),
    hand_over,
    (
      is_active_b & (search.sink_b >= 0),
      tf.maximum(search.sink_b, 0),
      state.column_of_row_bm,
      state.row_of_column_bn,
    ),
    maximum_iterations=state.column_of_row_bm.shape[1],
  )
  return state._replace(column_of_row_bm=column_of_row_bm, row_of_column_bn=row_of_column_bn)
