// What a query attends to, as rows of keys along the last axis: the window's, then the additional tokens.
#pragma once

#include "../common/rows.cuh"

namespace visionattn {

template <typename T>
struct KeyRow {
  const T *keys, *values;
  int64_t key_step, value_step;
  const float* bias;  // of the first key, the others' follow; null without bias
  int32_t count;
};

// visit(KeyRow) for each row. One loop, so that a long visit is compiled once.
template <typename T, typename Visit>
__device__ __forceinline__ void for_each_key_row(const NeighborhoodParams& params, const Site& site, const Grouped& at,
                                                 Visit visit) {
  const Axis(&axes)[kMaxRank] = params.axes;
  const View &key = params.key, &value = params.value;
  const int32_t head_kv = site.head / (params.heads / params.heads_kv);
  const int32_t bias_width = 2 * axes[2].kernel - 1, bias_height = 2 * axes[1].kernel - 1;
  const Box box = window_box(axes, at);
  const int32_t i0 = box.span[0].begin, j0 = box.span[1].begin, k0 = box.span[2].begin;

  KeyRow<T> row;
  row.keys =
      static_cast<const T*>(key.data) + row_offset(key, site.batch, head_kv) + group_offset(key, axes, at, i0, j0, k0);
  row.values = static_cast<const T*>(value.data) + row_offset(value, site.batch, head_kv) +
               group_offset(value, axes, at, i0, j0, k0);
  row.bias = nullptr;
  if (params.rpb) {
    row.bias = static_cast<const float*>(params.rpb) + site.head * params.rpb_size() +
               bias_index(axes, i0 - at.number[0], j0 - at.number[1], k0 - at.number[2]);
  }
  row.key_step = group_step(key, axes, 2);
  row.value_step = group_step(value, axes, 2);
  row.count = box.span[2].size();
  KeyRow<T> line = row;  // the first row of the current i

  const int32_t height = box.span[1].size(), rows = box.span[0].size() * height;
  const int32_t all_rows = rows + (params.additional > 0);
  for (int32_t r = 0, j = 0; r < all_rows; ++r) {
    visit(row);
    if (r + 1 < rows) {
      const bool next_line = ++j == height;
      if (next_line) {
        j = 0;
        row = line;
      }
      row.keys += group_step(key, axes, next_line ? 0 : 1);
      row.values += group_step(value, axes, next_line ? 0 : 1);
      if (row.bias) row.bias += next_line ? int64_t(bias_height) * bias_width : bias_width;
      if (next_line) line = row;
    } else if (params.additional > 0) {
      const View &extra_key = params.additional_key, &extra_value = params.additional_value;
      row.keys = static_cast<const T*>(extra_key.data) + row_offset(extra_key, site.batch, head_kv);
      row.values = static_cast<const T*>(extra_value.data) + row_offset(extra_value, site.batch, head_kv);
      row.key_step = extra_key.spatial[0];
      row.value_step = extra_value.spatial[0];
      row.bias = nullptr;
      row.count = params.additional;
    }
  }
}

}  // namespace visionattn
