// Building blocks of the Hopper kernels: barriers in shared memory, tensor copies and warpgroup products. They exist
// for sm_90a alone; kernels that use them are empty elsewhere.
//
// Token rows lie in shared memory as the tensor copies write them: pieces of 64 channels (128 bytes) one after the
// other, each with all its rows, and 16-byte chunks permuted within 8 rows ("128-byte swizzle").
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace visionattn::wgmma {

constexpr int kGroupThreads = 128;  // of a warpgroup
constexpr int kRowBytes = 128;      // of a piece of channels

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// ------------------------------------------------------------------------------------------------------------ barriers

__device__ __forceinline__ void init_barrier(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Arrives, and makes the phase last until `bytes` have been copied.
__device__ __forceinline__ void expect_bytes(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Waits until the phase with this parity is over.
__device__ __forceinline__ void wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// Position in a ring of kStages buffers.
template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Ordinary writes to shared memory become visible to tensor copies and products.
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

template <int kRegisters>
__device__ __forceinline__ void release_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ __forceinline__ void claim_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Hardware barriers between warpgroups; 0 is that of __syncthreads.
__device__ __forceinline__ void sync_named(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

__device__ __forceinline__ void arrive_named(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// -------------------------------------------------------------------------------------------------------------- copies

__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Copies a box of one piece of channels; tokens outside the map come as zeros.
__device__ __forceinline__ void copy_box(uint32_t target, const CUtensorMap* map, uint64_t* barrier, int32_t channel,
                                         int32_t x, int32_t y, int32_t z, int32_t batch) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, "
      "%7}], [%2];" ::"r"(target),
      "l"(map), "r"(shared_address(barrier)), "r"(channel), "r"(x), "r"(y), "r"(z), "r"(batch)
      : "memory");
}

// ------------------------------------------------------------------------------------------------------------ products

// Descriptors of what a product reads from shared memory: from `address`, in blocks of 8 rows (1024 bytes, aligned so)
// that follow one another. A straight operand is summed over channels; 16 of them are 32 bytes further within a piece.
// A transposed one is summed over rows; its pieces of channels are `piece_bytes` apart.
__device__ __forceinline__ uint64_t straight_operand(uint32_t address) {
  return uint64_t(address >> 4) | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}

__device__ __forceinline__ uint64_t transposed_operand(uint32_t address, uint32_t piece_bytes) {
  return uint64_t(address >> 4) | uint64_t(piece_bytes >> 4) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}

// Products start after what was written to their registers.
__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most kPending committed groups of products are under way.
template <int kPending>
__device__ __forceinline__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving uses of the registers across.
template <int kCount>
__device__ __forceinline__ void pin(float (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}

// clang-format off
#define VISIONATTN_8(x, i) "+f"(x[i]), "+f"(x[i + 1]), "+f"(x[i + 2]), "+f"(x[i + 3]), "+f"(x[i + 4]), "+f"(x[i + 5]), "+f"(x[i + 6]), "+f"(x[i + 7])
#define VISIONATTN_32(x, i) VISIONATTN_8(x, i), VISIONATTN_8(x, i + 8), VISIONATTN_8(x, i + 16), VISIONATTN_8(x, i + 24)
#define VISIONATTN_NAMES_64 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define VISIONATTN_NAMES_128 VISIONATTN_NAMES_64 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define VISIONATTN_SUM_64(x) VISIONATTN_32(x, 0)
#define VISIONATTN_SUM_128(x) VISIONATTN_32(x, 0), VISIONATTN_32(x, 32)

// Both operands lie in shared memory.
#define VISIONATTN_PRODUCT(columns, type, left, right, flag)                                                          \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" flag ", 0;\nwgmma.mma_async.sync.aligned.m64n" #columns           \
               "k16.f32." type "." type " {" VISIONATTN_NAMES_##columns "}, %" left ", %" right ", p, 1, 1, 0, 0;\n}" \
               : VISIONATTN_SUM_##columns(sum) : "l"(a), "l"(b), "r"(int(accumulate)))
// The left operand is in registers, the right one transposed.
#define VISIONATTN_PRODUCT_OF_REGISTERS(columns, type, left0, left1, left2, left3, right)                      \
  asm volatile("{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\nwgmma.mma_async.sync.aligned.m64n" #columns           \
               "k16.f32." type "." type " {" VISIONATTN_NAMES_##columns "}, {%" left0 ", %" left1 ", %" left2  \
               ", %" left3 "}, %" right ", p, 1, 1, 1;\n}"                                                     \
               : VISIONATTN_SUM_##columns(sum) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
// clang-format on

// sum (+)= a * b^T over 16 channels, of 64 rows and kColumns columns. A thread of a warpgroup holds, with lane = 4 * g
// + t, of the rows 16 * warp + g (in sum[4 * j] and sum[4 * j + 1]) and 16 * warp + g + 8 (in the next two) the columns
// 8 * j + 2 * t and 8 * j + 2 * t + 1.
template <typename T, int kSums>
__device__ __forceinline__ void multiply(float (&sum)[kSums], uint64_t a, uint64_t b, bool accumulate) {
  static_assert(kSums == 32 || kSums == 64);
  constexpr bool kHalf = std::is_same_v<T, __half>;
  if constexpr (kSums == 64) {
    if constexpr (kHalf) VISIONATTN_PRODUCT(128, "f16", "64", "65", "66");
    if constexpr (!kHalf) VISIONATTN_PRODUCT(128, "bf16", "64", "65", "66");
  } else {
    if constexpr (kHalf) VISIONATTN_PRODUCT(64, "f16", "32", "33", "34");
    if constexpr (!kHalf) VISIONATTN_PRODUCT(64, "bf16", "32", "33", "34");
  }
}

// sum += a * b over 16 rows of b; a as pack() makes it.
template <typename T, int kSums>
__device__ __forceinline__ void multiply(float (&sum)[kSums], const uint32_t* a, uint64_t b) {
  static_assert(kSums == 32 || kSums == 64);
  constexpr bool kHalf = std::is_same_v<T, __half>;
  if constexpr (kSums == 64) {
    if constexpr (kHalf) VISIONATTN_PRODUCT_OF_REGISTERS(128, "f16", "64", "65", "66", "67", "68");
    if constexpr (!kHalf) VISIONATTN_PRODUCT_OF_REGISTERS(128, "bf16", "64", "65", "66", "67", "68");
  } else {
    if constexpr (kHalf) VISIONATTN_PRODUCT_OF_REGISTERS(64, "f16", "32", "33", "34", "35", "36");
    if constexpr (!kHalf) VISIONATTN_PRODUCT_OF_REGISTERS(64, "bf16", "32", "33", "34", "35", "36");
  }
}

#undef VISIONATTN_8
#undef VISIONATTN_32
#undef VISIONATTN_NAMES_64
#undef VISIONATTN_NAMES_128
#undef VISIONATTN_SUM_64
#undef VISIONATTN_SUM_128
#undef VISIONATTN_PRODUCT
#undef VISIONATTN_PRODUCT_OF_REGISTERS

// rows * columns^T over all channels: the warpgroup's 64 rows start at `rows`, the columns at `columns`; pieces of
// channels are so many bytes apart. The product is not yet committed.
template <typename T, int kDim, int kSums>
__device__ __forceinline__ void multiply_channels(float (&sum)[kSums], uint32_t rows, uint32_t row_piece,
                                                  uint32_t columns, uint32_t column_piece) {
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    const uint32_t piece = step / 4, within = step % 4 * 32;
    multiply<T>(sum, straight_operand(rows + piece * row_piece + within),
                straight_operand(columns + piece * column_piece + within), step > 0);
  }
}

// sum += weights * columns, with a weight for every row and column. The product is not yet committed.
template <typename T, int kColumns, int kSums>
__device__ __forceinline__ void multiply_columns(float (&sum)[kSums], const uint32_t (&weights)[kColumns / 4],
                                                 uint32_t columns, uint32_t column_piece) {
#pragma unroll
  for (int step = 0; step < kColumns / 16; ++step) {
    multiply<T>(sum, weights + 4 * step, transposed_operand(columns + step * 16 * kRowBytes, column_piece));
  }
}

// Numbers of a product, rounded, as the left operand of the next.
template <typename T, int kSums>
__device__ __forceinline__ void pack(uint32_t (&packed)[kSums / 2], const float (&sum)[kSums]) {
#pragma unroll
  for (int i = 0; i < kSums / 2; ++i) {
    if constexpr (std::is_same_v<T, __half>) {
      const __half2 pair = __floats2half2_rn(sum[2 * i], sum[2 * i + 1]);
      packed[i] = *reinterpret_cast<const uint32_t*>(&pair);
    } else {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(sum[2 * i], sum[2 * i + 1]);
      packed[i] = *reinterpret_cast<const uint32_t*>(&pair);
    }
  }
}

}  // namespace visionattn::wgmma
