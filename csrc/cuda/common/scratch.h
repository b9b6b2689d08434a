// Temporary device memory for kernels.
#pragma once

#include <cstdint>
#include <memory>

namespace visionattn {

// Room for `count` floats on the current device, uninitialised. Kernels launched on the current stream while it lives
// may use it: it comes from torch's allocator, which hands freed memory out again in the order of the stream.
std::shared_ptr<float> allocate_scratch(int64_t count);

}  // namespace visionattn
