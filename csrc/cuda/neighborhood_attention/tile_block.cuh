// What the forward and the backward tensor-core kernels share: a block's token lists, the copies into shared memory,
// products of a warp's rows and columns, and the way back to global memory.
#pragma once

#include "tile_layout.cuh"
#include "tile_mma.cuh"
#include "tile_place.cuh"

namespace visionattn::tile {

// A thread's place in its team. Teams pay where tables are large: for float32; otherwise a block is one team.
template <typename T>
struct Team {
  int index, count;        // of the team, and of teams
  int thread, size, warp;  // of the thread in the team, of the team in threads, and of the thread's warp in the team

  __device__ __forceinline__ Team(const Plan& plan)
      : index(0), count(1), thread(threadIdx.x), size(blockDim.x), warp(threadIdx.x / 32) {
    if constexpr (sizeof(T) == 4) {
      uint32_t rest = warp;
      warp = take_small_digit(rest, plan.warp_count());
      index = static_cast<int>(rest);
      count = plan.teams;
      size = plan.warp_count() * 32;
      thread -= index * size;
    }
  }

  __device__ __forceinline__ void sync() const {
    if constexpr (sizeof(T) == 4) {
      asm volatile("bar.sync %0, %1;" ::"r"(index + 1), "r"(size) : "memory");
    } else {
      __syncthreads();
    }
  }
};

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
#pragma unroll 1
  for (int row = threadIdx.x; row < plan.row_count(); row += blockDim.x) {
    Coordinates c;
    const bool exists = row_coordinates(plan, place, row, c);
    visit(row, exists, c);
  }
}

// Length of a line of the block's columns in shared memory.
template <bool kLined>
__device__ __forceinline__ int32_t line_pitch(const Place& place) {
  return kLined ? line_pitch(place.columns.axis[2]) : place.columns.axis[2].size();
}

// Calls visit(column, coordinates) for `count` columns of the block, in lines of `pitch`; what a line lacks repeats its
// last column.
template <typename Visit>
__device__ __forceinline__ void for_columns(const Place& place, int count, int pitch, Visit visit) {
#pragma unroll 1
  for (int column = threadIdx.x; column < count; column += blockDim.x) {
    Coordinates c = unravel(column, place.columns.axis[1].size(), pitch);
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a)
      c.at[a] = min_of(c.at[a] + place.columns.axis[a].begin, place.columns.axis[a].end - 1);
    visit(column, c);
  }
}

// A team's list of units in shared memory: entries are made by its first warp, and seen by others behind a barrier.
class UnitList {
 public:
  __device__ __forceinline__ UnitList(unsigned char* memory) : entries_(reinterpret_cast<UnitStarts*>(memory)) {}
  __device__ __forceinline__ const UnitStarts& operator[](int i) const {
    return entries_[i & (UnitStarts::kListed - 1)];
  }

  // `gradients` may be null. One lane works out one number.
  template <int kBytes>
  __device__ __forceinline__ void set(int i, const NeighborhoodParams& params, const NeighborhoodGradients* gradients,
                                      const Unit& unit, int head, int head_kv) const {
    UnitStarts& entry = entries_[i & (UnitStarts::kListed - 1)];
    const int lane = threadIdx.x % 32;
    if (lane < 4) {
      entry.views[lane] = unit_start<kBytes>((&params.query)[lane], unit, lane == 1 || lane == 2 ? head_kv : head);
    } else if (lane < 8 && gradients != nullptr) {
      entry.views[lane] = unit_start<kBytes>((&gradients->grad_output)[lane - 4], unit, head);
    } else if (lane == 8) {
      entry.number = unit_number(params, unit);
    }
  }

 private:
  UnitStarts* entries_;
};

// Calls copy(position in the target, offsets of the token) for every 16 bytes of token rows that the thread copies.
template <int kRowBytes, typename Team, typename Copy>
__device__ __forceinline__ void for_chunks(const Team& team, const uint2* offsets, int count, Copy copy) {
  constexpr int kChunks = Rows<kRowBytes>::kChunks;
  const int chunk = threadIdx.x % kChunks, step = team.size / kChunks;
  int row = team.thread / kChunks;
  // Where steps are a multiple of 8 rows, the period of the permutation of chunks, positions are evenly spaced.
  uint32_t position = Rows<kRowBytes>::offset(row) ^ (chunk * 16);
  const auto position_of = [&](int i) {
    return kRowBytes == 64 ? position + i * step * kRowBytes : Rows<kRowBytes>::offset(row + i * step) ^ (chunk * 16);
  };
  for (; row + 2 * step < count; row += 3 * step) {
    const uint2 offset[3] = {offsets[row], offsets[row + step], offsets[row + 2 * step]};
#pragma unroll
    for (int i = 0; i < 3; ++i) copy(position_of(i), offset[i]);
    position += 3 * step * kRowBytes;
  }
#pragma unroll 1
  for (; row < count; row += step) {
    copy(position_of(0), offsets[row]);
    position += step * kRowBytes;
  }
}

// Lined kernels read past the last column of a block, of which nothing comes but must be a number: clears kColumns
// behind both tensors' columns in all buffers, before any copy. `second`: where the second tensor's columns start; as
// many rows as are cleared must follow them, or what lies behind the buffers would be lost.
template <int kRowBytes, int kColumns, typename Layout>
__device__ __forceinline__ void clear_past(unsigned char* memory, const Layout& layout, const Plan& plan, int columns,
                                           int second) {
  constexpr int kPast = kColumns * kRowBytes / 16;
  for (int s = 0; s < plan.stages * plan.teams; ++s) {
    for (int i = threadIdx.x; i < 2 * kPast; i += blockDim.x) {
      const int start = s * layout.stage + (i < kPast ? 0 : second) + columns * kRowBytes;
      reinterpret_cast<uint4*>(memory + start)[i % kPast] = {0, 0, 0, 0};
    }
  }
  __syncthreads();
}

// What to copy of two tensors that share a list.
enum Part { kFirst, kSecond, kBoth };

// Starts copying token rows of one head of two tensors, or of one of them, to shared memory; the offsets are pairs.
// Bytes of a row from `bytes` on are zero.
template <int kRowBytes, Part kPart, typename Team>
__device__ __forceinline__ void copy_tokens(const Team& team, uint32_t target0, uint32_t target1, const char* source0,
                                            const char* source1, const uint2* offsets, int count, int bytes) {
  const int chunk = threadIdx.x % Rows<kRowBytes>::kChunks;
  const bool present = chunk * 16 < bytes;
  source0 += present ? chunk * 16 : 0;
  source1 += present ? chunk * 16 : 0;
  for_chunks<kRowBytes>(team, offsets, count, [&](uint32_t position, uint2 offset) {
    if constexpr (kPart != kSecond) copy_async_16(target0 + position, source0 + offset.x, present);
    if constexpr (kPart != kFirst) copy_async_16(target1 + position, source1 + offset.y, present);
  });
}

// Products of a warp's rows with a pair of column blocks; `address` is the lane's for the columns' first channels. The
// accumulators start at left_start and right_start.
template <typename T, int kSteps>
__device__ __forceinline__ void multiply_pair(float (&left)[4], float (&right)[4], const float (&left_start)[4],
                                              const float (&right_start)[4], const Left<T> (&rows)[kSteps],
                                              uint32_t address) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
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

// Matrix loads can't transpose 32-bit elements: addresses of the lane's words of the four columns it needs, 2t, 2t + 1
// and 8 further on.
struct Words {
  uint32_t at[4];
};

__device__ __forceinline__ Words operator+(uint32_t base, Words words) {
#pragma unroll
  for (int i = 0; i < 4; ++i) words.at[i] += base;
  return words;
}

template <typename T, int kDim>
__device__ __forceinline__ void accumulate_pair(float (&acc)[kDim / 8][4], const float (&weights)[2][4],
                                                const Words& words) {
#pragma unroll
  for (int block = 0; block < 2; ++block) {
    Split operand;
    split_accumulator(operand, weights[block]);
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i) {
      multiply<T>(acc[i], acc[i], operand, load_word(words.at[2 * block] ^ (i * 32)),
                  load_word(words.at[2 * block + 1] ^ (i * 32)));
    }
  }
}

// The left operand from a warp's 16 rows; `address` is the lane's for the first channels.
template <typename T, int kSteps>
__device__ __forceinline__ void load_rows(Left<T> (&rows)[kSteps], uint32_t address) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) load_left(rows[step], address ^ (step * 32));
}

// Writes a warp's 16 rows, row g scaled by scale[0] and row g + 8 by scale[1], to global memory by way of `buffer`, a
// buffer of rows in shared memory of which the warp owns those from `first` on. Where offsets[i] is kNoToken, row
// first + i doesn't exist.
constexpr uint32_t kNoToken = 0xffffffff;

template <typename T, int kDim>
__device__ __forceinline__ void store_rows(void* target, const uint32_t* offsets, int bytes,
                                           const float (&acc)[kDim / 8][4], const float (&scale)[2],
                                           unsigned char* buffer, int first) {
  using Row = Rows<kDim * sizeof(T)>;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  __syncwarp();
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const uint32_t offset = Row::offset(first + g + 8 * h);
#pragma unroll
    for (int block = 0; block < kDim / 8; ++block) {
      const float low = acc[block][2 * h] * scale[h], high = acc[block][2 * h + 1] * scale[h];
      if constexpr (sizeof(T) == 4) {
        *reinterpret_cast<float2*>(buffer + (offset ^ (block * 32 + t * 8))) = {low, high};
      } else {
        *reinterpret_cast<uint32_t*>(buffer + (offset ^ (block * 16 + t * 4))) = pack<T>(low, high);
      }
    }
  }
  __syncwarp();
  const int chunk = lane % Row::kChunks;
  if (chunk * 16 >= bytes) return;
  char* to = static_cast<char*>(target) + chunk * 16;
#pragma unroll
  for (int pass = 0; pass < Row::kChunks / 2; ++pass) {
    const int row = pass * (32 / Row::kChunks) + lane / Row::kChunks;
    const uint32_t offset = offsets[row];
    if (offset != kNoToken) {
      *reinterpret_cast<uint4*>(to + offset) =
          *reinterpret_cast<const uint4*>(buffer + (Row::offset(first + row) ^ (chunk * 16)));
    }
  }
}

}  // namespace visionattn::tile
