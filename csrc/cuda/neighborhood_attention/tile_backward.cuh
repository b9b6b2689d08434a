// Backward tensor-core kernel: see tile_plan.cuh for how the work is cut.
//
// Half of the blocks take queries as rows and keys as columns and make the gradient of the query and of the bias; the
// other half take keys as rows and the queries that attend to them as columns and make the gradients of key and value.
// Both recompute the probabilities from lse, so no block needs another's result.
#pragma once

#include "tile_lines.cuh"

namespace visionattn::tile {

template <typename T, int kDim, int kPairs, bool kLined>
constexpr int kBackwardThreads = sizeof(T) == 4 || kDim == 128 || (kDim == 64 && kLined) ? 256
                                 : kDim == 64 || kPairs > 5 || kLined                    ? 384
                                                                                         : 512;

// Position of (row, column) in the sums of a warp.
__device__ __forceinline__ int sum_index(int row, int column) {
  const int lane = row % 8 * 4 + column % 8 / 2;
  return (column / 8 * 32 + lane) * 4 + row / 8 * 2 + column % 2;
}

// Adds up a block's sums by relative position; `partial` has one number for each.
__device__ __forceinline__ void reduce_bias(const NeighborhoodParams& params, const Plan& plan, const Place& place,
                                            int teams, const float* sums, float* partial) {
  const int extent1 = 2 * params.axes[1].kernel - 1, extent2 = 2 * params.axes[2].kernel - 1;
  const int bins = static_cast<int>(params.rpb_size()), team_sums = plan.row_count() * plan.pairs * 16;
#pragma unroll 1
  for (int first = 0; first < bins; first += blockDim.x) {  // by whole warps
    const int bin = min_of(first + threadIdx.x, bins - 1);
    Coordinates step = unravel(bin, extent1, extent2);
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) step.at[a] -= params.axes[a].kernel - 1;
    float total = 0.f;
    for (int w = 0; w < plan.warp_count(); ++w) {
      const WarpPlace warp = locate_warp(params, plan, place, w, false);
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
#pragma unroll 2
          for (int x = rows.axis[2].begin; x < rows.axis[2].end; ++x) {
            const int row = ((z - corner[0]) * plan.rows[1] + y - corner[1]) * plan.rows[2] + x - corner[2];
            const int column = ((z + step.at[0] - warp.columns.axis[0].begin) * warp.columns.axis[1].size() + y +
                                step.at[1] - warp.columns.axis[1].begin) *
                                   warp.columns.axis[2].size() +
                               x + step.at[2] - warp.columns.axis[2].begin;
            const int index = w * kRows * plan.pairs * 16 + sum_index(row, column);
#pragma unroll 1
            for (int team = 0; team < teams; ++team) total += sums[team * team_sums + index];
          }
        }
      }
    }
    partial[bin] = total;
  }
}

// The same for sums of lined columns, `line` of them for each distance between lines.
__device__ __forceinline__ void reduce_lined_bias(const NeighborhoodParams& params, const Plan& plan,
                                                  const Place& place, int line, const float* sums, float* partial) {
  const int extent = 2 * params.axes[2].kernel - 1, bins = static_cast<int>(params.rpb_size()), slots = plan.rows[2];
  const int warp_sums = line * line_distances(params);
#pragma unroll 1
  for (int first = 0; first < bins; first += blockDim.x) {  // by whole warps
    const int bin = min_of(first + threadIdx.x, bins - 1);
    const int distance = bin / extent, step = bin % extent - (params.axes[2].kernel - 1);
    float total = 0.f;
    for (int x = 0; x < plan.warps[2]; ++x) {
      const WarpPlace warp = locate_warp(params, plan, place, x, false);
      const Interval rows = warp.rows.axis[2], columns = warp.columns.axis[2];
      for (int slot = 0; slot < rows.size(); ++slot) {
        const int column = rows.begin + slot + step - columns.begin;
        if (column < 0 || column >= columns.size()) continue;
        const int index = distance * line + table_index(slots, slot, column);
        for (int w = x; w < plan.teams * plan.warp_count(); w += plan.warps[2]) total += sums[w * warp_sums + index];
      }
    }
    partial[bin] = total;
  }
}

// Bytes of a warp's sums of the bias gradient.
template <bool kLined>
__device__ __forceinline__ int warp_sum_bytes(const NeighborhoodParams& params, const Plan& plan) {
  return kLined ? plan.table_line(false) * 4 / plan.element * line_distances(params) : plan.pairs * 1024;
}

// Works on the units of a block whose lists and tables are ready: `listed` has the columns if they aren't in lines.
// kPairs: pairs of column blocks of a warp, or 0 for any number. `partial`: where the block's bias gradient goes, or
// null.
template <typename T, int kDim, int kPairs, bool kLined, bool kInverse, typename Listed>
__device__ __forceinline__ void backward_units(const NeighborhoodParams& params, const NeighborhoodGradients& gradients,
                                               const Plan& plan, const BackwardLayout& known_layout, const Place& place,
                                               const Team<T>& team, const WarpPlace& warp, const Listed& listed,
                                               int columns, const float2* statistics, float* partial,
                                               unsigned char* memory) {
  constexpr bool kSumsInRegisters = kPairs > 0 && !kInverse;
  constexpr bool kHoldRows = kDim == 32 || (kDim == 64 && kLined);
  constexpr int kRowBytes = kDim * sizeof(T), kSteps = kRowBytes / 32;
  using Row = Rows<kRowBytes>;
  const int bins = params.rpb == nullptr ? 1 : static_cast<int>(params.rpb_size());
  // Working it out again for the role takes fewer registers, unless they are full of sums.
  const BackwardLayout layout =
      kPairs > 0 ? known_layout : BackwardLayout(plan, kRowBytes, bins, line_distances(params), kInverse, true);
  const int lane = threadIdx.x % 32, warp_index = team.warp, g = lane / 4, t = lane % 4;
  const int rows = plan.row_count(), width = plan.pairs * 16;
  const bool sum_bias = !kInverse && partial != nullptr;
  const uint2* column_offsets = reinterpret_cast<const uint2*>(memory + layout.columns);
  const uint2* row_offsets = reinterpret_cast<const uint2*>(memory + layout.rows);
  const uint32_t* result_offsets0 = reinterpret_cast<const uint32_t*>(memory + layout.results);
  const uint32_t* result_offsets1 = result_offsets0 + rows;
  const int32_t* numbers = reinterpret_cast<const int32_t*>(memory + layout.numbers);
  unsigned char* sums =
      memory + layout.sums + (team.index * plan.warp_count() + warp_index) * warp_sum_bytes<kLined>(params, plan);
  const auto own = [&] {
    if constexpr (kLined) {
      return LinedColumns<T, kRowBytes, kInverse>(params, plan, place, team, warp, line_pitch<true>(place),
                                                  layout.table, memory);
    } else {
      return listed;
    }
  }();

  // Statistics of queries: one pair for each row, or, where columns are queries, a list for each warp.
  const int statistic_count = !kInverse ? rows : kLined ? columns : plan.warp_count() * width;
  constexpr int kRow0 = kInverse ? 1 : 0, kRow1 = kInverse ? 2 : 4;  // of UnitStarts
  constexpr int kColumn0 = kInverse ? 0 : 1, kColumn1 = kInverse ? 4 : 2;
  const UnitList list(memory + layout.units + team.index * kUnitListBytes);
  const int units = (place.units() - team.index + team.count - 1) / team.count,
            second = plan.stages - 1;  // is there a second buffer
  Unit unit(params, plan, place);
  if (team.index > 0) unit.advance(params, plan, place, team.index);
  if (warp_index == 0) list.set<sizeof(T)>(0, params, &gradients, unit, place.head, place.head);
  const int row_bytes = params.dim * static_cast<int>(sizeof(T));
  const auto start = [&](int i) {
    const uint32_t target = shared_address(memory) + team.index * layout.team + (i & second) * layout.stage;
    const UnitStarts& starts = list[i];
    copy_tokens<kRowBytes, kBoth>(team, target + layout.rows0, target + layout.rows1, starts.views[kRow0],
                                  starts.views[kRow1], row_offsets, rows, row_bytes);
    copy_tokens<kRowBytes, kBoth>(team, target, target + layout.columns1, starts.views[kColumn0],
                                  starts.views[kColumn1], column_offsets, columns, row_bytes);
    const float2* source = statistics + starts.number * params.heads + place.head;
#pragma unroll 2
    for (int k = team.thread; k < statistic_count; k += team.size) {
      copy_async_8(target + layout.statistics + k * 8, source + numbers[k]);
    }
    commit_copies();
  };

  const float log2_scale = static_cast<float>(params.scale) * 1.4426950408889634f;
  const uint32_t lane_chunk = lane / 16 * 16;
  float register_sums[kSumsInRegisters ? 2 * kPairs : 1][4] = {};
  wait_for_kernel_before();  // the statistics'
  __syncthreads();
  // The copies of unit i start; it is worked on right away, or while those of the next run.
  for (int i = 0; i < units + second; ++i) {
    wait_copies();
    team.sync();
    if (i < units) start(i);
    if (warp_index == 0 && i + 1 < units) {
      unit.advance(params, plan, place, team.count);
      list.set<sizeof(T)>(i + 1, params, &gradients, unit, place.head, place.head);
    }
    if (second == 0) {
      wait_copies();
      team.sync();
    }
    const int current = i - second;
    if (current < 0) continue;
    const UnitStarts& starts = list[current];
    const int stage = current & second;
    if (!warp.empty) {
      unsigned char* buffer = memory + team.index * layout.team + stage * layout.stage;
      const uint32_t base0 = shared_address(buffer);
      const uint32_t base1 = base0 + layout.columns1;
      const uint32_t row_entry = Row::offset(warp_index * kRows + lane % 16) ^ lane_chunk;
      const uint32_t row_address0 = shared_address(buffer) + layout.rows0 + row_entry;
      const uint32_t row_address1 = shared_address(buffer) + layout.rows1 + row_entry;
      const float2* known = reinterpret_cast<const float2*>(buffer + layout.statistics) +
                            (kInverse ? kLined ? 0 : warp_index * width : warp_index * kRows);
      Left<T> rows0[kSteps], rows1[kSteps];
      if constexpr (kHoldRows) {
        load_rows<T>(rows0, row_address0);
        load_rows<T>(rows1, row_address1);
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
        const uint32_t straight = own.straight(pair);
        const Side<T> side = own.side(pair);
        float weight[2][4], slope[2][4];
        own.start(pair, weight[0], weight[1]);
        if constexpr (!kHoldRows) load_rows<T>(rows0, row_address0);
        multiply_pair<T>(weight[0], weight[1], weight[0], weight[1], rows0, base0 + straight);
        if constexpr (!kHoldRows) load_rows<T>(rows1, row_address1);
        float4 statistic[2];
        if constexpr (kInverse) {
#pragma unroll
          for (int block = 0; block < 2; ++block) {
            if constexpr (kLined) {
              const float2* two = known + own.statistic(pair) + block * 8;
              statistic[block] = {two[0].x, two[0].y, two[1].x, two[1].y};
            } else {
              statistic[block] = *reinterpret_cast<const float4*>(known + pair * 16 + block * 8 + 2 * t);
            }
            slope[block][0] = slope[block][2] = statistic[block].y;
            slope[block][1] = slope[block][3] = statistic[block].w;
          }
          multiply_pair<T>(slope[0], slope[1], slope[0], slope[1], rows1, base1 + straight);
        } else {
          multiply_pair<T>(slope[0], slope[1], start_slope, start_slope, rows1, base1 + straight);
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
          }
        }
        if constexpr (!kInverse && !kSumsInRegisters) {
          if (sum_bias) own.add(sums, pair, slope);
        }
        Weights<T> operand;
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
#pragma unroll(sizeof(T) == 4 ? 1 : 2)
        for (int pair = 0; pair < own.pairs(); ++pair) visit(pair, nullptr);
      }
      const float factor = static_cast<float>(params.scale), scale[2] = {factor, factor};
      const float one[2] = {1.f, 1.f};
      store_rows<T, kDim>(starts.views[kInverse ? 6 : 5], result_offsets0 + warp_index * kRows, row_bytes, result0,
                          scale, buffer + layout.rows0, warp_index * kRows);
      if constexpr (kInverse) {
        store_rows<T, kDim>(starts.views[7], result_offsets1 + warp_index * kRows, row_bytes, result1, one,
                            buffer + layout.rows1, warp_index * kRows);
      }
    }
  }
  let_next_kernel_start();
  if (sum_bias) {
    if constexpr (kSumsInRegisters) {
      __syncthreads();
      float4* stored =
          reinterpret_cast<float4*>(memory) + (team.index * plan.warp_count() + warp_index) * plan.pairs * 64;
#pragma unroll
      for (int block = 0; block < 2 * kPairs; ++block) {
        stored[block * 32 + lane] = {register_sums[block][0], register_sums[block][1], register_sums[block][2],
                                     register_sums[block][3]};
      }
    }
    __syncthreads();
    const float* block_sums = reinterpret_cast<const float*>(memory + (kSumsInRegisters ? 0 : layout.sums));
    if constexpr (kLined) {
      reduce_lined_bias(params, plan, place, plan.table_line(false) / plan.element, block_sums, partial);
    } else {
      reduce_bias(params, plan, place, team.count, block_sums, partial);
    }
  }
}

// `statistics`: [batch, spatial..., heads] pairs from statistics_kernel; `partial`: [heads, positions, relative
// positions], or null where there is no bias.
//
// The two roles of a place run side by side, so that what one reads is in the cache for the other; they share the code
// that makes lists and tables.
template <typename T, int kDim, int kPairs, bool kLined>
__global__ void __launch_bounds__(kBackwardThreads<T, kDim, kPairs, kLined>)
    backward_kernel(const __grid_constant__ NeighborhoodParams params,
                    const __grid_constant__ NeighborhoodGradients gradients, const __grid_constant__ Plan plan,
                    const float2* statistics, float* partial) {
  extern __shared__ __align__(1024) unsigned char memory[];
  constexpr int kRowBytes = kDim * sizeof(T);
  const uint32_t head = blockIdx.x % params.heads, rest = blockIdx.x / params.heads;
  const bool inverse = rest % 2 == 1;
  const int bins = params.rpb == nullptr ? 1 : static_cast<int>(params.rpb_size());
  const BackwardLayout layout(plan, kRowBytes, bins, line_distances(params), inverse, kPairs == 0);
  const Place place = locate(params, plan, rest / 2 * params.heads + head, inverse);
  const bool sum_bias = !inverse && partial != nullptr;
  partial = sum_bias ? partial + (int64_t(place.head) * plan.positions() + place.position) * bins : nullptr;
  const BiasCopy bias_copy(params, place.head);
  const Team<T> team(plan);
  const int lane = threadIdx.x % 32, warp_index = team.warp;
  const WarpPlace warp = locate_warp(params, plan, place, warp_index, inverse);
  const int rows = plan.row_count(), width = plan.pairs * 16, pitch = line_pitch<kLined>(place);
  const int columns = place.columns.axis[0].size() * place.columns.axis[1].size() * pitch;
  const View row_view0 = inverse ? params.key : params.query;
  const View row_view1 = inverse ? params.value : gradients.grad_output;
  const View column_view0 = inverse ? params.query : params.key;
  const View column_view1 = inverse ? gradients.grad_output : params.value;
  const View result_view0 = inverse ? gradients.grad_key : gradients.grad_query;

  uint2* column_offsets = reinterpret_cast<uint2*>(memory + layout.columns);
  uint2* row_offsets = reinterpret_cast<uint2*>(memory + layout.rows);
  uint32_t* result_offsets0 = reinterpret_cast<uint32_t*>(memory + layout.results);
  uint32_t* result_offsets1 = result_offsets0 + rows;
  // Where statistics are of the tokens that are queries: the rows, or the columns, of listed ones warp by warp.
  int32_t* numbers = reinterpret_cast<int32_t*>(memory + layout.numbers);
  for_columns(place, columns, pitch, [&](int column, const Coordinates& c) {
    column_offsets[column] = {token_offset<sizeof(T)>(params, place, column_view0, c),
                              token_offset<sizeof(T)>(params, place, column_view1, c)};
    if (kLined && inverse) numbers[column] = token_number(params, place, c) * params.heads;
  });
  for_rows(plan, place, [&](int row, bool exists, const Coordinates& c) {
    row_offsets[row] = {token_offset<sizeof(T)>(params, place, row_view0, c),
                        token_offset<sizeof(T)>(params, place, row_view1, c)};
    result_offsets0[row] = exists ? token_offset<sizeof(T)>(params, place, result_view0, c) : kNoToken;
    if (inverse) {
      result_offsets1[row] = exists ? token_offset<sizeof(T)>(params, place, gradients.grad_value, c) : kNoToken;
    } else {
      numbers[row] = token_number(params, place, c) * params.heads;
    }
  });
  if (!kLined && inverse) {
    const int count = warp.empty ? 0 : warp.columns.volume();
#pragma unroll 1
    for (int j = lane; j < width; j += 32) {
      Coordinates c =
          unravel(j < count ? j : 0, max_of(warp.columns.axis[1].size(), 1), max_of(warp.columns.axis[2].size(), 1));
#pragma unroll
      for (int a = 0; a < kMaxRank; ++a) c.at[a] += warp.columns.axis[a].begin;
      numbers[warp_index * width + j] = count > 0 ? token_number(params, place, c) * params.heads : 0;
    }
  }

  // Before the first tokens come, their place in memory serves for the lists that the table is made from.
  bias_copy.finish(params, reinterpret_cast<Start<T>*>(memory + layout.bias));
  auto listed = [&] {
    if constexpr (kLined) {
      return nullptr;
    } else {
      return ListedColumns<T, kRowBytes>(params, plan, place, team, warp, layout, memory);
    }
  }();
  __syncthreads();
  if constexpr (kLined) {
    build_lined_tables<T>(params, plan, place, layout, memory, inverse);
    clear_past<kRowBytes, 2 * kRows>(memory, layout, plan, columns, layout.columns1);
    if (inverse) {
      for (int s = 0; s < plan.stages * plan.teams; ++s) {
        float2* past = reinterpret_cast<float2*>(memory + s * layout.stage + layout.statistics) + columns;
        if (threadIdx.x < 32) past[threadIdx.x] = {0.f, 0.f};
      }
    }
  } else {
    listed.build(params, plan, place, team, warp, layout, memory, inverse);
  }
  if (sum_bias && kPairs == 0) {
    const int count = plan.teams * plan.warp_count() * warp_sum_bytes<kLined>(params, plan) / 16;
    for (int i = threadIdx.x; i < count; i += blockDim.x) reinterpret_cast<float4*>(memory + layout.sums)[i] = {};
  }

  if (inverse) {
    backward_units<T, kDim, kPairs, kLined, true>(params, gradients, plan, layout, place, team, warp, listed, columns,
                                                  statistics, nullptr, memory);
  } else {
    backward_units<T, kDim, kPairs, kLined, false>(params, gradients, plan, layout, place, team, warp, listed, columns,
                                                   statistics, partial, memory);
  }
}

}  // namespace visionattn::tile
