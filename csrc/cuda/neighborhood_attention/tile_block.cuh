// What the forward and the backward tensor-core kernels share: a block's token lists, the copies into shared memory,
// and the table that starts every product of rows and columns off with its bias, or with -infinity outside the window.
#pragma once

#include "tile_mma.cuh"
#include "tile_plan.cuh"

namespace visionattn::tile {

// Row `row` (warp * kRows + row of the warp) of a block, in group coordinates; false for a row that doesn't exist.
__device__ __forceinline__ bool row_coordinates(const Plan& plan, const Place& place, int32_t row, Coordinates& c) {
  int32_t warp = row / kRows;
  c = unravel(row % kRows, plan.rows[1], plan.rows[2]);
  bool exists = !place.empty && c.at[0] < plan.rows[0];
#pragma unroll
  for (int a = kMaxRank - 1; a >= 0; --a) {
    c.at[a] += place.rows.axis[a].begin + warp % plan.warps[a] * plan.rows[a];
    warp /= plan.warps[a];
    exists = exists && c.at[a] < place.rows.axis[a].end;
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
  const int count = place.empty ? 0 : place.columns.volume();
  for (int column = threadIdx.x; column < count; column += blockDim.x) {
    Coordinates c = unravel(column, place.columns.axis[1].size(), place.columns.axis[2].size());
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) c.at[a] += place.columns.axis[a].begin;
    visit(column, c);
  }
}

// Starts copying token rows of one head to shared memory. offsets[i] < 0: no such token, nothing is written.
template <int kDim, typename T>
__device__ __forceinline__ void copy_tokens(uint32_t target, const T* source, const int32_t* offsets, int count,
                                            int dim) {
  constexpr int kChunks = Rows<kDim>::kChunks;
  for (int i = threadIdx.x; i < count * kChunks; i += blockDim.x) {
    const int row = i / kChunks, chunk = i % kChunks;
    const int32_t offset = offsets[row];
    if (offset >= 0) {
      const bool present = chunk * 8 < dim;
      copy_async_16(target + (Rows<kDim>::offset(row) ^ (chunk * 16)), source + offset + (present ? chunk * 8 : 0),
                    present);
    }
  }
}

// A column of a warp, relative to the corner of the warp's columns.
__device__ __forceinline__ uint32_t pack_coordinates(const Coordinates& c) {
  return c.at[0] << 20 | c.at[1] << 10 | c.at[2];
}

__device__ __forceinline__ Coordinates unpack_coordinates(uint32_t packed) {
  return {{static_cast<int32_t>(packed >> 20), static_cast<int32_t>(packed >> 10 & 1023),
           static_cast<int32_t>(packed & 1023)}};
}

// Lists the columns of a warp: where each lies in shared memory, and its packed coordinates. Entries past the last
// column point at a column that exists.
template <int kDim>
__device__ __forceinline__ void list_columns(const Plan& plan, const Place& place, const WarpPlace& warp,
                                             uint32_t* entries, uint32_t* packed) {
  const int count = warp.empty ? 0 : warp.columns.volume();
  for (int j = threadIdx.x % 32; j < plan.pairs * 16; j += 32) {
    uint32_t entry = Rows<kDim>::offset(0), coordinates = 0;
    if (j < count) {
      const Coordinates c = unravel(j, warp.columns.axis[1].size(), warp.columns.axis[2].size());
      int32_t row = 0;
#pragma unroll
      for (int a = 0; a < kMaxRank; ++a) {
        row = row * place.columns.axis[a].size() + c.at[a] + warp.columns.axis[a].begin - place.columns.axis[a].begin;
      }
      entry = Rows<kDim>::offset(row);
      coordinates = pack_coordinates(c);
    }
    entries[j] = entry;
    packed[j] = coordinates;
  }
}

// Where lane `lane` finds its eight start values of a pair of column blocks: half precision, in the order of two
// accumulators. Values are divided by the scale, since they are added before the product is scaled.
template <bool kInverse>
__device__ void build_table(const NeighborhoodParams& params, const Plan& plan, const Place& place,
                            const WarpPlace& warp, const uint32_t* packed, const float* bias, uint4* table) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int count = warp.columns.volume();
  const float inverse_scale = 1.f / static_cast<float>(params.scale);
  const int extent1 = 2 * params.axes[1].kernel - 1, extent2 = 2 * params.axes[2].kernel - 1;
  const int sign = kInverse ? -1 : 1;
  Interval span[2][kMaxRank];  // of the columns that a row meets, relative to the corner
  int first[2];                // index of the bias of the column at the corner
  bool exists[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    Coordinates row;
    exists[h] = row_coordinates(plan, place, threadIdx.x / 32 * kRows + g + 8 * h, row);
    int index[kMaxRank];
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) {
      const int corner = warp.columns.axis[a].begin;
      const Interval met = attended<kInverse>(params.axes[a], place.length[a], row.at[a]);
      span[h][a] = {met.begin - corner, met.end - corner};
      index[a] = sign * (corner - row.at[a]) + params.axes[a].kernel - 1;
    }
    first[h] = (index[0] * extent1 + index[1]) * extent2 + index[2];
  }
#pragma unroll 1
  for (int pair = 0; pair < plan.pairs; ++pair) {
    float value[2][2][2];  // column block, row, column
#pragma unroll
    for (int block = 0; block < 2; ++block) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int j = pair * 16 + block * 8 + 2 * t + e;
        const Coordinates c = unpack_coordinates(packed[j]);
        const int step = sign * ((c.at[0] * extent1 + c.at[1]) * extent2 + c.at[2]);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          bool met = j < count;
#pragma unroll
          for (int a = 0; a < kMaxRank; ++a) met = met && c.at[a] >= span[h][a].begin && c.at[a] < span[h][a].end;
          float start = exists[h] ? -INFINITY : 0.f;
          if (met && exists[h]) {
            start = bias == nullptr ? 0.f : __ldg(bias + first[h] + step) * inverse_scale;
            start = fminf(fmaxf(start, -6e4f), 6e4f);
          }
          value[block][h][e] = start;
        }
      }
    }
    table[pair * 32 + lane] = {
        pack<__half>(value[0][0][0], value[0][0][1]), pack<__half>(value[0][1][0], value[0][1][1]),
        pack<__half>(value[1][0][0], value[1][0][1]), pack<__half>(value[1][1][0], value[1][1][1])};
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

// acc += rows * columns^T for a pair of column blocks; `address` is the lane's for the columns' first channels.
template <typename T, int kDim>
__device__ __forceinline__ void multiply_pair(float (&left)[4], float (&right)[4], const uint32_t (&rows)[kDim / 16][4],
                                              uint32_t address) {
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    uint32_t columns[4];
    load_matrices(columns, address ^ (step * 32));
    multiply<T>(left, rows[step], columns[0], columns[2]);
    multiply<T>(right, rows[step], columns[1], columns[3]);
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
    multiply<T>(acc[2 * step], weights, columns[0], columns[1]);
    multiply<T>(acc[2 * step + 1], weights, columns[2], columns[3]);
  }
}

// The left operand from a warp's 16 rows; `address` is the lane's for the first channels.
template <int kDim>
__device__ __forceinline__ void load_rows(uint32_t (&rows)[kDim / 16][4], uint32_t address) {
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) load_matrices(rows[step], address ^ (step * 32));
}

// Writes a warp's 16 rows, row g scaled by scale[0] and row g + 8 by scale[1], to global memory by way of the warp's
// rows in shared memory (`rows`: their first row's number in the buffer at `buffer`).
template <typename T, int kDim>
__device__ __forceinline__ void store_rows(T* target, const int32_t* offsets, int dim, const float (&acc)[kDim / 8][4],
                                           const float (&scale)[2], unsigned char* buffer, int rows) {
  constexpr int kChunks = Rows<kDim>::kChunks;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  __syncwarp();
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const uint32_t offset = Rows<kDim>::offset(rows + g + 8 * h);
#pragma unroll
    for (int block = 0; block < kDim / 8; ++block) {
      *reinterpret_cast<uint32_t*>(buffer + (offset ^ (block * 16)) + t * 4) =
          pack<T>(acc[block][2 * h] * scale[h], acc[block][2 * h + 1] * scale[h]);
    }
  }
  __syncwarp();
#pragma unroll
  for (int pass = 0; pass < kChunks / 2; ++pass) {
    const int row = pass * (32 / kChunks) + lane / kChunks, chunk = lane % kChunks;
    const int32_t offset = offsets[rows + row];
    if (offset >= 0 && chunk * 8 < dim) {
      *reinterpret_cast<uint4*>(target + offset + chunk * 8) =
          *reinterpret_cast<const uint4*>(buffer + (Rows<kDim>::offset(rows + row) ^ (chunk * 16)));
    }
  }
}

}  // namespace visionattn::tile
