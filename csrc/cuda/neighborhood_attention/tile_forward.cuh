// Forward tensor-core kernel: see tile_plan.cuh for how the work is cut. Rows are queries, columns are keys.
#pragma once

#include "tile_block.cuh"

namespace visionattn::tile {

template <int kDim>
constexpr int kForwardThreads = kDim == 32   ? 512
                                : kDim == 64 ? 384
                                             : 256;

// kPairs: pairs of column blocks that are in registers at a time. With kWhole, a warp's columns are no more than that.
template <typename T, int kDim, int kPairs, bool kWhole>
__global__ void __launch_bounds__(kForwardThreads<kDim>)
    forward_kernel(const __grid_constant__ NeighborhoodParams params, const __grid_constant__ Plan plan) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const ForwardLayout layout(plan, Rows<kDim>::kBytes);
  const Place place = locate<false>(params, plan, blockIdx.x);
  if (place.empty) return;
  const int lane = threadIdx.x % 32, warp_index = threadIdx.x / 32;
  const WarpPlace warp = locate_warp<false>(params, plan, place, warp_index);
  const int columns = place.columns.volume(), rows = plan.row_count();

  int32_t* key_offsets = reinterpret_cast<int32_t*>(memory + layout.lists);
  int32_t* value_offsets = key_offsets + plan.columns;
  int32_t* query_offsets = value_offsets + plan.columns;
  int32_t* output_offsets = query_offsets + rows;
  int32_t* numbers = output_offsets + rows;
  uint32_t* entries = reinterpret_cast<uint32_t*>(numbers + rows) + warp_index * plan.pairs * 16;
  uint32_t* packed = entries + plan.warp_count() * plan.pairs * 16;
  for_rows(plan, place, [&](int row, bool exists, const Coordinates& c) {
    query_offsets[row] = exists ? token_offset(params, place, params.query, c) : -1;
    output_offsets[row] = exists ? token_offset(params, place, params.output, c) : -1;
    numbers[row] = exists ? token_number(params, place, c) : -1;
  });
  for_columns(place, [&](int column, const Coordinates& c) {
    key_offsets[column] = token_offset(params, place, params.key, c);
    value_offsets[column] = token_offset(params, place, params.value, c);
  });
  __syncthreads();

  const int head = place.head, head_kv = head / (params.heads / params.heads_kv);
  const auto start = [&](int64_t b, int stage) {
    const uint32_t target = shared_address(memory) + stage * layout.stage;
    const auto view = [b](const View& v, int h) { return static_cast<const T*>(v.data) + b * v.batch + h * v.head; };
    copy_tokens<kDim>(target + layout.queries, view(params.query, head), query_offsets, rows, params.dim);
    copy_tokens<kDim>(target + layout.keys, view(params.key, head_kv), key_offsets, columns, params.dim);
    copy_tokens<kDim>(target + layout.values, view(params.value, head_kv), value_offsets, columns, params.dim);
    commit_copies();
  };
  start(place.batch_begin, 0);

  uint4* table = reinterpret_cast<uint4*>(memory + layout.table) + warp_index * plan.pairs * 32;
  if (!warp.empty) {
    list_columns<kDim>(plan, place, warp, entries, packed);
    __syncwarp();
    const int64_t bias = params.rpb_size() * head;
    build_table<false>(params, plan, place, warp, packed,
                       params.rpb == nullptr ? nullptr : static_cast<const float*>(params.rpb) + bias, table);
  }
  const uint32_t lane_chunk = lane / 16 * 16;
  uint32_t whole_entries[kPairs];
  if constexpr (kWhole) {
    __syncwarp();
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) whole_entries[pair] = entries[pair * 16 + lane % 16] ^ lane_chunk;
  }
  const float log2_scale = static_cast<float>(params.scale) * 1.4426950408889634f;

  int stage = 0;
  for (int64_t b = place.batch_begin; b < place.batch_end; ++b) {
    const bool more = b + 1 < place.batch_end;
    wait_copies();
    __syncthreads();
    if (plan.stages == 2 && more) start(b + 1, stage ^ 1);
    if (!warp.empty) {
      unsigned char* buffer = memory + stage * layout.stage;
      const uint32_t key_base = shared_address(buffer) + layout.keys;
      const uint32_t value_base = shared_address(buffer) + layout.values;
      uint32_t queries[kDim / 16][4];
      load_rows<kDim>(queries, shared_address(buffer) + layout.queries +
                                   (Rows<kDim>::offset(warp_index * kRows + lane % 16) ^ lane_chunk));
      float output[kDim / 8][4] = {};
      float maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {};
      for (int base = 0; base < (kWhole ? kPairs : plan.pairs); base += kPairs) {
        float score[2 * kPairs][4];
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) {
          unpack_start(score[2 * pair], score[2 * pair + 1], table[(base + pair) * 32 + lane]);
          const uint32_t entry = kWhole ? whole_entries[pair] : entries[(base + pair) * 16 + lane % 16] ^ lane_chunk;
          multiply_pair<T, kDim>(score[2 * pair], score[2 * pair + 1], queries, key_base + entry);
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
            sum[h] *= correction;
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
              sum[i / 2] += score[block][i];
            }
          }
          uint32_t weights[4];
          pack_operand<T>(weights, score[2 * pair], score[2 * pair + 1]);
          const uint32_t entry = kWhole ? whole_entries[pair] : entries[(base + pair) * 16 + lane % 16] ^ lane_chunk;
          accumulate_pair<T, kDim>(output, weights, value_base + entry);
        }
      }
      float normaliser[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        sum[h] = quad_sum(sum[h]);
        normaliser[h] = 1.f / sum[h];
        const int number = numbers[warp_index * kRows + lane / 4 + 8 * h];
        if (lane % 4 == 0 && number >= 0) {
          static_cast<float*>(params.lse)[(b * params.tokens() + number) * params.heads + head] =
              (maximum[h] * log2_scale + log2f(sum[h])) * 0.6931471805599453f;
        }
      }
      store_rows<T, kDim>(static_cast<T*>(params.output.data) + b * params.output.batch + head * params.output.head,
                          output_offsets, params.dim, output, normaliser, buffer + layout.queries, warp_index * kRows);
    }
    if (plan.stages == 2) {
      stage ^= 1;
    } else {
      __syncthreads();
      if (more) start(b + 1, 0);
    }
  }
}

}  // namespace visionattn::tile
