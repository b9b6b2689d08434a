#include "wgmma_backward.cuh"

#include <algorithm>

#include "launch.h"

namespace visionattn {
namespace {

using namespace wgmma;

// One role's launch, ready.
struct RoleLaunch {
  const void* kernel;
  const Cut* cut;
  BackwardMaps maps;
  uint32_t tiles, blocks;
  int32_t bytes;

  bool start(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, const float4* statistics,
             cudaStream_t stream) const {
    const void* arguments[] = {&params, &gradients, &cut->plan, &tiles, &maps, &statistics};
    return cudaLaunchKernel(kernel, dim3(blocks), dim3(kThreads), const_cast<void**>(arguments), bytes, stream) ==
           cudaSuccess;
  }
};

template <typename T, int kDim, bool kInverse>
bool prepare(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, float4* statistics,
             RoleLaunch& launch) {
  constexpr bool kHalf = std::is_same_v<T, __half>;
  using Layout = BackwardLayout<kDim, kInverse>;
  launch.kernel = reinterpret_cast<const void*>(&backward_kernel<T, kDim, kInverse>);
  if (!covered(params, launch.kernel)) return false;
  launch.cut = &find_cut(params, kInverse, Layout::kColumns);
  const int64_t tiles = launch.cut->tiles * params.heads * params.batch;
  // Where a tile of queries takes fewer boxes, the portable kernels were faster as measured on an H200.
  constexpr double kFewestBoxes = kInverse ? 0 : kDim == 64 ? 2.9 : 2.2;
  if (launch.cut->boxes < kFewestBoxes || tiles >= int64_t(1) << 31) return false;
  launch.tiles = static_cast<uint32_t>(tiles);
  // Going from tile to tile saves time between them; a block for each evens out long ones.
  constexpr double kManyBoxes = 32;
  launch.blocks = launch.cut->boxes > kManyBoxes ? launch.tiles : std::min(launch.tiles, multiprocessors());
  launch.bytes = Layout::bytes(launch.cut->plan);
  const View *queries[] = {&params.query, &gradients.grad_output}, *keys[] = {&params.key, &params.value};
  const auto &rows = kInverse ? keys : queries, &columns = kInverse ? queries : keys;
  const Plan& plan = launch.cut->plan;
  BackwardMaps& maps = launch.maps;
  return make_map(maps.rows0, params, *rows[0], params.heads, kHalf, plan.tile) &&
         make_map(maps.rows1, params, *rows[1], params.heads, kHalf, plan.tile) &&
         make_map(maps.columns0, params, *columns[0], params.heads, kHalf, plan.box) &&
         make_map(maps.columns1, params, *columns[1], params.heads, kHalf, plan.box) &&
         (!kInverse || make_statistics_map(maps.statistics, params, statistics_view(params, statistics), plan.box)) &&
         cudaFuncSetAttribute(launch.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, launch.bytes) == cudaSuccess;
}

template <typename T, int kDim>
bool launch(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, cudaStream_t stream) {
  constexpr int kStatisticsThreads = 256;
  const int64_t rows = params.batch * params.tokens() * params.heads;
  const int64_t blocks = (rows * (kDim / 8) + kStatisticsThreads - 1) / kStatisticsThreads;
  RoleLaunch query, key;
  if (blocks >= int64_t(1) << 31 || !prepare<T, kDim, false>(params, gradients, nullptr, query)) return false;
  const std::shared_ptr<float> scratch = allocate_scratch(rows * kStatistics);
  float4* statistics = reinterpret_cast<float4*>(scratch.get());
  if (!prepare<T, kDim, true>(params, gradients, statistics, key)) return false;
  statistics_kernel<T, kDim>
      <<<static_cast<uint32_t>(blocks), kStatisticsThreads, 0, stream>>>(params, gradients, statistics);
  return query.start(params, gradients, statistics, stream) && key.start(params, gradients, statistics, stream);
}

template <typename T>
bool launch_dim(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, cudaStream_t stream) {
  if (params.dim == 64) return launch<T, 64>(params, gradients, stream);
  return params.dim == 128 && launch<T, 128>(params, gradients, stream);
}

}  // namespace

bool wgmma_backward(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, DataType dtype,
                    cudaStream_t stream) {
  if (params.heads != params.heads_kv) return false;
  for (const View* view : {&params.output, &gradients.grad_query, &gradients.grad_key, &gradients.grad_value}) {
    if (!aligned(*view)) return false;
  }
  if (dtype == DataType::float16) return launch_dim<__half>(params, gradients, stream);
  return dtype == DataType::bfloat16 && launch_dim<__nv_bfloat16>(params, gradients, stream);
}

}  // namespace visionattn
