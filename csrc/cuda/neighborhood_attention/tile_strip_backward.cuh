// Backward tensor-core kernel for large windows: as in tile_backward.cuh, with the columns passing by in strips of
// lines.
#pragma once

#include "tile_backward.cuh"
#include "tile_strip.cuh"

namespace visionattn::tile {

template <int kDim>
constexpr int kStripBackwardThreads = kDim == 32   ? 512
                                      : kDim == 64 ? 384
                                                   : 256;

template <typename T, int kDim, int kChunk, bool kInverse>
__device__ __forceinline__ void strip_backward_block(const NeighborhoodParams& params,
                                                     const NeighborhoodGradients& gradients, const Plan& plan,
                                                     uint32_t index, const float2* statistics, float* partial,
                                                     unsigned char* memory) {
  constexpr int kRowBytes = kDim * 2;
  const bool sum_bias = !kInverse && partial != nullptr;
  const StripLayout layout(plan, kRowBytes, line_distances(params), true, kInverse, sum_bias);
  const Place place = locate(params, plan, index, kInverse);
  if (sum_bias) partial += (int64_t(place.head) * plan.positions() + place.position) * params.rpb_size();
  if (place.empty()) {
    if (sum_bias) {
      for (int bin = threadIdx.x; bin < params.rpb_size(); bin += blockDim.x) partial[bin] = 0.f;
    }
    return;
  }
  const int lane = threadIdx.x % 32, warp_index = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const WarpPlace warp = locate_warp(params, plan, place, warp_index, kInverse);
  const int rows = plan.row_count(), head = place.head;
  const int lines = line_count(place);
  const int pitch = line_pitch(place), line_pairs = pitch / 16;
  const View& row_view0 = kInverse ? params.key : params.query;
  const View& row_view1 = kInverse ? params.value : gradients.grad_output;
  const View& column_view0 = kInverse ? params.query : params.key;
  const View& column_view1 = kInverse ? gradients.grad_output : params.value;
  const View& result_view0 = kInverse ? gradients.grad_key : gradients.grad_query;
  const View& result_view1 = gradients.grad_value;

  uint2* row_offsets = reinterpret_cast<uint2*>(memory + layout.offsets);
  uint32_t* result_offsets0 = reinterpret_cast<uint32_t*>(memory + layout.results);
  uint32_t* result_offsets1 = result_offsets0 + rows;
  // Rows that are queries: where their statistics are, and the statistics.
  float2* row_statistics = reinterpret_cast<float2*>(memory + layout.numbers);
  for_rows(plan, place, [&](int row, bool exists, const Coordinates& c) {
    row_offsets[row] = {token_offset<2>(params, place, row_view0, c), token_offset<2>(params, place, row_view1, c)};
    result_offsets0[row] = exists ? token_offset<2>(params, place, result_view0, c) : kNoToken;
    result_offsets1[row] = exists && kInverse ? token_offset<2>(params, place, result_view1, c) : kNoToken;
  });
  float4* sums = reinterpret_cast<float4*>(memory + layout.sums);
  const int warp_sum_bytes = layout.table_lines * layout.table_line * 2;
  if (sum_bias) {
    for (int i = threadIdx.x; i < plan.warp_count() * warp_sum_bytes / 16; i += blockDim.x) sums[i] = {};
  }
  __syncthreads();
  const auto start_rows = [&](const Unit& unit) {
    copy_tokens<kRowBytes, kBoth>(Team<T>(plan), shared_address(memory) + layout.rows0,
                                  shared_address(memory) + layout.rows1, unit_start<2>(row_view0, unit, head),
                                  unit_start<2>(row_view1, unit, head), row_offsets, rows, params.dim * 2);
    if constexpr (!kInverse) {
      const float2* source = statistics + unit_number(params, unit) * params.heads + head;
      for_rows(plan, place, [&](int row, bool, const Coordinates& c) {
        copy_async_8(shared_address(row_statistics + row),
                     source + int64_t(token_number(params, place, c)) * params.heads);
      });
    }
  };
  const auto start_strip = [&](const Unit& unit, int first, int stage) {
    const uint32_t target = shared_address(memory) + stage * layout.stage;
    const int count = min_of(plan.lines, lines - first);
    copy_strip<kDim>(params, place, column_view0, column_view1, unit_start<2>(column_view0, unit, head),
                     unit_start<2>(column_view1, unit, head), target, target + layout.columns1, first, count);
    if constexpr (kInverse) {
      const int64_t corner = unit_number(params, unit) + token_number(params, place, columns_corner(place));
      const float2* source = statistics + corner * params.heads + head;
      const int32_t step = params.axes[2].dilation, row = params.axes[2].length * params.axes[1].dilation;
      const int32_t plane = params.axes[2].length * params.axes[1].length * params.axes[0].dilation;
      for_strip<1>(place, first, count, [&](int32_t slot, const Line& line, int32_t x) {
        const int32_t number = line.z * plane + line.y * row + x * step;
        copy_async_8(target + layout.statistics + slot * 8, source + int64_t(number) * params.heads);
      });
    }
  };
  Unit unit(params, plan, place);
  start_rows(unit);
  start_strip(unit, 0, 0);
  commit_copies();
  build_strip_table(params, plan, place, layout, reinterpret_cast<__half*>(memory + layout.table), kInverse);

  const float log2_scale = static_cast<float>(params.scale) * 1.4426950408889634f;
  const PairPositions<kDim> positions;
  const uint32_t row_position = Rows<kDim * 2>::offset(warp_index * kRows + lane % 16) ^ (lane / 16 * 16);
  const LineSteps<kInverse> steps(params, layout);
  const int piece = plan.rows[2] * 32;  // of the table's line, for 16 columns
  const int table_end = layout.table_lines * layout.table_line;
  const RowLines<kInverse> row_lines[2] = {{params, plan, place, layout, warp_index * kRows + g},
                                           {params, plan, place, layout, warp_index * kRows + g + 8}};
  unsigned char* warp_sums = memory + layout.sums + warp_index * warp_sum_bytes;
  const float factor = static_cast<float>(params.scale), scale[2] = {factor, factor};
  const float one[2] = {1.f, 1.f};

  int stage = 0;
  for (int left = place.units(); left > 0; --left) {
    Unit next = unit;
    if (left > 1) next.advance(params, plan, place);
    float result0[kDim / 8][4] = {}, result1[kInverse ? kDim / 8 : 1][4] = {};
    uint32_t rows0[kDim / 16][4], rows1[kDim / 16][4];
    float log2_sum[2] = {}, start_slope[4] = {};
    for (int first = 0; first < lines; first += plan.lines) {
      wait_copies();
      __syncthreads();
      const bool last = first + plan.lines >= lines;
      if (!last || left > 1) start_strip(last ? next : unit, last ? 0 : first + plan.lines, stage ^ 1);
      commit_copies();
      const unsigned char* buffer = memory + stage * layout.stage;
      const uint32_t base0 = shared_address(buffer), base1 = base0 + layout.columns1;
      stage ^= 1;
      if (warp.empty) continue;
      if (first == 0) {
        load_rows<T>(rows0, shared_address(memory) + layout.rows0 + row_position);
        load_rows<T>(rows1, shared_address(memory) + layout.rows1 + row_position);
        if constexpr (!kInverse) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const float2 statistic = row_statistics[warp_index * kRows + g + 8 * h];
            log2_sum[h] = statistic.x;
            start_slope[2 * h] = start_slope[2 * h + 1] = statistic.y;
          }
        }
      }
      PairWalk walk(place, warp, first, min_of(first + plan.lines, lines));
      while (!walk.done()) {
        float weight[kChunk][2][4], slope[kChunk][2][4];
        uint32_t offset[kChunk];
        int32_t table_places[kChunk][2];
#pragma unroll
        for (int c = 0; c < kChunk; ++c) {
          if (c == 0 || !walk.done()) {
            offset[c] = ((walk.line().number - first) * pitch + walk.pair() * 16) * kRowBytes;
            const uint32_t guarded = walk.line().guarded();
            const int32_t step = walk.line().z * steps.z + walk.line().y * steps.y;
#pragma unroll
            for (int h = 0; h < 2; ++h) {
              table_places[c][h] = row_lines[h].place(guarded, step, steps.none) + walk.pair() * piece;
              unpack_row(weight[c][0], weight[c][1], h,
                         *reinterpret_cast<const uint2*>(memory + layout.table + table_places[c][h]));
            }
            walk.advance(line_pairs);
          } else {
            offset[c] = 0;
            table_places[c][0] = table_places[c][1] = steps.none;
#pragma unroll
            for (int i = 0; i < 4; ++i) weight[c][0][i] = weight[c][1][i] = -INFINITY;
          }
        }
#pragma unroll
        for (int c = 0; c < kChunk; ++c) {
          multiply_pair<T>(weight[c][0], weight[c][1], weight[c][0], weight[c][1], rows0,
                           base0 + offset[c] + positions.straight);
          float4 statistic[2];
          if constexpr (kInverse) {
#pragma unroll
            for (int block = 0; block < 2; ++block) {
              statistic[block] = *reinterpret_cast<const float4*>(buffer + layout.statistics +
                                                                  offset[c] / kRowBytes * 8 + block * 64 + t * 16);
              slope[c][block][0] = slope[c][block][2] = statistic[block].y;
              slope[c][block][1] = slope[c][block][3] = statistic[block].w;
            }
            multiply_pair<T>(slope[c][0], slope[c][1], slope[c][0], slope[c][1], rows1,
                             base1 + offset[c] + positions.straight);
          } else {
            multiply_pair<T>(slope[c][0], slope[c][1], start_slope, start_slope, rows1,
                             base1 + offset[c] + positions.straight);
          }
#pragma unroll
          for (int block = 0; block < 2; ++block) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const float lacking = kInverse ? (i % 2 == 0 ? statistic[block].x : statistic[block].z) : log2_sum[i / 2];
              weight[c][block][i] = exp2_approximate(weight[c][block][i] * log2_scale - lacking);
              slope[c][block][i] *= weight[c][block][i];
            }
          }
        }
        if constexpr (!kInverse) {
          if (sum_bias) {
#pragma unroll
            for (int c = 0; c < kChunk; ++c) {
#pragma unroll
              for (int h = 0; h < 2; ++h) {
                if (table_places[c][h] < table_end) {
                  float4& sum = *reinterpret_cast<float4*>(warp_sums + 2 * table_places[c][h]);
                  sum = {sum.x + slope[c][0][2 * h], sum.y + slope[c][0][2 * h + 1], sum.z + slope[c][1][2 * h],
                         sum.w + slope[c][1][2 * h + 1]};
                }
              }
              __syncwarp();  // rows of different lanes may share a sum from one pair to the next
            }
          }
        }
#pragma unroll
        for (int c = 0; c < kChunk; ++c) {
          uint32_t operand[4];
          pack_operand<T>(operand, slope[c][0], slope[c][1]);
          accumulate_pair<T, kDim>(result0, operand, base0 + offset[c] + positions.side);
          if constexpr (kInverse) {
            pack_operand<T>(operand, weight[c][0], weight[c][1]);
            accumulate_pair<T, kDim>(result1, operand, base1 + offset[c] + positions.side);
          }
        }
      }
    }
    if (lines == 0) {
      wait_copies();
      __syncthreads();
    }
    if (!warp.empty) {
      const int row = warp_index * kRows;
      store_rows<T, kDim>(unit_start<2>(result_view0, unit, head), result_offsets0 + row, params.dim * 2, result0,
                          scale, memory + layout.rows0, row);
      if constexpr (kInverse) {
        store_rows<T, kDim>(unit_start<2>(result_view1, unit, head), result_offsets1 + row, params.dim * 2, result1,
                            one, memory + layout.rows1, row);
      }
    }
    if (left > 1) {
      __syncthreads();
      start_rows(next);
      commit_copies();
    }
    unit = next;
  }
  if (sum_bias) {
    __syncthreads();
    reduce_lined_bias(params, plan, place, layout.table_line / 2, reinterpret_cast<const float*>(sums), partial);
  }
}

// Parameters and roles are those of backward_kernel.
template <typename T, int kDim, int kChunk>
__global__ void __launch_bounds__(kStripBackwardThreads<kDim>)
    strip_backward_kernel(const __grid_constant__ NeighborhoodParams params,
                          const __grid_constant__ NeighborhoodGradients gradients, const __grid_constant__ Plan plan,
                          const float2* statistics, float* partial) {
  extern __shared__ __align__(1024) unsigned char memory[];
  wait_for_kernel_before();
  const uint32_t head = blockIdx.x % params.heads, rest = blockIdx.x / params.heads;
  const uint32_t index = rest / 2 * params.heads + head;
  if (rest % 2 == 0) {
    strip_backward_block<T, kDim, kChunk, false>(params, gradients, plan, index, statistics, partial, memory);
  } else {
    strip_backward_block<T, kDim, kChunk, true>(params, gradients, plan, index, statistics, partial, memory);
  }
}

}  // namespace visionattn::tile
