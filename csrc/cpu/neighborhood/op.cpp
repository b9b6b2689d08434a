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

struct Kernels {
  explicit Kernels(const Tensor&) {}
  const NeighborhoodKernels& table = neighborhood_kernels();

  void forward(const NeighborhoodParams& params, ScalarType dtype) const { table.forward(params, dtype); }
  void backward(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, ScalarType dtype) const {
    table.backward(params, gradients, dtype);
  }
  void qk(const UnfusedParams& params, ScalarType dtype) const { table.qk(params, dtype); }
  void av(const UnfusedParams& params, ScalarType dtype) const { table.av(params, dtype); }
  void av_transposed(const UnfusedParams& params, ScalarType dtype) const { table.av_transposed(params, dtype); }
  void rpb_gradient(const UnfusedParams& params, ScalarType dtype) const { table.rpb_gradient(params, dtype); }
};

}  // namespace
}  // namespace visionattn

STABLE_TORCH_LIBRARY_IMPL(visionattn, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&visionattn::cpu_capability));
}

STABLE_TORCH_LIBRARY_IMPL(visionattn, CPU, m) {
  using Attention = visionattn::AttentionOperators<visionattn::Kernels>;
  m.impl("neighborhood_attention", TORCH_BOX(&Attention::forward));
  m.impl("neighborhood_attention_backward", TORCH_BOX(&Attention::backward));
  m.impl("neighborhood_attention_qkv", TORCH_BOX(&Attention::forward_qkv));
  m.impl("neighborhood_attention_qkv_backward", TORCH_BOX(&Attention::backward_qkv));
  using Unfused = visionattn::UnfusedOperators<visionattn::Kernels>;
  m.impl("neighborhood_qk", TORCH_BOX(&Unfused::qk));
  m.impl("neighborhood_av", TORCH_BOX(&Unfused::av));
  m.impl("neighborhood_av_transposed", TORCH_BOX(&Unfused::av_transposed));
  m.impl("neighborhood_rpb_gradient", TORCH_BOX(&Unfused::rpb_gradient));
}
