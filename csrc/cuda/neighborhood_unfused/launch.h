// The CUDA kernels of the unfused operators, as op.cpp calls them; see csrc/library.cpp for what they compute.
#pragma once

#include <cuda_runtime_api.h>

#include "../common/data_type.h"
#include "common/neighborhood_params.h"

namespace visionattn {

// query, key, rpb -> attention
void unfused_qk(const UnfusedParams& params, DataType dtype, cudaStream_t stream);
// attention, key (the values) -> output
void unfused_av(const UnfusedParams& params, DataType dtype, cudaStream_t stream);
// attention, query (the rows to sum) -> output
void unfused_av_transposed(const UnfusedParams& params, DataType dtype, cudaStream_t stream);
// attention -> output: float32, contiguous, shaped like the bias
void unfused_rpb_gradient(const UnfusedParams& params, DataType dtype, cudaStream_t stream);

}  // namespace visionattn
