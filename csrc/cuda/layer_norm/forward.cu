// Layer norm, forward: each row is read once and kept in registers.
#include "rows.cuh"

namespace visionattn {
namespace {

template <typename In, typename Out, typename Shape>
__global__ void __launch_bounds__(kNormThreads)
    forward_kernel(const __grid_constant__ LayerNormParams params, Out* output) {
  constexpr int lanes = Shape::kLanes, vectors = Shape::kVectors, in_flight = Shape::kRowsInFlight;
  const int lane = int(threadIdx.x) % lanes, group = int(threadIdx.x) / lanes;
  const float inverse = 1.f / float(params.channels);
  const In* input = static_cast<const In*>(params.input);
  const int64_t first = (int64_t(blockIdx.x) * Shape::kGroups + group) * in_flight;

  Vector4 x[in_flight][vectors];
#pragma unroll
  for (int r = 0; r < in_flight; ++r) {
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      const int channel = (v * lanes + lane) * 4;
      if (channel < params.channels && first + r < params.rows) {
        x[r][v] = load4(input + (first + r) * params.channels + channel);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < in_flight; ++r) {
    float sum = 0.f, squares = 0.f;
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sum += x[r][v].value[i];
    }
    const float mean = group_sum<lanes>(sum) * inverse;
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      if ((v * lanes + lane) * 4 >= params.channels) continue;
#pragma unroll
      for (int i = 0; i < 4; ++i) squares += (x[r][v].value[i] - mean) * (x[r][v].value[i] - mean);
    }
    const float rstd = rsqrtf(group_sum<lanes>(squares) * inverse + params.eps);
    const int64_t row = first + r;
    if (row >= params.rows) continue;
    if (lane == 0) params.mean[row] = mean, params.rstd[row] = rstd;
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      const int channel = (v * lanes + lane) * 4;
      if (channel >= params.channels) continue;
      const Vector4 weight = load4(params.weight + channel), bias = load4(params.bias + channel);
      Vector4 y;
#pragma unroll
      for (int i = 0; i < 4; ++i) y.value[i] = fmaf((x[r][v].value[i] - mean) * rstd, weight.value[i], bias.value[i]);
      store4(output + row * params.channels + channel, y);
    }
  }
}

}  // namespace

void layer_norm_forward(const LayerNormParams& params, void* output, DataType input_type, DataType output_type,
                        cudaStream_t stream) {
  if (params.rows == 0) return;
  with_norm_shape(params.channels, [&](auto shape) {
    using Shape = decltype(shape);
    with_norm_types(input_type, output_type, [&](auto in, auto out) {
      using Out = decltype(out);
      const int64_t rows_per_block = int64_t(Shape::kGroups) * Shape::kRowsInFlight;
      const unsigned blocks = unsigned((params.rows + rows_per_block - 1) / rows_per_block);
      forward_kernel<decltype(in), Out, Shape><<<blocks, kNormThreads, 0, stream>>>(params, static_cast<Out*>(output));
      check_launch();
    });
  });
}

}  // namespace visionattn
