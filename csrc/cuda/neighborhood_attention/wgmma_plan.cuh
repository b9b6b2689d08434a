// How the Hopper kernels cut a neighborhood attention into tiles; host and device share it.
//
// A block works on one tile of tokens ("rows", 64 to a warpgroup) after the other, each a box in the group coordinates
// of one dilation group, for one head. The tokens that they meet ("columns", the union of the rows' windows, or, where
// rows are keys and columns queries, of their inverse windows) are a box too; it passes by in boxes of equal extents.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "common/neighborhood_params.h"

namespace visionattn::wgmma {

constexpr int kGroupRows = 64;  // of a warpgroup: the height of its products
constexpr int kGroups = 2;      // warpgroups of a block that multiply
constexpr int kTileRows = kGroups * kGroupRows;
constexpr int kPieceChannels = 64;  // copied at a time
constexpr int kStatistics = 4;      // floats of a token in the backward pass: as few as can be copied

struct Plan {
  int32_t tile[kMaxRank];   // extents of a tile, at most kTileRows tokens
  int32_t box[kMaxRank];    // and of a box of columns
  int32_t tiles[kMaxRank];  // tiles of a dilation group
};

// What a row of a group with `length` positions meets along an axis.
template <bool kInverse>
VISIONATTN_HOST_DEVICE Interval met(const Axis& axis, int32_t length, int32_t row) {
  return kInverse ? inverse_window(axis, length, row) : window(axis, length, row);
}

// What the rows from `begin` to `end` meet; windows and inverse windows move monotonically with the row.
template <bool kInverse>
VISIONATTN_HOST_DEVICE Interval met(const Axis& axis, int32_t length, Interval rows) {
  const int32_t begin = met<kInverse>(axis, length, rows.begin).begin;
  return {begin, max_of(begin, met<kInverse>(axis, length, rows.end - 1).end)};
}

// A tile's place.
struct Place {
  int32_t batch, head;
  int32_t group[kMaxRank], length[kMaxRank];  // dilation group and its length
  Interval rows[kMaxRank], columns[kMaxRank];
};

// Takes the last digit off a number in a mixed base; many bases are 1.
VISIONATTN_HOST_DEVICE int32_t take_digit(uint32_t& number, uint32_t base) {
  if (base == 1) return 0;
  const uint32_t digit = number % base;
  number /= base;
  return static_cast<int32_t>(digit);
}

// Neighboring tiles follow one another, then heads: what they read is in the cache.
template <bool kInverse>
VISIONATTN_HOST_DEVICE Place locate(const NeighborhoodParams& params, const Plan& plan, int32_t heads, uint32_t index) {
  Place place;
#pragma unroll
  for (int a = kMaxRank - 1; a >= 0; --a) place.rows[a].begin = take_digit(index, plan.tiles[a]) * plan.tile[a];
#pragma unroll
  for (int a = kMaxRank - 1; a >= 0; --a) {
    const Axis& axis = params.axes[a];
    place.group[a] = take_digit(index, axis.dilation);
    place.length[a] = axis.length / axis.dilation;
    place.rows[a].end = min_of(place.rows[a].begin + plan.tile[a], place.length[a]);
    place.columns[a] = met<kInverse>(axis, place.length[a], place.rows[a]);
  }
  place.head = take_digit(index, heads);
  place.batch = index;
  return place;
}

// Element of a view where channel 0 of a head of the first token of a place's dilation group lies, within a batch
// entry.
VISIONATTN_HOST_DEVICE int64_t group_offset(const View& view, const Place& place, int32_t head) {
  int64_t offset = head * view.head;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) offset += place.group[a] * view.spatial[a];
  return offset;
}

// Statistics of the backward pass: [batch, heads, spatial..., kStatistics]. Their batch stride is that of heads.
VISIONATTN_HOST_DEVICE View statistics_view(const NeighborhoodParams& params, float4* statistics) {
  View view;
  view.data = statistics;
  view.batch = kStatistics;
#pragma unroll
  for (int a = kMaxRank - 1; a >= 0; --a) {
    view.spatial[a] = view.batch;
    view.batch *= params.axes[a].length;
  }
  return view;
}

// ---------------------------------------------------------------------------------------------------------- host side

// Whether this device runs the Hopper kernels, of which `kernel` is one, and they cover the case, views apart.
bool covered(const NeighborhoodParams& params, const void* kernel);

// Of the current device.
uint32_t multiprocessors();

// How a case is cut, remembered between calls, for boxes of at most so many columns.
struct Cut {
  Plan plan;
  int64_t tiles = 0;   // of one head and one batch entry
  double boxes = 0.0;  // of columns that a tile takes, on average; one that some warpgroups skip counts in part
};
const Cut& find_cut(const NeighborhoodParams& params, bool inverse, int32_t box_columns);

// Whether the view's rows lie at multiples of 16 bytes.
bool aligned(const View& view);

// The map by which boxes with the given extents are copied from a view. Its first axis runs through the channels of
// every head and every dilation group, see group_offset. False if there is none.
bool make_map(CUtensorMap& map, const NeighborhoodParams& params, const View& view, int32_t heads, bool half,
              const int32_t (&extents)[kMaxRank]);
bool make_statistics_map(CUtensorMap& map, const NeighborhoodParams& params, const View& view,
                         const int32_t (&extents)[kMaxRank]);

}  // namespace visionattn::wgmma
