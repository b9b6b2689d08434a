// Host side of the tensor-core kernels: what they can take, how a case is cut, and the launch.
#pragma once

#include <cstdint>

#include "launch.h"
#include "tile_plan.cuh"

namespace visionattn::tile {

// How one kernel uses its plan.
struct Launch {
  const void* kernel = nullptr;
  int32_t threads = 0;
  int32_t shared_bytes = 0;
  int64_t blocks = 0;
  Plan plan{};
  int32_t dim = 0;  // channels of the kernel: the smallest that hold the case's
  bool supported = false;
  bool overlaps = false;  // compiled to wait for the kernel before it, which may then still run when it is launched
};

// A kernel to choose. `threads` bounds a block, and its registers are bounded so that as many fit a multiprocessor.
struct KernelChoice {
  const void* kernel;
  int32_t threads;
  int32_t pairs;      // of column blocks, held in registers at a time, or 0
  bool whole;         // those are all that a warp has whose rows are queries
  int32_t tiles = 1;  // matrix tiles of rows of a warp
};
struct Kernels {
  KernelChoice (*by_pairs)(DataType dtype, int32_t dim, int32_t pairs);
  // Without a kernel where there is none for the data type and `dim`.
  KernelChoice (*lined)(DataType dtype, int32_t dim, int32_t pairs);
  KernelChoice (*strip)(DataType dtype, int32_t dim);
};

// Chooses how to cut a case by the estimated time. `backward`: rows are queries in half of the blocks, keys in the
// others.
Launch plan_launch(const NeighborhoodParams& params, DataType dtype, bool backward, const Kernels& kernels, int device);

// The same, remembered between calls.
Launch find_launch(const NeighborhoodParams& params, DataType dtype, bool backward, const Kernels& kernels);

// Launches a kernel; false if that fails. `overlap`: it may start before the kernel before it ends.
bool start_kernel(const void* kernel, dim3 grid, dim3 block, int32_t shared_bytes, cudaStream_t stream,
                  const void* const* arguments, bool overlap);

// Whether the views can be read 16 bytes at a time with 32-bit offsets within a batch entry.
bool readable(const NeighborhoodParams& params, DataType dtype, const View& view);

// Whether the tensor-core kernels cover the case, views apart.
bool covered(const NeighborhoodParams& params, DataType dtype);

}  // namespace visionattn::tile
