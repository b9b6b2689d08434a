// What the strip kernels share: for large windows, whose columns don't fit into shared memory or whose tables don't.
// See StripLayout for how columns and the table lie there.
#pragma once

#include "tile_lines.cuh"

namespace visionattn::tile {

// A line of a place's columns, relative to their corner.
struct Line {
  int32_t number, z, y;

  __device__ __forceinline__ Line(const Place& place, int32_t line) : number(line), z(0), y(line) {
    if (place.columns.axis[0].size() > 1) {
      z = line / place.columns.axis[1].size();
      y = line - z * place.columns.axis[1].size();
    }
  }

  __device__ __forceinline__ uint32_t guarded() const;
  __device__ __forceinline__ void advance(const Place& place) {
    ++number;
    if (++y == place.columns.axis[1].size()) {
      y = 0;
      ++z;
    }
  }
};

// Walks over the pairs of column blocks of a strip, on the lines that some row of a warp meets.
class PairWalk {
 public:
  __device__ __forceinline__ PairWalk(const Place& place, const WarpPlace& warp, int32_t first, int32_t end)
      : place_(place), warp_(warp), line_(place, first), end_(end) {
    seek();
  }
  __device__ __forceinline__ bool done() const { return line_.number >= end_; }
  __device__ __forceinline__ const Line& line() const { return line_; }
  __device__ __forceinline__ int32_t pair() const { return pair_; }
  __device__ __forceinline__ void advance(int32_t line_pairs) {
    if (++pair_ == line_pairs) {
      pair_ = 0;
      line_.advance(place_);
      seek();
    }
  }

 private:
  const Place& place_;
  const WarpPlace& warp_;
  Line line_;
  int32_t end_, pair_ = 0;

  __device__ __forceinline__ bool needed() const {
    const int32_t z = line_.z + place_.columns.axis[0].begin, y = line_.y + place_.columns.axis[1].begin;
    return z >= warp_.columns.axis[0].begin && z < warp_.columns.axis[0].end && y >= warp_.columns.axis[1].begin &&
           y < warp_.columns.axis[1].end;
  }
  __device__ __forceinline__ void seek() {
    while (!done() && !needed()) line_.advance(place_);
  }
};

// Length in shared memory of a line of a place's columns.
__device__ __forceinline__ int32_t line_pitch(const Place& place) {
  return max_of((place.columns.axis[2].size() + 15) / 16 * 16, 16);
}

// Lines of a place's columns; none if there are no columns.
__device__ __forceinline__ int32_t line_count(const Place& place) {
  return place.columns.axis[2].size() == 0 ? 0 : place.columns.axis[0].size() * place.columns.axis[1].size();
}

// Calls copy(slot, line, x) for the slots of a strip that the thread takes, kLanes threads to a slot: x along the line,
// from its first column. Slots past the end of a line repeat its last column: they must hold numbers.
template <int kLanes, typename Copy>
__device__ __forceinline__ void for_strip(const Place& place, int32_t first, int32_t count, Copy copy) {
  const int32_t pitch = line_pitch(place), last = place.columns.axis[2].size() - 1;
  const uint32_t step = blockDim.x / kLanes;
  // Threads cover as many whole lines at a time as they can, or else a part of one.
  uint32_t own_line = threadIdx.x / kLanes, lines_at_once = step;
  int32_t own_x = take_small_digit(own_line, pitch);
  take_small_digit(lines_at_once, pitch);
  if (lines_at_once == 0) {
    lines_at_once = 1;
  } else if (own_line >= lines_at_once) {
    return;
  }
  Line line(place, first + own_line);
  while (line.number < first + count) {
    const int32_t slot = (line.number - first) * pitch;
    for (int32_t x = own_x; x < pitch; x += step) copy(slot + x, line, min_of(x, last));
    for (uint32_t i = 0; i < lines_at_once; ++i) line.advance(place);
  }
}

__device__ __forceinline__ Coordinates columns_corner(const Place& place) {
  return {{place.columns.axis[0].begin, place.columns.axis[1].begin, place.columns.axis[2].begin}};
}

// Distances in bytes from one column to the next along every axis.
struct StripSteps {
  uint32_t z, y, x;
  __device__ __forceinline__ StripSteps(const NeighborhoodParams& params, const View& view)
      : z(params.axes[0].dilation * static_cast<uint32_t>(view.spatial[0]) * 2),
        y(params.axes[1].dilation * static_cast<uint32_t>(view.spatial[1]) * 2),
        x(params.axes[2].dilation * static_cast<uint32_t>(view.spatial[2]) * 2) {}
  __device__ __forceinline__ uint32_t offset(const Line& line, int32_t column) const {
    return line.z * z + line.y * y + column * x;
  }
};

// Starts copying a strip of two tensors.
template <int kDim>
__device__ __forceinline__ void copy_strip(const NeighborhoodParams& params, const Place& place, const View& view0,
                                           const View& view1, const char* source0, const char* source1,
                                           uint32_t target0, uint32_t target1, int32_t first, int32_t count) {
  const int chunk = threadIdx.x % Rows<kDim * 2>::kChunks;
  const bool present = chunk * 8 < params.dim;
  source0 += present ? chunk * 16 : 0;
  source1 += present ? chunk * 16 : 0;
  const uint32_t corner0 = token_offset<2>(params, place, view0, columns_corner(place));
  const uint32_t corner1 = token_offset<2>(params, place, view1, columns_corner(place));
  const StripSteps steps0(params, view0), steps1(params, view1);
  source0 += corner0;
  source1 += corner1;
  for_strip<Rows<kDim * 2>::kChunks>(place, first, count, [&](int32_t slot, const Line& line, int32_t x) {
    const uint32_t position = Rows<kDim * 2>::offset(slot) ^ (chunk * 16);
    copy_async_16(target0 + position, source0 + steps0.offset(line, x), present);
    copy_async_16(target1 + position, source1 + steps1.offset(line, x), present);
  });
}

// Fills the table: for every distance between lines, position of a row along the last axis and column what their
// product starts from, in half precision and divided by the scale; -infinity where they don't meet along the last axis.
__device__ __forceinline__ void build_strip_table(const NeighborhoodParams& params, const Plan& plan,
                                                  const Place& place, const StripLayout& layout, __half* table,
                                                  bool inverse) {
  const Axis& axis = params.axes[2];
  const int pitch = line_pitch(place), slots = plan.rows[2], extent = 2 * axis.kernel - 1;
  const int line = layout.table_line / 2, distances = layout.table_lines;
  const float inverse_scale = 1.f / static_cast<float>(params.scale);
  const float* bias =
      params.rpb == nullptr ? nullptr : static_cast<const float*>(params.rpb) + params.rpb_size() * int64_t(place.head);
  // A thread keeps to a row and a column as long as it can.
  for (int i = threadIdx.x; i < slots * pitch; i += blockDim.x) {
    uint32_t rest = i;
    const int column = take_small_digit(rest, pitch), slot = static_cast<int>(rest);
    const int row = min_of(place.rows.axis[2].begin + slot, place.rows.axis[2].end - 1);
    const Interval met = attended(axis, place.length[2], row, inverse);
    const int position = place.columns.axis[2].begin + column;
    const bool meets = position >= met.begin && position < met.end;
    const int distance = (inverse ? row - position : position - row) + axis.kernel - 1;
    const int index = table_index(slots, slot, column);
#pragma unroll 2
    for (int d = 0; d <= distances; ++d) {
      float value = -INFINITY;
      if (meets && d < distances) {
        value = bias == nullptr ? 0.f : fminf(fmaxf(__ldg(bias + d * extent + distance) * inverse_scale, -6e4f), 6e4f);
      }
      table[d * line + index] = __float2half_rn(value);
    }
  }
}

// Line coordinates packed into one word, each below a guard bit: subtracting words subtracts coordinates, and a guard
// bit survives where the difference isn't negative.
constexpr uint32_t kLineGuards = 1u << 31 | 1u << 15;

__device__ __forceinline__ uint32_t Line::guarded() const { return (z << 16 | y) + kLineGuards; }

// What a line adds to a row's place in the table, in bytes.
template <bool kInverse>
struct LineSteps {
  int32_t z, y, none;  // `none`: place of -infinity, for rows that don't meet the line
  __device__ __forceinline__ LineSteps(const NeighborhoodParams& params, const StripLayout& layout)
      : z(0), y(0), none(layout.table_lines * layout.table_line + threadIdx.x % 4 * 8) {
    if (params.rpb != nullptr) {
      y = (kInverse ? -1 : 1) * layout.table_line;
      z = y * (2 * params.axes[1].kernel - 1);
    }
  }
};

// How one of a lane's rows finds its place in the table.
template <bool kInverse>
class RowLines {
 public:
  RowLines() = default;
  __device__ __forceinline__ RowLines(const NeighborhoodParams& params, const Plan& plan, const Place& place,
                                      const StripLayout& layout, int32_t row) {
    Coordinates c;
    bool meets = row_coordinates(plan, place, row, c);
    int32_t first[2], last[2], distance[2];
#pragma unroll
    for (int a = 0; a < 2; ++a) {
      const int32_t corner = place.columns.axis[a].begin;
      const Interval met = attended(params.axes[a], place.length[a], c.at[a], kInverse);
      meets = meets && met.size() > 0;
      first[a] = met.begin - corner;
      last[a] = met.end - 1 - corner;
      distance[a] = (kInverse ? c.at[a] - corner : corner - c.at[a]) + params.axes[a].kernel - 1;
    }
    lowest_ = meets ? first[0] << 16 | first[1] : 1;
    highest_ = (meets ? last[0] << 16 | last[1] : 0) + 2 * kLineGuards;
    const int32_t index = params.rpb == nullptr ? 0 : distance[0] * (2 * params.axes[1].kernel - 1) + distance[1];
    start_ = index * layout.table_line + (c.at[2] - place.rows.axis[2].begin) * 32 + threadIdx.x % 4 * 8;
  }

  // The row's place, in bytes from the table's start, for a line with `guarded` coordinates that adds `step`.
  __device__ __forceinline__ int32_t place(uint32_t guarded, int32_t step, int32_t none) const {
    const uint32_t inside = (guarded - lowest_) & (highest_ - guarded) & kLineGuards;
    return inside == kLineGuards ? start_ + step : none;
  }

 private:
  uint32_t lowest_, highest_;
  int32_t start_;
};

// Start values of a row for a pair of column blocks.
__device__ __forceinline__ void unpack_row(float (&left)[4], float (&right)[4], int h, uint2 start) {
  unpack_start(left[2 * h], left[2 * h + 1], start.x);
  unpack_start(right[2 * h], right[2 * h + 1], start.y);
}

// A lane's addresses in a pair of column blocks: of a matrix load as it stands, and of a transposed one.
template <int kDim>
struct PairPositions {
  uint32_t straight, side;
  __device__ __forceinline__ PairPositions() {
    const int lane = threadIdx.x % 32;
    straight = Rows<kDim * 2>::offset(lane / 16 * 8 + lane % 8) ^ (lane / 8 % 2 * 16);
    side = Rows<kDim * 2>::offset(lane % 16) ^ (lane / 16 * 16);
  }
};

}  // namespace visionattn::tile
