#include "tile_backward.cuh"

#include <algorithm>

#include "tile_launch.cuh"
#include "tile_strip_backward.cuh"
#include "tile_sums.cuh"

namespace visionattn {
namespace {

using namespace tile;

template <typename T, int kDim>
KernelChoice choose_pairs(int32_t pairs) {
  const auto kernel = [](auto* function, int32_t threads, int32_t held) {
    return KernelChoice{reinterpret_cast<const void*>(function), threads, held, held > 0};
  };
  if constexpr (kDim == 32) {
    if (pairs <= 4) return kernel(backward_kernel<T, kDim, 4, false>, kBackwardThreads<T, kDim, 4, false>, 4);
    if (pairs <= 5) return kernel(backward_kernel<T, kDim, 5, false>, kBackwardThreads<T, kDim, 5, false>, 5);
    if (pairs <= 7) return kernel(backward_kernel<T, kDim, 7, false>, kBackwardThreads<T, kDim, 7, false>, 7);
  }
  return kernel(backward_kernel<T, kDim, 0, false>, kBackwardThreads<T, kDim, 0, false>, 0);
}

template <typename T>
KernelChoice choose_lined(int32_t dim) {
  const auto kernel = [](auto* function, int32_t threads) {
    return KernelChoice{reinterpret_cast<const void*>(function), threads, 0, false};
  };
  if (dim == 32) return kernel(backward_kernel<T, 32, 0, true>, kBackwardThreads<T, 32, 0, true>);
  if constexpr (sizeof(T) == 2) {
    if (dim == 64) return kernel(backward_kernel<T, 64, 0, true>, kBackwardThreads<T, 64, 0, true>);
  }
  return {};
}

KernelChoice choose_lined_backward(DataType dtype, int32_t dim, int32_t) {
  if (dtype == DataType::float32) return choose_lined<float>(dim);
  return dtype == DataType::float16 ? choose_lined<__half>(dim) : choose_lined<__nv_bfloat16>(dim);
}

template <typename T>
KernelChoice choose_dim(int32_t dim, int32_t pairs) {
  return dim == 32 ? choose_pairs<T, 32>(pairs) : dim == 64 ? choose_pairs<T, 64>(pairs) : choose_pairs<T, 128>(pairs);
}

KernelChoice choose_backward(DataType dtype, int32_t dim, int32_t pairs) {
  if (dtype == DataType::float32) return choose_pairs<float, 32>(pairs);
  return dtype == DataType::float16 ? choose_dim<__half>(dim, pairs) : choose_dim<__nv_bfloat16>(dim, pairs);
}

template <typename T>
KernelChoice choose_strip(int32_t dim) {
  const auto kernel = [](auto* function, int32_t threads, int32_t held) {
    return KernelChoice{reinterpret_cast<const void*>(function), threads, held, false};
  };
  if (dim == 32) return kernel(strip_backward_kernel<T, 32, 1>, kStripBackwardThreads<32>, 1);
  if (dim == 64) return kernel(strip_backward_kernel<T, 64, 1>, kStripBackwardThreads<64>, 1);
  return kernel(strip_backward_kernel<T, 128, 1>, kStripBackwardThreads<128>, 1);
}

KernelChoice choose_strip_backward(DataType dtype, int32_t dim) {
  if (dtype == DataType::float32) return {};
  return dtype == DataType::float16 ? choose_strip<__half>(dim) : choose_strip<__nv_bfloat16>(dim);
}

template <typename T, int kLanes>
void launch_statistics(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, float2* statistics,
                       cudaStream_t stream) {
  // A thread takes several batch entries, if there are blocks enough.
  constexpr int64_t kBlocks = 2048;
  const int64_t blocks = (params.tokens() * params.heads * kLanes + 255) / 256;
  const int64_t chunks = std::min<int64_t>({params.batch, (kBlocks + blocks - 1) / blocks, 65535});
  const dim3 grid(static_cast<uint32_t>(blocks), static_cast<uint32_t>(chunks));
  statistics_kernel<T, kLanes><<<grid, 256, 0, stream>>>(params, gradients, statistics);
}

template <typename T>
void launch_statistics(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, int32_t dim,
                       float2* statistics, cudaStream_t stream) {
  if (dim == 32) {
    launch_statistics<T, 4>(params, gradients, statistics, stream);
  } else if (dim == 64) {
    launch_statistics<T, 8>(params, gradients, statistics, stream);
  } else {
    launch_statistics<T, 16>(params, gradients, statistics, stream);
  }
}

}  // namespace

bool tile_backward(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, DataType dtype,
                   cudaStream_t stream) {
  if (!covered(params, dtype) || params.heads != params.heads_kv) return false;
  for (const View* view : {&params.query, &params.key, &params.value, &params.output, &gradients.grad_output,
                           &gradients.grad_query, &gradients.grad_key, &gradients.grad_value}) {
    if (!readable(params, dtype, *view)) return false;
  }
  const Launch launch =
      find_launch(params, dtype, true, {choose_backward, choose_lined_backward, choose_strip_backward});
  if (!launch.supported || params.tokens() * params.heads * (launch.dim / 8) >= (int64_t(1) << 38)) return false;
  const int64_t positions = launch.plan.positions(), bins = params.rpb_size();
  const int64_t statistics_count = 2 * params.batch * params.tokens() * params.heads;
  const bool bias = gradients.grad_rpb != nullptr;
  const std::shared_ptr<float> scratch =
      allocate_scratch(statistics_count + (bias ? params.heads * positions * bins : 0));
  float2* statistics = reinterpret_cast<float2*>(scratch.get());
  float* partial = bias ? scratch.get() + statistics_count : nullptr;
  if (dtype == DataType::float32) {
    launch_statistics<float>(params, gradients, launch.dim, statistics, stream);
  } else if (dtype == DataType::float16) {
    launch_statistics<__half>(params, gradients, launch.dim, statistics, stream);
  } else {
    launch_statistics<__nv_bfloat16>(params, gradients, launch.dim, statistics, stream);
  }
  const void* arguments[] = {&params, &gradients, &launch.plan, &statistics, &partial};
  start_kernel(launch.kernel, dim3(static_cast<uint32_t>(launch.blocks)), dim3(launch.threads), launch.shared_bytes,
               stream, arguments, launch.overlaps);
  if (bias) {
    const dim3 grid(static_cast<uint32_t>((bins + 31) / 32), static_cast<uint32_t>(params.heads));
    const void* sum_arguments[] = {&partial, &gradients.grad_rpb, &positions, &bins};
    start_kernel(reinterpret_cast<const void*>(bias_kernel), grid, dim3(32, 16), 0, stream, sum_arguments,
                 launch.overlaps);
  }
  return true;
}

}  // namespace visionattn
