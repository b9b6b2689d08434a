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
  const Box box = window_box(axes, at);
  const int32_t head_kv = site.head / (params.heads / params.heads_kv);
  const int32_t rows = box.span[0].size() * box.span[1].size();
  const int32_t all_rows = rows + (params.additional > 0);
  int32_t i = box.span[0].begin, j = box.span[1].begin;
  for (int32_t r = 0; r < all_rows; ++r) {
    const bool inside = r < rows;
    const View& key = inside ? params.key : params.additional_key;
    const View& value = inside ? params.value : params.additional_value;
    const int32_t k = box.span[2].begin;
    KeyRow<T> row;
    row.keys = static_cast<const T*>(key.data) + row_offset(key, site.batch, head_kv);
    row.values = static_cast<const T*>(value.data) + row_offset(value, site.batch, head_kv);
    row.bias = nullptr;
    if (inside) {
      row.keys += group_offset(key, axes, at, i, j, k);
      row.values += group_offset(value, axes, at, i, j, k);
      row.key_step = axes[2].dilation * key.spatial[2];
      row.value_step = axes[2].dilation * value.spatial[2];
      row.count = box.span[2].size();
      if (params.rpb) {
        row.bias = static_cast<const float*>(params.rpb) + site.head * params.rpb_size() +
                   bias_index(axes, i - at.number[0], j - at.number[1], k - at.number[2]);
      }
      if (++j == box.span[1].end) {
        j = box.span[1].begin;
        ++i;
      }
    } else {
      row.key_step = key.spatial[0];
      row.value_step = value.spatial[0];
      row.count = params.additional;
    }
    visit(row);
  }
}

}  // namespace visionattn
