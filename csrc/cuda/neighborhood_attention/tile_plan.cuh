// How the tensor-core kernels cut a neighborhood attention into blocks and warps; host and device share it.
//
// A block works on a box of tokens ("rows") of one head and one dilation group, in group coordinates, for several batch
// entries in turn; each of its warps owns 16 rows, again a box. The tokens that the rows meet ("columns") are a box
// too: the union of the rows' windows, or, where rows are keys and columns queries, of their inverse windows. Only the
// row boxes' positions matter for which row meets which column with which bias, so that is worked out once per block.
#pragma once

#include "common/neighborhood_params.h"

namespace visionattn::tile {

constexpr int kRows = 16;  // of a warp: the height of a matrix fragment

struct Plan {
  int32_t rows[kMaxRank];    // box of a warp, at most kRows tokens
  int32_t warps[kMaxRank];   // box of warps in a block
  int32_t tiles[kMaxRank];   // blocks along each axis of the longest group
  int32_t groups[kMaxRank];  // dilation groups along each axis
  int32_t columns;           // capacity of a block, in tokens
  int32_t pairs;             // capacity of a warp, in pairs of 8 columns
  int32_t chunks;            // the batch is cut into so many
  int32_t stages;            // copies of the token buffers: with 2, one fills while the other is used

  VISIONATTN_HOST_DEVICE int32_t warp_count() const { return warps[0] * warps[1] * warps[2]; }
  VISIONATTN_HOST_DEVICE int32_t row_count() const { return warp_count() * kRows; }
  // Blocks of one head.
  VISIONATTN_HOST_DEVICE int64_t positions() const {
    int64_t count = chunks;
    for (int a = 0; a < kMaxRank; ++a) count *= int64_t(tiles[a]) * groups[a];
    return count;
  }
};

struct Box {
  Interval axis[kMaxRank];
  VISIONATTN_HOST_DEVICE int32_t volume() const { return axis[0].size() * axis[1].size() * axis[2].size(); }
};

template <bool kInverse>
VISIONATTN_HOST_DEVICE Interval attended(const Axis& axis, int32_t length, int32_t row) {
  return kInverse ? inverse_window(axis, length, row) : window(axis, length, row);
}

// Union of what the rows attend to; windows and inverse windows move monotonically with the row.
template <bool kInverse>
VISIONATTN_HOST_DEVICE Interval attended(const Axis& axis, int32_t length, Interval rows) {
  const int32_t begin = attended<kInverse>(axis, length, rows.begin).begin;
  const int32_t end = attended<kInverse>(axis, length, rows.end - 1).end;
  return {begin, max_of(begin, end)};
}

// A block's place. `rows` may be empty: groups differ in length.
struct Place {
  int32_t head;
  int32_t position;  // among the blocks of its head
  int64_t batch_begin, batch_end;
  int32_t group[kMaxRank];
  int32_t length[kMaxRank];
  Box rows, columns;
  bool empty;
};

template <bool kInverse>
VISIONATTN_HOST_DEVICE Place locate(const NeighborhoodParams& params, const Plan& plan, uint32_t index) {
  Place place;
  place.head = index % params.heads;
  index /= params.heads;
  place.position = index;
  int32_t tile[kMaxRank];
#pragma unroll
  for (int a = kMaxRank - 1; a >= 0; --a) {
    place.group[a] = index % plan.groups[a];
    index /= plan.groups[a];
  }
#pragma unroll
  for (int a = kMaxRank - 1; a >= 0; --a) {
    tile[a] = index % plan.tiles[a];
    index /= plan.tiles[a];
  }
  place.batch_begin = params.batch * index / plan.chunks;
  place.batch_end = params.batch * (index + 1) / plan.chunks;
  place.empty = place.batch_begin == place.batch_end;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    const int32_t length = group_length(params.axes[a], place.group[a]), size = plan.rows[a] * plan.warps[a];
    place.length[a] = length;
    place.rows.axis[a] = {tile[a] * size, min_of(tile[a] * size + size, length)};
    if (place.rows.axis[a].size() <= 0) {
      place.empty = true;
      place.rows.axis[a].end = place.rows.axis[a].begin;
      place.columns.axis[a] = {0, 0};
    } else {
      place.columns.axis[a] = attended<kInverse>(params.axes[a], length, place.rows.axis[a]);
    }
  }
  return place;
}

// The rows of warp `warp` of a block, and the columns they meet.
struct WarpPlace {
  Box rows, columns;
  bool empty;
};

template <bool kInverse>
VISIONATTN_HOST_DEVICE WarpPlace locate_warp(const NeighborhoodParams& params, const Plan& plan, const Place& place,
                                             int32_t warp) {
  WarpPlace result;
  result.empty = place.empty;
#pragma unroll
  for (int a = kMaxRank - 1; a >= 0; --a) {
    const int32_t begin = place.rows.axis[a].begin + warp % plan.warps[a] * plan.rows[a];
    warp /= plan.warps[a];
    result.rows.axis[a] = {begin, min_of(begin + plan.rows[a], place.rows.axis[a].end)};
    if (result.rows.axis[a].size() <= 0) {
      result.empty = true;
      result.columns.axis[a] = {0, 0};
    } else {
      result.columns.axis[a] = attended<kInverse>(params.axes[a], place.length[a], result.rows.axis[a]);
    }
  }
  return result;
}

struct Coordinates {
  int32_t at[kMaxRank];
};

// Element `index` of a box with the given extents (row-major), relative to its corner.
VISIONATTN_HOST_DEVICE Coordinates unravel(int32_t index, int32_t extent1, int32_t extent2) {
  Coordinates result;
  result.at[2] = index % extent2;
  index /= extent2;
  result.at[1] = index % extent1;
  result.at[0] = index / extent1;
  return result;
}

// Offset of a token, given in group coordinates, within a batch entry of the view.
VISIONATTN_HOST_DEVICE int32_t token_offset(const NeighborhoodParams& params, const Place& place, const View& view,
                                            const Coordinates& c) {
  int32_t offset = 0;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    offset += (c.at[a] * params.axes[a].dilation + place.group[a]) * static_cast<int32_t>(view.spatial[a]);
  }
  return offset;
}

// Number of a token, given in group coordinates, within its batch entry.
VISIONATTN_HOST_DEVICE int32_t token_number(const NeighborhoodParams& params, const Place& place,
                                            const Coordinates& c) {
  int32_t number = 0;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    number = number * params.axes[a].length + c.at[a] * params.axes[a].dilation + place.group[a];
  }
  return number;
}

// Byte offsets of a forward block's shared memory.
struct ForwardLayout {
  int32_t stage, keys, values, queries;  // size of a stage; offsets in it
  int32_t table, lists, total;

  VISIONATTN_HOST_DEVICE ForwardLayout(const Plan& plan, int row_bytes) {
    keys = 0;
    values = plan.columns * row_bytes;
    queries = 2 * plan.columns * row_bytes;
    stage = (queries + plan.row_count() * row_bytes + 255) / 256 * 256;
    table = stage * plan.stages;
    lists = table + plan.warp_count() * plan.pairs * 512;
    total = lists + 4 * (2 * plan.columns + 3 * plan.row_count() + 2 * plan.warp_count() * plan.pairs * 16);
  }
};

// Byte offsets of a backward block's shared memory.
struct BackwardLayout {
  int32_t stage, columns0, columns1, rows0, rows1, statistics;  // size of a stage; offsets in it
  int32_t table, sums, lists, total;

  // `inverse`: rows are keys. `sums_in_memory`: the sums of the bias gradient are kept in shared memory.
  VISIONATTN_HOST_DEVICE BackwardLayout(const Plan& plan, int row_bytes, bool inverse, bool sums_in_memory) {
    const int32_t warps = plan.warp_count(), rows = plan.row_count(), width = plan.pairs * 16;
    const int32_t sum_bytes = rows * width * 4;
    columns0 = 0;
    columns1 = plan.columns * row_bytes;
    rows0 = 2 * plan.columns * row_bytes;
    rows1 = rows0 + rows * row_bytes;
    statistics = rows1 + rows * row_bytes;
    stage = (statistics + 8 * (inverse ? warps * width : rows) + 255) / 256 * 256;
    table = stage * plan.stages;
    // The sums, where they are in registers, end up in the token buffers.
    if (!inverse && !sums_in_memory) table = max_of(table, sum_bytes);
    sums = table + warps * width * 32;
    lists = sums + (!inverse && sums_in_memory ? sum_bytes : 0);
    total = lists + 4 * (2 * plan.columns + 5 * rows + 2 * warps * width);
  }
};

}  // namespace visionattn::tile
