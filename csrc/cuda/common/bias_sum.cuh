// Sums over the queries by head and relative position: the gradient of a bias table, in two fixed-order stages. The map
// is cut into slices; each (slice, line of the table) has a worker of its own, and a second kernel adds the slices up.
#pragma once

#include <memory>

#include "rows.cuh"
#include "scratch.h"

namespace visionattn {

constexpr int32_t kBins = 64;                       // entries of a line, along the last axis, that a worker sums up
constexpr int32_t kSegment = 64;                    // positions of the last axis that a worker visits at a time
constexpr int64_t kBiasWorkers = int64_t(1) << 15;  // enough to fill a large chip; bounds the scratch memory, too
constexpr int kAddColumns = 32, kAddRows = 32;      // the block that adds up slices

struct BiasSizes {
  int64_t entries;  // heads * (2 * kernel - 1 per axis)
  int64_t lines;    // workers per slice
  int64_t slices;
  int64_t batch;
};

__host__ __device__ inline int32_t bins_per_line(const Axis (&axes)[kMaxRank]) {
  return (2 * axes[2].kernel - 1 + kBins - 1) / kBins;
}

__host__ __device__ inline int32_t segments_per_line(const Axis (&axes)[kMaxRank]) {
  return (axes[2].length + kSegment - 1) / kSegment;
}

// What a worker sums up: up to kBins neighbouring entries of a head's table, over the queries of a slice of the map.
struct BiasWorker {
  int32_t head;
  int32_t distance[2];  // key - query on the first two axes, in group coordinates
  Interval last;        // the same on the last axis
  int64_t entry;        // of last.begin, in all heads' tables
  int64_t slice;

  __device__ __forceinline__ BiasWorker(const Axis (&axes)[kMaxRank], const BiasSizes& sizes, int64_t index) {
    slice = index / sizes.lines;
    int64_t rest = index - slice * sizes.lines;
    const auto split = [&](int32_t size) {
      const int64_t quotient = rest / size;
      const int32_t remainder = int32_t(rest - quotient * size);
      rest = quotient;
      return remainder;
    };
    const int32_t width = 2 * axes[2].kernel - 1, height = 2 * axes[1].kernel - 1, depth = 2 * axes[0].kernel - 1;
    const int32_t first = split(bins_per_line(axes)) * kBins, y = split(height), x = split(depth);
    head = int32_t(rest);
    distance[0] = x - (axes[0].kernel - 1);
    distance[1] = y - (axes[1].kernel - 1);
    last = {first - (axes[2].kernel - 1), min_of(first + kBins, width) - (axes[2].kernel - 1)};
    entry = ((int64_t(head) * depth + x) * height + y) * width + first;
  }
};

// The slot in the window of the query at `position` that holds the key `distance` further on; -1 if it isn't attended.
__device__ __forceinline__ int32_t slot_of(const Axis& axis, int32_t position, int32_t distance) {
  const int32_t number = position / axis.dilation;
  const Interval keys = window(axis, group_length(axis, position - number * axis.dilation), number);
  const int32_t key = number + distance;
  return key >= keys.begin && key < keys.end ? key - keys.begin : -1;
}

// For each query of the worker's slice with such keys: make_row(batch, x, y, slot) once per segment of a row of the
// map, where slot are the keys' slots on the first two axes, and on its result row(z, number, window, keys): the query
// at z is the given number in its dilation group; `keys` are those of its window, on the last axis, that the worker is
// for.
template <typename MakeRow>
__device__ __forceinline__ void for_each_query(const Axis (&axes)[kMaxRank], const BiasSizes& sizes,
                                               const BiasWorker& worker, MakeRow make_row) {
  const int64_t per_line = segments_per_line(axes);
  const int64_t segments = sizes.batch * axes[0].length * axes[1].length * per_line;
  const int64_t end = segments * (worker.slice + 1) / sizes.slices;
  for (int64_t segment = segments * worker.slice / sizes.slices; segment < end; ++segment) {
    const int64_t line = segment / per_line;
    const int32_t first = int32_t(segment - line * per_line) * kSegment;
    const int32_t y = int32_t(line % axes[1].length), x = int32_t(line / axes[1].length % axes[0].length);
    const int64_t batch = line / axes[1].length / axes[0].length;
    const int32_t slot[2] = {slot_of(axes[0], x, worker.distance[0]), slot_of(axes[1], y, worker.distance[1])};
    if (slot[0] < 0 || slot[1] < 0) continue;
    const auto row = make_row(batch, x, y, slot);
    for (int32_t z = first; z < min_of(first + kSegment, axes[2].length); ++z) {
      const int32_t number = z / axes[2].dilation;
      const Interval all = window(axes[2], group_length(axes[2], z - number * axes[2].dilation), number);
      const Interval keys{max_of(all.begin, number + worker.last.begin), min_of(all.end, number + worker.last.end)};
      if (keys.begin < keys.end) row(z, number, all, keys);
    }
  }
}

static __global__ void __launch_bounds__(kAddColumns* kAddRows)
    add_slices_kernel(const float* partial, float* result, const BiasSizes sizes) {
  __shared__ float sums[kAddRows][kAddColumns];
  const int column = int(threadIdx.x) % kAddColumns, row = int(threadIdx.x) / kAddColumns;
  for (int64_t first = int64_t(blockIdx.x) * kAddColumns; first < sizes.entries;
       first += int64_t(gridDim.x) * kAddColumns) {
    float sum = 0.f;
    if (first + column < sizes.entries) {
      for (int64_t slice = row; slice < sizes.slices; slice += kAddRows) {
        sum += partial[slice * sizes.entries + first + column];
      }
    }
    sums[row][column] = sum;
    __syncthreads();
    if (row == 0 && first + column < sizes.entries) {
      for (int r = 1; r < kAddRows; ++r) sum += sums[r][column];
      result[first + column] = sum;
    }
    __syncthreads();
  }
}

// Calls launch(sizes, workers, partial), which writes partial[slice * entries + entry], and adds the slices up to
// `result`.
template <typename Launch>
void sum_bias(const Axis (&axes)[kMaxRank], int64_t batch, int32_t heads, float* result, cudaStream_t stream,
              Launch launch) {
  const int64_t rows = int64_t(heads) * (2 * axes[0].kernel - 1) * (2 * axes[1].kernel - 1);
  const int64_t segments = batch * axes[0].length * axes[1].length * segments_per_line(axes);
  BiasSizes sizes;
  sizes.entries = rows * (2 * axes[2].kernel - 1);
  sizes.lines = rows * bins_per_line(axes);
  sizes.slices = std::max<int64_t>(1, std::min(kBiasWorkers / sizes.lines, segments));
  sizes.batch = batch;
  const auto scratch = sizes.slices > 1 ? allocate_scratch(sizes.slices * sizes.entries) : nullptr;
  launch(sizes, sizes.slices * sizes.lines, scratch ? scratch.get() : result);
  check_launch();
  if (!scratch) return;
  const int64_t blocks = std::min<int64_t>((sizes.entries + kAddColumns - 1) / kAddColumns, 1 << 30);
  add_slices_kernel<<<dim3(unsigned(blocks)), kAddColumns * kAddRows, 0, stream>>>(scratch.get(), result, sizes);
  check_launch();
}

}  // namespace visionattn
