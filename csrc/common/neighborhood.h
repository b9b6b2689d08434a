// The neighborhood of a query, one axis at a time; a 1-D, 2-D or 3-D neighborhood is the outer product over its axes.
// Shared by the CPU and the CUDA kernels, free of torch types.
//
// Vocabulary. An axis of `length` positions splits into `dilation` groups: position i belongs to group i % dilation and
// is number i / dilation in it. All windows live inside one group, in *group coordinates*.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define VISIONATTN_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define VISIONATTN_HOST_DEVICE inline
#endif

namespace visionattn {

constexpr int kMaxRank = 3;

struct Axis {
  int32_t length = 1;
  int32_t kernel = 1;
  int32_t stride = 1;
  int32_t dilation = 1;
  bool causal = false;
};

// Half-open interval [begin, end) in group coordinates.
struct Interval {
  int32_t begin;
  int32_t end;
  VISIONATTN_HOST_DEVICE int32_t size() const { return end - begin; }
};

VISIONATTN_HOST_DEVICE int32_t min_of(int32_t a, int32_t b) { return a < b ? a : b; }
VISIONATTN_HOST_DEVICE int32_t max_of(int32_t a, int32_t b) { return a > b ? a : b; }

// Number of positions in dilation group `group`.
VISIONATTN_HOST_DEVICE int32_t group_length(const Axis& axis, int32_t group) {
  return axis.dilation == 1 ? axis.length : (axis.length - group + axis.dilation - 1) / axis.dilation;
}

// Keys that query `q` of a group with `length` positions attends to. Where the window is larger than the group, the
// window is cut to the group (only reached with clipped windows: the public functions reject it otherwise).
VISIONATTN_HOST_DEVICE Interval window(const Axis& axis, int32_t length, int32_t q) {
  const int32_t kernel = axis.kernel, stride = axis.stride;
  const int32_t first = stride == 1 ? q : q / stride * stride;  // first query of the stride group
  if (axis.causal) {
    const int32_t leader = min_of(first + stride - 1, length - 1);
    return {max_of(leader - kernel + 1, 0), q + 1};
  }
  const int32_t leader = min_of(first + stride / 2, length - 1);
  const int32_t begin = max_of(min_of(leader - kernel / 2, length - kernel), 0);
  return {begin, min_of(begin + kernel, length)};
}

// First query in [0, length] whose window ends after key `k` (windows move monotonically with the query).
VISIONATTN_HOST_DEVICE Interval inverse_window(const Axis& axis, int32_t length, int32_t k) {
  const int32_t kernel = axis.kernel, stride = axis.stride;
  if (axis.causal) {
    // Attended by q >= k whose stride group starts at a leader with leader - kernel < k.
    const int32_t last_leader = k + kernel - 1;
    if (last_leader >= length - 1) return {k, length};
    return {k, max_of((last_leader + 1) / stride * stride, k)};
  }
  // A window is [clamp(leader - left), + kernel). Leaders are q / stride * stride + stride / 2, at most length - 1.
  const int32_t left = kernel / 2;
  const int32_t right = kernel - left - 1;
  const int32_t half = stride / 2;
  Interval queries{0, length};
  if (k >= kernel && k > 0) {
    // The window must not end before k: leader + right >= k, unless the clamp at the far border shows k anyway.
    const int32_t leader = k - right;
    if (leader > length - 1) {
      queries.begin = length;  // unreachable for kernel <= length
    } else {
      // The smallest q with min(first + half, length - 1) >= leader.
      const int32_t blocks = leader - half <= 0 ? 0 : (leader - half + stride - 1) / stride;
      queries.begin = min_of(blocks * stride, (length - 1) / stride * stride);
    }
  }
  if (k < length - kernel) {
    // The window must not begin after k: leader - left <= k.
    const int32_t leader = k + left;
    queries.end = leader < half ? 0 : min_of(((leader - half) / stride + 1) * stride, length);
  }
  return queries;
}

}  // namespace visionattn
