// The CPU kernels for avx2.
#if defined(__x86_64__)
#include "cpu/headers.h"
#include "cpu/neighborhood/boxes.h"
#include "cpu/neighborhood/kernels.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#define VISIONATTN_LANES 8
#define VISIONATTN_F16C 1
#define VISIONATTN_NAMESPACE avx2
#define VISIONATTN_NAME "avx2"
#define VISIONATTN_TABLE kAvx2Kernels
#include "cpu/neighborhood/instantiate.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
