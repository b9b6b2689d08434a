// The CPU operators of neighborhood attention.
#include <string>

#include "cpu/neighborhood/kernels.h"

namespace visionattn {

const NeighborhoodKernels& neighborhood_kernels() {
#if defined(__x86_64__)
  static const NeighborhoodKernels& chosen = [&]() -> const NeighborhoodKernels& {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq")) {
      return kAvx512Kernels;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
      return kAvx2Kernels;
    }
    return kBaselineKernels;
  }();
  return chosen;
#else
  return kBaselineKernels;
#endif
}

namespace {

std::string cpu_capability() { return neighborhood_kernels().instruction_set; }

std::tuple<Tensor, Tensor> attention(Tensor query, Tensor key, Tensor value, OptionalTensor rpb,
                                     OptionalTensor additional_keys, OptionalTensor additional_values, Ints kernel_size,
                                     Ints stride, Ints dilation, Ints is_causal, double scale) {
  AttentionCall call = parse_attention(query, key, value, rpb, additional_keys, additional_values, kernel_size, stride,
                                       dilation, is_causal, scale);
  AttentionResult result = make_result(call);
  if (!call.empty()) neighborhood_kernels().forward(call.params, call.dtype);
  return {result.output, result.lse};
}

AttentionGradients::Result attention_backward(Tensor grad_output, OptionalTensor grad_lse, Tensor query, Tensor key,
                                              Tensor value, OptionalTensor rpb, OptionalTensor additional_keys,
                                              OptionalTensor additional_values, Tensor output, Tensor lse,
                                              Ints kernel_size, Ints stride, Ints dilation, Ints is_causal,
                                              double scale) {
  AttentionCall call = parse_attention(query, key, value, rpb, additional_keys, additional_values, kernel_size, stride,
                                       dilation, is_causal, scale);
  AttentionGradients grads = make_gradients(call, grad_output, grad_lse, output, lse, rpb);
  if (call.empty()) {
    grads.zero();
  } else {
    neighborhood_kernels().backward(call.params, grads.gradients, call.dtype);
  }
  return grads.result();
}

Tensor qk(Tensor query, Tensor key, OptionalTensor rpb, Ints kernel_size, Ints dilation, Ints is_causal) {
  UnfusedParams params = unfused_params(query, kernel_size, dilation, is_causal);
  check_like(key, query, "key");
  check_sizes(key, sizes_of(query), "key");
  const Tensor q = with_contiguous_channels(query), k = with_contiguous_channels(key);
  OptionalTensor bias;
  if (rpb.has_value()) {
    bias = checked_rpb(*rpb, query, params.heads, kernel_size);
    params.rpb = bias->data_ptr();
  }
  Tensor result = empty_result(q, with_channels(sizes_of(query), params.window_size()), query.scalar_type());
  params.query = heads_first_view(q);
  params.key = heads_first_view(k);
  params.attention = heads_first_view(result);
  if (result.numel()) neighborhood_kernels().qk(params, query.scalar_type());
  return result;
}

// av and, with `transposed`, its transpose.
template <bool transposed>
Tensor av(Tensor attention, Tensor input, Ints kernel_size, Ints dilation, Ints is_causal) {
  UnfusedParams params = unfused_params(input, kernel_size, dilation, is_causal);
  check_like(attention, input, "attention");
  check_sizes(attention, with_channels(sizes_of(input), params.window_size()), "attention");
  const Tensor weights = with_contiguous_channels(attention), source = with_contiguous_channels(input);
  Tensor result = empty_result(source, sizes_of(input), input.scalar_type());
  params.attention = heads_first_view(weights);
  params.output = heads_first_view(result);
  (transposed ? params.query : params.key) = heads_first_view(source);
  const NeighborhoodKernels& kernels = neighborhood_kernels();
  if (result.numel()) (transposed ? kernels.av_transposed : kernels.av)(params, input.scalar_type());
  return result;
}

Tensor rpb_gradient(Tensor attention, Ints kernel_size, Ints dilation, Ints is_causal) {
  UnfusedParams params = unfused_params(attention, kernel_size, dilation, is_causal);
  STD_TORCH_CHECK(params.dim == params.window_size(), "attention has ", params.dim, " slots, expected ",
                  params.window_size());
  const Tensor weights = with_contiguous_channels(attention);
  Ints shape{params.heads};
  for (const int64_t kernel : kernel_size) shape.push_back(2 * kernel - 1);
  Tensor result = empty_result(weights, shape, accumulator_type(attention.scalar_type()));
  params.attention = heads_first_view(weights);
  params.output.data = result.data_ptr();
  if (result.numel()) neighborhood_kernels().rpb_gradient(params, attention.scalar_type());
  return result;
}

}  // namespace
}  // namespace visionattn

STABLE_TORCH_LIBRARY_IMPL(visionattn, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&visionattn::cpu_capability));
}

STABLE_TORCH_LIBRARY_IMPL(visionattn, CPU, m) {
  m.impl("neighborhood_attention", TORCH_BOX(&visionattn::attention));
  m.impl("neighborhood_attention_backward", TORCH_BOX(&visionattn::attention_backward));
  m.impl("neighborhood_qk", TORCH_BOX(&visionattn::qk));
  m.impl("neighborhood_av", TORCH_BOX(&visionattn::av<false>));
  m.impl("neighborhood_av_transposed", TORCH_BOX(&visionattn::av<true>));
  m.impl("neighborhood_rpb_gradient", TORCH_BOX(&visionattn::rpb_gradient));
}
