// From torch arguments to kernel parameters for the unfused operators: heads-first tensors [B, H, *spatial, channels].
#pragma once

#include "neighborhood_op.h"

namespace visionattn {

inline View heads_first_view(const Tensor& tensor) {
  const int rank = int(tensor.dim()) - 3;
  View view;
  view.data = tensor.data_ptr();
  view.batch = step_of(tensor, 0);
  view.head = step_of(tensor, 1);
  for (int i = 0; i < rank; ++i) view.spatial[kMaxRank - rank + i] = step_of(tensor, 2 + i);
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

// The operators of a device. `Kernels(tensor)` is made where `tensor` lives and has `qk`, `av`, `av_transposed` and
// `rpb_gradient`, each called with (UnfusedParams, ScalarType) and only if there is something to write.
template <typename Kernels>
struct UnfusedOperators {
  static Tensor qk(const Tensor& query, const Tensor& key, const OptionalTensor& rpb, const Ints& kernel_size,
                   const Ints& dilation, const Ints& is_causal) {
    Kernels kernels(query);
    UnfusedParams params = unfused_params(query, kernel_size, dilation, is_causal);
    check_like(key, query, "key");
    check_sizes(key, sizes_of(query), "key");
    const Tensor q = with_contiguous_channels(query), k = with_contiguous_channels(key);
    OptionalTensor bias;
    if (rpb.has_value()) {
      bias = checked_rpb(*rpb, query, params.heads, kernel_size);
      params.rpb = bias->data_ptr();
    }
    const Tensor result = empty_result(q, with_channels(sizes_of(query), params.window_size()), query.scalar_type());
    params.query = heads_first_view(q);
    params.key = heads_first_view(k);
    params.attention = heads_first_view(result);
    if (result.numel() > 0) kernels.qk(params, query.scalar_type());
    return result;
  }

  static Tensor av(const Tensor& attention, const Tensor& value, const Ints& kernel_size, const Ints& dilation,
                   const Ints& is_causal) {
    return weighted_sum<false>(attention, value, kernel_size, dilation, is_causal);
  }

  static Tensor av_transposed(const Tensor& attention, const Tensor& input, const Ints& kernel_size,
                              const Ints& dilation, const Ints& is_causal) {
    return weighted_sum<true>(attention, input, kernel_size, dilation, is_causal);
  }

  static Tensor rpb_gradient(const Tensor& attention, const Ints& kernel_size, const Ints& dilation,
                             const Ints& is_causal) {
    Kernels kernels(attention);
    UnfusedParams params = unfused_params(attention, kernel_size, dilation, is_causal);
    check_sizes(attention, with_channels(sizes_of(attention), params.window_size()), "attention");
    const Tensor weights = with_contiguous_channels(attention);
    Ints shape{params.heads};
    for (const int64_t kernel : kernel_size) shape.push_back(2 * kernel - 1);
    const Tensor result = empty_result(weights, shape, accumulator_type(attention.scalar_type()));
    params.attention = heads_first_view(weights);
    params.output.data = result.data_ptr();
    if (result.numel() > 0) kernels.rpb_gradient(params, attention.scalar_type());
    return result;
  }

 private:
  template <bool transposed>
  static Tensor weighted_sum(const Tensor& attention, const Tensor& input, const Ints& kernel_size,
                             const Ints& dilation, const Ints& is_causal) {
    Kernels kernels(input);
    UnfusedParams params = unfused_params(input, kernel_size, dilation, is_causal);
    check_like(attention, input, "attention");
    check_sizes(attention, with_channels(sizes_of(input), params.window_size()), "attention");
    const Tensor weights = with_contiguous_channels(attention), rows = with_contiguous_channels(input);
    const Tensor result = empty_result(rows, sizes_of(input), input.scalar_type());
    params.attention = heads_first_view(weights);
    params.output = heads_first_view(result);
    (transposed ? params.query : params.key) = heads_first_view(rows);
    if (result.numel() > 0) {
      if constexpr (transposed) {
        kernels.av_transposed(params, input.scalar_type());
      } else {
        kernels.av(params, input.scalar_type());
      }
    }
    return result;
  }
};

}  // namespace visionattn
