// Columns in lines, see tile_columns.cuh: a warp takes them line by line, and one table serves for all lines.
#pragma once

#include "tile_columns.cuh"

namespace visionattn::tile {

// Where, within the table's line (and 16-column piece of it), a column of a row with slot `slot` lies, in elements: a
// lane finds the four that its accumulators need next to each other.
__device__ __forceinline__ int table_index(int slots, int slot, int column) {
  const int within = column % 16;
  return (column / 16 * slots + slot) * 16 + within % 8 / 2 * 4 + within / 8 * 2 + within % 2;
}

// Makes the tables of lined columns: one for every position of a warp along the last axis, and in it, for every
// distance between lines, slot (position of a row of the warp along the last axis) and column what their product starts
// from. Barriers for all threads must lie before and behind this.
template <typename T, typename Layout>
__device__ __forceinline__ void build_lined_tables(const NeighborhoodParams& params, const Plan& plan,
                                                   const Place& place, const Layout& layout, unsigned char* memory,
                                                   bool inverse) {
  const Start<T>* bias = reinterpret_cast<const Start<T>*>(memory + layout.bias);
  const Axis& axis = params.axes[2];
  const int slots = plan.rows[2], width = plan.line_pairs[inverse] * 16, extent = 2 * axis.kernel - 1;
  const int line = plan.table_line(inverse) / static_cast<int>(sizeof(Start<T>)), distances = line_distances(params);
  const bool biased = params.rpb != nullptr;
  const int none = biased ? distances * extent : 1;
#pragma unroll 1
  for (int x = 0; x < plan.warps[2]; ++x) {
    const WarpPlace warp = locate_warp(params, plan, place, x, inverse);
    const Interval rows = warp.rows.axis[2];
    Start<T>* table = reinterpret_cast<Start<T>*>(memory + layout.table) + x * (distances + 1) * line;
#pragma unroll 1
    for (int i = threadIdx.x; i < slots * width; i += blockDim.x) {
      uint32_t rest = i;
      const int column = take_small_digit(rest, width), slot = static_cast<int>(rest), row = rows.begin + slot;
      const Interval met = attended(axis, place.length[2], min_of(row, place.length[2] - 1), inverse);
      const int position = warp.columns.axis[2].begin + column;
      const bool meets = row < rows.end && position >= met.begin && position < met.end;
      const int distance = (inverse ? row - position : position - row) + axis.kernel - 1;
      int index = meets && biased ? distance : meets ? 0 : none;
      for (int d = 0; d <= distances; ++d) {
        table[d * line + table_index(slots, slot, column)] = bias[d < distances ? index : none];
        if (meets && biased) index += extent;
      }
    }
  }
}

// A warp meets at most 32 lines, and of each line 16 columns, or 32 if its rows are keys. See build_lined_tables.
template <typename T, int kRowBytes, bool kInverse>
class LinedColumns {
 public:
  __device__ __forceinline__ LinedColumns(const NeighborhoodParams& params, const Plan& plan, const Place& place,
                                          const Team<T>& team, const WarpPlace& warp, int pitch, int32_t table,
                                          const unsigned char* memory)
      : two_(kInverse && warp.columns.axis[2].size() > 16),
        lines_(warp.empty ? 0 : warp.columns.axis[1].size()),
        line_bytes_(pitch * kRowBytes),
        table_line_(plan.table_line(kInverse)),
        piece_(plan.rows[2] * 16 * sizeof(Start<T>)) {
    const int distances = line_distances(params), one = (distances + 1) * table_line_;
    const int lane = threadIdx.x % 32, t = lane % 4;
    const int first = (warp.columns.axis[1].begin - place.columns.axis[1].begin) * pitch + warp.columns.axis[2].begin -
                      place.columns.axis[2].begin;
    straight_ = Rows<kRowBytes>::offset(first + lane / 16 * 8 + lane % 8) ^ (lane / 8 % 2 * 16);
    if constexpr (sizeof(T) == 4) {
      const uint32_t channel = lane / 16 * 16 | lane / 4 % 4 * 4;
#pragma unroll
      for (int i = 0; i < 4; ++i) side_.at[i] = Rows<kRowBytes>::offset(first + 2 * t + i % 2 + i / 2 * 8) ^ channel;
    } else {
      side_ = Rows<kRowBytes>::offset(first + lane % 16) ^ (lane / 16 * 16);
    }
    statistic_ = first + 2 * t;
    table_ = memory + table + team.warp % plan.warps[2] * one + t * 4 * sizeof(Start<T>);
    none_ = distances * table_line_;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      Coordinates c;
      const bool exists = row_coordinates(plan, place, team.warp * kRows + lane / 4 + 8 * h, c);
      const Interval met = attended(params.axes[1], place.length[1], c.at[1], kInverse);
      const int corner = warp.columns.axis[1].begin;
      const uint32_t after = met.size() <= 0 ? 0 : met.size() >= 32 ? ~0u : (1u << met.size()) - 1;
      meets_[h] = exists && !warp.empty ? after << (met.begin - corner) : 0;
      const int distance = (kInverse ? c.at[1] - corner : corner - c.at[1]) + params.axes[1].kernel - 1;
      start_[h] = (params.rpb == nullptr ? 0 : distance * table_line_) +
                  (c.at[2] - place.rows.axis[2].begin) % plan.rows[2] * (16 * static_cast<int>(sizeof(Start<T>)));
    }
    step_ = params.rpb == nullptr ? 0 : kInverse ? -table_line_ : table_line_;
  }

  __device__ __forceinline__ int pairs() const { return kInverse ? lines_ << two_ : lines_; }
  __device__ __forceinline__ uint32_t straight(int pair) const { return straight_ + offset(pair); }
  __device__ __forceinline__ Side<T> side(int pair) const { return offset(pair) + side_; }

  __device__ __forceinline__ void start(int pair, float (&left)[4], float (&right)[4]) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if constexpr (sizeof(T) == 4) {
        const float4 values = *reinterpret_cast<const float4*>(table_ + at(pair, h));
        left[2 * h] = values.x;
        left[2 * h + 1] = values.y;
        right[2 * h] = values.z;
        right[2 * h + 1] = values.w;
      } else {
        const uint2 packed = *reinterpret_cast<const uint2*>(table_ + at(pair, h));
        unpack_start(left[2 * h], left[2 * h + 1], packed.x);
        unpack_start(right[2 * h], right[2 * h + 1], packed.y);
      }
    }
  }

  // Where in the list of the block's columns the lane's first two of a pair are; the others lie 8 further on.
  __device__ __forceinline__ int statistic(int pair) const { return statistic_ + offset(pair) / kRowBytes; }

  // Rows may share a sum from one pair to the next.
  __device__ __forceinline__ void add(unsigned char* sums, int pair, const float (&slope)[2][4]) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int place = at(pair, h);
      if (place < none_) {
        float4& sum =
            *reinterpret_cast<float4*>(sums + place * 4 / static_cast<int>(sizeof(Start<T>)) + threadIdx.x % 4 * 16);
        sum = {sum.x + slope[0][2 * h], sum.y + slope[0][2 * h + 1], sum.z + slope[1][2 * h],
               sum.w + slope[1][2 * h + 1]};
      }
    }
    __syncwarp();
  }

 private:
  int two_;  // pairs of a line, less one
  int lines_, line_bytes_, table_line_, piece_, none_, step_;
  uint32_t straight_;
  Side<T> side_;
  int statistic_;
  const unsigned char* table_;
  uint32_t meets_[2];  // bits: the lines that the lane's rows meet
  int start_[2];       // their place in the table for the warp's first line

  __device__ __forceinline__ uint32_t offset(int pair) const {
    // Pairs past the last repeat a line: columns must exist.
    if constexpr (!kInverse) return min_of(pair, lines_ - 1) * line_bytes_;
    return min_of(pair >> two_, lines_ - 1) * line_bytes_ + (pair & two_) * 16 * kRowBytes;
  }
  __device__ __forceinline__ int at(int pair, int h) const {
    const int line = kInverse ? pair >> two_ : pair;
    const int place = meets_[h] >> line & 1 ? start_[h] + line * step_ : none_;
    return kInverse ? place + (pair & two_) * piece_ : place;
  }
};

}  // namespace visionattn::tile
