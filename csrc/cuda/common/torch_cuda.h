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

// Makes the device of a tensor the current one while it lives.
class CudaScope {
 public:
  explicit CudaScope(const torch::stable::Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  // Where kernels belong.
  cudaStream_t stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

inline DataType data_type(torch::headeronly::ScalarType dtype) {
  using torch::headeronly::ScalarType;
  if (dtype == ScalarType::Half) return DataType::float16;
  if (dtype == ScalarType::BFloat16) return DataType::bfloat16;
  STD_TORCH_CHECK(dtype == ScalarType::Float, "the CUDA kernels take float32, float16 and bfloat16, got ",
                  torch::headeronly::toString(dtype));
  return DataType::float32;
}

}  // namespace visionattn
