// New tensors through torch's C interface: its dispatcher, which the functions of torch::stable call, would take as
// long as the launch of a kernel.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <vector>

namespace visionattn {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Ints = std::vector<int64_t>;

// Contiguous and not initialised. The device is a type and an index, as torch counts them.
inline Tensor empty_on(int32_t device_type, int32_t device_index, const Ints& sizes, ScalarType dtype) {
  Ints strides(sizes.size());
  int64_t step = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[i] = step;
    step *= sizes[i] > 1 ? sizes[i] : 1;
  }
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(),
                                                         int32_t(dtype), device_type, device_index, &handle));
  return Tensor(handle);
}

// On the device of `like`.
inline Tensor empty_result(const Tensor& like, const Ints& sizes, ScalarType dtype) {
  int32_t type = 0, index = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  return empty_on(type, index, sizes, dtype);
}

inline Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline Ints sizes_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return Ints(sizes.begin(), sizes.end());
}

}  // namespace visionattn
