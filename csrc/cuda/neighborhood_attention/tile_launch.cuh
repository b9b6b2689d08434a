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
  int32_t dim = 0;    // channels of the kernel: the smallest that hold the case's
  int32_t pairs = 0;  // pairs of column blocks that the kernel keeps in registers
  bool supported = false;
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
  KernelChoice (*strip)(DataType dtype, int32_t dim);
};

// The launch for a case, remembered between calls. `backward`: both roles run, with rows that are queries and keys.
const Launch& find_launch(const NeighborhoodParams& params, DataType dtype, bool backward, const Kernels& kernels);

// Whether the views can be read 16 bytes at a time with 32-bit offsets within a batch entry.
bool readable(const NeighborhoodParams& params, const View& view);

// Whether the tensor-core kernels cover the case, views apart.
bool covered(const NeighborhoodParams& params, DataType dtype);

}  // namespace visionattn::tile
