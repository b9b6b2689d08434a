#include "tile_launch.cuh"

#include <map>
#include <mutex>
#include <vector>

namespace visionattn::tile {

Launch find_launch(const NeighborhoodParams& params, DataType dtype, bool backward, const Kernels& kernels) {
  constexpr size_t kRemembered = 4096;
  static std::mutex mutex;
  static std::map<std::vector<int64_t>, Launch> launches;
  int device = 0;
  cudaGetDevice(&device);
  std::vector<int64_t> key{device,          static_cast<int64_t>(dtype),
                           backward,        params.rpb != nullptr,
                           params.batch,    params.heads,
                           params.heads_kv, params.dim};
  for (const Axis& axis : params.axes) {
    key.insert(key.end(), {axis.length, axis.kernel, axis.stride, axis.dilation, axis.causal});
  }
  const std::lock_guard lock(mutex);
  auto found = launches.find(key);
  if (found == launches.end()) {
    if (launches.size() >= kRemembered) launches.clear();
    found = launches.emplace(key, plan_launch(params, dtype, backward, kernels, device)).first;
  }
  return found->second;
}

bool start_kernel(const void* kernel, dim3 grid, dim3 block, int32_t shared_bytes, cudaStream_t stream,
                  const void* const* arguments, bool overlap) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = overlap ? 1 : 0;
  return cudaLaunchKernelExC(&config, kernel, const_cast<void**>(arguments)) == cudaSuccess;
}

bool readable(const NeighborhoodParams& params, DataType dtype, const View& view) {
  const int64_t together = 16 / size_of(dtype);  // elements
  if (reinterpret_cast<uintptr_t>(view.data) % 16 != 0 || view.batch % together != 0 || view.head % together != 0) {
    return false;
  }
  int64_t last = 0;
  for (int a = 0; a < kMaxRank; ++a) {
    if (params.axes[a].length == 1) continue;
    if (view.spatial[a] % together != 0 || view.spatial[a] < 0) return false;
    last += view.spatial[a] * (params.axes[a].length - 1);
  }
  return last < (int64_t(1) << 28) * together - 1024;  // offsets in bytes take 32 bits
}

bool covered(const NeighborhoodParams& params, DataType dtype) {
  const int64_t rows = params.tokens() * params.heads;
  const int32_t most = dtype == DataType::float32 ? 32 : 128;
  return params.dim == params.dim_value && params.dim % 8 == 0 && params.dim > 0 && params.dim <= most &&
         params.additional == 0 && params.scale > 1e-6 && params.scale < 1e6 && rows > 0 && rows < (int64_t(1) << 31) &&
         params.batch > 0;
}

}  // namespace visionattn::tile
