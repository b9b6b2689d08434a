// Forward tensor-core kernel for large windows. Rows are queries; keys and values pass by in strips of lines.
#pragma once

#include "tile_strip.cuh"

namespace visionattn::tile {

template <int kDim>
constexpr int kStripForwardThreads = kDim == 32   ? 512
                                     : kDim == 64 ? 384
                                                  : 256;

// kTiles: matrix tiles of rows of a warp; kChunk: pairs of column blocks that are weighed at a time.
template <typename T, int kDim, int kTiles, int kChunk>
__global__ void __launch_bounds__(kStripForwardThreads<kDim>)
    strip_forward_kernel(const __grid_constant__ NeighborhoodParams params, const __grid_constant__ Plan plan) {
  extern __shared__ __align__(1024) unsigned char memory[];
  constexpr int kWarpRows = kRows * kTiles, kSteps = kDim / 16, kRowBytes = kDim * 2;
  constexpr bool kHoldQueries = kDim < 128;
  const StripLayout layout(plan, kRowBytes, line_distances(params), false, false, false);
  const Place place = locate(params, plan, blockIdx.x, false);
  if (place.empty()) return;
  const int lane = threadIdx.x % 32, warp_index = threadIdx.x / 32, g = lane / 4;
  const WarpPlace warp = locate_warp(params, plan, place, warp_index, false);
  const int rows = plan.row_count(), head = place.head, head_kv = head / (params.heads / params.heads_kv);
  const int lines = line_count(place);
  const int pitch = line_pitch(place), line_pairs = pitch / 16;

  uint2* row_offsets = reinterpret_cast<uint2*>(memory + layout.offsets);  // query, number of the token
  uint32_t* output_offsets = reinterpret_cast<uint32_t*>(memory + layout.results);
  for_rows(plan, place, [&](int row, bool exists, const Coordinates& c) {
    row_offsets[row] = {token_offset<2>(params, place, params.query, c),
                        static_cast<uint32_t>(token_number(params, place, c))};
    output_offsets[row] = exists ? token_offset<2>(params, place, params.output, c) : kNoToken;
  });
  __syncthreads();
  const auto start_rows = [&](const Unit& unit) {
    copy_tokens<kRowBytes, kFirst>(Team<T>(plan), shared_address(memory) + layout.rows0, 0,
                                   unit_start<2>(params.query, unit, head), nullptr, row_offsets, rows, params.dim * 2);
  };
  const auto start_strip = [&](const Unit& unit, int first, int stage) {
    const uint32_t target = shared_address(memory) + stage * layout.stage;
    copy_strip<kDim>(params, place, params.key, params.value, unit_start<2>(params.key, unit, head_kv),
                     unit_start<2>(params.value, unit, head_kv), target, target + layout.columns1, first,
                     min_of(plan.lines, lines - first));
  };
  Unit unit(params, plan, place);
  start_rows(unit);
  start_strip(unit, 0, 0);
  commit_copies();
  build_strip_table(params, plan, place, layout, reinterpret_cast<__half*>(memory + layout.table), false);

  const float log2_scale = static_cast<float>(params.scale) * 1.4426950408889634f;
  const PairPositions<kDim> positions;
  const uint32_t row_address = shared_address(memory) + layout.rows0 +
                               (Rows<kDim * 2>::offset(warp_index * kWarpRows + lane % 16) ^ (lane / 16 * 16));
  const unsigned char* table = memory + layout.table;
  const LineSteps<false> steps(params, layout);
  const int piece = plan.rows[2] * 32;  // of the table's line, for 16 columns
  RowLines<false> row_lines[2 * kTiles];
#pragma unroll
  for (int i = 0; i < 2 * kTiles; ++i) row_lines[i] = {params, plan, place, layout, warp_index * kWarpRows + g + 8 * i};

  int stage = 0;
  for (int left = place.units(); left > 0; --left) {
    Unit next = unit;
    if (left > 1) next.advance(params, plan, place);
    float output[kTiles][kDim / 8][4] = {}, sum[kTiles][4] = {};  // sums of rows' weights in [0], of row + 8 in [2]
    float maximum[kTiles][2];
#pragma unroll
    for (int r = 0; r < kTiles; ++r) maximum[r][0] = maximum[r][1] = -INFINITY;
    uint32_t queries[kHoldQueries ? kTiles : 1][kSteps][4];
    for (int first = 0; first < lines; first += plan.lines) {
      wait_copies();
      __syncthreads();
      const bool last = first + plan.lines >= lines;
      if (!last || left > 1) start_strip(last ? next : unit, last ? 0 : first + plan.lines, stage ^ 1);
      commit_copies();
      const uint32_t key_base = shared_address(memory) + stage * layout.stage;
      const uint32_t value_base = key_base + layout.columns1;
      stage ^= 1;
      if (warp.empty) continue;
      if constexpr (kHoldQueries) {
        if (first == 0) {
#pragma unroll
          for (int r = 0; r < kTiles; ++r) load_rows<T>(queries[r], row_address + r * kRows * kRowBytes);
        }
      }
      PairWalk walk(place, warp, first, min_of(first + plan.lines, lines));
      while (!walk.done()) {
        float score[kTiles][2 * kChunk][4];
        uint32_t offset[kChunk];
        int count = 0;
#pragma unroll
        for (int c = 0; c < kChunk; ++c) {
          if (!walk.done()) {
            ++count;
            offset[c] = ((walk.line().number - first) * pitch + walk.pair() * 16) * kRowBytes;
            const uint32_t guarded = walk.line().guarded();
            const int32_t step = walk.line().z * steps.z + walk.line().y * steps.y;
#pragma unroll
            for (int i = 0; i < 2 * kTiles; ++i) {
              const unsigned char* where = table + row_lines[i].place(guarded, step, steps.none) + walk.pair() * piece;
              unpack_row(score[i / 2][2 * c], score[i / 2][2 * c + 1], i % 2, *reinterpret_cast<const uint2*>(where));
            }
            walk.advance(line_pairs);
          } else {
            offset[c] = 0;
#pragma unroll
            for (int r = 0; r < kTiles; ++r) {
#pragma unroll
              for (int i = 0; i < 4; ++i) score[r][2 * c][i] = score[r][2 * c + 1][i] = -INFINITY;
            }
          }
        }
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          uint32_t rows_now[kTiles][4];
#pragma unroll
          for (int r = 0; r < kTiles; ++r) {
            if constexpr (!kHoldQueries)
              load_matrices(rows_now[r], (row_address + r * kRows * kRowBytes) ^ (step * 32));
          }
#pragma unroll
          for (int c = 0; c < kChunk; ++c) {
            if (c > 0 && c >= count) continue;
            uint32_t columns[4];
            load_matrices(columns, (key_base + offset[c] + positions.straight) ^ (step * 32));
#pragma unroll
            for (int r = 0; r < kTiles; ++r) {
              const uint32_t (&operand)[4] = kHoldQueries ? queries[kHoldQueries ? r : 0][step] : rows_now[r];
              multiply<T>(score[r][2 * c], score[r][2 * c], operand, columns[0], columns[1]);
              multiply<T>(score[r][2 * c + 1], score[r][2 * c + 1], operand, columns[2], columns[3]);
            }
          }
        }
        uint32_t weights[kTiles][kChunk][4];
#pragma unroll
        for (int r = 0; r < kTiles; ++r) {
          float scaled[2], correction[2];
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            float highest = maximum[r][h];
#pragma unroll
            for (int block = 0; block < 2 * kChunk; ++block) {
              highest = fmaxf(highest, fmaxf(score[r][block][2 * h], score[r][block][2 * h + 1]));
            }
            highest = quad_max(highest);
            // A row may have met no column yet.
            scaled[h] = highest == -INFINITY ? 0.f : highest * log2_scale;
            correction[h] = exp2_approximate(maximum[r][h] * log2_scale - scaled[h]);
            maximum[r][h] = highest;
          }
          if (__any_sync(0xffffffffu, correction[0] != 1.f || correction[1] != 1.f)) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
              sum[r][2 * h] *= correction[h];
#pragma unroll
              for (int block = 0; block < kDim / 8; ++block) {
                output[r][block][2 * h] *= correction[h];
                output[r][block][2 * h + 1] *= correction[h];
              }
            }
          }
#pragma unroll
          for (int c = 0; c < kChunk; ++c) {
#pragma unroll
            for (int block = 2 * c; block < 2 * c + 2; ++block) {
#pragma unroll
              for (int i = 0; i < 4; ++i) {
                score[r][block][i] = exp2_approximate(score[r][block][i] * log2_scale - scaled[i / 2]);
              }
            }
            pack_operand<T>(weights[r][c], score[r][2 * c], score[r][2 * c + 1]);
            multiply<T>(sum[r], sum[r], weights[r][c], pack<T>(1.f, 1.f), pack<T>(1.f, 1.f));
          }
        }
#pragma unroll
        for (int c = 0; c < kChunk; ++c) {
          if (c > 0 && c >= count) continue;
#pragma unroll
          for (int step = 0; step < kSteps; ++step) {
            uint32_t columns[4];
            load_matrices_transposed(columns, (value_base + offset[c] + positions.side) ^ (step * 32));
#pragma unroll
            for (int r = 0; r < kTiles; ++r) {
              multiply<T>(output[r][2 * step], output[r][2 * step], weights[r][c], columns[0], columns[1]);
              multiply<T>(output[r][2 * step + 1], output[r][2 * step + 1], weights[r][c], columns[2], columns[3]);
            }
          }
        }
      }
    }
    if (lines == 0) {
      wait_copies();
      __syncthreads();
    }
    if (!warp.empty) {
#pragma unroll
      for (int r = 0; r < kTiles; ++r) {
        const int row = warp_index * kWarpRows + r * kRows;
        const float normaliser[2] = {__fdividef(1.f, sum[r][0]), __fdividef(1.f, sum[r][2])};
        const int h = lane % 2, own = row + g + 8 * h;
        if (lane % 4 < 2 && output_offsets[own] != kNoToken) {
          const int64_t number = unit_number(params, unit) + row_offsets[own].y;
          static_cast<float*>(params.lse)[number * params.heads + head] =
              ((h == 0 ? maximum[r][0] : maximum[r][1]) * log2_scale +
               log2_approximate(h == 0 ? sum[r][0] : sum[r][2])) *
              0.6931471805599453f;
        }
        store_rows<T, kDim>(unit_start<2>(params.output, unit, head), output_offsets + row, params.dim * 2, output[r],
                            normaliser, memory + layout.rows0, row);
      }
    }
    if (left > 1) {
      __syncthreads();
      start_rows(next);
      commit_copies();
    }
    unit = next;
  }
}

}  // namespace visionattn::tile
