// From torch arguments to kernel parameters for the unfused operators: heads-first tensors [B, H, *spatial, channels].
#pragma once

#include "neighborhood_op.h"

namespace visionattn {

struct UnfusedParams {
  int64_t batch = 0;
  int32_t heads = 0;
  int32_t dim = 0;  // channels of `input` and `output`
  Axis axes[kMaxRank];
  // attention: one channel per slot of the window, row-major over the kernel axes
  View attention, query, key, output;
  const void* rpb = nullptr;  // accumulator type, contiguous; null without bias

  int64_t tokens() const { return int64_t(axes[0].length) * axes[1].length * axes[2].length; }
  int32_t window_size() const { return axes[0].kernel * axes[1].kernel * axes[2].kernel; }
  int64_t rpb_size() const {
    return int64_t(2 * axes[0].kernel - 1) * (2 * axes[1].kernel - 1) * (2 * axes[2].kernel - 1);
  }
};

inline View heads_first_view(const Tensor& tensor) {
  const auto strides = tensor.strides();
  const int rank = int(strides.size()) - 3;
  View view;
  view.data = tensor.data_ptr();
  view.batch = strides[0];
  view.head = strides[1];
  for (int i = 0; i < rank; ++i) view.spatial[kMaxRank - rank + i] = strides[2 + i];
  return view;
}

// Sizes of a call whose tensor `like` is [B, H, *spatial, channels].
inline UnfusedParams unfused_params(const Tensor& like, const Ints& kernel_size, const Ints& dilation,
                                    const Ints& is_causal) {
  const Ints shape = sizes_of(like);
  STD_TORCH_CHECK(shape.size() >= 4 && shape.size() <= 6, "the first argument has ", shape.size(),
                  " axes, expected [batch, heads, 1 to 3 spatial axes, channels]");
  UnfusedParams params;
  fill_axes(params.axes, Ints(shape.begin() + 2, shape.end() - 1), kernel_size, {}, dilation, is_causal);
  STD_TORCH_CHECK(shape[1] <= kMaxExtent && shape.back() <= kMaxExtent, "too many heads or channels");
  params.batch = shape[0];
  params.heads = int32_t(shape[1]);
  params.dim = int32_t(shape.back());
  return params;
}

inline Ints with_channels(Ints shape, int64_t channels) {
  shape.back() = channels;
  return shape;
}

}  // namespace visionattn
