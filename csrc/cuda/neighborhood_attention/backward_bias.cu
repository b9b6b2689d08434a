// Gradient of the relative position bias: the sum of the logits' gradients by relative position.
#include "../common/bias_sum.cuh"
#include "backward.cuh"

namespace visionattn {
namespace {

template <typename T, int kLanes>
__global__ void __launch_bounds__(kThreads) bias_kernel(const __grid_constant__ NeighborhoodParams params,
                                                        const __grid_constant__ NeighborhoodGradients gradients,
                                                        const bool packed, const int64_t slices, float* partial) {
  const Group<kLanes> group;
  const Axis(&axes)[kMaxRank] = params.axes;
  const int channel = group.lane * kChannels;
  const int32_t per_kv = params.heads / params.heads_kv;
  const float scale = float(params.scale);
  const int64_t entries = params.heads * params.rpb_size();

  // The group's scalar product of two rows in memory.
  const auto product = [&](const T* a, const T* b, int32_t dim) {
    const Channels in_a = load_channels(a, channel, dim, packed), in_b = load_channels(b, channel, dim, packed);
    return group.sum(group.dot(in_a, a, in_b, b, dim, packed));
  };

  for (int64_t index = group.first(); index < slices * entries; index += group.step()) {
    const int64_t slice = index / entries;
    const BiasEntry entry(axes, index - slice * entries);
    const float bias = static_cast<const float*>(params.rpb)[index - slice * entries];

    const auto grad_logit = [&](int64_t batch, const int32_t (&position)[kMaxRank], const int32_t (&)[kMaxRank]) {
      // Rows of the query at `position` and, `distance` dilated steps further on, of the key.
      const auto row = [&](const View& view, int32_t head, int32_t steps) {
        int64_t offset = row_offset(view, batch, head);
#pragma unroll
        for (int i = 0; i < kMaxRank; ++i) {
          offset += (position[i] + int64_t(steps) * entry.distance[i] * axes[i].dilation) * view.spatial[i];
        }
        return static_cast<const T*>(view.data) + offset;
      };
      const int32_t head_kv = entry.head / per_kv;
      const float logit = product(row(params.query, entry.head, 0), row(params.key, head_kv, 1), params.dim);
      const float grad_weight =
          product(row(gradients.grad_output, entry.head, 0), row(params.value, head_kv, 1), params.dim_value);
      const int64_t token = (int64_t(position[0]) * axes[1].length + position[1]) * axes[2].length + position[2];
      const int64_t statistics = statistics_index(params, batch, token, entry.head);
      const float lse = static_cast<const float*>(params.lse)[statistics];
      const float delta = static_cast<const float*>(gradients.delta)[statistics];
      return exp2_fast((fmaf(logit, scale, bias) - lse) * kLog2e) * (grad_weight - delta);
    };
    const float sum = sum_slice(axes, params.batch, entry, slice, slices, grad_logit);
    if (group.lane == 0) partial[index] = sum;
  }
}

}  // namespace

void backward_bias(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, DataType dtype,
                   cudaStream_t stream) {
  const bool packed = rows_are_packed({&params.query, &params.key, &params.value, &gradients.grad_output},
                                      {params.dim, params.dim_value}, dtype);
  const int64_t entries = params.heads * params.rpb_size();
  const auto launch = [&](int64_t slices, float* partial) {
    dispatch(dtype, std::max(params.dim, params.dim_value), [&](auto element, auto lanes) {
      bias_kernel<decltype(element), lanes.value><<<grid_for(slices * entries, lanes.value, 1), kThreads, 0, stream>>>(
          params, gradients, packed, slices, partial);
    });
  };
  sum_bias(entries, segment_count(params.axes, params.batch), static_cast<float*>(gradients.grad_rpb), stream, launch);
}

}  // namespace visionattn
