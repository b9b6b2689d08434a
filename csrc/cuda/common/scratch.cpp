#include "scratch.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

namespace visionattn {

std::shared_ptr<float> allocate_scratch(int64_t count) {
  const torch::stable::Device device(torch::headeronly::DeviceType::CUDA,
                                     torch::stable::accelerator::getCurrentDeviceIndex());
  const auto tensor = torch::stable::empty({count}, torch::headeronly::ScalarType::Float, std::nullopt, device);
  return std::shared_ptr<float>(static_cast<float*>(tensor.data_ptr()), [tensor](float*) {});
}

}  // namespace visionattn
