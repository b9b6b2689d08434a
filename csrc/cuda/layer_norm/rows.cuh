// A row of a layer norm on a group of lanes: each lane holds `kVectors` vectors of four neighbouring channels, a
// group's width apart.
#pragma once

#include <utility>

#include "../common/rows.cuh"
#include "launch.h"

namespace visionattn {

constexpr int kNormThreads = 256;

template <int lanes, int vectors>
struct NormShape {
  static constexpr int kLanes = lanes, kVectors = vectors;
  static constexpr int kRowsInFlight = vectors >= 4 ? 1 : 4 / vectors;
  static constexpr int kGroups = kNormThreads / lanes;
};

struct Vector4 {
  float value[4]{};
};

template <typename T>
__device__ __forceinline__ Vector4 load4(const T* from) {
  Vector4 result;
  if constexpr (sizeof(T) == 4) {
    const float4 bits = __ldg(reinterpret_cast<const float4*>(from));
    result.value[0] = bits.x, result.value[1] = bits.y, result.value[2] = bits.z, result.value[3] = bits.w;
  } else {
    const uint2 bits = __ldg(reinterpret_cast<const uint2*>(from));
    const T* parts = reinterpret_cast<const T*>(&bits);
#pragma unroll
    for (int i = 0; i < 4; ++i) result.value[i] = widen(parts[i]);
  }
  return result;
}

template <typename T>
__device__ __forceinline__ void store4(T* to, const Vector4& x) {
  alignas(4 * sizeof(T)) T parts[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) parts[i] = narrow<T>(x.value[i]);
  if constexpr (sizeof(T) == 4) {
    *reinterpret_cast<float4*>(to) = *reinterpret_cast<const float4*>(parts);
  } else {
    *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(parts);
  }
}

template <int lanes>
__device__ __forceinline__ float group_sum(float x) {
#pragma unroll
  for (int offset = lanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  return x;
}

// Calls f with the shape for a number of channels: lanes and registers are wasted on at most half of a row.
template <typename F>
void with_norm_shape(int channels, F&& f) {
  if (channels <= 64) return f(NormShape<16, 1>{});
  if (channels <= 128) return f(NormShape<32, 1>{});
  if (channels <= 256) return f(NormShape<32, 2>{});
  if (channels <= 512) return f(NormShape<32, 4>{});
  f(NormShape<32, 8>{});
}

// Calls f with values of the input's and the output's type.
template <typename F>
void with_norm_types(DataType input, DataType output, F&& f) {
  if (input == DataType::float32) {
    if (output == DataType::float32) return f(float{}, float{});
    if (output == DataType::float16) return f(float{}, __half{});
    return f(float{}, __nv_bfloat16{});
  }
  if (input == DataType::float16) {
    if (output == DataType::float32) return f(__half{}, float{});
    return f(__half{}, __half{});
  }
  if (output == DataType::float32) return f(__nv_bfloat16{}, float{});
  f(__nv_bfloat16{}, __nv_bfloat16{});
}

inline int multiprocessors() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

}  // namespace visionattn
