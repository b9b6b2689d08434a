// What the forward and the backward tensor-core kernels share: a block's token lists, the copies into shared memory,
// and the table that starts every product of rows and columns off with its bias, or with -infinity outside the window.
#pragma once

#include "tile_mma.cuh"
#include "tile_plan.cuh"

namespace visionattn::tile {

// Row `row` (warp * kRows + row of the warp) of a block, in group coordinates. A row that doesn't exist gets the
// coordinates of one that does.
__device__ __forceinline__ bool row_coordinates(const Plan& plan, const Place& place, int32_t row, Coordinates& c) {
  const int32_t warp_rows = kRows * plan.tiles;
  uint32_t warp = row / warp_rows;
  c = unravel(row - warp * warp_rows, plan.rows[1], plan.rows[2]);
  bool exists = c.at[0] < plan.rows[0];
#pragma unroll
  for (int a = kMaxRank - 1; a >= 0; --a) {
    const int32_t begin = place.rows.axis[a].begin + take_small_digit(warp, plan.warps[a]) * plan.rows[a];
    const int32_t last = min_of(begin + plan.rows[a], place.rows.axis[a].end) - 1;
    exists = exists && c.at[a] + begin <= last;
    c.at[a] = min_of(c.at[a] + begin, last);
  }
  return exists;
}

// Calls visit(row, exists, coordinates) for every row of the block.
template <typename Visit>
__device__ __forceinline__ void for_rows(const Plan& plan, const Place& place, Visit visit) {
  for (int row = threadIdx.x; row < plan.row_count(); row += blockDim.x) {
    Coordinates c;
    const bool exists = row_coordinates(plan, place, row, c);
    visit(row, exists, c);
  }
}

// Calls visit(column, coordinates) for every column of the block.
template <typename Visit>
__device__ __forceinline__ void for_columns(const Place& place, Visit visit) {
  const int count = place.columns.volume();
  for (int column = threadIdx.x; column < count; column += blockDim.x) {
    Coordinates c = unravel(column, place.columns.axis[1].size(), place.columns.axis[2].size());
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) c.at[a] += place.columns.axis[a].begin;
    visit(column, c);
  }
}

// Calls copy(position in the target, offsets of the token) for every 16 bytes of token rows that the thread copies.
template <int kDim, typename Copy>
__device__ __forceinline__ void for_chunks(const uint2* offsets, int count, Copy copy) {
  constexpr int kChunks = Rows<kDim>::kChunks;
  const int chunk = threadIdx.x % kChunks, step = blockDim.x / kChunks;
  int row = threadIdx.x / kChunks;
  if constexpr (kDim == 32) {
    // The step is a multiple of 8 rows, the period of the permutation of chunks.
    uint32_t position = Rows<kDim>::offset(row) ^ (chunk * 16);
    const uint32_t advance = step * Rows<kDim>::kBytes;
    for (; row + 2 * step < count; row += 3 * step) {
      const uint2 offset[3] = {offsets[row], offsets[row + step], offsets[row + 2 * step]};
#pragma unroll
      for (int i = 0; i < 3; ++i) {
        copy(position, offset[i]);
        position += advance;
      }
    }
#pragma unroll 1
    for (; row < count; row += step) {
      copy(position, offsets[row]);
      position += advance;
    }
  } else {
#pragma unroll 2
    for (; row < count; row += step) copy(Rows<kDim>::offset(row) ^ (chunk * 16), offsets[row]);
  }
}

// Starts copying token rows of one head to shared memory; offsets are the first or the second of their pairs. Channels
// from `dim` on are zero.
template <int kDim, int kWhich>
__device__ __forceinline__ void copy_tokens(uint32_t target, const char* source, const uint2* offsets, int count,
                                            int dim) {
  const int chunk = threadIdx.x % Rows<kDim>::kChunks;
  const bool present = chunk * 8 < dim;
  source += present ? chunk * 16 : 0;
  for_chunks<kDim>(offsets, count, [&](uint32_t position, uint2 offset) {
    copy_async_16(target + position, source + (kWhich == 0 ? offset.x : offset.y), present);
  });
}

// The same for two tensors, one with the first and one with the second offsets.
template <int kDim>
__device__ __forceinline__ void copy_tokens(uint32_t target0, uint32_t target1, const char* source0,
                                            const char* source1, const uint2* offsets, int count, int dim) {
  const int chunk = threadIdx.x % Rows<kDim>::kChunks;
  const bool present = chunk * 8 < dim;
  source0 += present ? chunk * 16 : 0;
  source1 += present ? chunk * 16 : 0;
  for_chunks<kDim>(offsets, count, [&](uint32_t position, uint2 offset) {
    copy_async_16(target0 + position, source0 + offset.x, present);
    copy_async_16(target1 + position, source1 + offset.y, present);
  });
}

// Coordinates packed into one word, 10 bits each below a guard bit (the first axis: 9). Subtracting words subtracts
// coordinates, and a guard bit survives where the difference isn't negative.
constexpr uint32_t kGuards = 1u << 31 | 1u << 21 | 1u << 10;

__device__ __forceinline__ uint32_t pack_coordinates(const int32_t (&at)[kMaxRank]) {
  return at[0] << 22 | at[1] << 11 | at[2];
}

// Lists the columns of a warp: their packed coordinates, with guards, relative to the corner of the warp's columns, and
// what they add to the index of the bias (places); and for each pair of column blocks and each lane where the lane's
// row lies in a matrix load (positions): in the lower half word for a load as it stands, the two blocks one after the
// other, in the upper for a transposed one, the blocks side by side. Past the last column they point at one that
// exists.
template <int kDim>
__device__ __forceinline__ void list_columns(const NeighborhoodParams& params, const Plan& plan, const Place& place,
                                             const WarpPlace& warp, uint2* places, uint32_t* positions) {
  const int count = warp.empty ? 0 : warp.columns.volume(), lane = threadIdx.x % 32;
  const int extent1 = 2 * params.axes[1].kernel - 1, extent2 = 2 * params.axes[2].kernel - 1;
  for (int pair = 0; pair < plan.pairs; ++pair) {
    const int j = pair * 16 + lane % 16;
    uint32_t offset = Rows<kDim>::offset(0);
    uint2 where = {kGuards, 0};
    if (j < count) {
      const Coordinates c = unravel(j, warp.columns.axis[1].size(), warp.columns.axis[2].size());
      int32_t row = 0;
#pragma unroll
      for (int a = 0; a < kMaxRank; ++a) {
        row = row * place.columns.axis[a].size() + c.at[a] + warp.columns.axis[a].begin - place.columns.axis[a].begin;
      }
      offset = Rows<kDim>::offset(row);
      where = {pack_coordinates(c.at) | kGuards,
               params.rpb == nullptr ? 0 : static_cast<uint32_t>((c.at[0] * extent1 + c.at[1]) * extent2 + c.at[2])};
    }
    if (lane < 16) places[j] = where;
    const uint32_t straight = __shfl_sync(0xffffffffu, offset, lane / 16 * 8 + lane % 8);
    positions[pair * 32 + lane] = (straight ^ (lane / 8 % 2 * 16)) | (offset ^ (lane / 16 * 16)) << 16;
  }
}

// Brings the bias of a head to shared memory in half precision, divided by the scale since it is added before the
// product is scaled; -infinity follows it. Without bias, a single 0 stands in. Loading starts at construction.
class BiasCopy {
 public:
  __device__ __forceinline__ BiasCopy(const NeighborhoodParams& params, int head)
      : bins_(params.rpb == nullptr ? 1 : static_cast<int>(params.rpb_size())),
        source_(params.rpb == nullptr ? nullptr : static_cast<const float*>(params.rpb) + int64_t(bins_) * head) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) held_[i] = load(threadIdx.x + i * blockDim.x);
  }

  __device__ __forceinline__ void finish(const NeighborhoodParams& params, __half* target) const {
    const float inverse_scale = 1.f / static_cast<float>(params.scale);
    const auto store = [&](int i, float value) {
      const float scaled = fminf(fmaxf(value * inverse_scale, -6e4f), 6e4f);
      if (i <= bins_) target[i] = i == bins_ ? __ushort_as_half(0xfc00) : __float2half_rn(scaled);
    };
#pragma unroll
    for (int i = 0; i < kHeld; ++i) store(threadIdx.x + i * blockDim.x, held_[i]);
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

// Fills a warp's table. Entry (pair, lane) holds the lane's eight start values of
// a pair of column blocks, in the order of two accumulators.
template <bool kInverse>
__device__ __forceinline__ void build_table(const NeighborhoodParams& params, const Plan& plan, const Place& place,
                                            const WarpPlace& warp, const uint2* places, const __half* bias,
                                            uint4* table) {
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
    row_coordinates(plan, place, threadIdx.x / 32 * kRows + g + 8 * h, row);
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
  for (int pair = 0; pair < plan.pairs; ++pair) {
    __half value[2][2][2];  // column block, row, column
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
    const auto join = [](const __half(&x)[2]) {
      return static_cast<uint32_t>(__half_as_ushort(x[0])) | static_cast<uint32_t>(__half_as_ushort(x[1])) << 16;
    };
    table[pair * 32 + lane] = {join(value[0][0]), join(value[0][1]), join(value[1][0]), join(value[1][1])};
  }
}

__device__ __forceinline__ void unpack_start(float (&left)[4], float (&right)[4], const uint4& start) {
  const auto set = [](float& low, float& high, uint32_t packed) {
    const float2 values = __half22float2(*reinterpret_cast<const __half2*>(&packed));
    low = values.x;
    high = values.y;
  };
  set(left[0], left[1], start.x);
  set(left[2], left[3], start.y);
  set(right[0], right[1], start.z);
  set(right[2], right[3], start.w);
}

// Products of a warp's rows with a pair of column blocks; `address` is the lane's for the columns' first channels. The
// accumulators start at left_start and right_start.
template <typename T, int kDim>
__device__ __forceinline__ void multiply_pair(float (&left)[4], float (&right)[4], const float (&left_start)[4],
                                              const float (&right_start)[4], const uint32_t (&rows)[kDim / 16][4],
                                              uint32_t address) {
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    uint32_t columns[4];
    load_matrices(columns, address ^ (step * 32));
    if (step == 0) {
      multiply<T>(left, left_start, rows[step], columns[0], columns[1]);
      multiply<T>(right, right_start, rows[step], columns[2], columns[3]);
    } else {
      multiply<T>(left, left, rows[step], columns[0], columns[1]);
      multiply<T>(right, right, rows[step], columns[2], columns[3]);
    }
  }
}

// acc += weights * columns, weights being 16 rows by a pair of column blocks.
template <typename T, int kDim>
__device__ __forceinline__ void accumulate_pair(float (&acc)[kDim / 8][4], const uint32_t (&weights)[4],
                                                uint32_t address) {
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    uint32_t columns[4];
    load_matrices_transposed(columns, address ^ (step * 32));
    multiply<T>(acc[2 * step], acc[2 * step], weights, columns[0], columns[1]);
    multiply<T>(acc[2 * step + 1], acc[2 * step + 1], weights, columns[2], columns[3]);
  }
}

// The left operand from a warp's 16 rows; `address` is the lane's for the first channels.
template <int kDim>
__device__ __forceinline__ void load_rows(uint32_t (&rows)[kDim / 16][4], uint32_t address) {
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) load_matrices(rows[step], address ^ (step * 32));
}

// Writes a warp's 16 rows, row g scaled by scale[0] and row g + 8 by scale[1], to global memory by way of `buffer`, a
// buffer of rows in shared memory of which the warp owns those from `first` on. Where offsets[i] is kNoToken, row
// first + i doesn't exist.
constexpr uint32_t kNoToken = 0xffffffff;

template <typename T, int kDim>
__device__ __forceinline__ void store_rows(void* target, const uint32_t* offsets, int dim,
                                           const float (&acc)[kDim / 8][4], const float (&scale)[2],
                                           unsigned char* buffer, int first) {
  constexpr int kChunks = Rows<kDim>::kChunks;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  __syncwarp();
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    unsigned char* row = buffer + t * 4;
    const uint32_t offset = Rows<kDim>::offset(first + g + 8 * h);
#pragma unroll
    for (int block = 0; block < kDim / 8; ++block) {
      *reinterpret_cast<uint32_t*>(row + (offset ^ (block * 16))) =
          pack<T>(acc[block][2 * h] * scale[h], acc[block][2 * h + 1] * scale[h]);
    }
  }
  __syncwarp();
  const int chunk = lane % kChunks;
  if (chunk * 8 >= dim) return;
  char* to = static_cast<char*>(target) + chunk * 16;
#pragma unroll
  for (int pass = 0; pass < kChunks / 2; ++pass) {
    const int row = pass * (32 / kChunks) + lane / kChunks;
    const uint32_t offset = offsets[row];
    if (offset != kNoToken) {
      *reinterpret_cast<uint4*>(to + offset) =
          *reinterpret_cast<const uint4*>(buffer + (Rows<kDim>::offset(first + row) ^ (chunk * 16)));
    }
  }
}

}  // namespace visionattn::tile
