// The small kernels before and behind the backward pass: sums over channels, and over blocks.
#pragma once

#include "tile_mma.cuh"
#include "tile_plan.cuh"

namespace visionattn::tile {

// For every token and head: lse in powers of two, and grad_lse - rowsum(grad_output * output), which a slope (a
// gradient of a logit) starts from. kLanes threads share a sum, 8 channels each.
template <typename T, int kLanes>
__global__ void __launch_bounds__(256)
    statistics_kernel(const __grid_constant__ NeighborhoodParams params,
                      const __grid_constant__ NeighborhoodGradients gradients, float2* statistics) {
  let_next_kernel_start();
  const int64_t entry = int64_t(params.tokens()) * params.heads;  // rows of a batch entry
  const int64_t row = (int64_t(blockIdx.x) * 256 + threadIdx.x) / kLanes;
  const int chunk = threadIdx.x % kLanes;
  const bool exists = row < entry;
  const int head = row % params.heads;
  uint32_t number = static_cast<uint32_t>(row / params.heads);
  Coordinates c;
  c.at[2] = take_digit(number, params.axes[2].length);
  c.at[1] = take_digit(number, params.axes[1].length);
  c.at[0] = static_cast<int32_t>(number);
  int64_t offset = head * params.output.head, grad_offset = head * gradients.grad_output.head;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    offset += c.at[a] * params.output.spatial[a];
    grad_offset += c.at[a] * gradients.grad_output.spatial[a];
  }
#pragma unroll 4
  for (int64_t b = blockIdx.y; b < params.batch; b += gridDim.y) {
    float sum = 0.f;
    if (exists && chunk * 8 < params.dim) {
      const T* left = static_cast<const T*>(params.output.data) + b * params.output.batch + offset + chunk * 8;
      const T* right =
          static_cast<const T*>(gradients.grad_output.data) + b * gradients.grad_output.batch + grad_offset + chunk * 8;
      uint4 both[2][sizeof(T) / 2];
#pragma unroll
      for (int i = 0; i < static_cast<int>(sizeof(T)) / 2; ++i) {
        both[0][i] = reinterpret_cast<const uint4*>(left)[i];
        both[1][i] = reinterpret_cast<const uint4*>(right)[i];
      }
      const T* x = reinterpret_cast<const T*>(both[0]);
      const T* y = reinterpret_cast<const T*>(both[1]);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum += static_cast<float>(x[i]) * static_cast<float>(y[i]);
    }
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (exists && chunk == 0) {
      const int64_t i = b * entry + row;
      const float from_lse = gradients.grad_lse == nullptr ? 0.f : static_cast<const float*>(gradients.grad_lse)[i];
      statistics[i] = {static_cast<const float*>(params.lse)[i] * 1.4426950408889634f, from_lse - sum};
    }
  }
}

// Adds up the blocks' bias gradients in a fixed order. A block of 32 x 16 threads makes 32 numbers of one head.
static __global__ void __launch_bounds__(512)
    bias_kernel(const float* partial, void* grad_rpb, int64_t positions, int64_t bins) {
  __shared__ float sums[16][32];
  const int64_t bin = int64_t(blockIdx.x) * 32 + threadIdx.x, head = blockIdx.y;
  float sum = 0.f;
  wait_for_kernel_before();
  if (bin < bins) {
    for (int64_t i = threadIdx.y; i < positions; i += 16) sum += partial[(head * positions + i) * bins + bin];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && bin < bins) {
    for (int i = 1; i < 16; ++i) sum += sums[i][threadIdx.x];
    static_cast<float*>(grad_rpb)[head * bins + bin] = sum;
  }
}

}  // namespace visionattn::tile
