// The unfused operators of neighborhood attention on CUDA.
#include "../common/torch_cuda.h"
#include "common/neighborhood_unfused_op.h"
#include "launch.h"

namespace visionattn {
namespace {

struct Kernels : CudaScope {
  using CudaScope::CudaScope;

  void qk(const UnfusedParams& params, ScalarType dtype) const { unfused_qk(params, data_type(dtype), stream()); }
  void av(const UnfusedParams& params, ScalarType dtype) const { unfused_av(params, data_type(dtype), stream()); }
  void av_transposed(const UnfusedParams& params, ScalarType dtype) const {
    unfused_av_transposed(params, data_type(dtype), stream());
  }
  void rpb_gradient(const UnfusedParams& params, ScalarType dtype) const {
    unfused_rpb_gradient(params, data_type(dtype), stream());
  }
};

}  // namespace
}  // namespace visionattn

STABLE_TORCH_LIBRARY_IMPL(visionattn, CUDA, m) {
  using Operators = visionattn::UnfusedOperators<visionattn::Kernels>;
  m.impl("neighborhood_qk", TORCH_BOX(&Operators::qk));
  m.impl("neighborhood_av", TORCH_BOX(&Operators::av));
  m.impl("neighborhood_av_transposed", TORCH_BOX(&Operators::av_transposed));
  m.impl("neighborhood_rpb_gradient", TORCH_BOX(&Operators::rpb_gradient));
}
