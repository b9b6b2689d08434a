// What a neighborhood attention kernel is given: sizes and strided views, always three spatial axes (a 1-D or 2-D call
// has leading axes of length 1). Strides count elements; the channel axis of every view is contiguous.
#pragma once

#include "neighborhood.h"

namespace visionattn {

struct View {
  void* data = nullptr;
  int64_t batch = 0;  // stride of the batch axis
  int64_t
      spatial[kMaxRank]{};  // strides of the spatial axes; [0] is the additional-token axis of additional keys/values
  int64_t head = 0;         // stride of the head axis
};

struct NeighborhoodParams {
  int64_t batch = 0;
  int32_t heads = 0;     // of the query
  int32_t heads_kv = 0;  // heads % heads_kv == 0
  int32_t dim = 0;       // of query and key
  int32_t dim_value = 0;
  Axis axes[kMaxRank];
  int32_t additional = 0;  // number of additional key/value tokens
  double scale = 1.0;

  View query, key, value, output;
  View additional_key, additional_value;
  // float32 (float64 for float64 inputs), contiguous: [batch, spatial..., heads]
  void* lse = nullptr;
  // float32 (float64 for float64 inputs), contiguous: [heads, 2 * kernel - 1 per axis]; null without bias
  const void* rpb = nullptr;

  VISIONATTN_HOST_DEVICE int64_t tokens() const { return int64_t(axes[0].length) * axes[1].length * axes[2].length; }
  VISIONATTN_HOST_DEVICE int32_t window_size() const { return axes[0].kernel * axes[1].kernel * axes[2].kernel; }
  VISIONATTN_HOST_DEVICE int64_t rpb_size() const {
    return int64_t(2 * axes[0].kernel - 1) * (2 * axes[1].kernel - 1) * (2 * axes[2].kernel - 1);
  }
};

struct NeighborhoodGradients {
  View grad_output;
  View grad_query, grad_key, grad_value;
  View grad_additional_key, grad_additional_value;
  // float32 (float64 for float64 inputs), contiguous, shaped like lse; null if no gradient arrives at lse
  const void* grad_lse = nullptr;
  // Scratch shaped like lse: rowsum(grad_output * output) - grad_lse
  void* delta = nullptr;
  // Shaped like rpb; null without bias
  void* grad_rpb = nullptr;
};

// The unfused operators: heads-first tensors.
struct UnfusedParams {
  int64_t batch = 0;
  int32_t heads = 0;
  int32_t dim = 0;  // channels of query and key, or of the rows that are summed
  Axis axes[kMaxRank];
  // attention: one channel per slot of the window, row-major over the kernel axes
  View attention, query, key, output;
  const void* rpb = nullptr;  // as in NeighborhoodParams

  VISIONATTN_HOST_DEVICE int64_t tokens() const { return int64_t(axes[0].length) * axes[1].length * axes[2].length; }
  VISIONATTN_HOST_DEVICE int32_t window_size() const { return axes[0].kernel * axes[1].kernel * axes[2].kernel; }
  VISIONATTN_HOST_DEVICE int64_t rpb_size() const {
    return int64_t(2 * axes[0].kernel - 1) * (2 * axes[1].kernel - 1) * (2 * axes[2].kernel - 1);
  }
};

}  // namespace visionattn
