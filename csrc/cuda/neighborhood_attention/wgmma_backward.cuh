// Backward Hopper kernel, for either role: rows are queries, columns keys, and the gradient of the queries is summed
// up; or rows are keys, columns queries, and the gradients of the keys and the values are (kInverse). Nothing is summed
// in memory. One warp copies boxes of columns into a ring of buffers; two warpgroups of 64 rows each multiply.
#pragma once

#include "wgmma_tile.cuh"

namespace visionattn::wgmma {

constexpr int kBackwardThreads = 3 * kGroupThreads;

template <int kDim, bool kInverse>
struct BackwardLayout {
  static constexpr int kColumns = kInverse ? 64 : 128, kStages = kInverse ? 4 : 2, kPieces = kDim / kPieceChannels;
  static constexpr uint32_t kRowPiece = kTileRows * kRowBytes, kPiece = kColumns * kRowBytes;
  static constexpr uint32_t kRows1 = kPieces * kRowPiece, kColumns0 = 2 * kRows1;
  static constexpr uint32_t kColumns1 = kPieces * kPiece, kStage = 2 * kColumns1;  // columns0 come first
  static constexpr uint32_t kStatistics = kColumns0 + kStages * kStage, kStatisticsStage = kColumns * 8;
  static constexpr uint32_t kTables = kStatistics + (kInverse ? kStages * kStatisticsStage : 0);
  static constexpr uint32_t kAlignment = 1024;
  static int32_t bytes(const Plan& plan) { return kTables + mask_table_size(plan) * 4 + kAlignment; }
};

template <int kStages>
struct BackwardBarriers {
  uint64_t rows, columns[kStages], free[kStages];
};

// Where the tensors of the two products are copied from: of queries and keys (0), of grad_output and values (1).
struct BackwardMaps {
  CUtensorMap rows0, rows1, columns0, columns1;
};

// `statistics`: [batch, spatial..., heads]: lse in powers of two, and what a slope (a gradient of a logit) starts from.
template <typename T, int kDim, bool kInverse>
__global__ void __launch_bounds__(kBackwardThreads, 1)
    backward_kernel(const __grid_constant__ NeighborhoodParams params,
                    const __grid_constant__ NeighborhoodGradients gradients, const __grid_constant__ Plan plan,
                    const __grid_constant__ BackwardMaps maps, const float2* statistics) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Layout = BackwardLayout<kDim, kInverse>;
  constexpr int kStages = Layout::kStages, kColumns = Layout::kColumns;
  extern __shared__ unsigned char raw_memory[];
  __shared__ BackwardBarriers<kStages> barriers;
  const uint32_t aligned = (shared_address(raw_memory) + Layout::kAlignment - 1) & ~(Layout::kAlignment - 1);
  unsigned char* memory = raw_memory + (aligned - shared_address(raw_memory));
  uint32_t* tables = reinterpret_cast<uint32_t*>(memory + Layout::kTables);

  const Place place = locate<kInverse>(params, plan, params.heads, blockIdx.x);
  const int warpgroup = __shfl_sync(~0u, threadIdx.x / kGroupThreads, 0), warp = threadIdx.x / 32;
  const int box_tokens = volume(plan.box), box_count = place.box_count();

  if (threadIdx.x == 0) {
    init_barrier(&barriers.rows, 1);
    for (int s = 0; s < kStages; ++s) {
      init_barrier(&barriers.columns[s], kInverse ? 33 : 1);  // a thread that copies, a warp that brings statistics
      init_barrier(&barriers.free[s], 8);                     // warps that multiply
    }
    publish_barriers();
  }
  build_mask_tables<kColumns>(plan, tables);
  clear_spare_rows<kColumns>(memory + Layout::kColumns0, kStages * 2 * Layout::kPieces, box_tokens);
  fence_async_proxy();
  __syncthreads();

  if (warpgroup == 0) {
    release_registers<24>();
    Ring<kStages> ring;
    BoxWalk box;
    if (threadIdx.x == 0) {
      const int32_t channels[2] = {
          static_cast<int32_t>(group_offset(kInverse ? params.query : params.key, place, place.head)),
          static_cast<int32_t>(group_offset(kInverse ? gradients.grad_output : params.value, place, place.head))};
      const int32_t first[kMaxRank] = {place.rows[0].begin, place.rows[1].begin, place.rows[2].begin};
      expect_bytes(&barriers.rows, 2 * volume(plan.tile) * kDim * 2);
      copy_tokens<kDim>(aligned, Layout::kRowPiece, &maps.rows0, &barriers.rows,
                        group_offset(kInverse ? params.key : params.query, place, place.head), first, place.batch);
      copy_tokens<kDim>(aligned + Layout::kRows1, Layout::kRowPiece, &maps.rows1, &barriers.rows,
                        group_offset(kInverse ? params.value : gradients.grad_output, place, place.head), first,
                        place.batch);
      for (int n = 0; n < box_count; ++n) {
        const int32_t at[kMaxRank] = {place.columns[0].begin + box.at[0], place.columns[1].begin + box.at[1],
                                      place.columns[2].begin + box.at[2]};
        const uint32_t target = aligned + Layout::kColumns0 + ring.stage * Layout::kStage;
        uint64_t* barrier = &barriers.columns[ring.stage];
        wait(&barriers.free[ring.stage], ring.parity ^ 1);
        expect_bytes(barrier, 2 * box_tokens * kDim * 2);
        copy_tokens<kDim>(target, Layout::kPiece, &maps.columns0, barrier, channels[0], at, place.batch);
        copy_tokens<kDim>(target + Layout::kColumns1, Layout::kPiece, &maps.columns1, barrier, channels[1], at,
                          place.batch);
        ring.advance();
        box.advance(plan, place);
      }
    } else if (kInverse && warp == 1) {
      statistics += place.batch * params.tokens() * params.heads + place.head;
      Coordinates own[kColumns / 32];  // columns of the lane, from the first of the box
#pragma unroll
      for (int i = 0; i < kColumns / 32; ++i) own[i] = unravel(threadIdx.x % 32 + 32 * i, plan.box);
      for (int n = 0; n < box_count; ++n) {
        float2 found[kColumns / 32];
#pragma unroll
        for (int i = 0; i < kColumns / 32; ++i) {
          Coordinates c = own[i];
          bool exists = c.at[0] < plan.box[0];
#pragma unroll
          for (int a = 0; a < kMaxRank; ++a) {
            c.at[a] += place.columns[a].begin + box.at[a];
            exists = exists && c.at[a] < place.length[a];
          }
          found[i] = exists ? __ldg(statistics + token_number(params, place, c) * params.heads) : float2{};
        }
        wait(&barriers.free[ring.stage], ring.parity ^ 1);
        float2* target =
            reinterpret_cast<float2*>(memory + Layout::kStatistics + ring.stage * Layout::kStatisticsStage);
#pragma unroll
        for (int i = 0; i < kColumns / 32; ++i) target[threadIdx.x % 32 + 32 * i] = found[i];
        arrive(&barriers.columns[ring.stage]);
        ring.advance();
        box.advance(plan, place);
      }
    }
  } else {
    claim_registers<240>();
    const int group = warpgroup - 1, lane = threadIdx.x % 32;
    const int warp_row = group * kGroupRows + warp % 4 * 16;
    const uint32_t rows0 = aligned + group * kGroupRows * kRowBytes, rows1 = rows0 + Layout::kRows1;
    const RowMasks<kInverse, kColumns> masks(params, plan, place, tables, warp_row);
    const GroupSpan<kInverse> span(params, plan, place, group);
    const float log2_scale = static_cast<float>(params.scale) * 1.4426950408889634f;
    float2 row_statistics[2];
    if constexpr (!kInverse) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        Coordinates c;
        locate_row(plan, place, warp_row + lane / 4 + 8 * h, c);
        const int64_t token = place.batch * params.tokens() + token_number(params, place, c);
        row_statistics[h] = __ldg(statistics + token * params.heads + place.head);
      }
    }
    float result0[kDim / 2] = {}, result1[kInverse ? kDim / 2 : 2] = {};
    Ring<kStages> ring;
    BoxWalk box;
    wait(&barriers.rows, 0);
    for (int n = 0; n < box_count; ++n) {
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
        wait_products<1>();
        pin(weight);
        masks.apply(plan, box, weight);
        if constexpr (kInverse) {
          // Statistics of a thread's columns, two neighbors at a time.
          const float4* found =
              reinterpret_cast<const float4*>(memory + Layout::kStatistics + ring.stage * Layout::kStatisticsStage) +
              lane % 4;
#pragma unroll
          for (int i = 0; i < kColumns / 2; ++i) {
            const float lacking = i % 2 == 0 ? found[i / 4 * 4].x : found[i / 4 * 4].z;
            weight[i] = exp2_approximate(fmaf(weight[i], log2_scale, -lacking));
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
            slope[i] = weight[i] * (slope[i] + (i % 2 == 0 ? found[i / 4 * 4].y : found[i / 4 * 4].w));
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
      box.advance(plan, place);
    }

    const View &view0 = kInverse ? gradients.grad_key : gradients.grad_query, &view1 = gradients.grad_value;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      Coordinates c;
      if (!locate_row(plan, place, warp_row + lane / 4 + 8 * h, c)) continue;
      store_row(static_cast<T*>(view0.data) + token_offset(params, place, view0, c), result0, h,
                static_cast<float>(params.scale));
      if constexpr (kInverse) {
        store_row(static_cast<T*>(view1.data) + token_offset(params, place, view1, c), result1, h, 1.f);
      }
    }
  }
#endif
}

}  // namespace visionattn::wgmma
