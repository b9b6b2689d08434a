// The parts of the generic backward pass; generic_backward (backward.cu) launches them in this order. Probabilities are
// recomputed from lse; every sum has one owner and a fixed order, so the gradients are the same on every run.
#pragma once

#include "../common/rows.cuh"
#include "launch.h"

namespace visionattn {

// Gradients of the additional tokens and of the bias need delta, which the gradient of the query leaves behind.
void backward_additional(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, DataType dtype,
                         cudaStream_t stream);
void backward_bias(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, DataType dtype,
                   cudaStream_t stream);

// Where lse, delta and the gradient of lse keep a query's value.
__device__ __forceinline__ int64_t statistics_index(const NeighborhoodParams& params, int64_t batch, int64_t token,
                                                    int32_t head) {
  return (batch * params.tokens() + token) * params.heads + head;
}

}  // namespace visionattn
