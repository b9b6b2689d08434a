// The CUDA kernels of neighborhood attention, as the operator (op.cpp) calls them. All run on `stream`, the current
// stream of the current device, and read and write only what the parameters point to. Temporary memory:
// ../common/scratch.h.
#pragma once

#include <cuda_runtime_api.h>

#include "../common/data_type.h"
#include "../common/scratch.h"
#include "common/neighborhood_params.h"

namespace visionattn {

// Hopper kernels for large windows, and tensor-core kernels for the common cases. They return false, having launched
// nothing, for a case they don't cover or others are better for.
bool wgmma_forward(const NeighborhoodParams& params, DataType dtype, cudaStream_t stream);
bool wgmma_backward(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, DataType dtype,
                    cudaStream_t stream);
bool tile_forward(const NeighborhoodParams& params, DataType dtype, cudaStream_t stream);
bool tile_backward(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, DataType dtype,
                   cudaStream_t stream);

// Kernels for every case.
void generic_forward(const NeighborhoodParams& params, DataType dtype, cudaStream_t stream);
void generic_backward(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, DataType dtype,
                      cudaStream_t stream);

}  // namespace visionattn
