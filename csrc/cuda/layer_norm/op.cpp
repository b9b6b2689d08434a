// layer_norm and its backward pass as torch operators on CUDA.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../common/torch_cuda.h"
#include "common/tensors.h"
#include "launch.h"

namespace visionattn {
namespace {

LayerNormParams parse(const Tensor& input, const Tensor& weight, const Tensor& bias, const Tensor& mean,
                      const Tensor& rstd, double eps) {
  const int64_t channels = input.size(input.dim() - 1);
  const auto check = [&](const Tensor& tensor, int64_t count, const char* name) {
    STD_TORCH_CHECK(tensor.device() == input.device() && tensor.scalar_type() == ScalarType::Float &&
                        tensor.is_contiguous() && tensor.numel() == count,
                    name, " must be a contiguous float32 tensor of ", count, " values on the device of the input");
  };
  STD_TORCH_CHECK(channels % 4 == 0 && channels >= 4 && channels <= kMaxNormChannels && input.is_contiguous(),
                  "input must be contiguous with a multiple of 4 channels up to ", kMaxNormChannels);
  const int64_t rows = input.numel() / channels;
  check(weight, channels, "weight");
  check(bias, channels, "bias");
  check(mean, rows, "mean");
  check(rstd, rows, "rstd");
  return {input.const_data_ptr(),
          static_cast<const float*>(weight.const_data_ptr()),
          static_cast<const float*>(bias.const_data_ptr()),
          static_cast<float*>(mean.mutable_data_ptr()),
          static_cast<float*>(rstd.mutable_data_ptr()),
          rows,
          int(channels),
          float(eps)};
}

// Dense, and at an address that vectors of four elements can be read at.
Tensor readable(const Tensor& tensor) {
  const Tensor dense = as_contiguous(tensor);
  return reinterpret_cast<uintptr_t>(dense.const_data_ptr()) % 16 ? torch::stable::clone(dense) : dense;
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& any_input, const Tensor& any_weight, const Tensor& any_bias,
                                           double eps, ScalarType dtype) {
  const CudaScope scope(any_input);
  const Tensor input = readable(any_input), weight = readable(any_weight), bias = readable(any_bias);
  STD_TORCH_CHECK(
      dtype == input.scalar_type() || dtype == ScalarType::Float || input.scalar_type() == ScalarType::Float,
      "dtype must be float32 or the input's where the input is not float32");
  STD_TORCH_CHECK(input.dim() >= 1 && input.size(input.dim() - 1) > 0, "input must have channels");
  const Tensor output = empty_result(input, sizes_of(input), dtype);
  const Ints rows{input.numel() / input.size(input.dim() - 1)};
  const Tensor mean = empty_result(input, rows, ScalarType::Float), rstd = empty_result(input, rows, ScalarType::Float);
  layer_norm_forward(parse(input, weight, bias, mean, rstd, eps), output.mutable_data_ptr(),
                     data_type(input.scalar_type()), data_type(dtype), scope.stream());
  return {output, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_output, const Tensor& any_input,
                                            const Tensor& any_weight, const Tensor& mean, const Tensor& rstd) {
  const CudaScope scope(any_input);
  const Tensor input = readable(any_input), weight = readable(any_weight), gradient = readable(grad_output);
  STD_TORCH_CHECK(gradient.device() == input.device() && gradient.numel() == input.numel(),
                  "grad_output must have the input's size and device");
  const Tensor grad_input = empty_result(input, sizes_of(input), input.scalar_type());
  const Tensor grad_weight = empty_result(weight, sizes_of(weight), ScalarType::Float);
  const Tensor grad_bias = empty_result(weight, sizes_of(weight), ScalarType::Float);
  layer_norm_backward(parse(input, weight, weight, mean, rstd, 0.0), gradient.const_data_ptr(),
                      grad_input.mutable_data_ptr(), static_cast<float*>(grad_weight.mutable_data_ptr()),
                      static_cast<float*>(grad_bias.mutable_data_ptr()), data_type(input.scalar_type()),
                      data_type(gradient.scalar_type()), scope.stream());
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace
}  // namespace visionattn

STABLE_TORCH_LIBRARY_IMPL(visionattn, CUDA, m) {
  m.impl("layer_norm", TORCH_BOX(&visionattn::forward));
  m.impl("layer_norm_backward", TORCH_BOX(&visionattn::backward));
}
