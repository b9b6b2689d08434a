// The CUDA kernels of neighborhood attention, as the operator (op.cpp) calls them. All run on `stream` of the current
// device and read and write only what the parameters point to.
#pragma once

#include <cuda_runtime_api.h>

#include "common/neighborhood_params.h"

namespace visionattn {

enum class DataType { float32, float16, bfloat16 };

// Tensor-core kernels for the common cases. They return false, having launched nothing, for a case they don't cover.
bool tile_forward(const NeighborhoodParams& params, DataType dtype, cudaStream_t stream);
bool tile_backward(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, DataType dtype,
                   cudaStream_t stream);

// Kernels for every case, one query (or key) per group of lanes.
void generic_forward(const NeighborhoodParams& params, DataType dtype, cudaStream_t stream);
// `scratch` has generic_backward_scratch(params) floats.
int64_t generic_backward_scratch(const NeighborhoodParams& params);
void generic_backward(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, float* scratch,
                      DataType dtype, cudaStream_t stream);

}  // namespace visionattn
