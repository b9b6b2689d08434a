// Rows of channels on groups of lanes: the few primitives that the generic kernels are written in.
//
// A group of 4, 8, 16 or 32 lanes works on one token at a time; each lane has eight neighbouring channels of its row.
// Rows of more than 256 channels are cut into chunks of 256 along gridDim.y. Sums are float32.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "common/neighborhood_params.h"
#include "data_type.h"

namespace visionattn {

constexpr int kThreads = 128;
constexpr int kChannels = 8;  // per lane
constexpr int kWarp = 32;
constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr float kInfinity = __builtin_huge_valf();

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ __forceinline__ T narrow(float x) {
  if constexpr (std::is_same_v<T, __half>) return __float2half_rn(x);
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return __float2bfloat16_rn(x);
  if constexpr (std::is_same_v<T, float>) return x;
}

__device__ __forceinline__ float exp2_fast(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

struct Channels {
  float value[kChannels]{};

  __device__ __forceinline__ void scale(float factor) {
#pragma unroll
    for (int i = 0; i < kChannels; ++i) value[i] *= factor;
  }
  __device__ __forceinline__ void add(float weight, const Channels& other) {
#pragma unroll
    for (int i = 0; i < kChannels; ++i) value[i] = fmaf(weight, other.value[i], value[i]);
  }
  __device__ __forceinline__ float dot(const Channels& other) const {
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) sum = fmaf(value[i], other.value[i], sum);
    return sum;
  }
};

// 16 bytes of neighbouring elements.
template <typename T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T value[kSize];

  // Through the read-only cache, like every input: no kernel reads what it writes.
  static __device__ __forceinline__ Pack read(const T* from) {
    const uint4 bits = __ldg(reinterpret_cast<const uint4*>(from));
    return *reinterpret_cast<const Pack*>(&bits);
  }
};

// A number of lanes, and whether they may read rows in 16-byte pieces (see rows_are_packed).
template <int count, bool packed>
struct Lanes {
  static constexpr int kCount = count;
  static constexpr bool kPacked = packed;
};

// The group of lanes that this thread belongs to.
template <typename LanesType>
struct Group {
  static constexpr int kLanes = LanesType::kCount;
  static constexpr bool kPacked = LanesType::kPacked;
  static constexpr int kPerBlock = kThreads / kLanes;
  const int lane = int(threadIdx.x) % kLanes;
  const int number = int(threadIdx.x) / kLanes;  // in the block
  const unsigned mask = kLanes == kWarp ? ~0u : ((1u << kLanes) - 1) << (threadIdx.x % kWarp / kLanes * kLanes);

  // Work items first, first + step, ... are this group's.
  __device__ __forceinline__ int64_t first() const { return int64_t(blockIdx.x) * kPerBlock + number; }
  __device__ __forceinline__ int64_t step() const { return int64_t(gridDim.x) * kPerBlock; }
  // The first channel that this lane accumulates.
  __device__ __forceinline__ int channel() const { return (int(blockIdx.y) * kLanes + lane) * kChannels; }

  __device__ __forceinline__ float sum(float x) const {
#pragma unroll
    for (int offset = kLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(mask, x, offset);
    return x;
  }

  // Channels [channel, channel + 8) of a row of `dim`, zeros beyond it.
  template <typename T>
  __device__ __forceinline__ Channels load(const T* row, int channel, int dim) const {
    Channels result;
    if constexpr (kPacked) {
      if (channel < dim) {
#pragma unroll
        for (int i = 0; i < kChannels; i += Pack<T>::kSize) {
          const Pack<T> pack = Pack<T>::read(row + channel + i);
#pragma unroll
          for (int j = 0; j < Pack<T>::kSize; ++j) result.value[i + j] = widen(pack.value[j]);
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        if (channel + i < dim) result.value[i] = widen(__ldg(row + channel + i));
      }
    }
    return result;
  }

  template <typename T>
  __device__ __forceinline__ void store(T* row, int channel, int dim, const Channels& channels) const {
    if constexpr (kPacked) {
      if (channel < dim) {
#pragma unroll
        for (int i = 0; i < kChannels; i += Pack<T>::kSize) {
          Pack<T> pack;
#pragma unroll
          for (int j = 0; j < Pack<T>::kSize; ++j) pack.value[j] = narrow<T>(channels.value[i + j]);
          *reinterpret_cast<Pack<T>*>(row + channel + i) = pack;
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        if (channel + i < dim) row[channel + i] = narrow<T>(channels.value[i]);
      }
    }
  }

  // This lane's part of the scalar product of two rows of `dim` channels; `a` and `b` are their channels() already
  // loaded. Only rows that may be longer than the group's registers are read again.
  template <typename T>
  __device__ __forceinline__ float dot(const Channels& a, const T* row_a, const Channels& b, const T* row_b,
                                       int dim) const {
    if constexpr (kLanes < kWarp) return a.dot(b);
    float sum = 0.f;
    for (int c = lane * kChannels; c < dim; c += kWarp * kChannels) {
      sum += load(row_a, c, dim).dot(load(row_b, c, dim));
    }
    return sum;
  }
};

// Element `index` of [batch, heads, spatial...] in row-major order.
struct Site {
  int64_t batch, token;  // token: index into the map
  int32_t head;
  int32_t position[kMaxRank];

  __device__ __forceinline__ Site(const Axis (&axes)[kMaxRank], int32_t heads, int64_t index) {
    int64_t rest = index;
    int64_t tokens = 1;
#pragma unroll
    for (int i = kMaxRank - 1; i >= 0; --i) {
      const int64_t quotient = rest / axes[i].length;
      position[i] = int32_t(rest - quotient * axes[i].length);
      rest = quotient;
      tokens *= axes[i].length;
    }
    batch = rest / heads;
    head = int32_t(rest - batch * heads);
    token = index - rest * tokens;
  }
};

// Where a token sits on each axis, in group coordinates.
struct Grouped {
  int32_t group[kMaxRank], number[kMaxRank], length[kMaxRank];

  __device__ __forceinline__ Grouped(const Axis (&axes)[kMaxRank], const int32_t (&position)[kMaxRank]) {
#pragma unroll
    for (int i = 0; i < kMaxRank; ++i) {
      number[i] = position[i] / axes[i].dilation;
      group[i] = position[i] - number[i] * axes[i].dilation;
      length[i] = group_length(axes[i], group[i]);
    }
  }
};

struct Box {
  Interval span[kMaxRank];
};

__device__ __forceinline__ Box window_box(const Axis (&axes)[kMaxRank], const Grouped& at) {
  Box box;
#pragma unroll
  for (int i = 0; i < kMaxRank; ++i) box.span[i] = window(axes[i], at.length[i], at.number[i]);
  return box;
}

__device__ __forceinline__ Box inverse_window_box(const Axis (&axes)[kMaxRank], const Grouped& at) {
  Box box;
#pragma unroll
  for (int i = 0; i < kMaxRank; ++i) box.span[i] = inverse_window(axes[i], at.length[i], at.number[i]);
  return box;
}

__device__ __forceinline__ int64_t row_offset(const View& view, int64_t batch, int32_t head) {
  return batch * view.batch + head * view.head;
}

__device__ __forceinline__ int64_t site_offset(const View& view, const Site& site) {
  return row_offset(view, site.batch, site.head) + site.position[0] * view.spatial[0] +
         site.position[1] * view.spatial[1] + site.position[2] * view.spatial[2];
}

// Offset of number (i, j, k) in the dilation group of `at`.
__device__ __forceinline__ int64_t group_offset(const View& view, const Axis (&axes)[kMaxRank], const Grouped& at,
                                                int32_t i, int32_t j, int32_t k) {
  return (int64_t(i) * axes[0].dilation + at.group[0]) * view.spatial[0] +
         (int64_t(j) * axes[1].dilation + at.group[1]) * view.spatial[1] +
         (int64_t(k) * axes[2].dilation + at.group[2]) * view.spatial[2];
}

// Element `index` of a float32 array that the kernel doesn't write.
__device__ __forceinline__ float read_float(const void* array, int64_t index) {
  return __ldg(static_cast<const float*>(array) + index);
}

// From one number to the next on an axis.
__device__ __forceinline__ int64_t group_step(const View& view, const Axis (&axes)[kMaxRank], int axis) {
  return axes[axis].dilation * view.spatial[axis];
}

// Index into the map of number (i, j, k) in the dilation group of `at`.
__device__ __forceinline__ int64_t group_token(const Axis (&axes)[kMaxRank], const Grouped& at, int32_t i, int32_t j,
                                               int32_t k) {
  const int64_t x = int64_t(i) * axes[0].dilation + at.group[0];
  const int64_t y = int64_t(j) * axes[1].dilation + at.group[1];
  const int64_t z = int64_t(k) * axes[2].dilation + at.group[2];
  return (x * axes[1].length + y) * axes[2].length + z;
}

// Index of the relative position (key - query on each axis, in group coordinates) in a head's bias table.
__device__ __forceinline__ int64_t bias_index(const Axis (&axes)[kMaxRank], int32_t di, int32_t dj, int32_t dk) {
  const int64_t x = di + axes[0].kernel - 1, y = dj + axes[1].kernel - 1, z = dk + axes[2].kernel - 1;
  return (x * (2 * axes[1].kernel - 1) + y) * (2 * axes[2].kernel - 1) + z;
}

// visit(i, j) for each row of the box: its numbers on the last axis are box.span[2].
template <typename Visit>
__device__ __forceinline__ void for_each_row(const Box& box, Visit visit) {
  for (int32_t i = box.span[0].begin; i < box.span[0].end; ++i) {
    for (int32_t j = box.span[1].begin; j < box.span[1].end; ++j) visit(i, j);
  }
}

// ---------------------------------------------------------------------------------------------------------- host side

// May every row of the views be read in 16-byte pieces?
inline bool rows_are_packed(std::initializer_list<const View*> views, std::initializer_list<int32_t> dims,
                            DataType dtype) {
  const int64_t size = size_of(dtype);
  for (const int32_t dim : dims) {
    if (dim % kChannels != 0) return false;
  }
  for (const View* view : views) {
    bool aligned = reinterpret_cast<uintptr_t>(view->data) % 16 == 0;
    for (const int64_t stride : {view->batch, view->head, view->spatial[0], view->spatial[1], view->spatial[2]}) {
      aligned = aligned && stride * size % 16 == 0;
    }
    if (!aligned) return false;
  }
  return true;
}

// A grid for `items` groups of lanes, one each if they fit, and `chunks` of channels.
inline dim3 grid_for(int64_t items, int lanes, int32_t dim) {
  const int64_t per_block = kThreads / lanes;
  const int64_t blocks = std::min<int64_t>((items + per_block - 1) / per_block, int64_t(1) << 30);
  const int chunk = lanes * kChannels;
  return dim3(unsigned(blocks), unsigned((dim + chunk - 1) / chunk));
}

inline void check_launch() {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("visionattn: CUDA kernel launch failed: ") + cudaGetErrorString(error));
  }
}

// function(T{}, Lanes{}) with the element type and the lanes for rows of `dim` channels. Unaligned rows are rare: they
// get by with fewer kernels.
template <typename Function>
void dispatch(DataType dtype, int32_t dim, bool packed, Function function) {
  const auto with_lanes = [&](auto element) {
    if (!packed) {
      dim <= 4 * kChannels ? function(element, Lanes<4, false>()) : function(element, Lanes<32, false>());
    } else if (dim <= 4 * kChannels) {
      function(element, Lanes<4, true>());
    } else if (dim <= 8 * kChannels) {
      function(element, Lanes<8, true>());
    } else if (dim <= 16 * kChannels) {
      function(element, Lanes<16, true>());
    } else {
      function(element, Lanes<32, true>());
    }
  };
  switch (dtype) {
    case DataType::float32:
      return with_lanes(float());
    case DataType::float16:
      return with_lanes(__half());
    case DataType::bfloat16:
      return with_lanes(__nv_bfloat16());
  }
}

}  // namespace visionattn
