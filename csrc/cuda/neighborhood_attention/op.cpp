// neighborhood_attention and its backward pass as torch operators on CUDA.
#include "../common/torch_cuda.h"
#include "common/neighborhood_op.h"
#include "launch.h"

namespace visionattn {
namespace {

struct Kernels : CudaScope {
  using CudaScope::CudaScope;

  void forward(const NeighborhoodParams& params, ScalarType dtype) const {
    if (!wgmma_forward(params, data_type(dtype), stream()) && !tile_forward(params, data_type(dtype), stream())) {
      generic_forward(params, data_type(dtype), stream());
    }
  }

  void backward(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, ScalarType dtype) const {
    if (!wgmma_backward(params, gradients, data_type(dtype), stream()) &&
        !tile_backward(params, gradients, data_type(dtype), stream())) {
      generic_backward(params, gradients, data_type(dtype), stream());
    }
  }
};

}  // namespace
}  // namespace visionattn

STABLE_TORCH_LIBRARY_IMPL(visionattn, CUDA, m) {
  using Operators = visionattn::AttentionOperators<visionattn::Kernels>;
  m.impl("neighborhood_attention", TORCH_BOX(&Operators::forward));
  m.impl("neighborhood_attention_backward", TORCH_BOX(&Operators::backward));
  m.impl("neighborhood_attention_qkv", TORCH_BOX(&Operators::forward_qkv));
  m.impl("neighborhood_attention_qkv_backward", TORCH_BOX(&Operators::backward_qkv));
}
