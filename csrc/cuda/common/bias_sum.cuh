// Sums over the queries by head and relative position: the gradient of a bias table, in two fixed-order stages. The map
// is cut into slices; each (slice, entry of the table) has its own worker, and a second kernel adds the slices up.
#pragma once

#include <memory>

#include "rows.cuh"
#include "scratch.h"

namespace visionattn {

constexpr int32_t kSegment = 64;                    // positions of the last axis that a worker visits at a time
constexpr int64_t kBiasWorkers = int64_t(1) << 16;  // enough to fill a large chip; bounds the scratch memory, too

// Entry `index` of tables [heads, 2 * kernel - 1 per axis].
struct BiasEntry {
  int32_t head;
  int32_t distance[kMaxRank];  // key - query in group coordinates

  __device__ __forceinline__ BiasEntry(const Axis (&axes)[kMaxRank], int64_t index) {
    int64_t rest = index;
#pragma unroll
    for (int i = kMaxRank - 1; i >= 0; --i) {
      const int32_t size = 2 * axes[i].kernel - 1;
      const int64_t quotient = rest / size;
      distance[i] = int32_t(rest - quotient * size) - (axes[i].kernel - 1);
      rest = quotient;
    }
    head = int32_t(rest);
  }
};

// The slot in the window of the query at `position` that holds the key `distance` further on; -1 if it isn't attended.
__device__ __forceinline__ int32_t slot_of(const Axis& axis, int32_t position, int32_t distance) {
  const int32_t number = position / axis.dilation;
  const Interval keys = window(axis, group_length(axis, position - number * axis.dilation), number);
  const int32_t key = number + distance;
  return key >= keys.begin && key < keys.end ? key - keys.begin : -1;
}

__host__ __device__ inline int64_t segments_per_line(const Axis (&axes)[kMaxRank]) {
  return (axes[2].length + kSegment - 1) / kSegment;
}

// Batch x first axis x second axis x segments of the last axis.
__host__ __device__ inline int64_t segment_count(const Axis (&axes)[kMaxRank], int64_t batch) {
  return batch * axes[0].length * axes[1].length * segments_per_line(axes);
}

// Sum of term(batch, position, slot) over the queries of a slice for which the entry's key is attended.
template <typename Term>
__device__ __forceinline__ float sum_slice(const Axis (&axes)[kMaxRank], int64_t batches, const BiasEntry& entry,
                                           int64_t slice, int64_t slices, Term term) {
  const int64_t lines = segments_per_line(axes), segments = segment_count(axes, batches);
  const int64_t end = segments * (slice + 1) / slices;
  float sum = 0.f;
  for (int64_t segment = segments * slice / slices; segment < end; ++segment) {
    const int64_t line = segment / lines;
    const int32_t first = int32_t(segment - line * lines) * kSegment;
    const int32_t last = min_of(first + kSegment, axes[2].length);
    int32_t position[kMaxRank], slot[kMaxRank];
    position[1] = int32_t(line % axes[1].length);
    position[0] = int32_t(line / axes[1].length % axes[0].length);
    const int64_t batch = line / axes[1].length / axes[0].length;
    slot[0] = slot_of(axes[0], position[0], entry.distance[0]);
    slot[1] = slot_of(axes[1], position[1], entry.distance[1]);
    if (slot[0] < 0 || slot[1] < 0) continue;
    float segment_sum = 0.f;
    for (position[2] = first; position[2] < last; ++position[2]) {
      slot[2] = slot_of(axes[2], position[2], entry.distance[2]);
      if (slot[2] >= 0) segment_sum += term(batch, position, slot);
    }
    sum += segment_sum;
  }
  return sum;
}

static __global__ void __launch_bounds__(kThreads)
    add_slices_kernel(const float* partial, float* result, const int64_t slices, const int64_t entries) {
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t entry = int64_t(blockIdx.x) * kThreads + threadIdx.x; entry < entries; entry += step) {
    float sum = 0.f;
    for (int64_t slice = 0; slice < slices; ++slice) sum += partial[slice * entries + entry];
    result[entry] = sum;
  }
}

// Calls launch(slices, partial), which writes partial[slice * entries + entry] with sum_slice, and adds up to `result`.
template <typename Launch>
void sum_bias(int64_t entries, int64_t segments, float* result, cudaStream_t stream, Launch launch) {
  const int64_t slices = std::max<int64_t>(1, std::min(kBiasWorkers / entries, segments));
  const std::shared_ptr<float> scratch = slices > 1 ? allocate_scratch(slices * entries) : nullptr;
  launch(slices, scratch ? scratch.get() : result);
  check_launch();
  if (!scratch) return;
  add_slices_kernel<<<grid_for(entries, 1, 1), kThreads, 0, stream>>>(scratch.get(), result, slices, entries);
  check_launch();
}

}  // namespace visionattn
