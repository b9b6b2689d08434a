#include "scratch.h"

#include <torch/csrc/stable/accelerator.h>

#include "common/tensors.h"

namespace visionattn {

std::shared_ptr<float> allocate_scratch(int64_t count) {
  const Tensor tensor = empty_on(int32_t(torch::headeronly::DeviceType::CUDA),
                                 torch::stable::accelerator::getCurrentDeviceIndex(), {count}, ScalarType::Float);
  return std::shared_ptr<float>(static_cast<float*>(tensor.data_ptr()), [tensor](float*) {});
}

}  // namespace visionattn
