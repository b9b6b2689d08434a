// The CPU kernels of neighborhood attention, compiled once per instruction set.
#pragma once

#include "common/neighborhood_unfused_op.h"

namespace visionattn {

struct NeighborhoodKernels {
  const char* instruction_set;
  void (*forward)(const NeighborhoodParams&, ScalarType);
  void (*backward)(const NeighborhoodParams&, const NeighborhoodGradients&, ScalarType);
  // Views that an operator needs: qk reads query and key and writes attention; av reads attention and key and writes
  // output; av_transposed reads attention and query and writes output; rpb_gradient reads attention, writes output.
  void (*qk)(const UnfusedParams&, ScalarType);
  void (*av)(const UnfusedParams&, ScalarType);
  void (*av_transposed)(const UnfusedParams&, ScalarType);
  void (*rpb_gradient)(const UnfusedParams&, ScalarType);
};

extern const NeighborhoodKernels kBaselineKernels;
#if defined(__x86_64__)
extern const NeighborhoodKernels kAvx2Kernels;
extern const NeighborhoodKernels kAvx512Kernels;
#endif

// The kernels for this processor.
const NeighborhoodKernels& neighborhood_kernels();

}  // namespace visionattn
