#include "wgmma_forward.cuh"

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
  const Cut& cut = find_cut(params, false, Layout::kColumns);
  const int64_t blocks = cut.tiles * params.heads * params.batch;
  if (!worthwhile(cut) || blocks >= int64_t(1) << 31) return false;
  CUtensorMap query, key, value;
  if (!make_map(query, params, params.query, params.heads, kHalf, cut.plan.tile) ||
      !make_map(key, params, params.key, params.heads_kv, kHalf, cut.plan.box) ||
      !make_map(value, params, params.value, params.heads_kv, kHalf, cut.plan.box)) {
    return false;
  }
  const int32_t bytes = Layout::bytes(cut.plan);
  const void* arguments[] = {&params, &cut.plan, &query, &key, &value};
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) == cudaSuccess &&
         cudaLaunchKernel(kernel, dim3(static_cast<uint32_t>(blocks)), dim3(kForwardThreads),
                          const_cast<void**>(arguments), bytes, stream) == cudaSuccess;
}

template <typename T>
bool launch(const NeighborhoodParams& params, cudaStream_t stream) {
  return params.dim == 128 && launch<T, 128>(params, stream);
}

}  // namespace

bool wgmma_forward(const NeighborhoodParams& params, DataType dtype, cudaStream_t stream) {
  if (!writable(params.output)) return false;
  if (dtype == DataType::float16) return launch<__half>(params, stream);
  return dtype == DataType::bfloat16 && launch<__nv_bfloat16>(params, stream);
}

}  // namespace visionattn
