// Element types that the CUDA kernels read and write, and the choice of a kernel by type.
#pragma once

namespace visionattn {

enum class DataType { float32, float16, bfloat16 };

inline int size_of(DataType dtype) { return dtype == DataType::float32 ? 4 : 2; }

}  // namespace visionattn
