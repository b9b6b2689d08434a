// How the tensor-core kernels cut a neighborhood attention into blocks and warps; host and device share it.
//
// A block works on a box of tokens ("rows") of one head and one dilation group, in group coordinates; each of its warps
// owns 16 rows, again a box. The tokens that the rows meet ("columns") are a box too: the union of the rows' windows,
// or, where rows are keys and columns queries, of their inverse windows. Which row meets which column, and with which
// bias, is worked out once and then serves for all boxes that look alike: those of every batch entry, of every dilation
// group of the same length, and of every position away from the borders. Such a box is a unit of work; a block does
// several; its warps may form teams that take turns at them and share what was worked out.
#pragma once

#include "common/neighborhood_params.h"

namespace visionattn::tile {

constexpr int kRows = 16;  // of a warp: the height of a matrix fragment

// Boxes that look alike along an axis: `tiles` neighbors from `tile` on, in the `groups` dilation groups from `group`
// on.
struct AxisClass {
  int32_t tile, tiles, group, groups;
};

constexpr int kMaxAxisClasses = 16;
constexpr int kMaxClasses = 160;

struct Plan {
  int32_t rows[kMaxRank];   // box of a warp, at most kRows * tiles tokens
  int32_t warps[kMaxRank];  // box of warps in a block, or in a team
  int32_t teams = 1;        // of a block
  int32_t tiles = 1;        // matrix tiles of kRows rows of a warp
  int32_t columns[2];       // capacity of a block whose rows are queries, or keys: in tokens,
  int32_t line_pairs[2];    // and, of lined kernels, of a line of a warp's columns: in pairs; otherwise 0
  int32_t pairs;            // capacity of a warp, in pairs of 8 columns
  int32_t stages;           // copies of the token buffers: with 2, one fills while the other is used
  bool split;               // forward: keys and values are loaded in turns, each while the other's are used
  int32_t pitch;            // strip kernels: capacity of a line of columns, a multiple of 16,
  int32_t lines;            // and lines that are in a token buffer at a time
  int32_t chunks;           // the batch is cut into so many
  // A class of boxes is a class along every axis. Its boxes are dealt out to blocks first_block[class] and following.
  // If the plan is plain, every box is a class of its own, and there are no lists of them: class_counts are boxes, and
  // tiles_along those of a group.
  bool plain;
  int32_t element;  // bytes of an element: 2, or 4 for float32, whose bias is in the same precision
  int32_t tiles_along[kMaxRank];
  int32_t class_counts[kMaxRank];
  AxisClass classes[kMaxRank][kMaxAxisClasses];
  int32_t first_block[kMaxClasses + 1];

  VISIONATTN_HOST_DEVICE int32_t class_count() const { return class_counts[0] * class_counts[1] * class_counts[2]; }
  VISIONATTN_HOST_DEVICE int32_t warp_count() const { return warps[0] * warps[1] * warps[2]; }
  VISIONATTN_HOST_DEVICE int32_t row_count() const { return warp_count() * tiles * kRows; }
  VISIONATTN_HOST_DEVICE int32_t thread_count() const { return teams * warp_count() * 32; }
  // Bytes of a line of a lined kernel's table.
  VISIONATTN_HOST_DEVICE int32_t table_line(bool inverse) const { return line_pairs[inverse] * rows[2] * 16 * element; }
  // Blocks of one head and one chunk of the batch; and of one head.
  VISIONATTN_HOST_DEVICE int32_t chunk_positions() const { return plain ? class_count() : first_block[class_count()]; }
  VISIONATTN_HOST_DEVICE int32_t positions() const { return chunk_positions() * chunks; }
};

struct Box {
  Interval axis[kMaxRank];
  VISIONATTN_HOST_DEVICE int32_t volume() const { return axis[0].size() * axis[1].size() * axis[2].size(); }
};

// The general case is rare and not inlined, to keep the kernels short.
#if defined(__CUDACC__)
__host__ __device__ __noinline__
#endif
    inline Interval attended_generally(int32_t kernel, int32_t stride, bool causal, int32_t length, int32_t row,
                                       bool inverse) {
  Axis axis;
  axis.kernel = kernel;
  axis.stride = stride;
  axis.causal = causal;
  return inverse ? inverse_window(axis, length, row) : window(axis, length, row);
}

// What a row of a group with `length` positions meets along an axis: its window, or its inverse window.
VISIONATTN_HOST_DEVICE Interval attended(const Axis& axis, int32_t length, int32_t row, bool inverse) {
  if (axis.stride > 1 || axis.causal) {
    return attended_generally(axis.kernel, axis.stride, axis.causal, length, row, inverse);
  }
  const int32_t kernel = axis.kernel, left = kernel / 2;
  if (!inverse) {
    const int32_t begin = max_of(min_of(row - left, length - kernel), 0);
    return {begin, min_of(begin + kernel, length)};
  }
  return {row < kernel ? 0 : row - (kernel - left - 1), row >= length - kernel ? length : row + left + 1};
}

// Union of what the rows attend to; windows and inverse windows move monotonically with the row.
VISIONATTN_HOST_DEVICE Interval attended(const Axis& axis, int32_t length, Interval rows, bool inverse) {
  const int32_t begin = attended(axis, length, rows.begin, inverse).begin;
  const int32_t end = attended(axis, length, rows.end - 1, inverse).end;
  return {begin, max_of(begin, end)};
}

// Takes the last digit off a number in a mixed base; most bases are 1.
VISIONATTN_HOST_DEVICE int32_t take_digit(uint32_t& number, uint32_t base) {
  if (base == 1) return 0;
  const uint32_t rest = number / base, digit = number - rest * base;
  number = rest;
  return static_cast<int32_t>(digit);
}

// Takes the last digit off a small number (below 2^16).
VISIONATTN_HOST_DEVICE int32_t take_small_digit(uint32_t& number, uint32_t base) {
#if defined(__CUDA_ARCH__)
  const uint32_t rest = __float2uint_rz(__fdividef(__uint2float_rn(number) + 0.5f, __uint2float_rn(base)));
#else
  const uint32_t rest = number / base;
#endif
  const uint32_t digit = number - rest * base;
  number = rest;
  return static_cast<int32_t>(digit);
}

// A block's place: a class, of whose boxes it works on every box_step-th from `box` on, for a part of the batch. Rows
// and columns are those of the class's first box.
struct Place {
  int32_t head;
  int32_t position;  // among the blocks of its head
  int32_t batch_begin, batch_end;
  uint32_t box, box_step, box_count;
  AxisClass classes[kMaxRank];
  int32_t length[kMaxRank];  // of the dilation groups
  Box rows, columns;         // rows may be empty if the plan is plain: groups differ in length

  VISIONATTN_HOST_DEVICE bool empty() const { return rows.volume() == 0; }
  VISIONATTN_HOST_DEVICE int32_t units() const {
    return static_cast<int32_t>((box_count - box + box_step - 1) / box_step) * (batch_end - batch_begin);
  }
};

// A unit of a place: its batch entry and box, and how far its tokens lie from those of the first box along every axis.
struct Unit {
  int32_t batch;
  uint32_t box;
  int32_t shift[kMaxRank];

  // The first unit.
  VISIONATTN_HOST_DEVICE Unit(const NeighborhoodParams& params, const Plan& plan, const Place& place)
      : batch(place.batch_begin), box(place.box) {
    find_box(params, plan, place);
  }

  VISIONATTN_HOST_DEVICE void advance(const NeighborhoodParams& params, const Plan& plan, const Place& place,
                                      int32_t steps = 1) {
    batch += steps;
    if (batch < place.batch_end) return;
    do {
      batch -= place.batch_end - place.batch_begin;
      box += place.box_step;
    } while (batch >= place.batch_end);
    find_box(params, plan, place);
  }

 private:
  VISIONATTN_HOST_DEVICE void find_box(const NeighborhoodParams& params, const Plan& plan, const Place& place) {
    uint32_t number = box;
#pragma unroll
    for (int a = kMaxRank - 1; a >= 0; --a) shift[a] = take_digit(number, place.classes[a].groups);
#pragma unroll
    for (int a = kMaxRank - 1; a >= 0; --a) {
      const int32_t tile = take_digit(number, place.classes[a].tiles);
      shift[a] += tile * plan.rows[a] * plan.warps[a] * params.axes[a].dilation;
    }
  }
};

// The rows of warp `warp` of a block, and the columns they meet.
struct WarpPlace {
  Box rows, columns;
  bool empty;
};

// Lined kernels: length in shared memory of a line of a block's columns, which go along the last axis. It is a multiple
// of 8 tokens so that all lines look alike to matrix loads. Each warp takes its part of a line in pairs of column
// blocks, whose last columns may lie on the next line.
VISIONATTN_HOST_DEVICE int32_t line_pitch(Interval columns) { return (columns.size() + 7) / 8 * 8; }

struct Coordinates {
  int32_t at[kMaxRank];
};

// Element `index` (below 2^16) of a box with the given extents (row-major), relative to its corner.
VISIONATTN_HOST_DEVICE Coordinates unravel(uint32_t index, int32_t extent1, int32_t extent2) {
  Coordinates result;
  result.at[2] = take_small_digit(index, extent2);
  result.at[1] = take_small_digit(index, extent1);
  result.at[0] = static_cast<int32_t>(index);
  return result;
}

// Offset in bytes of a token of the first unit, given in group coordinates, within a batch entry of the view, whose
// elements take kBytes.
template <int kBytes>
VISIONATTN_HOST_DEVICE uint32_t token_offset(const NeighborhoodParams& params, const Place& place, const View& view,
                                             const Coordinates& c) {
  uint32_t offset = 0;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    offset += (c.at[a] * params.axes[a].dilation + place.classes[a].group) * static_cast<uint32_t>(view.spatial[a]);
  }
  return offset * kBytes;
}

// Start of a unit's data in a view: what offsets of the first unit's tokens are to be added to.
template <int kBytes>
VISIONATTN_HOST_DEVICE char* unit_start(const View& view, const Unit& unit, int32_t head) {
  uint32_t offset = 0;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) offset += unit.shift[a] * static_cast<uint32_t>(view.spatial[a]);
  return static_cast<char*>(view.data) + kBytes * (unit.batch * view.batch + head * view.head + offset);
}

// Where a unit's data start in the views that are used: query, key, value, output, and the gradients of output, query,
// key and value; and its number, see unit_number. The first warp of a team keeps a list of them, some units ahead.
struct UnitStarts {
  static constexpr int32_t kListed = 4;
  char* views[8];
  int64_t number;
  int64_t filler;  // entries take a multiple of 16 bytes
};
constexpr int32_t kUnitListBytes = UnitStarts::kListed * static_cast<int32_t>(sizeof(UnitStarts));

// Number of a token of the first unit, given in group coordinates, within its batch entry.
VISIONATTN_HOST_DEVICE int32_t token_number(const NeighborhoodParams& params, const Place& place,
                                            const Coordinates& c) {
  int32_t number = 0;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    number = number * params.axes[a].length + c.at[a] * params.axes[a].dilation + place.classes[a].group;
  }
  return number;
}

// What to add to the number to get a unit's entry of lse and of its like.
VISIONATTN_HOST_DEVICE int64_t unit_number(const NeighborhoodParams& params, const Unit& unit) {
  int32_t number = 0;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) number = number * params.axes[a].length + unit.shift[a];
  return unit.batch * params.tokens() + number;
}

}  // namespace visionattn::tile
