// Forward Hopper kernel. One warp copies boxes of keys and values into rings of buffers; warpgroups of 64 queries each
// multiply. While the logits of a box are weighed, the product of the previous weights with its values runs.
#pragma once

#include "wgmma_tile.cuh"

namespace visionattn::wgmma {

template <int kDim>
struct ForwardLayout {
  static constexpr int kColumns = 128, kStages = 2, kQueryStages = 2, kPieces = kDim / kPieceChannels;
  static constexpr uint32_t kQueryPiece = kTileRows * kRowBytes, kPiece = kColumns * kRowBytes;
  static constexpr uint32_t kQueryStage = kPieces * kQueryPiece, kStage = kPieces * kPiece;  // keys or values
  static constexpr uint32_t kKeys = kQueryStages * kQueryStage, kValues = kKeys + kStages * kStage;
  static constexpr uint32_t kTables = kValues + kStages * kStage;
  static constexpr uint32_t kAlignment = 1024;
  static int32_t bytes(const Plan& plan) { return kTables + mask_table_size(plan) * 4 + kAlignment; }
};

template <int kStages, int kQueryStages>
struct ForwardBarriers {
  uint64_t queries[kQueryStages], queries_free[kQueryStages];
  uint64_t keys[kStages], values[kStages], keys_free[kStages], values_free[kStages];
};

// Online softmax of the two rows of a thread, `kSums` / 2 numbers each. A row's maximum is only followed when it has
// grown by a factor of 2^8: weights are relative to a maximum at most that much too low.
template <int kSums>
class Softmax {
 public:
  __device__ __forceinline__ explicit Softmax(float log2_scale) : log2_scale_(log2_scale) {}

  // Turns logits into weights. Returns whether sums so far are to be multiplied by `shrink`.
  __device__ __forceinline__ bool weigh(float (&logits)[kSums], float (&shrink)[2]) {
    constexpr float kSlack = 8.f;
    float top[2];
    bool grown = false;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      top[h] = logits[2 * h];
#pragma unroll
      for (int i = 0; i < kSums; i += 4) top[h] = fmaxf(top[h], fmaxf(logits[i + 2 * h], logits[i + 2 * h + 1]));
      top[h] = fmaxf(top[h], __shfl_xor_sync(~0u, top[h], 1));
      top[h] = fmaxf(top[h], __shfl_xor_sync(~0u, top[h], 2));
      grown = grown || (top[h] - maximum_[h]) * log2_scale_ > kSlack;
    }
    grown = __any_sync(~0u, grown);
    if (grown) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float next = fmaxf(maximum_[h], top[h]);
        shrink[h] = exp2_approximate((maximum_[h] - (next == -INFINITY ? 0.f : next)) * log2_scale_);
        maximum_[h] = next;
        sum_[h] *= shrink[h];
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float base = maximum_[h] == -INFINITY ? 0.f : maximum_[h] * log2_scale_;
      float sum[2] = {};
#pragma unroll
      for (int i = 0; i < kSums; i += 4) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          float& logit = logits[i + 2 * h + j];
          logit = exp2_approximate(fmaf(logit, log2_scale_, -base));
          sum[j] += logit;
        }
      }
      sum_[h] += sum[0] + sum[1];
    }
    return grown;
  }

  // Adds up the sums of the four threads that share rows.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      sum_[h] += __shfl_xor_sync(~0u, sum_[h], 1);
      sum_[h] += __shfl_xor_sync(~0u, sum_[h], 2);
    }
  }
  __device__ __forceinline__ float inverse_sum(int h) const { return 1.f / sum_[h]; }
  __device__ __forceinline__ float log_sum(int h) const {
    return (maximum_[h] * log2_scale_ + log2f(sum_[h])) * 0.6931471805599453f;
  }

 private:
  float log2_scale_, maximum_[2] = {-INFINITY, -INFINITY}, sum_[2] = {};
};

template <typename T, int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    forward_kernel(const __grid_constant__ NeighborhoodParams params, const __grid_constant__ Plan plan, uint32_t tiles,
                   const __grid_constant__ CUtensorMap query_map, const __grid_constant__ CUtensorMap key_map,
                   const __grid_constant__ CUtensorMap value_map) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Layout = ForwardLayout<kDim>;
  constexpr int kStages = Layout::kStages, kQueryStages = Layout::kQueryStages, kColumns = Layout::kColumns;
  constexpr uint32_t kPiece = Layout::kPiece;
  extern __shared__ unsigned char raw_memory[];
  __shared__ ForwardBarriers<kStages, kQueryStages> barriers;
  const uint32_t aligned = (shared_address(raw_memory) + Layout::kAlignment - 1) & ~(Layout::kAlignment - 1);
  unsigned char* memory = raw_memory + (aligned - shared_address(raw_memory));
  const uint32_t keys = aligned + Layout::kKeys, values = aligned + Layout::kValues;
  uint32_t* tables = reinterpret_cast<uint32_t*>(memory + Layout::kTables);
  const int warpgroup = __shfl_sync(~0u, threadIdx.x / kGroupThreads, 0), warp = threadIdx.x / 32;
  const int box_tokens = volume(plan.box);

  if (threadIdx.x == 0) {
    for (int s = 0; s < kQueryStages; ++s) {
      init_barrier(&barriers.queries[s], 1);
      init_barrier(&barriers.queries_free[s], kMultiplyingWarps);
    }
    for (int s = 0; s < kStages; ++s) {
      init_barrier(&barriers.keys[s], 1);
      init_barrier(&barriers.values[s], 1);
      init_barrier(&barriers.keys_free[s], kMultiplyingWarps);
      init_barrier(&barriers.values_free[s], kMultiplyingWarps);
    }
    publish_barriers();
  }
  build_mask_tables<kColumns>(plan, tables);
  clear_spare_rows<kColumns>(memory + Layout::kValues, kStages * Layout::kPieces, box_tokens);
  fence_async_proxy();
  __syncthreads();

  if (warpgroup == 0) {
    release_registers<24>();
    if (threadIdx.x == 0) {
      Ring<kQueryStages> query_ring;
      Ring<kStages> ring;
      for (uint32_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const Place place = locate<false>(params, plan, params.heads, tile);
        const int head_kv = place.head / (params.heads / params.heads_kv);
        const int32_t first[kMaxRank] = {place.rows[0].begin, place.rows[1].begin, place.rows[2].begin};
        uint64_t* barrier = &barriers.queries[query_ring.stage];
        wait(&barriers.queries_free[query_ring.stage], query_ring.parity ^ 1);
        expect_bytes(barrier, volume(plan.tile) * kDim * 2);
        copy_tokens<kDim>(aligned + query_ring.stage * Layout::kQueryStage, Layout::kQueryPiece, &query_map, barrier,
                          group_offset(params.query, place, place.head), first, place.batch);
        query_ring.advance();
        const int32_t key_channel = group_offset(params.key, place, head_kv);
        const int32_t value_channel = group_offset(params.value, place, head_kv);
        for (BoxWalk box; !box.done(place); box.advance(plan, place)) {
          const int32_t at[kMaxRank] = {place.columns[0].begin + box.at[0], place.columns[1].begin + box.at[1],
                                        place.columns[2].begin + box.at[2]};
          wait(&barriers.keys_free[ring.stage], ring.parity ^ 1);
          expect_bytes(&barriers.keys[ring.stage], box_tokens * kDim * 2);
          copy_tokens<kDim>(keys + ring.stage * Layout::kStage, kPiece, &key_map, &barriers.keys[ring.stage],
                            key_channel, at, place.batch);
          wait(&barriers.values_free[ring.stage], ring.parity ^ 1);
          expect_bytes(&barriers.values[ring.stage], box_tokens * kDim * 2);
          copy_tokens<kDim>(values + ring.stage * Layout::kStage, kPiece, &value_map, &barriers.values[ring.stage],
                            value_channel, at, place.batch);
          ring.advance();
        }
      }
    }
  } else {
    claim_registers<240>();
    const int group = warpgroup - 1, lane = threadIdx.x % 32;
    const float log2_scale = static_cast<float>(params.scale) * 1.4426950408889634f;
    const RowPair rows(plan, group * kGroupRows + warp % 4 * 16);
    RowMasks<false, kColumns> masks(plan, tables);
    GroupSpan<false> span(plan, group);
    Ring<kQueryStages> query_ring;
    Ring<kStages> key_ring, value_ring;
    // The warpgroups take turns in starting products, so that one weighs while the other multiplies.
    const auto take_turn = [&] { sync_named(1 + group, 2 * kGroupThreads); };
    const auto give_turn = [&] { arrive_named(1 + (group + 1) % kGroups, 2 * kGroupThreads); };
    if (group + 1 == kGroups) arrive_named(1, 2 * kGroupThreads);  // the first turn

    for (uint32_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      const Place place = locate<false>(params, plan, params.heads, tile);
      masks.move(params, place, rows);
      span.move(params, place);
      Softmax<kColumns / 2> softmax(log2_scale);
      float output[kDim / 2] = {}, logits[kColumns / 2], shrink[2];
      uint32_t weights[kColumns / 4];
      const uint32_t queries = aligned + query_ring.stage * Layout::kQueryStage + group * kGroupRows * kRowBytes;
      BoxWalk box;
      const auto free_keys = [&] {
        if (lane == 0) arrive(&barriers.keys_free[key_ring.stage]);
        key_ring.advance();
      };
      const auto free_values = [&] {
        if (lane == 0) arrive(&barriers.values_free[value_ring.stage]);
        value_ring.advance();
      };
      const auto start_logits = [&] {
        multiply_channels<T, kDim>(logits, queries, Layout::kQueryPiece, keys + key_ring.stage * Layout::kStage,
                                   kPiece);
        commit_products();
      };
      const auto start_output = [&] {
        multiply_columns<T, kColumns>(output, weights, values + value_ring.stage * Layout::kStage, kPiece);
        commit_products();
      };
      const auto shrink_output = [&] {
#pragma unroll
        for (int i = 0; i < kDim / 2; ++i) output[i] *= shrink[i / 2 % 2];
      };

      wait(&barriers.queries[query_ring.stage], query_ring.parity);
      while (!box.done(place)) {
        if (!span.meets(plan, box)) {
          take_turn();
          give_turn();
          wait(&barriers.keys[key_ring.stage], key_ring.parity);
          free_keys();
          wait(&barriers.values[value_ring.stage], value_ring.parity);
          free_values();
          box.advance(plan, place);
          continue;
        }
        wait(&barriers.keys[key_ring.stage], key_ring.parity);
        take_turn();
        pin(logits);
        begin_products();
        start_logits();
        give_turn();
        masks.find(plan, box);
        wait_products<0>();
        pin(logits);
        free_keys();
        masks.apply(logits);
        if (softmax.weigh(logits, shrink)) shrink_output();
        pack<T>(weights, logits);
        box.advance(plan, place);
        while (!box.done(place) && span.meets(plan, box)) {
          wait(&barriers.keys[key_ring.stage], key_ring.parity);
          take_turn();
          pin(logits);
          pin(output);
          begin_products();
          start_logits();
          wait(&barriers.values[value_ring.stage], value_ring.parity);
          start_output();
          give_turn();
          masks.find(plan, box);
          wait_products<1>();
          pin(logits);
          free_keys();
          masks.apply(logits);
          const bool shrinks = softmax.weigh(logits, shrink);
          pin(logits);
          wait_products<0>();
          pin(output);
          free_values();
          if (shrinks) shrink_output();
          pack<T>(weights, logits);
          box.advance(plan, place);
        }
        wait(&barriers.values[value_ring.stage], value_ring.parity);
        pin(output);
        begin_products();
        start_output();
        wait_products<0>();
        pin(output);
        free_values();
      }
      if (lane == 0) arrive(&barriers.queries_free[query_ring.stage]);
      query_ring.advance();

      softmax.finish();
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        Coordinates c;
        if (!rows.find(place, h, c)) continue;
        store_row(static_cast<T*>(params.output.data) + token_offset(params, place, params.output, c), output, h,
                  softmax.inverse_sum(h));
        if (lane % 4 == 0) {
          const int64_t token = place.batch * params.tokens() + token_number(params, place, c);
          static_cast<float*>(params.lse)[token * params.heads + place.head] = softmax.log_sum(h);
        }
      }
    }
    if (group == 0) take_turn();  // the last one, which nobody needs
  }
#endif
}

}  // namespace visionattn::wgmma
