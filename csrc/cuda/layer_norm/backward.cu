// Layer norm, backward: one pass over the rows writes the input's gradient and sums the parameters' gradients per
// block; a second kernel adds the blocks up. Both orders are fixed.
#include "../common/scratch.h"
#include "rows.cuh"

namespace visionattn {
namespace {

constexpr int kSumColumns = 32, kSumRows = 8;

template <typename In, typename Out, typename Shape>
__global__ void __launch_bounds__(kNormThreads)
    backward_kernel(const __grid_constant__ LayerNormParams params, const Out* grad_output, In* grad_input,
                    float* partial) {
  constexpr int lanes = Shape::kLanes, vectors = Shape::kVectors, in_flight = Shape::kRowsInFlight;
  __shared__ float sums[2 * 4 * lanes * vectors];
  const int lane = int(threadIdx.x) % lanes, group = int(threadIdx.x) / lanes;
  const float inverse = 1.f / float(params.channels);
  const In* input = static_cast<const In*>(params.input);

  Vector4 weight[vectors], grad_weight[vectors], grad_bias[vectors];
#pragma unroll
  for (int v = 0; v < vectors; ++v) {
    const int channel = (v * lanes + lane) * 4;
    if (channel < params.channels) weight[v] = load4(params.weight + channel);
  }
  const int64_t step = int64_t(gridDim.x) * Shape::kGroups * in_flight;
  // The bound is the same for the lanes of a warp, which sum together.
  const int64_t start = (int64_t(blockIdx.x) * Shape::kGroups + group) * in_flight;
  const int64_t rounds = (params.rows + step - 1) / step;
  for (int64_t round = 0; round < rounds; ++round) {
    const int64_t first = start + round * step;
    Vector4 x[in_flight][vectors], g[in_flight][vectors];
    float mean[in_flight], rstd[in_flight];
#pragma unroll
    for (int r = 0; r < in_flight; ++r) {
      const bool valid = first + r < params.rows;
      mean[r] = valid ? __ldg(params.mean + first + r) : 0.f;
      rstd[r] = valid ? __ldg(params.rstd + first + r) : 0.f;
#pragma unroll
      for (int v = 0; v < vectors; ++v) {
        const int channel = (v * lanes + lane) * 4;
        if (channel < params.channels && valid) {
          const int64_t at = (first + r) * params.channels + channel;
          x[r][v] = load4(input + at);
          g[r][v] = load4(grad_output + at);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < in_flight; ++r) {
      float sum = 0.f, dot = 0.f;  // of weighted gradients, alone and with the normalized input
#pragma unroll
      for (int v = 0; v < vectors; ++v) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float normalized = (x[r][v].value[i] - mean[r]) * rstd[r], gradient = g[r][v].value[i];
          grad_bias[v].value[i] += gradient;
          grad_weight[v].value[i] = fmaf(gradient, normalized, grad_weight[v].value[i]);
          g[r][v].value[i] = gradient * weight[v].value[i];
          x[r][v].value[i] = normalized;
          sum += g[r][v].value[i];
          dot = fmaf(g[r][v].value[i], normalized, dot);
        }
      }
      sum = group_sum<lanes>(sum) * inverse;
      dot = group_sum<lanes>(dot) * inverse;
      if (first + r >= params.rows) continue;
#pragma unroll
      for (int v = 0; v < vectors; ++v) {
        const int channel = (v * lanes + lane) * 4;
        if (channel >= params.channels) continue;
        Vector4 gradient;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          gradient.value[i] = rstd[r] * (g[r][v].value[i] - sum - x[r][v].value[i] * dot);
        }
        store4(grad_input + (first + r) * params.channels + channel, gradient);
      }
    }
  }

  for (int turn = 0; turn < Shape::kGroups; ++turn) {
    if (turn == group) {
#pragma unroll
      for (int v = 0; v < vectors; ++v) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int channel = (v * lanes + lane) * 4 + i;
          sums[channel] = grad_weight[v].value[i] + (turn ? sums[channel] : 0.f);
          float& bias = sums[4 * lanes * vectors + channel];
          bias = grad_bias[v].value[i] + (turn ? bias : 0.f);
        }
      }
    }
    __syncthreads();
  }
  for (int i = int(threadIdx.x); i < 2 * params.channels; i += kNormThreads) {
    const int channel = i % params.channels, which = i / params.channels;
    partial[int64_t(blockIdx.x) * 2 * params.channels + i] = sums[which * 4 * lanes * vectors + channel];
  }
}

// Adds `count` rows of `width` values.
__global__ void __launch_bounds__(kSumColumns* kSumRows)
    sum_kernel(const float* partial, int count, int width, int channels, float* grad_weight, float* grad_bias) {
  __shared__ float sums[kSumRows][kSumColumns];
  const int column = int(blockIdx.x) * kSumColumns + int(threadIdx.x);
  float sum = 0.f;
  if (column < width) {
    for (int i = int(threadIdx.y); i < count; i += kSumRows) sum += partial[int64_t(i) * width + column];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= width) return;
#pragma unroll
  for (int i = 1; i < kSumRows; ++i) sum += sums[i][threadIdx.x];
  (column < channels ? grad_weight[column] : grad_bias[column - channels]) = sum;
}

}  // namespace

void layer_norm_backward(const LayerNormParams& params, const void* grad_output, void* grad_input, float* grad_weight,
                         float* grad_bias, DataType input_type, DataType output_type, cudaStream_t stream) {
  with_norm_shape(params.channels, [&](auto shape) {
    using Shape = decltype(shape);
    const int64_t rows_per_block = int64_t(Shape::kGroups) * Shape::kRowsInFlight;
    const int64_t needed = (params.rows + rows_per_block - 1) / rows_per_block;
    constexpr int registers = 16 * Shape::kVectors + 48;  // a thread's, roughly
    constexpr int resident = 65536 / (registers * kNormThreads);
    const int blocks = int(std::clamp<int64_t>(needed, 1, int64_t(multiprocessors()) * resident));
    const int width = 2 * params.channels;
    const auto partial = allocate_scratch(int64_t(blocks) * width);
    with_norm_types(input_type, output_type, [&](auto in, auto out) {
      using In = decltype(in);
      using Out = decltype(out);
      backward_kernel<In, Out, Shape><<<blocks, kNormThreads, 0, stream>>>(params, static_cast<const Out*>(grad_output),
                                                                           static_cast<In*>(grad_input), partial.get());
      check_launch();
    });
    sum_kernel<<<(width + kSumColumns - 1) / kSumColumns, dim3(kSumColumns, kSumRows), 0, stream>>>(
        partial.get(), blocks, width, params.channels, grad_weight, grad_bias);
    check_launch();
  });
}

}  // namespace visionattn
