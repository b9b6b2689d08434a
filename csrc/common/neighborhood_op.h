// From torch arguments to kernel parameters: what the CPU and the CUDA operators of neighborhood attention share.
//
// Python has already told the user about wrong arguments; the checks here keep a direct torch.ops call from reading out
// of bounds. Tensors are read in place through their strides: only one whose channel axis isn't contiguous is copied.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <optional>
#include <tuple>
#include <vector>

#include "neighborhood_params.h"
#include "tensors.h"

namespace visionattn {

using OptionalTensor = std::optional<Tensor>;

// Sums of two such sizes still fit an int32_t.
constexpr int64_t kMaxExtent = int64_t(1) << 30;

// The type that softmax statistics, the bias and all sums are kept in.
inline ScalarType accumulator_type(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline int64_t product(const Ints& sizes) {
  int64_t result = 1;
  for (const int64_t size : sizes) result *= size;
  return result;
}

// What stands for an optional output that does not exist.
inline Tensor no_result(const Tensor& like) { return empty_result(like, {0}, like.scalar_type()); }

inline Tensor with_contiguous_channels(const Tensor& tensor) {
  const int64_t last = tensor.dim() - 1;
  return tensor.size(last) <= 1 || tensor.stride(last) == 1 ? tensor : torch::stable::contiguous(tensor);
}

// Contiguous, in `dtype`.
inline Tensor dense(const Tensor& tensor, ScalarType dtype) {
  return as_contiguous(tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype));
}

inline void check_sizes(const Tensor& tensor, const Ints& expected, const char* name) {
  const auto sizes = tensor.sizes();
  bool same = sizes.size() == expected.size();
  for (size_t i = 0; same && i < expected.size(); ++i) same = sizes[i] == expected[i];
  if (same) return;
  const auto text = [](const auto& list) {
    std::string result = "[";
    for (size_t i = 0; i < list.size(); ++i) result += (i ? ", " : "") + std::to_string(list[i]);
    return result + "]";
  };
  STD_TORCH_CHECK(false, name, " has shape ", text(sizes), ", expected ", text(expected));
}

inline void check_like(const Tensor& tensor, const Tensor& query, const char* name) {
  STD_TORCH_CHECK(tensor.device() == query.device(), name, " is not on the device of the first tensor argument");
  STD_TORCH_CHECK(tensor.scalar_type() == query.scalar_type(), name, " has dtype ",
                  torch::headeronly::toString(tensor.scalar_type()), ", expected ",
                  torch::headeronly::toString(query.scalar_type()));
}

// The spatial axes of a map with the sizes `spatial`, padded to three by leading axes of length 1. `stride` may be
// empty.
inline void fill_axes(Axis (&axes)[kMaxRank], const Ints& spatial, const Ints& kernel_size, const Ints& stride,
                      const Ints& dilation, const Ints& is_causal) {
  const size_t rank = spatial.size();
  const auto check_count = [rank](const Ints& list, const char* name) {
    STD_TORCH_CHECK(list.size() == rank, name, " has ", list.size(), " entries, expected one per spatial axis: ", rank);
  };
  check_count(kernel_size, "kernel_size");
  check_count(dilation, "dilation");
  check_count(is_causal, "is_causal");
  if (!stride.empty()) check_count(stride, "stride");
  int64_t window = 1, tokens = 1;
  for (size_t i = 0; i < rank; ++i) {
    const int64_t step = stride.empty() ? 1 : stride[i];
    STD_TORCH_CHECK(spatial[i] <= kMaxExtent, "query has a spatial axis of length ", spatial[i], ", at most ",
                    kMaxExtent);
    STD_TORCH_CHECK(kernel_size[i] >= 1 && kernel_size[i] <= kMaxExtent, "kernel_size is ", kernel_size[i],
                    ", expected 1 to ", kMaxExtent);
    STD_TORCH_CHECK(dilation[i] >= 1 && dilation[i] <= kMaxExtent, "dilation is ", dilation[i], ", expected 1 to ",
                    kMaxExtent);
    STD_TORCH_CHECK(step >= 1 && step <= kernel_size[i], "stride is ", step, ", expected 1 to the kernel size ",
                    kernel_size[i]);
    window *= kernel_size[i];
    tokens *= spatial[i];
    STD_TORCH_CHECK(window <= kMaxExtent, "kernel_size spans a window of more than ", kMaxExtent, " positions");
    STD_TORCH_CHECK(tokens <= int64_t(1) << 40, "query has too many tokens");
    Axis& axis = axes[kMaxRank - rank + i];
    axis.length = int32_t(spatial[i]);
    axis.kernel = int32_t(kernel_size[i]);
    axis.stride = int32_t(step);
    axis.dilation = int32_t(dilation[i]);
    axis.causal = is_causal[i] != 0;
  }
}

// The stride of an axis; 0 where there is nothing to step over, whatever the tensor says.
inline int64_t step_of(const Tensor& tensor, int64_t axis) { return tensor.size(axis) > 1 ? tensor.stride(axis) : 0; }

// A view of a heads-last tensor [B, *spatial, H, D].
inline View heads_last_view(const Tensor& tensor) {
  const int rank = int(tensor.dim()) - 3;
  View view;
  view.data = tensor.data_ptr();
  view.batch = step_of(tensor, 0);
  view.head = step_of(tensor, rank + 1);
  for (int i = 0; i < rank; ++i) view.spatial[kMaxRank - rank + i] = step_of(tensor, 1 + i);
  return view;
}

// A view of additional tokens [B, M, H, D].
inline View additional_view(const Tensor& tensor) {
  View view;
  view.data = tensor.data_ptr();
  view.batch = step_of(tensor, 0);
  view.spatial[0] = step_of(tensor, 1);
  view.head = step_of(tensor, 2);
  return view;
}

// A relative position bias in the accumulator's type, contiguous; its shape is [heads, 2 * kernel_size - 1, ...].
inline Tensor checked_rpb(const Tensor& rpb, const Tensor& query, int64_t heads, const Ints& kernel_size) {
  Ints expected{heads};
  int64_t size = heads;
  for (const int64_t kernel : kernel_size) {
    expected.push_back(2 * kernel - 1);
    STD_TORCH_CHECK(size == 0 || 2 * kernel - 1 <= (int64_t(1) << 40) / size, "rpb is too large");
    size *= 2 * kernel - 1;
  }
  const ScalarType wide = accumulator_type(query.scalar_type());
  STD_TORCH_CHECK(rpb.device() == query.device(), "rpb is not on the device of query");
  STD_TORCH_CHECK(rpb.scalar_type() == query.scalar_type() || rpb.scalar_type() == wide, "rpb has dtype ",
                  torch::headeronly::toString(rpb.scalar_type()), ", expected that of query or ",
                  torch::headeronly::toString(wide));
  check_sizes(rpb, expected, "rpb");
  return dense(rpb, wide);
}

// Checked arguments of neighborhood_attention. The tensors own what `params` points to.
struct AttentionCall {
  Tensor query, key, value;
  OptionalTensor rpb, additional_keys, additional_values;
  NeighborhoodParams params;  // output and lse not yet filled
  ScalarType dtype;           // of query
  Ints output_shape, lse_shape;

  bool empty() const { return product(lse_shape) == 0; }
};

inline AttentionCall parse_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                     const OptionalTensor& rpb, const OptionalTensor& additional_keys,
                                     const OptionalTensor& additional_values, const Ints& kernel_size,
                                     const Ints& stride, const Ints& dilation, const Ints& is_causal, double scale) {
  const Ints shape = sizes_of(query);
  STD_TORCH_CHECK(shape.size() >= 4 && shape.size() <= 6, "query has ", shape.size(),
                  " axes, expected [batch, 1 to 3 spatial axes, heads, head_dim]");
  check_like(key, query, "key");
  check_like(value, query, "value");
  const size_t rank = shape.size() - 3;
  const int64_t batch = shape[0], heads = shape[rank + 1], dim = shape[rank + 2];
  STD_TORCH_CHECK(key.dim() == query.dim(), "key has ", key.dim(), " axes, expected ", query.dim());
  STD_TORCH_CHECK(value.dim() == query.dim(), "value has ", value.dim(), " axes, expected ", query.dim());
  const int64_t heads_kv = key.size(int64_t(rank) + 1), dim_value = value.size(int64_t(rank) + 2);
  Ints expected = shape;
  expected[rank + 1] = heads_kv;
  check_sizes(key, expected, "key");
  expected[rank + 2] = dim_value;
  check_sizes(value, expected, "value");
  STD_TORCH_CHECK(heads_kv >= 1 && heads >= 1 && heads % heads_kv == 0 && heads <= kMaxExtent, "the heads of query (",
                  heads, ") must be a multiple of those of key and value (", heads_kv, ")");
  STD_TORCH_CHECK(dim >= 1 && dim <= kMaxExtent, "query has head_dim ", dim, ", expected at least 1");
  STD_TORCH_CHECK(dim_value >= 1 && dim_value <= kMaxExtent, "value has head_dim ", dim_value, ", expected at least 1");
  STD_TORCH_CHECK(additional_keys.has_value() == additional_values.has_value(),
                  "additional_keys and additional_values must be given together");

  AttentionCall call;
  call.dtype = query.scalar_type();
  call.query = with_contiguous_channels(query);
  call.key = with_contiguous_channels(key);
  call.value = with_contiguous_channels(value);
  NeighborhoodParams& params = call.params;
  STD_TORCH_CHECK(!stride.empty(), "stride has 0 entries, expected one per spatial axis: ", rank);
  fill_axes(params.axes, Ints(shape.begin() + 1, shape.end() - 2), kernel_size, stride, dilation, is_causal);
  params.batch = batch;
  params.heads = int32_t(heads);
  params.heads_kv = int32_t(heads_kv);
  params.dim = int32_t(dim);
  params.dim_value = int32_t(dim_value);
  params.scale = scale;
  params.query = heads_last_view(call.query);
  params.key = heads_last_view(call.key);
  params.value = heads_last_view(call.value);
  if (rpb.has_value()) {
    call.rpb = checked_rpb(*rpb, query, heads, kernel_size);
    params.rpb = call.rpb->data_ptr();
  }
  if (additional_keys.has_value()) {
    check_like(*additional_keys, query, "additional_keys");
    check_like(*additional_values, query, "additional_values");
    STD_TORCH_CHECK(additional_keys->dim() == 4, "additional_keys has ", additional_keys->dim(), " axes, expected 4");
    const int64_t additional = additional_keys->size(1);
    STD_TORCH_CHECK(additional <= kMaxExtent, "additional_keys has ", additional, " tokens, at most ", kMaxExtent);
    check_sizes(*additional_keys, {batch, additional, heads_kv, dim}, "additional_keys");
    check_sizes(*additional_values, {batch, additional, heads_kv, dim_value}, "additional_values");
    call.additional_keys = with_contiguous_channels(*additional_keys);
    call.additional_values = with_contiguous_channels(*additional_values);
    params.additional = int32_t(additional);
    params.additional_key = additional_view(*call.additional_keys);
    params.additional_value = additional_view(*call.additional_values);
  }
  call.lse_shape.assign(shape.begin(), shape.end() - 1);
  call.output_shape = call.lse_shape;
  call.output_shape.push_back(dim_value);
  return call;
}

// Query, key and value of a packed projection [B, *spatial, 3, H, D]: views of it, made without torch's dispatcher,
// which would take longer than the launch of a kernel.
inline std::tuple<Tensor, Tensor, Tensor> unpack(const Tensor& qkv) {
  const int64_t axis = qkv.dim() - 3;
  STD_TORCH_CHECK(axis >= 2 && qkv.size(axis) == 3, "qkv must be [batch, *spatial, 3, heads, head_dim]");
  Ints sizes, strides;
  for (int64_t i = 0; i < qkv.dim(); ++i) {
    if (i == axis) continue;
    sizes.push_back(qkv.size(i));
    strides.push_back(qkv.stride(i));
  }
  int64_t offset = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_offset(qkv.get(), &offset));
  const auto part = [&](int64_t index) {
    AtenTensorHandle handle = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(
        qkv.get(), int64_t(sizes.size()), sizes.data(), strides.data(), offset + index * qkv.stride(axis), &handle));
    return Tensor(handle);
  };
  return {part(0), part(1), part(2)};
}

// The outputs of the forward pass, not yet written.
struct AttentionResult {
  Tensor output, lse;
};

inline AttentionResult make_result(AttentionCall& call) {
  AttentionResult result{empty_result(call.query, call.output_shape, call.dtype),
                         empty_result(call.query, call.lse_shape, accumulator_type(call.dtype))};
  call.params.output = heads_last_view(result.output);
  call.params.lse = result.lse.data_ptr();
  return result;
}

// The gradients of the backward pass, not yet written, with the tensors that `gradients` and `call.params` point to.
struct AttentionGradients {
  Tensor query, key, value;
  OptionalTensor rpb, additional_keys, additional_values;
  Tensor grad_output, output, lse, delta;
  OptionalTensor grad_lse;
  NeighborhoodGradients gradients;

  using Result = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

  // For calls without a single query: only additional tokens and the bias can have gradients then.
  void zero() {
    for (Tensor* tensor : {&query, &key, &value}) torch::stable::zero_(*tensor);
    for (OptionalTensor* tensor : {&rpb, &additional_keys, &additional_values}) {
      if (tensor->has_value()) torch::stable::zero_(**tensor);
    }
  }

  Tensor bias() const { return rpb ? *rpb : empty_result(query, {0}, lse.scalar_type()); }

  Result result() const {
    const auto given = [this](const OptionalTensor& tensor) { return tensor ? *tensor : no_result(query); };
    return {query, key, value, bias(), given(additional_keys), given(additional_values)};
  }
};

// With `grad_qkv`, [B, *spatial, 3, H, D], the gradients of query, key and value are its slices.
inline AttentionGradients make_gradients(AttentionCall& call, const Tensor& grad_output, const OptionalTensor& grad_lse,
                                         const Tensor& output, const Tensor& lse,
                                         const OptionalTensor& grad_qkv = std::nullopt) {
  const ScalarType wide = accumulator_type(call.dtype);
  check_like(grad_output, call.query, "grad_output");
  check_like(output, call.query, "output");
  STD_TORCH_CHECK(lse.device() == call.query.device(), "lse is not on the device of query");
  check_sizes(grad_output, call.output_shape, "grad_output");
  check_sizes(output, call.output_shape, "output");
  check_sizes(lse, call.lse_shape, "lse");

  AttentionGradients result;
  result.grad_output = with_contiguous_channels(grad_output);
  result.output = with_contiguous_channels(output);
  result.lse = dense(lse, wide);
  result.delta = empty_result(call.query, call.lse_shape, wide);
  call.params.output = heads_last_view(result.output);
  call.params.lse = result.lse.data_ptr();
  NeighborhoodGradients& gradients = result.gradients;
  gradients.grad_output = heads_last_view(result.grad_output);
  gradients.delta = result.delta.data_ptr();
  if (grad_lse.has_value()) {
    STD_TORCH_CHECK(grad_lse->device() == call.query.device(), "grad_lse is not on the device of query");
    check_sizes(*grad_lse, call.lse_shape, "grad_lse");
    result.grad_lse = dense(*grad_lse, wide);
    gradients.grad_lse = result.grad_lse->data_ptr();
  }

  const auto empty_as = [](const Tensor& tensor) {
    return empty_result(tensor, sizes_of(tensor), tensor.scalar_type());
  };
  if (grad_qkv) {
    std::tie(result.query, result.key, result.value) = unpack(*grad_qkv);
  } else {
    result.query = empty_as(call.query);
    result.key = empty_as(call.key);
    result.value = empty_as(call.value);
  }
  gradients.grad_query = heads_last_view(result.query);
  gradients.grad_key = heads_last_view(result.key);
  gradients.grad_value = heads_last_view(result.value);
  if (call.rpb) {
    result.rpb = empty_as(*call.rpb);
    gradients.grad_rpb = result.rpb->data_ptr();
  }
  if (call.additional_keys) {
    result.additional_keys = empty_as(*call.additional_keys);
    result.additional_values = empty_as(*call.additional_values);
    gradients.grad_additional_key = additional_view(*result.additional_keys);
    gradients.grad_additional_value = additional_view(*result.additional_values);
  }
  return result;
}

// The operators of a device. `Kernels(tensor)` is made where `tensor` lives and has `forward`, called with
// (NeighborhoodParams, ScalarType), and `backward`, with (NeighborhoodParams, NeighborhoodGradients, ScalarType).
template <typename Kernels>
struct AttentionOperators {
  static std::tuple<Tensor, Tensor> forward(const Tensor& query, const Tensor& key, const Tensor& value,
                                            const OptionalTensor& rpb, const OptionalTensor& additional_keys,
                                            const OptionalTensor& additional_values, const Ints& kernel_size,
                                            const Ints& stride, const Ints& dilation, const Ints& is_causal,
                                            double scale) {
    Kernels kernels(query);
    AttentionCall call = parse_attention(query, key, value, rpb, additional_keys, additional_values, kernel_size,
                                         stride, dilation, is_causal, scale);
    const AttentionResult result = make_result(call);
    if (!call.empty()) kernels.forward(call.params, call.dtype);
    return {result.output, result.lse};
  }

  static std::tuple<Tensor, Tensor> forward_qkv(const Tensor& qkv, const OptionalTensor& rpb, const Ints& kernel_size,
                                                const Ints& stride, const Ints& dilation, const Ints& is_causal,
                                                double scale) {
    const auto [query, key, value] = unpack(qkv);
    return forward(query, key, value, rpb, std::nullopt, std::nullopt, kernel_size, stride, dilation, is_causal, scale);
  }

  static std::tuple<Tensor, Tensor> backward_qkv(const Tensor& grad_output, const OptionalTensor& grad_lse,
                                                 const Tensor& qkv, const OptionalTensor& rpb, const Tensor& output,
                                                 const Tensor& lse, const Ints& kernel_size, const Ints& stride,
                                                 const Ints& dilation, const Ints& is_causal, double scale) {
    Kernels kernels(qkv);
    const auto [query, key, value] = unpack(qkv);
    AttentionCall call = parse_attention(query, key, value, rpb, std::nullopt, std::nullopt, kernel_size, stride,
                                         dilation, is_causal, scale);
    Tensor grad_qkv = empty_result(qkv, sizes_of(qkv), call.dtype);
    AttentionGradients result = make_gradients(call, grad_output, grad_lse, output, lse, grad_qkv);
    run_backward(kernels, call, result);
    return {grad_qkv, result.bias()};
  }

  static AttentionGradients::Result backward(const Tensor& grad_output, const OptionalTensor& grad_lse,
                                             const Tensor& query, const Tensor& key, const Tensor& value,
                                             const OptionalTensor& rpb, const OptionalTensor& additional_keys,
                                             const OptionalTensor& additional_values, const Tensor& output,
                                             const Tensor& lse, const Ints& kernel_size, const Ints& stride,
                                             const Ints& dilation, const Ints& is_causal, double scale) {
    Kernels kernels(query);
    AttentionCall call = parse_attention(query, key, value, rpb, additional_keys, additional_values, kernel_size,
                                         stride, dilation, is_causal, scale);
    AttentionGradients result = make_gradients(call, grad_output, grad_lse, output, lse);
    run_backward(kernels, call, result);
    return result.result();
  }

 private:
  static void run_backward(Kernels& kernels, const AttentionCall& call, AttentionGradients& result) {
    if (call.empty()) {
      result.zero();
    } else {
      kernels.backward(call.params, result.gradients, call.dtype);
    }
  }
};

}  // namespace visionattn
