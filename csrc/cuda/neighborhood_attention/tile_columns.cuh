// How a warp finds its columns in the token buffers, and what the products of its rows with them start from: the bias,
// or -infinity outside the window. Two ways share an interface:
//
//   ListedColumns  lists every column and holds every start value: the columns are packed, for small windows.
//   LinedColumns   takes the columns line by line, filled up to pairs of column blocks; a table by the distance of
//   lines
//                  serves for all lines, and for all warps at the same place along the last axis: for wider windows.
//
// A pair is two blocks of 8 columns. start() gives the lane's start values of a pair as two accumulators; straight()
// and side(), where in a buffer of columns the lane's row of a matrix load lies: for one as it stands, the two blocks
// one after the other, and for a transposed one, the blocks side by side. add() adds a pair's slopes to a warp's sums
// in shared memory.
#pragma once

#include "tile_block.cuh"

namespace visionattn::tile {

// What products start from is kept in half precision, for float32 in float32.
template <typename T>
using Start = std::conditional_t<std::is_same_v<T, float>, float, __half>;

// Brings the bias of a head to shared memory, divided by the scale since it is added before the product is scaled;
// -infinity follows it. Without bias, a single 0 stands in. Loading starts at construction.
class BiasCopy {
 public:
  __device__ __forceinline__ BiasCopy(const NeighborhoodParams& params, int head)
      : bins_(params.rpb == nullptr ? 1 : static_cast<int>(params.rpb_size())),
        source_(params.rpb == nullptr ? nullptr : static_cast<const float*>(params.rpb) + int64_t(bins_) * head) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) held_[i] = load(threadIdx.x + i * blockDim.x);
  }

  template <typename Element>
  __device__ __forceinline__ void finish(const NeighborhoodParams& params, Element* target) const {
    const float inverse_scale = 1.f / static_cast<float>(params.scale);
    const auto store = [&](int i, float value) {
      const float scaled = value * inverse_scale, half = fminf(fmaxf(scaled, -6e4f), 6e4f);
      if (i <= bins_) target[i] = static_cast<Element>(i == bins_ ? -INFINITY : sizeof(Element) == 2 ? half : scaled);
    };
#pragma unroll
    for (int i = 0; i < kHeld; ++i) store(threadIdx.x + i * blockDim.x, held_[i]);
#pragma unroll 1
    for (int i = threadIdx.x + kHeld * blockDim.x; i <= bins_; i += blockDim.x) store(i, load(i));
  }

 private:
  static constexpr int kHeld = 2;
  int bins_;
  const float* source_;
  float held_[kHeld];

  __device__ __forceinline__ float load(int i) const {
    return source_ != nullptr && i < bins_ ? __ldg(source_ + i) : 0.f;
  }
};

// Coordinates packed into one word, 10 bits each below a guard bit (the first axis: 9). Subtracting words subtracts
// coordinates, and a guard bit survives where the difference isn't negative.
constexpr uint32_t kGuards = 1u << 31 | 1u << 21 | 1u << 10;

__device__ __forceinline__ uint32_t pack_coordinates(const int32_t (&at)[kMaxRank]) {
  return at[0] << 22 | at[1] << 11 | at[2];
}

// Lists the columns of a warp: their packed coordinates, with guards, relative to the corner of the warp's columns, and
// what they add to the index of the bias (places); and for each pair of column blocks and each lane where the lane's
// row lies in a matrix load (positions): in the lower half word for a load as it stands, the two blocks one after the
// other, in the upper for a transposed one, the blocks side by side. For float32 there are also, for each pair and each
// lane % 4, the four columns of which the lane needs words (words). Past the last column all point at one that exists.
template <typename T, int kRowBytes>
__device__ __forceinline__ void list_columns(const NeighborhoodParams& params, const Plan& plan, const Place& place,
                                             const Team<T>& team, const WarpPlace& warp, uint2* places,
                                             uint32_t* positions, uint16_t* words) {
  const int count = warp.empty ? 0 : warp.columns.volume(), lane = threadIdx.x % 32;
  const int extent1 = 2 * params.axes[1].kernel - 1, extent2 = 2 * params.axes[2].kernel - 1;
#pragma unroll 1
  for (int pair = team.index; pair < plan.pairs; pair += team.count) {
    const int j = pair * 16 + lane % 16;
    uint32_t offset = Rows<kRowBytes>::offset(0);
    uint2 where = {kGuards, 0};
    if (j < count) {
      const Coordinates c = unravel(j, warp.columns.axis[1].size(), warp.columns.axis[2].size());
      int32_t row = 0;
#pragma unroll
      for (int a = 0; a < kMaxRank; ++a) {
        row = row * place.columns.axis[a].size() + c.at[a] + warp.columns.axis[a].begin - place.columns.axis[a].begin;
      }
      offset = Rows<kRowBytes>::offset(row);
      where = {pack_coordinates(c.at) | kGuards,
               params.rpb == nullptr ? 0 : static_cast<uint32_t>((c.at[0] * extent1 + c.at[1]) * extent2 + c.at[2])};
    }
    if (lane < 16) {
      places[j] = where;
      if constexpr (sizeof(T) == 4) {
        words[pair * 16 + lane % 8 / 2 * 4 + lane / 8 * 2 + lane % 2] = static_cast<uint16_t>(offset);
      }
    }
    const uint32_t straight = __shfl_sync(0xffffffffu, offset, lane / 16 * 8 + lane % 8);
    positions[pair * 32 + lane] = (straight ^ (lane / 8 % 2 * 16)) | (offset ^ (lane / 16 * 16)) << 16;
  }
}

// Fills a warp's table. Entry (pair, lane) holds the lane's eight start values of a pair of column blocks, in the order
// of two accumulators.
template <typename T, bool kInverse>
__device__ __forceinline__ void build_table(const NeighborhoodParams& params, const Plan& plan, const Place& place,
                                            const Team<T>& team, const WarpPlace& warp, const uint2* places,
                                            const Start<T>* bias, uint4* table) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int count = warp.columns.volume();
  const int extent1 = 2 * params.axes[1].kernel - 1, extent2 = 2 * params.axes[2].kernel - 1;
  const bool biased = params.rpb != nullptr;
  const int sign = kInverse ? -1 : 1, pad = biased ? static_cast<int>(params.rpb_size()) : 1;
  uint32_t lowest[2], highest[2];  // column that a row meets, packed; the latter with guards on top
  int index[2];                    // of the bias of the column at the corner
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    Coordinates row;
    row_coordinates(plan, place, team.warp * kRows + g + 8 * h, row);
    int32_t begin[kMaxRank], last[kMaxRank], distance[kMaxRank];
    bool none = false;
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) {
      const int corner = warp.columns.axis[a].begin;
      const Interval met = attended<kInverse>(params.axes[a], place.length[a], row.at[a]);
      none = none || met.size() <= 0;
      begin[a] = met.begin - corner;
      last[a] = met.end - 1 - corner;
      distance[a] = sign * (corner - row.at[a]) + params.axes[a].kernel - 1;
    }
    lowest[h] = none ? 1 : pack_coordinates(begin);
    highest[h] = none ? 2 * kGuards : pack_coordinates(last) + 2 * kGuards;
    index[h] = biased ? (distance[0] * extent1 + distance[1]) * extent2 + distance[2] : 0;
  }
#pragma unroll 1
  for (int pair = team.index; pair < plan.pairs; pair += team.count) {
    alignas(16) Start<T> value[2][2][2];  // column block, row, column
#pragma unroll
    for (int block = 0; block < 2; ++block) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int j = pair * 16 + block * 8 + 2 * t + e;
        const uint2 where = places[j];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const uint32_t inside = (where.x - lowest[h]) & (highest[h] - where.x) & kGuards;
          const bool met = inside == kGuards && j < count;
          value[block][h][e] = bias[met ? index[h] + sign * static_cast<int>(where.y) : pad];
        }
      }
    }
    // A block's entry is an accumulator: of 32-bit elements it takes 16 bytes, of 16-bit elements a pair's does.
    constexpr int kEntries = sizeof(T) == 4 ? 2 : 1;
#pragma unroll
    for (int entry = 0; entry < kEntries; ++entry) {
      table[(pair * kEntries + entry) * 32 + lane] = reinterpret_cast<const uint4*>(value)[entry];
    }
  }
}

// Two neighboring start values from half precision.
__device__ __forceinline__ void unpack_start(float& low, float& high, uint32_t packed) {
  const float2 values = __half22float2(*reinterpret_cast<const __half2*>(&packed));
  low = values.x;
  high = values.y;
}

// What side() gives for elements of T.
template <typename T>
using Side = std::conditional_t<sizeof(T) == 4, Words, uint32_t>;

// kHeld: pairs whose positions are kept in registers, or 0; then pairs must be compile-time constants.
template <typename T, int kRowBytes, bool kInverse, int kHeld = 0>
class ListedColumns {
 public:
  template <typename Layout>
  __device__ __forceinline__ ListedColumns(const NeighborhoodParams& params, const Plan& plan, const Place& place,
                                           const Team<T>& team, const WarpPlace& warp, const Layout& layout,
                                           unsigned char* memory)
      : pairs_(warp.empty ? 0 : (warp.columns.volume() + 15) / 16) {
    const int lane = threadIdx.x % 32, first = team.warp * plan.pairs;
    uint32_t* positions = reinterpret_cast<uint32_t*>(memory + layout.positions) + first * 32;
    uint2* places = reinterpret_cast<uint2*>(memory + layout.places) + first * 16;
    uint16_t* words =
        reinterpret_cast<uint16_t*>(memory + layout.positions + plan.warp_count() * plan.pairs * 128) + first * 16;
    list_columns<T, kRowBytes>(params, plan, place, team, warp, places, positions, words);
    positions_ = positions + lane;
    words_ = reinterpret_cast<const ushort4*>(words) + lane % 4;
    table_ = reinterpret_cast<const uint4*>(memory + layout.table) + first * (kEntries * 32) + lane;
  }

  // Makes the table. Barriers for all threads must lie between construction, this and use.
  template <typename Layout>
  __device__ __forceinline__ void build(const NeighborhoodParams& params, const Plan& plan, const Place& place,
                                        const Team<T>& team, const WarpPlace& warp, const Layout& layout,
                                        unsigned char* memory) {
    if constexpr (kHeld > 0) {
#pragma unroll
      for (int pair = 0; pair < kHeld; ++pair) held_[pair] = positions_[pair * 32];
    }
    if (warp.empty) return;
    const int first = team.warp * plan.pairs;
    build_table<T, kInverse>(params, plan, place, team, warp,
                             reinterpret_cast<const uint2*>(memory + layout.places) + first * 16,
                             reinterpret_cast<const Start<T>*>(memory + layout.bias),
                             reinterpret_cast<uint4*>(memory + layout.table) + first * (kEntries * 32));
  }

  __device__ __forceinline__ int pairs() const { return pairs_; }
  __device__ __forceinline__ uint32_t straight(int pair) const { return position(pair) & 0xffff; }
  __device__ __forceinline__ Side<T> side(int pair) const {
    if constexpr (sizeof(T) == 4) {
      const ushort4 words = words_[pair * 4];
      const uint32_t channel = threadIdx.x % 32 / 16 * 16 | threadIdx.x / 4 % 4 * 4;
      return {{words.x ^ channel, words.y ^ channel, words.z ^ channel, words.w ^ channel}};
    } else {
      return position(pair) >> 16;
    }
  }

  __device__ __forceinline__ void start(int pair, float (&left)[4], float (&right)[4]) const {
    const uint4 packed = table_[pair * kEntries * 32];
    if constexpr (sizeof(T) == 4) {
      set_start(left, packed);
      set_start(right, table_[(pair * kEntries + 1) * 32]);
    } else {
      unpack_start(left[0], left[1], packed.x);
      unpack_start(left[2], left[3], packed.y);
      unpack_start(right[0], right[1], packed.z);
      unpack_start(right[2], right[3], packed.w);
    }
  }

  __device__ __forceinline__ void add(unsigned char* sums, int pair, const float (&slope)[2][4]) const {
    float4* sum = reinterpret_cast<float4*>(sums) + pair * 64 + threadIdx.x % 32;
#pragma unroll
    for (int block = 0; block < 2; ++block) {
      float4& own = sum[block * 32];
      own = {own.x + slope[block][0], own.y + slope[block][1], own.z + slope[block][2], own.w + slope[block][3]};
    }
  }

 private:
  static constexpr int kEntries = sizeof(T) == 4 ? 2 : 1;  // of 16 bytes, for a pair and lane
  int pairs_;
  const uint32_t* positions_;
  const ushort4* words_;
  const uint4* table_;
  uint32_t held_[kHeld > 0 ? kHeld : 1];

  __device__ __forceinline__ uint32_t position(int pair) const {
    return kHeld > 0 ? held_[kHeld > 0 ? pair : 0] : positions_[pair * 32];
  }
  static __device__ __forceinline__ void set_start(float (&acc)[4], const uint4& entry) {
    acc[0] = __uint_as_float(entry.x);
    acc[1] = __uint_as_float(entry.y);
    acc[2] = __uint_as_float(entry.z);
    acc[3] = __uint_as_float(entry.w);
  }
};

// Where, within the table's line (and 16-column piece of it), a column of a row with slot `slot` lies, in elements: a
// lane finds the four that its accumulators need next to each other.
__device__ __forceinline__ int table_index(int slots, int slot, int column) {
  const int within = column % 16;
  return (column / 16 * slots + slot) * 16 + within % 8 / 2 * 4 + within / 8 * 2 + within % 2;
}

// A warp meets at most 32 lines, and of each line 16 columns, or 32 if its rows are keys.
//
// Slots are the positions of a warp's rows along the last axis. The table has, for every distance between lines, slot
// and column what their product starts from.
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
      const Interval met = attended<kInverse>(params.axes[1], place.length[1], c.at[1]);
      const int corner = warp.columns.axis[1].begin;
      const uint32_t after = met.size() <= 0 ? 0 : met.size() >= 32 ? ~0u : (1u << met.size()) - 1;
      meets_[h] = exists && !warp.empty ? after << (met.begin - corner) : 0;
      const int distance = (kInverse ? c.at[1] - corner : corner - c.at[1]) + params.axes[1].kernel - 1;
      start_[h] = (params.rpb == nullptr ? 0 : distance * table_line_) +
                  (c.at[2] - place.rows.axis[2].begin) % plan.rows[2] * (16 * static_cast<int>(sizeof(Start<T>)));
    }
    step_ = params.rpb == nullptr ? 0 : kInverse ? -table_line_ : table_line_;
  }

  // Makes the tables. Barriers for all threads must lie between construction, this and use.
  template <typename Layout>
  __device__ __forceinline__ void build(const NeighborhoodParams& params, const Plan& plan, const Place& place,
                                        const Team<T>&, const WarpPlace&, const Layout& layout,
                                        unsigned char* memory) const {
    const Start<T>* bias = reinterpret_cast<const Start<T>*>(memory + layout.bias);
    const int distances = line_distances(params);
#pragma unroll 1
    for (int x = 0; x < plan.warps[2]; ++x) {
      build_table(params, plan, place, locate_warp<kInverse>(params, plan, place, x), bias, distances,
                  reinterpret_cast<Start<T>*>(memory + layout.table + x * (distances + 1) * table_line_));
    }
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

  static __device__ __forceinline__ void build_table(const NeighborhoodParams& params, const Plan& plan,
                                                     const Place& place, const WarpPlace& warp, const Start<T>* bias,
                                                     int distances, Start<T>* table) {
    const Axis& axis = params.axes[2];
    const int slots = plan.rows[2], width = plan.line_pairs[kInverse] * 16, extent = 2 * axis.kernel - 1;
    const int line = plan.table_line(kInverse) / static_cast<int>(sizeof(Start<T>));
    const bool biased = params.rpb != nullptr;
    const Interval rows = warp.rows.axis[2];
#pragma unroll 1
    for (int i = threadIdx.x; i < slots * width; i += blockDim.x) {
      uint32_t rest = i;
      const int column = take_small_digit(rest, width), slot = static_cast<int>(rest), row = rows.begin + slot;
      const Interval met = attended<kInverse>(axis, place.length[2], min_of(row, place.length[2] - 1));
      const int position = warp.columns.axis[2].begin + column;
      const bool meets = row < rows.end && position >= met.begin && position < met.end;
      const int distance = (kInverse ? row - position : position - row) + axis.kernel - 1;
      const int none = biased ? distances * extent : 1;
      int index = meets && biased ? distance : meets ? 0 : none;
      for (int d = 0; d <= distances; ++d) {
        table[d * line + table_index(slots, slot, column)] = bias[d < distances ? index : none];
        if (meets && biased) index += extent;
      }
    }
  }
};

}  // namespace visionattn::tile
