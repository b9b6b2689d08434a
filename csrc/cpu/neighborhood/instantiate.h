// Defines the kernel table VISIONATTN_TABLE for one instruction set. Include once per translation unit, after the
// target pragma and with VISIONATTN_LANES, VISIONATTN_F16C and VISIONATTN_NAME defined; every standard header is
// included before the pragma, so that no inline function of theirs is compiled for an instruction set the processor may
// lack.

namespace visionattn {
namespace VISIONATTN_NAMESPACE {

#include "cpu/simd.h"
#include "cpu/rows.h"
#include "cpu/neighborhood/attention.h"
#include "cpu/neighborhood/unfused.h"

template <typename Function>
void with_type(ScalarType dtype, const Function& function) {
  switch (dtype) {
    case ScalarType::Float:
      return function(float{});
    case ScalarType::Double:
      return function(double{});
    case ScalarType::Half:
      return function(Half{});
    case ScalarType::BFloat16:
      return function(BFloat16{});
    default:
      STD_TORCH_CHECK(false, "dtype ", torch::headeronly::toString(dtype), " is not supported on the CPU");
  }
}

}  // namespace VISIONATTN_NAMESPACE

const NeighborhoodKernels VISIONATTN_TABLE = {
    VISIONATTN_NAME,
    [](const NeighborhoodParams& p, ScalarType dtype) {
      VISIONATTN_NAMESPACE::with_type(dtype, [&](auto t) { VISIONATTN_NAMESPACE::forward<decltype(t)>(p); });
    },
    [](const NeighborhoodParams& p, const NeighborhoodGradients& g, ScalarType dtype) {
      VISIONATTN_NAMESPACE::with_type(dtype, [&](auto t) { VISIONATTN_NAMESPACE::backward<decltype(t)>(p, g); });
    },
    [](const UnfusedParams& p, ScalarType dtype) {
      VISIONATTN_NAMESPACE::with_type(dtype, [&](auto t) { VISIONATTN_NAMESPACE::unfused_qk<decltype(t)>(p); });
    },
    [](const UnfusedParams& p, ScalarType dtype) {
      VISIONATTN_NAMESPACE::with_type(dtype, [&](auto t) { VISIONATTN_NAMESPACE::unfused_av<decltype(t)>(p); });
    },
    [](const UnfusedParams& p, ScalarType dtype) {
      VISIONATTN_NAMESPACE::with_type(dtype,
                                      [&](auto t) { VISIONATTN_NAMESPACE::unfused_av_transposed<decltype(t)>(p); });
    },
    [](const UnfusedParams& p, ScalarType dtype) {
      VISIONATTN_NAMESPACE::with_type(dtype,
                                      [&](auto t) { VISIONATTN_NAMESPACE::unfused_rpb_gradient<decltype(t)>(p); });
    },
};

}  // namespace visionattn
