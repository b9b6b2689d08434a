// neighborhood_attention and its backward pass as torch operators on CUDA.
#include "../common/torch_cuda.h"
#include "common/neighborhood_op.h"
#include "launch.h"

namespace visionattn {

std::shared_ptr<float> allocate_scratch(int64_t count) {
  const torch::stable::Device device(torch::headeronly::DeviceType::CUDA,
                                     torch::stable::accelerator::getCurrentDeviceIndex());
  const Tensor tensor = torch::stable::empty({count}, ScalarType::Float, std::nullopt, device);
  return std::shared_ptr<float>(static_cast<float*>(tensor.data_ptr()), [tensor](float*) {});
}

namespace {

std::tuple<Tensor, Tensor> forward(const Tensor& query, const Tensor& key, const Tensor& value,
                                   const OptionalTensor& rpb, const OptionalTensor& additional_keys,
                                   const OptionalTensor& additional_values, const Ints& kernel_size, const Ints& stride,
                                   const Ints& dilation, const Ints& is_causal, double scale) {
  const DataType dtype = data_type(query, "query");
  const DeviceScope scope(query);
  AttentionCall call = parse_attention(query, key, value, rpb, additional_keys, additional_values, kernel_size, stride,
                                       dilation, is_causal, scale);
  const AttentionResult result = make_result(call);
  if (!call.empty()) generic_forward(call.params, dtype, scope.stream());
  return {result.output, result.lse};
}

AttentionGradients::Result backward(const Tensor& grad_output, const OptionalTensor& grad_lse, const Tensor& query,
                                    const Tensor& key, const Tensor& value, const OptionalTensor& rpb,
                                    const OptionalTensor& additional_keys, const OptionalTensor& additional_values,
                                    const Tensor& output, const Tensor& lse, const Ints& kernel_size,
                                    const Ints& stride, const Ints& dilation, const Ints& is_causal, double scale) {
  const DataType dtype = data_type(query, "query");
  const DeviceScope scope(query);
  AttentionCall call = parse_attention(query, key, value, rpb, additional_keys, additional_values, kernel_size, stride,
                                       dilation, is_causal, scale);
  AttentionGradients result = make_gradients(call, grad_output, grad_lse, output, lse, rpb);
  if (call.empty()) {
    result.zero();
  } else {
    generic_backward(call.params, result.gradients, dtype, scope.stream());
  }
  return result.result();
}

}  // namespace
}  // namespace visionattn

STABLE_TORCH_LIBRARY_IMPL(visionattn, CUDA, m) {
  m.impl("neighborhood_attention", TORCH_BOX(&visionattn::forward));
  m.impl("neighborhood_attention_backward", TORCH_BOX(&visionattn::backward));
}
