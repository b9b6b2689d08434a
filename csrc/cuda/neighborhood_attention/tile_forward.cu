#include "tile_forward.cuh"

#include "tile_launch.cuh"
#include "tile_strip_forward.cuh"

namespace visionattn {
namespace {

using namespace tile;

template <typename T, int kDim>
KernelChoice choose_pairs(int32_t pairs) {
  const auto kernel = [](auto* function, int32_t held, bool whole) {
    return KernelChoice{reinterpret_cast<const void*>(function), kForwardThreads<T, kDim>, held, whole};
  };
  if constexpr (kDim == 32) {
    if (pairs <= 4) return kernel(forward_kernel<T, kDim, 4, true, false>, 4, true);
    if (pairs <= 5) return kernel(forward_kernel<T, kDim, 5, true, false>, 5, true);
  }
  if constexpr (kDim <= 64) {
    if (pairs <= 7) return kernel(forward_kernel<T, kDim, 7, true, false>, 7, true);
  }
  if constexpr (kDim == 32) {
    if ((pairs + 6) / 7 * 7 <= (pairs + 3) / 4 * 4) return kernel(forward_kernel<T, kDim, 7, false, false>, 7, false);
  }
  return kernel(forward_kernel<T, kDim, 4, false, false>, 4, false);
}

template <typename T>
KernelChoice choose_dim(int32_t dim, int32_t pairs) {
  return dim == 32 ? choose_pairs<T, 32>(pairs) : dim == 64 ? choose_pairs<T, 64>(pairs) : choose_pairs<T, 128>(pairs);
}

KernelChoice choose_forward(DataType dtype, int32_t dim, int32_t pairs) {
  if (dtype == DataType::float32) return choose_pairs<float, 32>(pairs);
  return dtype == DataType::float16 ? choose_dim<__half>(dim, pairs) : choose_dim<__nv_bfloat16>(dim, pairs);
}

template <typename T>
KernelChoice choose_lined(int32_t dim, int32_t pairs) {
  const auto kernel = [](auto* function, int32_t threads, int32_t held) {
    return KernelChoice{reinterpret_cast<const void*>(function), threads, held, false};
  };
  if (dim == 32 && (pairs + 6) / 7 * 7 <= (pairs + 3) / 4 * 4) {
    return kernel(forward_kernel<T, 32, 7, false, true>, kForwardThreads<T, 32>, 7);
  }
  if (dim == 32) return kernel(forward_kernel<T, 32, 4, false, true>, kForwardThreads<T, 32>, 4);
  if constexpr (sizeof(T) == 2) {
    if (dim == 64) return kernel(forward_kernel<T, 64, 4, false, true>, kForwardThreads<T, 64>, 4);
  }
  return {};
}

KernelChoice choose_lined_forward(DataType dtype, int32_t dim, int32_t pairs) {
  if (dtype == DataType::float32) return choose_lined<float>(dim, pairs);
  return dtype == DataType::float16 ? choose_lined<__half>(dim, pairs) : choose_lined<__nv_bfloat16>(dim, pairs);
}

template <typename T>
KernelChoice choose_strip(int32_t dim) {
  const auto kernel = [](auto* function, int32_t threads, int32_t held, int32_t tiles) {
    return KernelChoice{reinterpret_cast<const void*>(function), threads, held, false, tiles};
  };
  if (dim == 32) return kernel(strip_forward_kernel<T, 32, 1, 4>, kStripForwardThreads<32>, 4, 1);
  if (dim == 64) return kernel(strip_forward_kernel<T, 64, 1, 4>, kStripForwardThreads<64>, 4, 1);
  return kernel(strip_forward_kernel<T, 128, 2, 3>, kStripForwardThreads<128>, 3, 2);
}

KernelChoice choose_strip_forward(DataType dtype, int32_t dim) {
  if (dtype == DataType::float32) return {};
  return dtype == DataType::float16 ? choose_strip<__half>(dim) : choose_strip<__nv_bfloat16>(dim);
}

}  // namespace

bool tile_forward(const NeighborhoodParams& params, DataType dtype, cudaStream_t stream) {
  if (!covered(params, dtype)) return false;
  for (const View* view : {&params.query, &params.key, &params.value, &params.output}) {
    if (!readable(params, dtype, *view)) return false;
  }
  const Launch launch = find_launch(params, dtype, false, {choose_forward, choose_lined_forward, choose_strip_forward});
  if (!launch.supported) return false;
  const void* arguments[] = {&params, &launch.plan};
  return start_kernel(launch.kernel, dim3(static_cast<uint32_t>(launch.blocks)), dim3(launch.threads),
                      launch.shared_bytes, stream, arguments, false);
}

}  // namespace visionattn
