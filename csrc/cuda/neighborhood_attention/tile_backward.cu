#include "tile_backward.cuh"

#include <algorithm>

#include "tile_launch.cuh"

namespace visionattn {
namespace {

using namespace tile;

template <typename T, int kDim>
KernelChoice choose_pairs(int32_t pairs) {
  if constexpr (kDim == 32) {
    if (pairs <= 4) return {reinterpret_cast<const void*>(backward_kernel<T, kDim, 4>), kBackwardThreads<kDim, 4>, 4};
    if (pairs <= 7) return {reinterpret_cast<const void*>(backward_kernel<T, kDim, 7>), kBackwardThreads<kDim, 7>, 7};
  }
  return {reinterpret_cast<const void*>(backward_kernel<T, kDim, 0>), kBackwardThreads<kDim, 0>, 0};
}

template <typename T>
KernelChoice choose_dim(int32_t dim, int32_t pairs) {
  return dim == 32 ? choose_pairs<T, 32>(pairs) : dim == 64 ? choose_pairs<T, 64>(pairs) : choose_pairs<T, 128>(pairs);
}

KernelChoice choose_backward(DataType dtype, int32_t dim, int32_t pairs) {
  return dtype == DataType::float16 ? choose_dim<__half>(dim, pairs) : choose_dim<__nv_bfloat16>(dim, pairs);
}

template <typename T, int kLanes>
void launch_delta(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, cudaStream_t stream) {
  const int64_t blocks = (params.tokens() * params.heads * kLanes + 255) / 256;
  const dim3 grid(static_cast<uint32_t>(blocks), static_cast<uint32_t>(std::min<int64_t>(params.batch, 65535)));
  delta_kernel<T, kLanes><<<grid, 256, 0, stream>>>(params, gradients);
}

template <typename T>
void launch_delta(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, int32_t dim,
                  cudaStream_t stream) {
  if (dim == 32) {
    launch_delta<T, 4>(params, gradients, stream);
  } else if (dim == 64) {
    launch_delta<T, 8>(params, gradients, stream);
  } else {
    launch_delta<T, 16>(params, gradients, stream);
  }
}

}  // namespace

bool tile_backward(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, DataType dtype,
                   cudaStream_t stream) {
  if (!covered(params, dtype) || params.heads != params.heads_kv) return false;
  for (const View* view : {&params.query, &params.key, &params.value, &params.output, &gradients.grad_output,
                           &gradients.grad_query, &gradients.grad_key, &gradients.grad_value}) {
    if (!readable(params, *view)) return false;
  }
  const Launch& launch = find_launch(params, dtype, true, choose_backward);
  if (!launch.supported || params.tokens() * params.heads * (launch.dim / 8) >= (int64_t(1) << 38)) return false;
  if (dtype == DataType::float16) {
    launch_delta<__half>(params, gradients, launch.dim, stream);
  } else {
    launch_delta<__nv_bfloat16>(params, gradients, launch.dim, stream);
  }
  const int64_t positions = launch.plan.positions(), bins = params.rpb_size();
  const bool bias = gradients.grad_rpb != nullptr;
  const std::shared_ptr<float> scratch = bias ? allocate_scratch(params.heads * positions * bins) : nullptr;
  float* partial = scratch.get();
  const void* arguments[] = {&params, &gradients, &launch.plan, &partial};
  cudaLaunchKernel(launch.kernel, dim3(static_cast<uint32_t>(launch.blocks)), dim3(launch.threads),
                   const_cast<void**>(arguments), launch.shared_bytes, stream);
  if (bias) {
    const dim3 grid(static_cast<uint32_t>((bins + 31) / 32), static_cast<uint32_t>(params.heads));
    bias_kernel<<<grid, dim3(32, 16), 0, stream>>>(partial, static_cast<float*>(gradients.grad_rpb), positions, bins);
  }
  return true;
}

}  // namespace visionattn
