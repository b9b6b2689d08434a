#include "wgmma_forward.cuh"

#include <algorithm>

#include "launch.h"

namespace visionattn {
namespace {

using namespace wgmma;

template <typename T, int kDim>
bool launch(const NeighborhoodParams& params, cudaStream_t stream) {
  constexpr bool kHalf = std::is_same_v<T, __half>;
  using Layout = ForwardLayout<kDim>;
  const void* kernel = reinterpret_cast<const void*>(&forward_kernel<T, kDim>);
  if (!covered(params, kernel)) return false;
  // Where a tile takes fewer boxes, the portable kernels were faster as measured on an H200.
  constexpr double kFewestBoxes = kDim == 64 ? 4.5 : 2.2;
  const Cut& cut = find_cut(params, false, Layout::kColumns);
  const int64_t all_tiles = cut.tiles * params.heads * params.batch;
  if (cut.boxes < kFewestBoxes || all_tiles >= int64_t(1) << 31) return false;
  CUtensorMap query, key, value;
  if (!make_map(query, params, params.query, params.heads, kHalf, cut.plan.tile) ||
      !make_map(key, params, params.key, params.heads_kv, kHalf, cut.plan.box) ||
      !make_map(value, params, params.value, params.heads_kv, kHalf, cut.plan.box)) {
    return false;
  }
  const int32_t bytes = Layout::bytes(cut.plan);
  const uint32_t tiles = static_cast<uint32_t>(all_tiles), blocks = std::min(tiles, multiprocessors());
  const void* arguments[] = {&params, &cut.plan, &tiles, &query, &key, &value};
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) == cudaSuccess &&
         cudaLaunchKernel(kernel, dim3(blocks), dim3(kThreads), const_cast<void**>(arguments), bytes, stream) ==
             cudaSuccess;
}

template <typename T>
bool launch(const NeighborhoodParams& params, cudaStream_t stream) {
  if (params.dim == 64) return launch<T, 64>(params, stream);
  return params.dim == 128 && launch<T, 128>(params, stream);
}

}  // namespace

bool wgmma_forward(const NeighborhoodParams& params, DataType dtype, cudaStream_t stream) {
  if (!aligned(params.output)) return false;
  if (dtype == DataType::float16) return launch<__half>(params, stream);
  return dtype == DataType::bfloat16 && launch<__nv_bfloat16>(params, stream);
}

}  // namespace visionattn
