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
                                 : kDim == 64 || kPairs > 5 ? 384
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
                                               const Plan& plan, uint32_t index, const float2* statistics,
                                               float* partial, unsigned char* memory) {
  constexpr bool kSumsInRegisters = kPairs > 0 && !kInverse;
  const int bins = params.rpb == nullptr ? 1 : static_cast<int>(params.rpb_size());
  const BackwardLayout layout(plan, Rows<kDim>::kBytes, bins, kInverse, kPairs == 0);
  const Place place = locate<kInverse>(params, plan, index);
  const bool sum_bias = !kInverse && partial != nullptr;
  if (sum_bias) partial += (int64_t(place.head) * plan.positions() + place.position) * bins;
  const BiasCopy bias_copy(params, place.head);
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

  uint2* column_offsets = reinterpret_cast<uint2*>(memory + layout.columns);
  uint2* row_offsets = reinterpret_cast<uint2*>(memory + layout.rows);
  uint32_t* result_offsets0 = reinterpret_cast<uint32_t*>(memory + layout.results);
  uint32_t* result_offsets1 = result_offsets0 + rows;
  // Where statistics are of the tokens that are queries: the rows, or the columns, warp by warp.
  int32_t* numbers = reinterpret_cast<int32_t*>(memory + layout.numbers);
  uint32_t* positions = reinterpret_cast<uint32_t*>(memory + layout.positions) + warp_index * plan.pairs * 32;
  uint2* places = reinterpret_cast<uint2*>(memory + layout.places) + warp_index * width;
  __half* bias = reinterpret_cast<__half*>(memory + layout.bias);
  for_columns(place, [&](int column, const Coordinates& c) {
    column_offsets[column] = {token_offset(params, place, column_view0, c),
                              token_offset(params, place, column_view1, c)};
  });
  for_rows(plan, place, [&](int row, bool exists, const Coordinates& c) {
    row_offsets[row] = {token_offset(params, place, row_view0, c), token_offset(params, place, row_view1, c)};
    result_offsets0[row] = exists ? token_offset(params, place, result_view0, c) : kNoToken;
    result_offsets1[row] = exists && kInverse ? token_offset(params, place, result_view1, c) : kNoToken;
    if constexpr (!kInverse) numbers[row] = token_number(params, place, c) * params.heads;
  });
  if constexpr (kInverse) {
    const int count = warp.empty ? 0 : warp.columns.volume();
    for (int j = lane; j < width; j += 32) {
      Coordinates c =
          unravel(j < count ? j : 0, max_of(warp.columns.axis[1].size(), 1), max_of(warp.columns.axis[2].size(), 1));
#pragma unroll
      for (int a = 0; a < kMaxRank; ++a) c.at[a] += warp.columns.axis[a].begin;
      numbers[warp_index * width + j] = count > 0 ? token_number(params, place, c) * params.heads : 0;
    }
  }

  // Before the first tokens come, their place in memory serves for the lists that the table is made from.
  bias_copy.finish(params, bias);
  list_columns<kDim>(params, plan, place, warp, places, positions);
  __syncthreads();
  uint4* table = reinterpret_cast<uint4*>(memory + layout.table) + warp_index * plan.pairs * 32;
  if (!warp.empty) build_table<kInverse>(params, plan, place, warp, places, bias, table);
  float4* sums = reinterpret_cast<float4*>(memory + layout.sums) + warp_index * plan.pairs * 64;
  if (sum_bias && kPairs == 0) {
    for (int i = lane; i < plan.pairs * 64; i += 32) sums[i] = {0.f, 0.f, 0.f, 0.f};
  }
  __syncthreads();

  // Statistics of queries: one pair for each row, or, where columns are queries, a list for each warp.
  const int statistic_count = kInverse ? plan.warp_count() * width : rows;
  const auto start = [&](const Unit& unit, int stage) {
    const uint32_t target = shared_address(memory) + stage * layout.stage;
    copy_tokens<kDim>(target + layout.rows0, target + layout.rows1, unit_start(row_view0, unit, place.head),
                      unit_start(row_view1, unit, place.head), row_offsets, rows, params.dim);
    copy_tokens<kDim>(target, target + layout.columns1, unit_start(column_view0, unit, place.head),
                      unit_start(column_view1, unit, place.head), column_offsets, columns, params.dim);
    const float2* source = statistics + unit_number(params, unit) * params.heads + place.head;
#pragma unroll 2
    for (int i = threadIdx.x; i < statistic_count; i += blockDim.x) {
      copy_async_8(target + layout.statistics + i * 8, source + numbers[i]);
    }
    commit_copies();
  };
  Unit unit(params, plan, place);
  start(unit, 0);

  const float log2_scale = static_cast<float>(params.scale) * 1.4426950408889634f;
  const uint32_t lane_chunk = lane / 16 * 16;
  float register_sums[kSumsInRegisters ? 2 * kPairs : 1][4] = {};
  int stage = 0;
  for (int left = place.units(); left > 0; --left) {
    const bool more = left > 1;
    Unit next = unit;
    if (more) next.advance(params, plan, place);
    wait_copies();
    __syncthreads();
    if (plan.stages == 2 && more) start(next, stage ^ 1);
    if (!warp.empty) {
      unsigned char* buffer = memory + stage * layout.stage;
      const uint32_t base0 = shared_address(buffer);
      const uint32_t base1 = base0 + layout.columns1;
      const uint32_t row_entry = Rows<kDim>::offset(warp_index * kRows + lane % 16) ^ lane_chunk;
      const uint32_t row_address0 = shared_address(buffer) + layout.rows0 + row_entry;
      const uint32_t row_address1 = shared_address(buffer) + layout.rows1 + row_entry;
      const float2* known =
          reinterpret_cast<const float2*>(buffer + layout.statistics) + warp_index * (kInverse ? width : kRows);
      uint32_t rows0[kDim / 16][4], rows1[kDim / 16][4];
      if constexpr (kDim == 32) {
        load_rows<kDim>(rows0, row_address0);
        load_rows<kDim>(rows1, row_address1);
      }
      // Of the fragment's rows and columns: what the logarithms of weights lack, and where slopes start.
      float log2_sum[2][2], start_slope[4];
      if constexpr (!kInverse) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float2 statistic = known[g + 8 * h];
          log2_sum[h][0] = log2_sum[h][1] = statistic.x;
          start_slope[2 * h] = start_slope[2 * h + 1] = statistic.y;
        }
      }
      float result0[kDim / 8][4] = {}, result1[kInverse ? kDim / 8 : 1][4] = {};
      const auto visit = [&](int pair, float (*register_sum)[4]) {
        const uint32_t position = positions[pair * 32 + lane], straight = position & 0xffff, side = position >> 16;
        float weight[2][4], slope[2][4];
        unpack_start(weight[0], weight[1], table[pair * 32 + lane]);
        if constexpr (kDim != 32) load_rows<kDim>(rows0, row_address0);
        multiply_pair<T, kDim>(weight[0], weight[1], weight[0], weight[1], rows0, base0 + straight);
        if constexpr (kDim != 32) load_rows<kDim>(rows1, row_address1);
        float4 statistic[2];
        if constexpr (kInverse) {
#pragma unroll
          for (int block = 0; block < 2; ++block) {
            statistic[block] = *reinterpret_cast<const float4*>(known + pair * 16 + block * 8 + 2 * t);
            slope[block][0] = slope[block][2] = statistic[block].y;
            slope[block][1] = slope[block][3] = statistic[block].w;
          }
          multiply_pair<T, kDim>(slope[0], slope[1], slope[0], slope[1], rows1, base1 + straight);
        } else {
          multiply_pair<T, kDim>(slope[0], slope[1], start_slope, start_slope, rows1, base1 + straight);
        }
#pragma unroll
        for (int block = 0; block < 2; ++block) {
          if constexpr (kInverse) {
            log2_sum[0][0] = log2_sum[1][0] = statistic[block].x;
            log2_sum[0][1] = log2_sum[1][1] = statistic[block].z;
          }
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            weight[block][i] = exp2_approximate(weight[block][i] * log2_scale - log2_sum[i / 2][i % 2]);
            slope[block][i] *= weight[block][i];
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
        accumulate_pair<T, kDim>(result0, operand, base0 + side);
        if constexpr (kInverse) {
          pack_operand<T>(operand, weight[0], weight[1]);
          accumulate_pair<T, kDim>(result1, operand, base1 + side);
        }
      };
      if constexpr (kSumsInRegisters) {
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) {
          visit(pair, register_sums + 2 * pair);
        }
      } else {
#pragma unroll 2
        for (int pair = 0; pair < pairs; ++pair) visit(pair, nullptr);
      }
      const float factor = static_cast<float>(params.scale), scale[2] = {factor, factor};
      const float one[2] = {1.f, 1.f};
      store_rows<T, kDim>(unit_start(result_view0, unit, place.head), result_offsets0 + warp_index * kRows, params.dim,
                          result0, scale, buffer + layout.rows0, warp_index * kRows);
      if constexpr (kInverse) {
        store_rows<T, kDim>(unit_start(result_view1, unit, place.head), result_offsets1 + warp_index * kRows,
                            params.dim, result1, one, buffer + layout.rows1, warp_index * kRows);
      }
    }
    if (plan.stages == 2) {
      stage ^= 1;
    } else {
      __syncthreads();
      if (more) start(next, 0);
    }
    unit = next;
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

// `statistics`: [batch, spatial..., heads] pairs from statistics_kernel; `partial`: [heads, positions, relative
// positions], or null where there is no bias.
template <typename T, int kDim, int kPairs>
__global__ void __launch_bounds__(kBackwardThreads<kDim, kPairs>)
    backward_kernel(const __grid_constant__ NeighborhoodParams params,
                    const __grid_constant__ NeighborhoodGradients gradients, const __grid_constant__ Plan plan,
                    const float2* statistics, float* partial) {
  extern __shared__ __align__(1024) unsigned char memory[];
  // The two roles of a place run side by side, so that what one reads is in the cache for the other.
  const uint32_t head = blockIdx.x % params.heads, rest = blockIdx.x / params.heads;
  const uint32_t index = rest / 2 * params.heads + head;
  if (rest % 2 == 0) {
    backward_block<T, kDim, kPairs, false>(params, gradients, plan, index, statistics, partial, memory);
  } else {
    backward_block<T, kDim, kPairs, true>(params, gradients, plan, index, statistics, partial, memory);
  }
}

// For every token and head: lse in powers of two, and grad_lse - rowsum(grad_output * output), which a slope (a
// gradient of a logit) starts from. kLanes threads share a sum, 8 channels each.
template <typename T, int kLanes>
__global__ void __launch_bounds__(256)
    statistics_kernel(const __grid_constant__ NeighborhoodParams params,
                      const __grid_constant__ NeighborhoodGradients gradients, float2* statistics) {
  const int64_t entry = int64_t(params.tokens()) * params.heads;  // rows of a batch entry
  const int64_t row = (int64_t(blockIdx.x) * 256 + threadIdx.x) / kLanes;
  const int chunk = threadIdx.x % kLanes;
  const bool exists = row < entry;
  const int head = row % params.heads;
  uint32_t number = static_cast<uint32_t>(row / params.heads);
  Coordinates c;
  c.at[2] = take_digit(number, params.axes[2].length);
  c.at[1] = take_digit(number, params.axes[1].length);
  c.at[0] = static_cast<int32_t>(number);
  int64_t offset = head * params.output.head, grad_offset = head * gradients.grad_output.head;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    offset += c.at[a] * params.output.spatial[a];
    grad_offset += c.at[a] * gradients.grad_output.spatial[a];
  }
#pragma unroll 4
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
      const float from_lse = gradients.grad_lse == nullptr ? 0.f : static_cast<const float*>(gradients.grad_lse)[i];
      statistics[i] = {static_cast<const float*>(params.lse)[i] * 1.4426950408889634f, from_lse - sum};
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
