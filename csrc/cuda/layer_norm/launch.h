// Layer norm over the last axis: kernels behind the torch operator.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "../common/data_type.h"

namespace visionattn {

constexpr int kMaxNormChannels = 1024;

// Dense rows of `channels`, a multiple of 4 up to kMaxNormChannels; weight, bias and statistics are float32.
struct LayerNormParams {
  const void* input;
  const float* weight;
  const float* bias;
  float* mean;
  float* rstd;
  int64_t rows;
  int channels;
  float eps;
};

void layer_norm_forward(const LayerNormParams& params, void* output, DataType input_type, DataType output_type,
                        cudaStream_t stream);

// grad_output has the output's type, grad_input the input's. Sums run in a fixed order.
void layer_norm_backward(const LayerNormParams& params, const void* grad_output, void* grad_input, float* grad_weight,
                         float* grad_bias, DataType input_type, DataType output_type, cudaStream_t stream);

}  // namespace visionattn
