// The CPU kernels for avx512.
#if defined(__x86_64__)
#include "cpu/headers.h"
#include "cpu/neighborhood/boxes.h"
#include "cpu/neighborhood/kernels.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")
#endif

#define VISIONATTN_LANES 16
#define VISIONATTN_F16C 1
#define VISIONATTN_NAMESPACE avx512
#define VISIONATTN_NAME "avx512"
#define VISIONATTN_TABLE kAvx512Kernels
#include "cpu/neighborhood/instantiate.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
