// Every operator's schema, at a glance. Python adds fake kernels, autograd and autocast (visionattn/ops).
//
// Lists that speak of axes (kernel_size, stride, dilation, is_causal) have one entry per spatial axis: 1, 2 or 3.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(visionattn, m) {
  // The instruction set of the CPU kernels on this processor.
  m.def("cpu_capability() -> str");

  // Heads-last: query [B, *spatial, H, D], key [B, *spatial, Hkv, D], value [B, *spatial, Hkv, Dv];
  // rpb [H, 2 * kernel_size - 1, ...]; additional keys and values [B, M, Hkv, D or Dv].
  // Returns output [B, *spatial, H, Dv] and lse [B, *spatial, H].
  m.def(
      "neighborhood_attention(Tensor query, Tensor key, Tensor value, Tensor? rpb, Tensor? additional_keys, "
      "Tensor? additional_values, int[] kernel_size, int[] stride, int[] dilation, int[] is_causal, float scale) -> "
      "(Tensor, Tensor)");
  // Gradients of query, key, value, rpb, additional_keys and additional_values; empty where the input is None.
  m.def(
      "neighborhood_attention_backward(Tensor grad_output, Tensor? grad_lse, Tensor query, Tensor key, Tensor value, "
      "Tensor? rpb, Tensor? additional_keys, Tensor? additional_values, Tensor output, Tensor lse, "
      "int[] kernel_size, int[] stride, int[] dilation, int[] is_causal, float scale) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");

  // The same on a packed projection qkv [B, *spatial, 3, H, D], whose gradient comes packed as well.
  m.def(
      "neighborhood_attention_qkv(Tensor qkv, Tensor? rpb, int[] kernel_size, int[] stride, int[] dilation, "
      "int[] is_causal, float scale) -> (Tensor, Tensor)");
  m.def(
      "neighborhood_attention_qkv_backward(Tensor grad_output, Tensor? grad_lse, Tensor qkv, Tensor? rpb, "
      "Tensor output, Tensor lse, int[] kernel_size, int[] stride, int[] dilation, int[] is_causal, float scale) -> "
      "(Tensor, Tensor)");

  // Unfused, heads-first: query, key, value [B, H, *spatial, D]; attention [B, H, *spatial, prod(kernel_size)].
  m.def(
      "neighborhood_qk(Tensor query, Tensor key, Tensor? rpb, int[] kernel_size, int[] dilation, int[] is_causal) -> "
      "Tensor");
  m.def(
      "neighborhood_av(Tensor attention, Tensor value, int[] kernel_size, int[] dilation, int[] is_causal) -> Tensor");
  // The transpose of neighborhood_av in its value: output[j] = sum over queries i of attention[i, j] * input[i].
  m.def(
      "neighborhood_av_transposed(Tensor attention, Tensor input, int[] kernel_size, int[] dilation, int[] is_causal) "
      "-> Tensor");
  // Sum of attention over batch and queries by relative position: [H, 2 * kernel_size - 1, ...].
  m.def("neighborhood_rpb_gradient(Tensor attention, int[] kernel_size, int[] dilation, int[] is_causal) -> Tensor");

  // Over the last axis of a contiguous input [*, C]; weight, bias [C] and statistics are float32. Returns the output in
  // `dtype`, mean and 1 / standard deviation; its backward pass the gradients of input, weight and bias. CUDA only.
  m.def(
      "layer_norm(Tensor input, Tensor weight, Tensor bias, float eps, ScalarType dtype) -> (Tensor, Tensor, Tensor)");
  m.def(
      "layer_norm_backward(Tensor grad_output, Tensor input, Tensor weight, Tensor mean, Tensor rstd) -> "
      "(Tensor, Tensor, Tensor)");
}
