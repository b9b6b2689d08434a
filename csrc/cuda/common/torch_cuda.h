// What an operator needs from torch to launch CUDA kernels: the device, the stream, the element type.
#pragma once

#ifndef USE_CUDA
#define USE_CUDA  // declares the CUDA part of torch's C interface
#endif
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include "data_type.h"

namespace visionattn {

// Makes a tensor's device the current one for the guard's lifetime; kernels belong on its `stream`.
class DeviceScope {
 public:
  explicit DeviceScope(const torch::stable::Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  cudaStream_t stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

inline DataType data_type(const torch::stable::Tensor& tensor, const char* name) {
  using torch::headeronly::ScalarType;
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DataType::float32;
    case ScalarType::Half:
      return DataType::float16;
    case ScalarType::BFloat16:
      return DataType::bfloat16;
    default:
      STD_TORCH_CHECK(false, name, " has dtype ", torch::headeronly::toString(tensor.scalar_type()),
                      ", expected float32, float16 or bfloat16 on CUDA");
  }
}

}  // namespace visionattn
