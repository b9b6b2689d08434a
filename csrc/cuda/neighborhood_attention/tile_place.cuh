// Where a block and its warps work.
#pragma once

#include "tile_plan.cuh"

namespace visionattn::tile {

// What a box of rows meets. To be called by whole warps: each lane works out one end of one interval, which keeps the
// kernels short.
__device__ __forceinline__ Box attended(const NeighborhoodParams& params, const int32_t (&length)[kMaxRank],
                                        const Box& rows, bool inverse) {
  const int lane = threadIdx.x % 32, axis = min_of(lane / 2, kMaxRank - 1);
  const bool end = lane % 2 == 1;
  int32_t own_length = length[0], row = end ? rows.axis[0].end - 1 : rows.axis[0].begin;
#pragma unroll
  for (int a = 1; a < kMaxRank; ++a) {
    if (axis == a) {
      own_length = length[a];
      row = end ? rows.axis[a].end - 1 : rows.axis[a].begin;
    }
  }
  const Interval met = attended(params.axes[axis], own_length, row, inverse);
  const int32_t own = end ? met.end : met.begin;
  Box columns;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    const int32_t begin = __shfl_sync(0xffffffffu, own, 2 * a);
    columns.axis[a] = {begin, max_of(begin, __shfl_sync(0xffffffffu, own, 2 * a + 1))};
  }
  return columns;
}

// The place of block `index`. To be called by whole warps.
__device__ __forceinline__ Place locate(const NeighborhoodParams& params, const Plan& plan, uint32_t index,
                                        bool inverse) {
  Place place;
  place.head = take_digit(index, params.heads);
  place.position = index;
  const int32_t block = take_digit(index, plan.chunk_positions());
  const int32_t batch = static_cast<int32_t>(params.batch), chunk = index;
  place.batch_begin = plan.chunks == 1 ? 0 : static_cast<uint64_t>(batch) * chunk / plan.chunks;
  place.batch_end = plan.chunks == 1 ? batch : static_cast<uint64_t>(batch) * (chunk + 1) / plan.chunks;
  int32_t low = block;
  place.box = 0;
  place.box_step = 1;
  if (!plan.plain) {
    low = 0;
    for (int32_t high = plan.class_count(); high - low > 1;) {  // the class is in [low, high)
      const int32_t middle = (low + high) / 2;
      if (plan.first_block[middle] <= block) {
        low = middle;
      } else {
        high = middle;
      }
    }
    place.box = block - plan.first_block[low];
    place.box_step = plan.first_block[low + 1] - plan.first_block[low];
  }
  uint32_t number = low;
  place.box_count = 1;
#pragma unroll
  for (int a = kMaxRank - 1; a >= 0; --a) {
    uint32_t along = take_digit(number, plan.class_counts[a]);
    AxisClass c;
    if (plan.plain) {
      c.tile = take_digit(along, plan.tiles_along[a]);
      c.group = static_cast<int32_t>(along);
      c.tiles = c.groups = 1;
    } else {
      c = plan.classes[a][along];
    }
    const int32_t size = plan.rows[a] * plan.warps[a], begin = c.tile * size;
    const int32_t length = group_length(params.axes[a], c.group);
    place.box_count *= c.tiles * c.groups;
    place.classes[a] = c;
    place.length[a] = length;
    place.rows.axis[a] = {begin, max_of(min_of(begin + size, length), begin)};
  }
  place.columns = attended(params, place.length, place.rows, inverse);
  return place;
}

// To be called by whole warps.
__device__ __forceinline__ WarpPlace locate_warp(const NeighborhoodParams& params, const Plan& plan, const Place& place,
                                                 uint32_t warp, bool inverse) {
  WarpPlace result;
  result.empty = false;
#pragma unroll
  for (int a = kMaxRank - 1; a >= 0; --a) {
    const int32_t begin = place.rows.axis[a].begin + take_small_digit(warp, plan.warps[a]) * plan.rows[a];
    result.rows.axis[a] = {begin, min_of(begin + plan.rows[a], place.rows.axis[a].end)};
    result.empty = result.empty || result.rows.axis[a].size() <= 0;
  }
  result.columns = attended(params, place.length, result.rows, inverse);
  if (result.empty) result.columns = {};
  return result;
}

}  // namespace visionattn::tile
