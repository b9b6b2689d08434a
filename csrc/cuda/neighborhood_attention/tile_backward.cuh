// Backward tensor-core kernel: see tile_plan.cuh for how the work is cut.
//
// Half of the blocks take queries as rows and keys as columns and make the gradient of the query and of the bias; the
// other half take keys as rows and the queries that attend to them as columns and make the gradients of key and value.
// Both recompute the probabilities from lse, so no block needs another's result.
#pragma once

#include "tile_block.cuh"

namespace visionattn::tile {

template <int kDim, int kPairs>
constexpr int kBackwardThreads = kDim == 128                ? 256
                                 : kDim == 64 || kPairs > 4 ? 384
                                                            : 512;

// Position of (row, column) in the sums of a warp.
__device__ __forceinline__ int sum_index(int row, int column) {
  const int lane = row % 8 * 4 + column % 8 / 2;
  return (column / 8 * 32 + lane) * 4 + row / 8 * 2 + column % 2;
}

// Adds up a block's sums by relative position; `partial` has one number for each.
__device__ __forceinline__ void reduce_bias(const NeighborhoodParams& params, const Plan& plan, const Place& place,
                                            const float* sums, float* partial) {
  const int extent1 = 2 * params.axes[1].kernel - 1, extent2 = 2 * params.axes[2].kernel - 1;
  const int bins = static_cast<int>(params.rpb_size());
  for (int bin = threadIdx.x; bin < bins; bin += blockDim.x) {
    Coordinates step = unravel(bin, extent1, extent2);
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) step.at[a] -= params.axes[a].kernel - 1;
    float total = 0.f;
    for (int w = 0; w < plan.warp_count(); ++w) {
      const WarpPlace warp = locate_warp<false>(params, plan, place, w);
      if (warp.empty) continue;
      // Rows whose column at this step is one of the warp's columns.
      Box rows;
      int corner[kMaxRank];
#pragma unroll
      for (int a = 0; a < kMaxRank; ++a) {
        const Interval row = warp.rows.axis[a], column = warp.columns.axis[a];
        rows.axis[a] = {max_of(row.begin, column.begin - step.at[a]), min_of(row.end, column.end - step.at[a])};
        corner[a] = row.begin;
      }
      for (int z = rows.axis[0].begin; z < rows.axis[0].end; ++z) {
        for (int y = rows.axis[1].begin; y < rows.axis[1].end; ++y) {
          for (int x = rows.axis[2].begin; x < rows.axis[2].end; ++x) {
            const int row = ((z - corner[0]) * plan.rows[1] + y - corner[1]) * plan.rows[2] + x - corner[2];
            const int column = ((z + step.at[0] - warp.columns.axis[0].begin) * warp.columns.axis[1].size() + y +
                                step.at[1] - warp.columns.axis[1].begin) *
                                   warp.columns.axis[2].size() +
                               x + step.at[2] - warp.columns.axis[2].begin;
            total += sums[w * kRows * plan.pairs * 16 + sum_index(row, column)];
          }
        }
      }
    }
    partial[bin] = total;
  }
}

// kPairs: pairs of column blocks of a warp, or 0 for any number.
template <typename T, int kDim, int kPairs, bool kInverse>
__device__ __forceinline__ void backward_block(const NeighborhoodParams& params, const NeighborhoodGradients& gradients,
                                               const Plan& plan, uint32_t index, float* partial,
                                               unsigned char* memory) {
  constexpr bool kSumsInRegisters = kPairs > 0 && !kInverse;
  const BackwardLayout layout(plan, Rows<kDim>::kBytes, kInverse, kPairs == 0);
  const Place place = locate<kInverse>(params, plan, index);
  const bool sum_bias = !kInverse && partial != nullptr;
  if (sum_bias) partial += (place.head * plan.positions() + place.position) * params.rpb_size();
  if (place.empty) {
    if (sum_bias) {
      for (int bin = threadIdx.x; bin < params.rpb_size(); bin += blockDim.x) partial[bin] = 0.f;
    }
    return;
  }
  const int lane = threadIdx.x % 32, warp_index = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const WarpPlace warp = locate_warp<kInverse>(params, plan, place, warp_index);
  const int columns = place.columns.volume(), rows = plan.row_count(), width = plan.pairs * 16;
  const int pairs = warp.empty ? 0 : (warp.columns.volume() + 15) / 16;
  const View& row_view0 = kInverse ? params.key : params.query;
  const View& row_view1 = kInverse ? params.value : gradients.grad_output;
  const View& column_view0 = kInverse ? params.query : params.key;
  const View& column_view1 = kInverse ? gradients.grad_output : params.value;
  const View& result_view0 = kInverse ? gradients.grad_key : gradients.grad_query;
  const View& result_view1 = gradients.grad_value;

  int32_t* column_offsets0 = reinterpret_cast<int32_t*>(memory + layout.lists);
  int32_t* column_offsets1 = column_offsets0 + plan.columns;
  int32_t* row_offsets0 = column_offsets1 + plan.columns;
  int32_t* row_offsets1 = row_offsets0 + rows;
  int32_t* result_offsets0 = row_offsets1 + rows;
  int32_t* result_offsets1 = result_offsets0 + rows;
  int32_t* row_numbers = result_offsets1 + rows;
  uint32_t* entries = reinterpret_cast<uint32_t*>(row_numbers + rows) + warp_index * width;
  uint32_t* packed = entries + plan.warp_count() * width;
  for_rows(plan, place, [&](int row, bool exists, const Coordinates& c) {
    row_offsets0[row] = exists ? token_offset(params, place, row_view0, c) : -1;
    row_offsets1[row] = exists ? token_offset(params, place, row_view1, c) : -1;
    result_offsets0[row] = exists ? token_offset(params, place, result_view0, c) : -1;
    result_offsets1[row] = exists && kInverse ? token_offset(params, place, result_view1, c) : -1;
    row_numbers[row] = exists ? token_number(params, place, c) : -1;
  });
  for_columns(place, [&](int column, const Coordinates& c) {
    column_offsets0[column] = token_offset(params, place, column_view0, c);
    column_offsets1[column] = token_offset(params, place, column_view1, c);
  });

  // Statistics are pairs (lse, delta): one for each row, or, where columns are queries, a list for each warp.
  const int statistic_count = kInverse ? width : rows;
  const int statistic_step = kInverse ? 32 : blockDim.x;
  const int statistic_first = kInverse ? lane : threadIdx.x;
  const int statistic_base = kInverse ? layout.statistics + warp_index * width * 8 : layout.statistics;
  uint4* table = reinterpret_cast<uint4*>(memory + layout.table) + warp_index * plan.pairs * 32;
  if (!warp.empty) {
    list_columns<kDim>(plan, place, warp, entries, packed);
    __syncwarp();
    const int64_t bias = params.rpb_size() * place.head;
    build_table<kInverse>(params, plan, place, warp, packed,
                          params.rpb == nullptr ? nullptr : static_cast<const float*>(params.rpb) + bias, table);
    __syncwarp();
  }
  const int32_t* statistic_numbers = row_numbers;
  if constexpr (kInverse) {
    int32_t* numbers = reinterpret_cast<int32_t*>(packed);  // has served
    const int count = warp.empty ? 0 : warp.columns.volume();
    for (int j = lane; j < width; j += 32) {
      Coordinates c = unpack_coordinates(packed[j]);
#pragma unroll
      for (int a = 0; a < kMaxRank; ++a) c.at[a] += warp.columns.axis[a].begin;
      numbers[j] = j < count ? token_number(params, place, c) : -1;
    }
    statistic_numbers = numbers;
  }
  for (int stage = 0; stage < plan.stages; ++stage) {
    for (int i = statistic_first; i < statistic_count; i += statistic_step) {
      reinterpret_cast<float2*>(memory + stage * layout.stage + statistic_base)[i] = {0.f, 0.f};
    }
  }
  float4* sums = reinterpret_cast<float4*>(memory + layout.sums) + warp_index * plan.pairs * 64;
  if (sum_bias && kPairs == 0) {
    for (int i = lane; i < plan.pairs * 64; i += 32) sums[i] = {0.f, 0.f, 0.f, 0.f};
  }
  __syncthreads();

  const auto start = [&](int64_t b, int stage) {
    const uint32_t target = shared_address(memory) + stage * layout.stage;
    const auto view = [&](const View& v) { return static_cast<const T*>(v.data) + b * v.batch + place.head * v.head; };
    copy_tokens<kDim>(target + layout.rows0, view(row_view0), row_offsets0, rows, params.dim);
    copy_tokens<kDim>(target + layout.rows1, view(row_view1), row_offsets1, rows, params.dim);
    copy_tokens<kDim>(target + layout.columns0, view(column_view0), column_offsets0, columns, params.dim);
    copy_tokens<kDim>(target + layout.columns1, view(column_view1), column_offsets1, columns, params.dim);
    const int64_t first = b * params.tokens() * params.heads + place.head;
    const float* lse = static_cast<const float*>(params.lse) + first;
    const float* delta = static_cast<const float*>(gradients.delta) + first;
    for (int i = statistic_first; i < statistic_count; i += statistic_step) {
      const int number = statistic_numbers[i];
      if (number >= 0) {
        const int64_t offset = int64_t(number) * params.heads;
        copy_async_4(target + statistic_base + i * 8, lse + offset);
        copy_async_4(target + statistic_base + i * 8 + 4, delta + offset);
      }
    }
    commit_copies();
  };
  start(place.batch_begin, 0);

  const float log2_scale = static_cast<float>(params.scale) * 1.4426950408889634f;
  const uint32_t lane_chunk = lane / 16 * 16;
  float register_sums[kSumsInRegisters ? 2 * kPairs : 1][4] = {};
  int stage = 0;
  for (int64_t b = place.batch_begin; b < place.batch_end; ++b) {
    const bool more = b + 1 < place.batch_end;
    wait_copies();
    __syncthreads();
    if (plan.stages == 2 && more) start(b + 1, stage ^ 1);
    if (!warp.empty) {
      unsigned char* buffer = memory + stage * layout.stage;
      const uint32_t base0 = shared_address(buffer) + layout.columns0;
      const uint32_t base1 = shared_address(buffer) + layout.columns1;
      const uint32_t row_entry = Rows<kDim>::offset(warp_index * kRows + lane % 16) ^ lane_chunk;
      const uint32_t row_address0 = shared_address(buffer) + layout.rows0 + row_entry;
      const uint32_t row_address1 = shared_address(buffer) + layout.rows1 + row_entry;
      const float2* statistics = reinterpret_cast<const float2*>(buffer + statistic_base);
      uint32_t rows0[kDim / 16][4], rows1[kDim / 16][4];
      if constexpr (kDim == 32) {
        load_rows<kDim>(rows0, row_address0);
        load_rows<kDim>(rows1, row_address1);
      }
      float log2_sum[2][2], delta[2][2];  // of the fragment's rows and columns; equal along rows or along columns
      if constexpr (!kInverse) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float2 statistic = statistics[warp_index * kRows + g + 8 * h];
          log2_sum[h][0] = log2_sum[h][1] = statistic.x * 1.4426950408889634f;
          delta[h][0] = delta[h][1] = statistic.y;
        }
      }
      float result0[kDim / 8][4] = {}, result1[kInverse ? kDim / 8 : 1][4] = {};
      const auto visit = [&](int pair, float (*register_sum)[4]) {
        const uint32_t entry = entries[pair * 16 + lane % 16] ^ lane_chunk;
        float weight[2][4], slope[2][4] = {};
        unpack_start(weight[0], weight[1], table[pair * 32 + lane]);
        if constexpr (kDim != 32) load_rows<kDim>(rows0, row_address0);
        multiply_pair<T, kDim>(weight[0], weight[1], rows0, base0 + entry);
        if constexpr (kDim != 32) load_rows<kDim>(rows1, row_address1);
        multiply_pair<T, kDim>(slope[0], slope[1], rows1, base1 + entry);
#pragma unroll
        for (int block = 0; block < 2; ++block) {
          if constexpr (kInverse) {
            const float4 statistic = *reinterpret_cast<const float4*>(statistics + pair * 16 + block * 8 + 2 * t);
            log2_sum[0][0] = log2_sum[1][0] = statistic.x * 1.4426950408889634f;
            log2_sum[0][1] = log2_sum[1][1] = statistic.z * 1.4426950408889634f;
            delta[0][0] = delta[1][0] = statistic.y;
            delta[0][1] = delta[1][1] = statistic.w;
          }
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            weight[block][i] = exp2_approximate(weight[block][i] * log2_scale - log2_sum[i / 2][i % 2]);
            slope[block][i] = weight[block][i] * (slope[block][i] - delta[i / 2][i % 2]);
          }
          if constexpr (kSumsInRegisters) {
#pragma unroll
            for (int i = 0; i < 4; ++i) register_sum[block][i] += slope[block][i];
          } else if constexpr (!kInverse) {
            if (sum_bias) {
              float4& sum = sums[(2 * pair + block) * 32 + lane];
              sum = {sum.x + slope[block][0], sum.y + slope[block][1], sum.z + slope[block][2],
                     sum.w + slope[block][3]};
            }
          }
        }
        uint32_t operand[4];
        pack_operand<T>(operand, slope[0], slope[1]);
        accumulate_pair<T, kDim>(result0, operand, base0 + entry);
        if constexpr (kInverse) {
          pack_operand<T>(operand, weight[0], weight[1]);
          accumulate_pair<T, kDim>(result1, operand, base1 + entry);
        }
      };
      if constexpr (kSumsInRegisters) {
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) {
          visit(pair, register_sums + 2 * pair);
        }
      } else {
#pragma unroll 1
        for (int pair = 0; pair < pairs; ++pair) visit(pair, nullptr);
      }
      const float factor = static_cast<float>(params.scale), scale[2] = {factor, factor};
      const float one[2] = {1.f, 1.f};
      const auto view = [&](const View& v) { return static_cast<T*>(v.data) + b * v.batch + place.head * v.head; };
      store_rows<T, kDim>(view(result_view0), result_offsets0, params.dim, result0, scale, buffer + layout.rows0,
                          warp_index * kRows);
      if constexpr (kInverse) {
        store_rows<T, kDim>(view(result_view1), result_offsets1, params.dim, result1, one, buffer + layout.rows1,
                            warp_index * kRows);
      }
    }
    if (plan.stages == 2) {
      stage ^= 1;
    } else {
      __syncthreads();
      if (more) start(b + 1, 0);
    }
  }
  if (sum_bias) {
    if constexpr (kSumsInRegisters) {
      __syncthreads();
      sums = reinterpret_cast<float4*>(memory) + warp_index * plan.pairs * 64;
#pragma unroll
      for (int block = 0; block < 2 * kPairs; ++block) {
        sums[block * 32 + lane] = {register_sums[block][0], register_sums[block][1], register_sums[block][2],
                                   register_sums[block][3]};
      }
    }
    __syncthreads();
    reduce_bias(params, plan, place, reinterpret_cast<const float*>(memory + (kSumsInRegisters ? 0 : layout.sums)),
                partial);
  }
}

// `partial`: [heads, positions, relative positions], or null where there is no bias.
template <typename T, int kDim, int kPairs>
__global__ void __launch_bounds__(kBackwardThreads<kDim, kPairs>)
    backward_kernel(const __grid_constant__ NeighborhoodParams params,
                    const __grid_constant__ NeighborhoodGradients gradients, const __grid_constant__ Plan plan,
                    float* partial) {
  extern __shared__ __align__(1024) unsigned char memory[];
  // The two roles of a place run side by side, so that what one reads is in the cache for the other.
  const uint32_t head = blockIdx.x % params.heads, rest = blockIdx.x / params.heads;
  const uint32_t index = rest / 2 * params.heads + head;
  if (rest % 2 == 0) {
    backward_block<T, kDim, kPairs, false>(params, gradients, plan, index, partial, memory);
  } else {
    backward_block<T, kDim, kPairs, true>(params, gradients, plan, index, partial, memory);
  }
}

// delta = rowsum(grad_output * output) - grad_lse. A token of a head is summed by kLanes threads, 8 channels at a time.
template <typename T, int kLanes>
__global__ void __launch_bounds__(256) delta_kernel(const __grid_constant__ NeighborhoodParams params,
                                                    const __grid_constant__ NeighborhoodGradients gradients) {
  const int64_t entry = int64_t(params.tokens()) * params.heads;  // rows of a batch entry
  const int64_t row = (int64_t(blockIdx.x) * 256 + threadIdx.x) / kLanes;
  const int chunk = threadIdx.x % kLanes;
  const bool exists = row < entry;
  const int head = row % params.heads;
  const Coordinates c = unravel(static_cast<int32_t>(row / params.heads), params.axes[1].length, params.axes[2].length);
  int64_t offset = head * params.output.head, grad_offset = head * gradients.grad_output.head;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    offset += c.at[a] * params.output.spatial[a];
    grad_offset += c.at[a] * gradients.grad_output.spatial[a];
  }
  for (int64_t b = blockIdx.y; b < params.batch; b += gridDim.y) {
    float sum = 0.f;
    if (exists && chunk * 8 < params.dim) {
      const uint4 left = *reinterpret_cast<const uint4*>(static_cast<const T*>(params.output.data) +
                                                         b * params.output.batch + offset + chunk * 8);
      const uint4 right = *reinterpret_cast<const uint4*>(static_cast<const T*>(gradients.grad_output.data) +
                                                          b * gradients.grad_output.batch + grad_offset + chunk * 8);
      const T* x = reinterpret_cast<const T*>(&left);
      const T* y = reinterpret_cast<const T*>(&right);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum += static_cast<float>(x[i]) * static_cast<float>(y[i]);
    }
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (exists && chunk == 0) {
      const int64_t i = b * entry + row;
      if (gradients.grad_lse != nullptr) sum -= static_cast<const float*>(gradients.grad_lse)[i];
      static_cast<float*>(gradients.delta)[i] = sum;
    }
  }
}

// Adds up the blocks' bias gradients in a fixed order. A block of 32 x 16 threads makes 32 numbers of one head.
static __global__ void __launch_bounds__(512)
    bias_kernel(const float* partial, float* grad_rpb, int64_t positions, int64_t bins) {
  __shared__ float sums[16][32];
  const int64_t bin = int64_t(blockIdx.x) * 32 + threadIdx.x, head = blockIdx.y;
  float sum = 0.f;
  if (bin < bins) {
    for (int64_t i = threadIdx.y; i < positions; i += 16) sum += partial[(head * positions + i) * bins + bin];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && bin < bins) {
    for (int i = 1; i < 16; ++i) sum += sums[i][threadIdx.x];
    grad_rpb[head * bins + bin] = sum;
  }
}

}  // namespace visionattn::tile
