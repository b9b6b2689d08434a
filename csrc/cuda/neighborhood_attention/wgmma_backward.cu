#include "wgmma_backward.cuh"

#include <algorithm>

#include "launch.h"
#include "tile_backward.cuh"

namespace visionattn {
namespace {

using namespace wgmma;

// One role's launch, ready.
struct RoleLaunch {
  const void* kernel;
  const Cut* cut;
  BackwardMaps maps;
  int64_t blocks;
  int32_t bytes;

  bool start(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, const float2* statistics,
             cudaStream_t stream) const {
    const void* arguments[] = {&params, &gradients, &cut->plan, &maps, &statistics};
    return cudaLaunchKernel(kernel, dim3(static_cast<uint32_t>(blocks)), dim3(kBackwardThreads),
                            const_cast<void**>(arguments), bytes, stream) == cudaSuccess;
  }
};

template <typename T, int kDim, bool kInverse>
bool prepare(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, RoleLaunch& launch) {
  constexpr bool kHalf = std::is_same_v<T, __half>;
  using Layout = BackwardLayout<kDim, kInverse>;
  launch.kernel = reinterpret_cast<const void*>(&backward_kernel<T, kDim, kInverse>);
  if (!covered(params, launch.kernel)) return false;
  launch.cut = &find_cut(params, kInverse, Layout::kColumns);
  launch.blocks = launch.cut->tiles * params.heads * params.batch;
  launch.bytes = Layout::bytes(launch.cut->plan);
  if (!worthwhile(*launch.cut) || launch.blocks >= int64_t(1) << 31) return false;
  const View *queries[] = {&params.query, &gradients.grad_output}, *keys[] = {&params.key, &params.value};
  const auto &rows = kInverse ? keys : queries, &columns = kInverse ? queries : keys;
  const Plan& plan = launch.cut->plan;
  BackwardMaps& maps = launch.maps;
  return make_map(maps.rows0, params, *rows[0], params.heads, kHalf, plan.tile) &&
         make_map(maps.rows1, params, *rows[1], params.heads, kHalf, plan.tile) &&
         make_map(maps.columns0, params, *columns[0], params.heads, kHalf, plan.box) &&
         make_map(maps.columns1, params, *columns[1], params.heads, kHalf, plan.box) &&
         cudaFuncSetAttribute(launch.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, launch.bytes) == cudaSuccess;
}

template <typename T, int kDim>
bool launch(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, cudaStream_t stream) {
  RoleLaunch query, key;
  if (!prepare<T, kDim, false>(params, gradients, query) || !prepare<T, kDim, true>(params, gradients, key)) {
    return false;
  }
  constexpr int kLanes = kDim / 8, kThreads = 256;
  const int64_t rows = params.tokens() * params.heads, blocks = (rows * kLanes + kThreads - 1) / kThreads;
  if (blocks >= int64_t(1) << 31) return false;
  const std::shared_ptr<float> scratch = allocate_scratch(2 * params.batch * rows);
  float2* statistics = reinterpret_cast<float2*>(scratch.get());
  const dim3 grid(static_cast<uint32_t>(blocks), static_cast<uint32_t>(std::min<int64_t>(params.batch, 65535)));
  tile::statistics_kernel<T, kLanes><<<grid, kThreads, 0, stream>>>(params, gradients, statistics);
  return query.start(params, gradients, statistics, stream) && key.start(params, gradients, statistics, stream);
}

template <typename T>
bool launch_dim(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, cudaStream_t stream) {
  return params.dim == 128 && launch<T, 128>(params, gradients, stream);
}

}  // namespace

bool wgmma_backward(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, DataType dtype,
                    cudaStream_t stream) {
  if (params.heads != params.heads_kv || !writable(gradients.grad_query) || !writable(gradients.grad_key) ||
      !writable(gradients.grad_value)) {
    return false;
  }
  if (dtype == DataType::float16) return launch_dim<__half>(params, gradients, stream);
  return dtype == DataType::bfloat16 && launch_dim<__nv_bfloat16>(params, gradients, stream);
}

}  // namespace visionattn
