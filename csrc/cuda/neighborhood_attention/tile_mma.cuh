// Warp-level building blocks of the tensor-core kernels: asynchronous copies, matrix fragments and products.
//
// Fragments follow mma.m16n8k16, or m16n8k8 for float32, 32 bytes of a row at a time. With lane = 4 * g + t, an
// accumulator holds (row g, columns 2t, 2t + 1) and (row g + 8, the same columns); two accumulators side by side,
// converted to 16 bits, are the left operand of the next product.
//
// Products of float32 are as accurate as in float32: both operands are split into two tf32 numbers, and of their four
// products the smallest is left out (3xTF32).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace visionattn::tile {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Copies 16 bytes, or writes 16 zero bytes where `present` is false.
__device__ __forceinline__ void copy_async_16(uint32_t target, const void* source, bool present = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(present ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void copy_async_8(uint32_t target, const void* source) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(target), "l"(source) : "memory");
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

__device__ __forceinline__ void wait_copies() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

// A kernel that was launched to overlap with the one before it waits for its results; that one lets it start.
__device__ __forceinline__ void wait_for_kernel_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Four 8x8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// d = a * b + c
template <typename T>
__device__ __forceinline__ void multiply(float (&d)[4], const float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
  if constexpr (std::is_same_v<T, __half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
  }
}

// The two tf32 parts of float32 numbers; their lower bits don't count.
struct Split {
  uint32_t large[4], small[4];
};

__device__ __forceinline__ void split(uint32_t& large, uint32_t& small, uint32_t x) {
  large = x & 0xffffe000;
  small = __float_as_uint(__uint_as_float(x) - __uint_as_float(large));
}

__device__ __forceinline__ void multiply_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <typename T>
__device__ __forceinline__ void multiply(float (&d)[4], const float (&c)[4], const Split& a, uint32_t b0, uint32_t b1) {
  uint32_t large0, small0, large1, small1;
  split(large0, small0, b0);
  split(large1, small1, b1);
#pragma unroll
  for (int i = 0; i < 4; ++i) d[i] = c[i];
  multiply_tf32(d, a.small, large0, large1);
  multiply_tf32(d, a.large, small0, small1);
  multiply_tf32(d, a.large, large0, large1);
}

// The left operand of a product, for 32 bytes of a row.
template <typename T>
struct LeftOperand {
  using Type = uint32_t[4];
};
template <>
struct LeftOperand<float> {
  using Type = Split;
};
template <typename T>
using Left = typename LeftOperand<T>::Type;

__device__ __forceinline__ void load_left(uint32_t (&left)[4], uint32_t address) { load_matrices(left, address); }

__device__ __forceinline__ void load_left(Split& left, uint32_t address) {
  uint32_t loaded[4];
  load_matrices(loaded, address);
#pragma unroll
  for (int i = 0; i < 4; ++i) split(left.large[i], left.small[i], loaded[i]);
}

template <typename T>
__device__ __forceinline__ uint32_t pack(float low, float high) {
  uint32_t result;
  if constexpr (std::is_same_v<T, __half>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  }
  return result;
}

// Weights of 16 rows for a pair of column blocks: the left operand made of two neighboring accumulators, or, of
// float32, the accumulators.
template <typename T>
struct PairWeights {
  using Type = uint32_t[4];
};
template <>
struct PairWeights<float> {
  using Type = float[2][4];
};
template <typename T>
using Weights = typename PairWeights<T>::Type;

template <typename T>
__device__ __forceinline__ void pack_operand(float (&a)[2][4], const float (&left)[4], const float (&right)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    a[0][i] = left[i];
    a[1][i] = right[i];
  }
}

template <typename T>
__device__ __forceinline__ void pack_operand(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
  a[0] = pack<T>(left[0], left[1]);
  a[1] = pack<T>(left[2], left[3]);
  a[2] = pack<T>(right[0], right[1]);
  a[3] = pack<T>(right[2], right[3]);
}

// An accumulator as left operand, if its columns are counted 2t, 2t + 1 where the operand counts t, t + 4.
__device__ __forceinline__ void split_accumulator(Split& a, const float (&acc)[4]) {
  constexpr int kFrom[4] = {0, 2, 1, 3};
#pragma unroll
  for (int i = 0; i < 4; ++i) split(a.large[i], a.small[i], __float_as_uint(acc[kFrom[i]]));
}

// Adds each row's weights to sum[0], those of row + 8 to sum[2].
template <typename T>
__device__ __forceinline__ void add_weights(float (&sum)[4], const uint32_t (&weights)[4]) {
  multiply<T>(sum, sum, weights, pack<T>(1.f, 1.f), pack<T>(1.f, 1.f));
}

template <typename T>
__device__ __forceinline__ void add_weights(float (&sum)[4], const float (&weights)[2][4]) {
  constexpr uint32_t kOne = 0x3f800000;
#pragma unroll
  for (int block = 0; block < 2; ++block) {
    Split operand;
    split_accumulator(operand, weights[block]);
    multiply_tf32(sum, operand.small, kOne, kOne);
    multiply_tf32(sum, operand.large, kOne, kOne);
  }
}

__device__ __forceinline__ uint32_t load_word(uint32_t address) {
  uint32_t word;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
  return word;
}

__device__ __forceinline__ float exp2_approximate(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

__device__ __forceinline__ float log2_approximate(float x) {
  float result;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// A row of kBytes in shared memory. Its 16-byte chunks are permuted so that the eight rows of a matrix load fall into
// different banks: chunk c of row r lies at byte offset(r) ^ (c * 16).
template <int kBytes>
struct Rows {
  static constexpr int kChunks = kBytes / 16;
  static __device__ __forceinline__ uint32_t offset(int row) {
    const int swizzle = kBytes == 64 ? (row >> 1) & 3 : row & 7;
    return row * kBytes + swizzle * 16;
  }
};

}  // namespace visionattn::tile
