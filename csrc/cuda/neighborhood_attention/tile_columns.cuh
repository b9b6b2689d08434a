// How a warp finds its columns in the token buffers, and what the products of its rows with them start from: the bias,
// or -infinity outside the window. Two ways share an interface:
//
// ListedColumns lists every column and holds every start value: the columns are packed, for small windows.
//
// LinedColumns (tile_lines.cuh) takes the columns line by line, filled up to pairs of column blocks; a table by the
// distance of lines serves for all lines, and for all warps at the same place along the last axis: for wider windows.
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
template <typename T>
__device__ __forceinline__ void build_table(const NeighborhoodParams& params, const Plan& plan, const Place& place,
                                            const Team<T>& team, const WarpPlace& warp, const uint2* places,
                                            const Start<T>* bias, uint4* table, bool inverse) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int count = warp.columns.volume();
  const int extent1 = 2 * params.axes[1].kernel - 1, extent2 = 2 * params.axes[2].kernel - 1;
  const bool biased = params.rpb != nullptr;
  const int sign = inverse ? -1 : 1, pad = biased ? static_cast<int>(params.rpb_size()) : 1;
  // A lane works out one row, and takes two from others.
  Coordinates row;
  row_coordinates(plan, place, team.warp * kRows + lane % kRows, row);
  int32_t begin[kMaxRank], last[kMaxRank], distance[kMaxRank];
  bool none = false;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    const int corner = warp.columns.axis[a].begin;
    const Interval met = attended(params.axes[a], place.length[a], row.at[a], inverse);
    none = none || met.size() <= 0;
    begin[a] = met.begin - corner;
    last[a] = met.end - 1 - corner;
    distance[a] = sign * (corner - row.at[a]) + params.axes[a].kernel - 1;
  }
  const uint32_t own_lowest = none ? 1 : pack_coordinates(begin);
  const uint32_t own_highest = none ? 2 * kGuards : pack_coordinates(last) + 2 * kGuards;
  const int own_index = biased ? (distance[0] * extent1 + distance[1]) * extent2 + distance[2] : 0;
  uint32_t lowest[2], highest[2];  // column that a row meets, packed; the latter with guards on top
  int index[2];                    // of the bias of the column at the corner
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    lowest[h] = __shfl_sync(0xffffffffu, own_lowest, g + 8 * h);
    highest[h] = __shfl_sync(0xffffffffu, own_highest, g + 8 * h);
    index[h] = __shfl_sync(0xffffffffu, own_index, g + 8 * h);
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
template <typename T, int kRowBytes, int kHeld = 0>
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

  // Makes the table; `inverse`: rows are keys. Barriers for all threads must lie between construction, this and use.
  template <typename Layout>
  __device__ __forceinline__ void build(const NeighborhoodParams& params, const Plan& plan, const Place& place,
                                        const Team<T>& team, const WarpPlace& warp, const Layout& layout,
                                        unsigned char* memory, bool inverse) {
    if constexpr (kHeld > 0) {
#pragma unroll
      for (int pair = 0; pair < kHeld; ++pair) held_[pair] = positions_[pair * 32];
    }
    if (warp.empty) return;
    const int first = team.warp * plan.pairs;
    build_table<T>(params, plan, place, team, warp, reinterpret_cast<const uint2*>(memory + layout.places) + first * 16,
                   reinterpret_cast<const Start<T>*>(memory + layout.bias),
                   reinterpret_cast<uint4*>(memory + layout.table) + first * (kEntries * 32), inverse);
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

}  // namespace visionattn::tile
