// Backward Hopper kernel, for either role: rows are queries, columns keys, and the gradient of the queries is summed
// up; or rows are keys, columns queries, and the gradients of the keys and the values are (kInverse). Nothing is summed
// in memory. One warp copies boxes of columns into a ring of buffers; two warpgroups of 64 rows each multiply.
#pragma once

#include "wgmma_tile.cuh"

namespace visionattn::wgmma {

template <int kDim, bool kInverse>
struct BackwardLayout {
  static constexpr int kColumns = kInverse ? 64 : 128, kStages = kInverse ? 4 : 2, kPieces = kDim / kPieceChannels;
  static constexpr uint32_t kRowPiece = kTileRows * kRowBytes, kPiece = kColumns * kRowBytes;
  static constexpr uint32_t kRows1 = kPieces * kRowPiece, kColumns0 = 2 * kRows1;
  static constexpr uint32_t kColumns1 = kPieces * kPiece, kStage = 2 * kColumns1;  // columns0 come first
  static constexpr uint32_t kStatistics = kColumns0 + kStages * kStage, kStatisticsStage = kColumns * sizeof(float4);
  static constexpr uint32_t kTables = kStatistics + (kInverse ? kStages * kStatisticsStage : 0);
  static constexpr uint32_t kAlignment = 1024;
  static int32_t bytes(const Plan& plan) { return kTables + mask_table_size(plan) * 4 + kAlignment; }
};

template <int kStages>
struct BackwardBarriers {
  uint64_t rows, rows_free, columns[kStages], free[kStages];
};

// Where the tensors of the two products are copied from: of queries and keys (0), of grad_output and values (1).
struct BackwardMaps {
  CUtensorMap rows0, rows1, columns0, columns1, statistics;
};

// For every token and head lse in powers of two and grad_lse - rowsum(grad_output * output), which a slope (a gradient
// of a logit) starts from; see statistics_view. kDim / 8 threads share a sum.
template <typename T, int kDim>
__global__ void __launch_bounds__(256)
    statistics_kernel(const __grid_constant__ NeighborhoodParams params,
                      const __grid_constant__ NeighborhoodGradients gradients, float4* statistics) {
  constexpr int kLanes = kDim / 8;
  const int64_t tokens = params.tokens(), index = (int64_t(blockIdx.x) * 256 + threadIdx.x) / kLanes;
  const int channel = threadIdx.x % kLanes * 8;
  if (index >= params.batch * tokens * params.heads) return;  // all threads of a sum
  const int64_t row = index / params.heads, batch = row / tokens;
  const int head = static_cast<int>(index - row * params.heads);
  uint32_t number = static_cast<uint32_t>(row - batch * tokens);
  int64_t offset = batch * params.output.batch + head * params.output.head + channel;
  int64_t grad_offset = batch * gradients.grad_output.batch + head * gradients.grad_output.head + channel;
  const uint32_t token = number;
#pragma unroll
  for (int a = kMaxRank - 1; a >= 0; --a) {
    const int32_t at = take_digit(number, params.axes[a].length);
    offset += at * params.output.spatial[a];
    grad_offset += at * gradients.grad_output.spatial[a];
  }
  const uint4 left = *reinterpret_cast<const uint4*>(static_cast<const T*>(params.output.data) + offset);
  const uint4 right = *reinterpret_cast<const uint4*>(static_cast<const T*>(gradients.grad_output.data) + grad_offset);
  const T *x = reinterpret_cast<const T*>(&left), *y = reinterpret_cast<const T*>(&right);
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum += static_cast<float>(x[i]) * static_cast<float>(y[i]);
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (channel == 0) {
    const float from_lse = gradients.grad_lse == nullptr ? 0.f : static_cast<const float*>(gradients.grad_lse)[index];
    const float log2_sum = static_cast<const float*>(params.lse)[index] * 1.4426950408889634f;
    statistics[(batch * params.heads + head) * tokens + token] = make_float4(log2_sum, from_lse - sum, 0.f, 0.f);
  }
}

template <typename T, int kDim, bool kInverse>
__global__ void __launch_bounds__(kThreads, 1)
    backward_kernel(const __grid_constant__ NeighborhoodParams params,
                    const __grid_constant__ NeighborhoodGradients gradients, const __grid_constant__ Plan plan,
                    uint32_t tiles, const __grid_constant__ BackwardMaps maps, const float4* statistics) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Layout = BackwardLayout<kDim, kInverse>;
  constexpr int kStages = Layout::kStages, kColumns = Layout::kColumns;
  extern __shared__ unsigned char raw_memory[];
  __shared__ BackwardBarriers<kStages> barriers;
  const uint32_t aligned = (shared_address(raw_memory) + Layout::kAlignment - 1) & ~(Layout::kAlignment - 1);
  unsigned char* memory = raw_memory + (aligned - shared_address(raw_memory));
  uint32_t* tables = reinterpret_cast<uint32_t*>(memory + Layout::kTables);

  const int warpgroup = __shfl_sync(~0u, threadIdx.x / kGroupThreads, 0), warp = threadIdx.x / 32;
  const int box_tokens = volume(plan.box);

  if (threadIdx.x == 0) {
    init_barrier(&barriers.rows, 1);
    init_barrier(&barriers.rows_free, kMultiplyingWarps);
    for (int s = 0; s < kStages; ++s) {
      init_barrier(&barriers.columns[s], 1);
      init_barrier(&barriers.free[s], kMultiplyingWarps);
    }
    publish_barriers();
  }
  build_mask_tables<kColumns>(plan, tables);
  clear_spare_rows<kColumns>(memory + Layout::kColumns0, kStages * 2 * Layout::kPieces, box_tokens);
  for (int i = threadIdx.x; kInverse && i < kStages * kColumns; i += kThreads) {
    reinterpret_cast<float4*>(memory + Layout::kStatistics)[i] = float4{};
  }
  fence_async_proxy();
  __syncthreads();

  if (warpgroup == 0) {
    release_registers<24>();
    if (threadIdx.x == 0) {
      Ring<kStages> ring;
      uint32_t rows_parity = 1;
      for (uint32_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const Place place = locate<kInverse>(params, plan, params.heads, tile);
        const View &row_view0 = kInverse ? params.key : params.query,
                   &column_view0 = kInverse ? params.query : params.key;
        const View& row_view1 = kInverse ? params.value : gradients.grad_output;
        const View& column_view1 = kInverse ? gradients.grad_output : params.value;
        const int32_t first[kMaxRank] = {place.rows[0].begin, place.rows[1].begin, place.rows[2].begin};
        wait(&barriers.rows_free, rows_parity);
        rows_parity ^= 1;
        expect_bytes(&barriers.rows, 2 * volume(plan.tile) * kDim * 2);
        copy_tokens<kDim>(aligned, Layout::kRowPiece, &maps.rows0, &barriers.rows,
                          group_offset(row_view0, place, place.head), first, place.batch);
        copy_tokens<kDim>(aligned + Layout::kRows1, Layout::kRowPiece, &maps.rows1, &barriers.rows,
                          group_offset(row_view1, place, place.head), first, place.batch);
        const int32_t channel0 = group_offset(column_view0, place, place.head);
        const int32_t channel1 = group_offset(column_view1, place, place.head);
        const int32_t channel_statistics = kInverse ? group_offset(statistics_view(params, nullptr), place, 0) : 0;
        for (BoxWalk box; !box.done(place); box.advance(plan, place)) {
          const int32_t at[kMaxRank] = {place.columns[0].begin + box.at[0], place.columns[1].begin + box.at[1],
                                        place.columns[2].begin + box.at[2]};
          const uint32_t target = aligned + Layout::kColumns0 + ring.stage * Layout::kStage;
          uint64_t* barrier = &barriers.columns[ring.stage];
          wait(&barriers.free[ring.stage], ring.parity ^ 1);
          expect_bytes(barrier, box_tokens * (2 * kDim * 2 + (kInverse ? sizeof(float4) : 0)));
          copy_tokens<kDim>(target, Layout::kPiece, &maps.columns0, barrier, channel0, at, place.batch);
          copy_tokens<kDim>(target + Layout::kColumns1, Layout::kPiece, &maps.columns1, barrier, channel1, at,
                            place.batch);
          if constexpr (kInverse) {
            copy_box(aligned + Layout::kStatistics + ring.stage * Layout::kStatisticsStage, &maps.statistics, barrier,
                     channel_statistics, at[2], at[1], at[0], place.batch * params.heads + place.head);
          }
          ring.advance();
        }
      }
    }
  } else {
    claim_registers<240>();
    const int group = warpgroup - 1, lane = threadIdx.x % 32;
    const uint32_t rows0 = aligned + group * kGroupRows * kRowBytes, rows1 = rows0 + Layout::kRows1;
    const float log2_scale = static_cast<float>(params.scale) * 1.4426950408889634f;
    const RowPair rows(plan, group * kGroupRows + warp % 4 * 16);
    RowMasks<kInverse, kColumns> masks(plan, tables);
    GroupSpan<kInverse> span(plan, group);
    Ring<kStages> ring;
    uint32_t rows_parity = 0;
    for (uint32_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      const Place place = locate<kInverse>(params, plan, params.heads, tile);
      masks.move(params, place, rows);
      span.move(params, place);
      float2 row_statistics[2];
      if constexpr (!kInverse) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          Coordinates c;
          rows.find(place, h, c);
          const int64_t first = (place.batch * params.heads + place.head) * params.tokens();
          const float4 found = __ldg(statistics + first + token_number(params, place, c));
          row_statistics[h] = float2{found.x, found.y};
        }
      }
      float result0[kDim / 2] = {}, result1[kInverse ? kDim / 2 : 2] = {};
      wait(&barriers.rows, rows_parity);
      rows_parity ^= 1;
      for (BoxWalk box; !box.done(place); box.advance(plan, place)) {
        wait(&barriers.columns[ring.stage], ring.parity);
        if (span.meets(plan, box)) {
          const uint32_t columns0 = aligned + Layout::kColumns0 + ring.stage * Layout::kStage;
          const uint32_t columns1 = columns0 + Layout::kColumns1;
          float weight[kColumns / 2], slope[kColumns / 2];
          uint32_t packed_slope[kColumns / 4];
          pin(weight);
          pin(slope);
          begin_products();
          multiply_channels<T, kDim>(weight, rows0, Layout::kRowPiece, columns0, Layout::kPiece);
          commit_products();
          multiply_channels<T, kDim>(slope, rows1, Layout::kRowPiece, columns1, Layout::kPiece);
          commit_products();
          masks.find(plan, box);
          wait_products<1>();
          pin(weight);
          masks.apply(weight);
          if constexpr (kInverse) {
            // Statistics of the thread's first column; others follow.
            const float4* found =
                reinterpret_cast<const float4*>(memory + Layout::kStatistics + ring.stage * Layout::kStatisticsStage) +
                lane % 4 * 2;
#pragma unroll
            for (int i = 0; i < kColumns / 2; ++i) {
              weight[i] = exp2_approximate(fmaf(weight[i], log2_scale, -found[i / 4 * 8 + i % 2].x));
            }
            uint32_t packed_weight[kColumns / 4];
            pack<T>(packed_weight, weight);
            pin(result1);
            begin_products();
            multiply_columns<T, kColumns>(result1, packed_weight, columns1, Layout::kPiece);
            commit_products();
            wait_products<1>();
            pin(slope);
#pragma unroll
            for (int i = 0; i < kColumns / 2; ++i) {
              slope[i] = weight[i] * (slope[i] + found[i / 4 * 8 + i % 2].y);
            }
          } else {
#pragma unroll
            for (int i = 0; i < kColumns / 2; ++i) {
              weight[i] = exp2_approximate(fmaf(weight[i], log2_scale, -row_statistics[i / 2 % 2].x));
            }
            pin(weight);
            wait_products<0>();
            pin(slope);
#pragma unroll
            for (int i = 0; i < kColumns / 2; ++i) slope[i] = weight[i] * (slope[i] + row_statistics[i / 2 % 2].y);
          }
          pack<T>(packed_slope, slope);
          pin(result0);
          begin_products();
          multiply_columns<T, kColumns>(result0, packed_slope, columns0, Layout::kPiece);
          commit_products();
          wait_products<0>();
          pin(result0);
          if constexpr (kInverse) pin(result1);
        }
        if (lane == 0) arrive(&barriers.free[ring.stage]);
        ring.advance();
      }

      if (lane == 0) arrive(&barriers.rows_free);
      const View &view0 = kInverse ? gradients.grad_key : gradients.grad_query, &view1 = gradients.grad_value;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        Coordinates c;
        if (!rows.find(place, h, c)) continue;
        store_row(static_cast<T*>(view0.data) + token_offset(params, place, view0, c), result0, h,
                  static_cast<float>(params.scale));
        if constexpr (kInverse) {
          store_row(static_cast<T*>(view1.data) + token_offset(params, place, view1, c), result1, h, 1.f);
        }
      }
    }
  }
#endif
}

}  // namespace visionattn::wgmma
