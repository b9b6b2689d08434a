// Forward tensor-core kernel: see tile_plan.cuh for how the work is cut. Rows are queries, columns are keys.
#pragma once

#include "tile_lines.cuh"

namespace visionattn::tile {

template <typename T, int kDim>
constexpr int kForwardThreads = sizeof(T) == 4 || kDim == 128 ? 256
                                : kDim == 64                  ? 384
                                                              : 512;

// kPairs: pairs of column blocks that are in registers at a time. With kWhole, a warp's columns are no more than that.
template <typename T, int kDim, int kPairs, bool kWhole, bool kLined>
__global__ void __launch_bounds__(kForwardThreads<T, kDim>)
    forward_kernel(const __grid_constant__ NeighborhoodParams params, const __grid_constant__ Plan plan) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const int bins = params.rpb == nullptr ? 1 : static_cast<int>(params.rpb_size());
  constexpr int kRowBytes = kDim * sizeof(T);
  using Row = Rows<kRowBytes>;
  const ForwardLayout layout(plan, kRowBytes, bins, line_distances(params));
  const Place place = locate(params, plan, blockIdx.x, false);
  const BiasCopy bias_copy(params, place.head);
  const Team<T> team(plan);
  const int lane = threadIdx.x % 32, warp_index = team.warp;
  const WarpPlace warp = locate_warp(params, plan, place, warp_index, false);
  const int pitch = line_pitch<kLined>(place);
  const int columns = place.columns.axis[0].size() * place.columns.axis[1].size() * pitch;

  uint2* column_offsets = reinterpret_cast<uint2*>(memory + layout.columns);  // key, value
  uint2* row_offsets = reinterpret_cast<uint2*>(memory + layout.rows);        // query, number of the token
  uint32_t* output_offsets = reinterpret_cast<uint32_t*>(memory + layout.results);
  for_columns(place, columns, pitch, [&](int column, const Coordinates& c) {
    column_offsets[column] = {token_offset<sizeof(T)>(params, place, params.key, c),
                              token_offset<sizeof(T)>(params, place, params.value, c)};
  });
  for_rows(plan, place, [&](int row, bool exists, const Coordinates& c) {
    row_offsets[row] = {token_offset<sizeof(T)>(params, place, params.query, c),
                        static_cast<uint32_t>(token_number(params, place, c))};
    output_offsets[row] = exists ? token_offset<sizeof(T)>(params, place, params.output, c) : kNoToken;
  });
  const int head = place.head, head_kv = head / (params.heads / params.heads_kv);
  const UnitList list(memory + layout.units + team.index * kUnitListBytes);
  const int units = (place.units() - team.index + team.count - 1) / team.count;
  Unit unit(params, plan, place);  // the last one on the list
  if (team.index > 0) unit.advance(params, plan, place, team.index);
  const auto list_next = [&](int i) {
    if (warp_index > 0 || i >= units) return;
    if (i > 0) unit.advance(params, plan, place, team.count);
    list.set<sizeof(T)>(i, params, nullptr, unit, head, head_kv);
  };
  list_next(0);
  list_next(1);
  __syncthreads();

  const int row_bytes = params.dim * static_cast<int>(sizeof(T));
  const auto start = [&](auto part, int i, int stage) {  // kFirst: queries and keys; kSecond: values
    constexpr Part kPart = decltype(part)::value;
    const UnitStarts& starts = list[i];
    const uint32_t target = shared_address(memory) + team.index * layout.team + stage * layout.stage;
    if constexpr (kPart != kSecond) {
      copy_tokens<kRowBytes, kFirst>(team, target + layout.queries, 0, starts.views[0], nullptr, row_offsets,
                                     plan.row_count(), row_bytes);
    }
    copy_tokens<kRowBytes, kPart>(team, target, target + layout.values, starts.views[1], starts.views[2],
                                  column_offsets, columns, row_bytes);
    commit_copies();
  };
  constexpr std::integral_constant<Part, kFirst> queries_keys;
  constexpr std::integral_constant<Part, kSecond> values;
  constexpr std::integral_constant<Part, kBoth> all;
  if constexpr (kLined) clear_past<kRowBytes, kRows>(memory, layout, plan, columns, layout.values);
  if (units > 0) {
    if (plan.split) {
      start(queries_keys, 0, 0);
    } else {
      start(all, 0, 0);
    }
  }

  bias_copy.finish(params, reinterpret_cast<Start<T>*>(memory + layout.bias));
  auto own = [&] {
    if constexpr (kLined) {
      return LinedColumns<T, kRowBytes, false>(params, plan, place, team, warp, pitch, layout.table, memory);
    } else {
      constexpr int kHeld = kWhole && sizeof(T) == 2 ? kPairs : 0;
      return ListedColumns<T, kRowBytes, kHeld>(params, plan, place, team, warp, layout, memory);
    }
  }();
  __syncthreads();
  if constexpr (kLined) {
    build_lined_tables<T>(params, plan, place, layout, memory, false);
  } else {
    own.build(params, plan, place, team, warp, layout, memory, false);
  }
  if (team.count > 1) __syncthreads();
  const uint32_t row_position = Row::offset(warp_index * kRows + lane % 16) ^ (lane / 16 * 16);
  const float log2_scale = static_cast<float>(params.scale) * 1.4426950408889634f;
  const bool store_lse = lane % 4 < 2 && output_offsets[warp_index * kRows + lane / 4 + lane % 4 * 8] != kNoToken;
  const int64_t lse_offset = int64_t(row_offsets[warp_index * kRows + lane / 4 + lane % 2 * 8].y) * params.heads + head;

  int stage = 0;
  const bool mine = !warp.empty;
  for (int i = 0; i < units; ++i) {
    const bool more = i + 1 < units;
    wait_copies();
    team.sync();
    if (plan.split) {
      start(values, i, 0);
    } else if (plan.stages == 2 && more) {
      start(all, i + 1, stage ^ 1);
    }
    list_next(i + 2);
    unsigned char* buffer = memory + team.index * layout.team + stage * layout.stage;
    const uint32_t key_base = shared_address(buffer), value_base = key_base + layout.values;
    float output[kDim / 8][4] = {}, sum[4] = {};  // the sum of a row's weights is in sum[0], of row + 8 in sum[2]
    float maximum[2] = {-INFINITY, -INFINITY};
    Left<T> queries[kRowBytes / 32];
    if (mine) load_rows<T>(queries, key_base + layout.queries + row_position);

    // The weights of kPairs pairs of column blocks from `base` on, as left operands.
    const auto weigh = [&](int base, Weights<T>(&weights)[kPairs]) {
      float score[2 * kPairs][4];
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        own.start(base + pair, score[2 * pair], score[2 * pair + 1]);
        multiply_pair<T>(score[2 * pair], score[2 * pair + 1], score[2 * pair], score[2 * pair + 1], queries,
                         key_base + own.straight(base + pair));
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
    const auto accumulate = [&](int base, const Weights<T>(&weights)[kPairs]) {
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        add_weights<T>(sum, weights[pair]);
        accumulate_pair<T, kDim>(output, weights[pair], value_base + own.side(base + pair));
      }
    };
    if constexpr (kWhole) {
      Weights<T> weights[kPairs];
      if (mine) weigh(0, weights);
      if (plan.split) {
        wait_copies();
        team.sync();
        if (more) start(queries_keys, i + 1, 0);
      }
      if (mine) accumulate(0, weights);
    } else if (mine) {
      for (int base = 0; base < own.pairs(); base += kPairs) {
        Weights<T> weights[kPairs];
        weigh(base, weights);
        accumulate(base, weights);
      }
    }
    if (mine) {
      const float normaliser[2] = {__fdividef(1.f, sum[0]), __fdividef(1.f, sum[2])};
      if (store_lse) {
        const int h = lane % 2;
        static_cast<float*>(params.lse)[list[i].number * params.heads + lse_offset] =
            ((h == 0 ? maximum[0] : maximum[1]) * log2_scale + log2_approximate(h == 0 ? sum[0] : sum[2])) *
            0.6931471805599453f;
      }
      unsigned char* staging =
          plan.split ? memory + layout.places + team.index * plan.row_count() * kRowBytes : buffer + layout.queries;
      store_rows<T, kDim>(list[i].views[3], output_offsets + warp_index * kRows, row_bytes, output, normaliser, staging,
                          warp_index * kRows);
    }
    if (plan.stages == 2) {
      stage ^= 1;
    } else if (!plan.split) {
      team.sync();
      if (more) start(all, i + 1, 0);
    }
  }
}

}  // namespace visionattn::tile
