// Forward tensor-core kernel: see tile_plan.cuh for how the work is cut. Rows are queries, columns are keys.
#pragma once

#include "tile_block.cuh"

namespace visionattn::tile {

template <int kDim>
constexpr int kForwardThreads = kDim == 32   ? 512
                                : kDim == 64 ? 384
                                             : 256;

// What to copy to shared memory.
enum Part { kQueriesKeys, kValues, kAll };

// kPairs: pairs of column blocks that are in registers at a time. With kWhole, a warp's columns are no more than that.
template <typename T, int kDim, int kPairs, bool kWhole>
__global__ void __launch_bounds__(kForwardThreads<kDim>)
    forward_kernel(const __grid_constant__ NeighborhoodParams params, const __grid_constant__ Plan plan) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const ForwardLayout layout(plan, Rows<kDim>::kBytes, params.rpb == nullptr ? 1 : params.rpb_size());
  const Place place = locate<false>(params, plan, blockIdx.x);
  const BiasCopy bias_copy(params, place.head);
  const int lane = threadIdx.x % 32, warp_index = threadIdx.x / 32;
  const WarpPlace warp = locate_warp<false>(params, plan, place, warp_index);
  const int columns = place.columns.volume();

  uint2* column_offsets = reinterpret_cast<uint2*>(memory + layout.columns);  // key, value
  uint2* row_offsets = reinterpret_cast<uint2*>(memory + layout.rows);        // query, number of the token
  uint32_t* output_offsets = reinterpret_cast<uint32_t*>(memory + layout.results);
  uint32_t* positions = reinterpret_cast<uint32_t*>(memory + layout.positions) + warp_index * plan.pairs * 32;
  uint2* places = reinterpret_cast<uint2*>(memory + layout.places) + warp_index * plan.pairs * 16;
  __half* bias = reinterpret_cast<__half*>(memory + layout.bias);
  for_columns(place, [&](int column, const Coordinates& c) {
    column_offsets[column] = {token_offset(params, place, params.key, c), token_offset(params, place, params.value, c)};
  });
  for_rows(plan, place, [&](int row, bool exists, const Coordinates& c) {
    row_offsets[row] = {token_offset(params, place, params.query, c),
                        static_cast<uint32_t>(token_number(params, place, c))};
    output_offsets[row] = exists ? token_offset(params, place, params.output, c) : kNoToken;
  });
  __syncthreads();

  const int head = place.head, head_kv = head / (params.heads / params.heads_kv);
  const auto start = [&](Part part, const Unit& unit, int stage) {
    const uint32_t target = shared_address(memory) + stage * layout.stage;
    if (part != kValues) {
      copy_tokens<kDim, 0>(target + layout.queries, unit_start(params.query, unit, head), row_offsets, plan.row_count(),
                           params.dim);
    }
    if (part == kAll) {
      copy_tokens<kDim>(target, target + layout.values, unit_start(params.key, unit, head_kv),
                        unit_start(params.value, unit, head_kv), column_offsets, columns, params.dim);
    } else if (part == kQueriesKeys) {
      copy_tokens<kDim, 0>(target, unit_start(params.key, unit, head_kv), column_offsets, columns, params.dim);
    } else {
      copy_tokens<kDim, 1>(target + layout.values, unit_start(params.value, unit, head_kv), column_offsets, columns,
                           params.dim);
    }
    commit_copies();
  };
  Unit unit(params, plan, place);
  start(plan.split ? kQueriesKeys : kAll, unit, 0);

  bias_copy.finish(params, bias);
  list_columns<kDim>(params, plan, place, warp, places, positions);
  __syncthreads();
  uint4* table = reinterpret_cast<uint4*>(memory + layout.table) + warp_index * plan.pairs * 32;
  if (!warp.empty) {
    build_table<false>(params, plan, place, warp, places, bias, table);
  }
  const uint32_t row_position = Rows<kDim>::offset(warp_index * kRows + lane % 16) ^ (lane / 16 * 16);
  uint32_t whole_positions[kPairs];
  if constexpr (kWhole) {
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) whole_positions[pair] = positions[pair * 32 + lane];
  }
  const float log2_scale = static_cast<float>(params.scale) * 1.4426950408889634f;
  const bool store_lse = lane % 4 < 2 && output_offsets[warp_index * kRows + lane / 4 + lane % 4 * 8] != kNoToken;
  const int64_t lse_offset = int64_t(row_offsets[warp_index * kRows + lane / 4 + lane % 2 * 8].y) * params.heads + head;

  int stage = 0;
  const bool mine = !warp.empty;
  for (int left = place.units(); left > 0; --left) {
    const bool more = left > 1;
    Unit next = unit;
    if (more) next.advance(params, plan, place);
    wait_copies();
    __syncthreads();
    if (plan.split) {
      start(kValues, unit, 0);
    } else if (plan.stages == 2 && more) {
      start(kAll, next, stage ^ 1);
    }
    unsigned char* buffer = memory + stage * layout.stage;
    const uint32_t key_base = shared_address(buffer), value_base = key_base + layout.values;
    float output[kDim / 8][4] = {}, sum[4] = {};  // the sum of a row's weights is in sum[0], of row + 8 in sum[2]
    float maximum[2] = {-INFINITY, -INFINITY};
    uint32_t queries[kDim / 16][4];
    if (mine) load_rows<kDim>(queries, key_base + layout.queries + row_position);

    // The weights of kPairs pairs of column blocks from `base` on, as left operands.
    const auto weigh = [&](int base, uint32_t (&weights)[kPairs][4]) {
      float score[2 * kPairs][4];
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        unpack_start(score[2 * pair], score[2 * pair + 1], table[(base + pair) * 32 + lane]);
        const uint32_t position = kWhole ? whole_positions[pair] : positions[(base + pair) * 32 + lane];
        multiply_pair<T, kDim>(score[2 * pair], score[2 * pair + 1], score[2 * pair], score[2 * pair + 1], queries,
                               key_base + (position & 0xffff));
      }
      float scaled[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float highest = maximum[h];
#pragma unroll
        for (int block = 0; block < 2 * kPairs; ++block) {
          highest = fmaxf(highest, fmaxf(score[block][2 * h], score[block][2 * h + 1]));
        }
        highest = quad_max(highest);
        // A row may meet none of the first columns.
        scaled[h] = highest == -INFINITY ? 0.f : highest * log2_scale;
        if constexpr (!kWhole) {
          const float correction = exp2_approximate(maximum[h] * log2_scale - scaled[h]);
          sum[2 * h] *= correction;
#pragma unroll
          for (int block = 0; block < kDim / 8; ++block) {
            output[block][2 * h] *= correction;
            output[block][2 * h + 1] *= correction;
          }
        }
        maximum[h] = highest;
      }
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
#pragma unroll
        for (int block = 2 * pair; block < 2 * pair + 2; ++block) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            score[block][i] = exp2_approximate(score[block][i] * log2_scale - scaled[i / 2]);
          }
        }
        pack_operand<T>(weights[pair], score[2 * pair], score[2 * pair + 1]);
      }
    };
    const auto accumulate = [&](int base, const uint32_t (&weights)[kPairs][4]) {
      const uint32_t ones = pack<T>(1.f, 1.f);
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        multiply<T>(sum, sum, weights[pair], ones, ones);
        const uint32_t position = kWhole ? whole_positions[pair] : positions[(base + pair) * 32 + lane];
        accumulate_pair<T, kDim>(output, weights[pair], value_base + (position >> 16));
      }
    };
    if constexpr (kWhole) {
      uint32_t weights[kPairs][4];
      if (mine) weigh(0, weights);
      if (plan.split) {
        wait_copies();
        __syncthreads();
        if (more) start(kQueriesKeys, next, 0);
      }
      if (mine) accumulate(0, weights);
    } else if (mine) {
      for (int base = 0; base < plan.pairs; base += kPairs) {
        uint32_t weights[kPairs][4];
        weigh(base, weights);
        accumulate(base, weights);
      }
    }
    if (mine) {
      const float normaliser[2] = {__fdividef(1.f, sum[0]), __fdividef(1.f, sum[2])};
      if (store_lse) {
        const int h = lane % 2;
        static_cast<float*>(params.lse)[unit_number(params, unit) * params.heads + lse_offset] =
            ((h == 0 ? maximum[0] : maximum[1]) * log2_scale + log2_approximate(h == 0 ? sum[0] : sum[2])) *
            0.6931471805599453f;
      }
      unsigned char* staging = plan.split ? memory + layout.places : buffer + layout.queries;
      store_rows<T, kDim>(unit_start(params.output, unit, head), output_offsets + warp_index * kRows, params.dim,
                          output, normaliser, staging, warp_index * kRows);
    }
    if (plan.stages == 2) {
      stage ^= 1;
    } else if (!plan.split) {
      __syncthreads();
      if (more) start(kAll, next, 0);
    }
    unit = next;
  }
}

}  // namespace visionattn::tile
