// Gradient of the relative position bias: a group of lanes per head, relative position and slice of the map sums over
// the queries of its slice; a second kernel sums the slices in their order.
#include "../common/rows.cuh"
#include "backward.cuh"

namespace visionattn {
namespace {

constexpr int32_t kSegment = 64;            // positions on the last axis that are visited at a time
constexpr int64_t kGroupsWanted = 1 << 16;  // enough to fill a large chip; bounds the scratch memory, too

// Does the query at `position` attend to the key `distance` further on in its dilation group?
__device__ __forceinline__ bool attends(const Axis& axis, int32_t position, int32_t distance) {
  const int32_t number = position / axis.dilation;
  const Interval keys = window(axis, group_length(axis, position - number * axis.dilation), number);
  return number + distance >= keys.begin && number + distance < keys.end;
}

// Segments of the map: batch x first axis x second axis x segments of the last axis.
__host__ __device__ inline int64_t segments_per_line(const NeighborhoodParams& params) {
  return (params.axes[2].length + kSegment - 1) / kSegment;
}

__host__ __device__ inline int64_t segment_count(const NeighborhoodParams& params) {
  return params.batch * params.axes[0].length * params.axes[1].length * segments_per_line(params);
}

template <typename T, int kLanes>
__global__ void __launch_bounds__(kThreads) bias_kernel(const __grid_constant__ NeighborhoodParams params,
                                                        const __grid_constant__ NeighborhoodGradients gradients,
                                                        const bool packed, const int64_t slices, float* partial) {
  const Group<kLanes> group;
  const Axis(&axes)[kMaxRank] = params.axes;
  const View &query = params.query, &key = params.key, &value = params.value, &grad_output = gradients.grad_output;
  const int channel = group.lane * kChannels;
  const int32_t dim = params.dim, dim_value = params.dim_value;
  const int32_t per_kv = params.heads / params.heads_kv;
  const float scale = float(params.scale);
  const int64_t table = params.rpb_size(), entries = params.heads * table;
  const int64_t lines = segments_per_line(params), segments = segment_count(params);

  for (int64_t index = group.first(); index < slices * entries; index += group.step()) {
    const int64_t slice = index / entries, entry = index - slice * entries;
    const int32_t head = int32_t(entry / table);
    int64_t rest = entry - head * table;
    int32_t distance[kMaxRank];
#pragma unroll
    for (int a = kMaxRank - 1; a >= 0; --a) {
      const int32_t size = 2 * axes[a].kernel - 1;
      distance[a] = int32_t(rest % size) - (axes[a].kernel - 1);
      rest /= size;
    }
    const float bias = static_cast<const float*>(params.rpb)[entry];
    const auto shift = [&](const View& view) {
      return int64_t(distance[0]) * axes[0].dilation * view.spatial[0] +
             int64_t(distance[1]) * axes[1].dilation * view.spatial[1] +
             int64_t(distance[2]) * axes[2].dilation * view.spatial[2];
    };
    const int64_t key_shift = shift(key), value_shift = shift(value);

    float sum = 0.f;
    const int64_t end = segments * (slice + 1) / slices;
    for (int64_t segment = segments * slice / slices; segment < end; ++segment) {
      const int32_t start = int32_t(segment % lines) * kSegment;
      const int64_t line = segment / lines;
      const int32_t y = int32_t(line % axes[1].length);
      const int32_t x = int32_t(line / axes[1].length % axes[0].length);
      const int64_t batch = line / axes[1].length / axes[0].length;
      if (!attends(axes[0], x, distance[0]) || !attends(axes[1], y, distance[1])) continue;
      const auto origin = [&](const View& view, int32_t view_head) {
        return row_offset(view, batch, view_head) + x * view.spatial[0] + y * view.spatial[1];
      };
      const int64_t query_origin = origin(query, head), grad_output_origin = origin(grad_output, head);
      const int64_t key_origin = origin(key, head / per_kv) + key_shift;
      const int64_t value_origin = origin(value, head / per_kv) + value_shift;
      const int64_t statistics =
          statistics_index(params, batch, (int64_t(x) * axes[1].length + y) * axes[2].length, head);
      float segment_sum = 0.f;
      for (int32_t z = start; z < min_of(start + kSegment, axes[2].length); ++z) {
        if (!attends(axes[2], z, distance[2])) continue;
        const T* query_row = static_cast<const T*>(query.data) + query_origin + z * query.spatial[2];
        const T* key_row = static_cast<const T*>(key.data) + key_origin + z * key.spatial[2];
        const T* value_row = static_cast<const T*>(value.data) + value_origin + z * value.spatial[2];
        const T* grad_output_row =
            static_cast<const T*>(grad_output.data) + grad_output_origin + z * grad_output.spatial[2];
        const auto product = [&](const T* a, const T* b, int32_t size) {
          return group.sum(group.dot(load_channels(a, channel, size, packed), a,
                                     load_channels(b, channel, size, packed), b, size, packed));
        };
        const float logit = product(query_row, key_row, dim);
        const float grad_weight = product(grad_output_row, value_row, dim_value);
        const int64_t at = statistics + int64_t(z) * params.heads;
        const float lse = static_cast<const float*>(params.lse)[at];
        const float delta = static_cast<const float*>(gradients.delta)[at];
        segment_sum += exp2_fast((fmaf(logit, scale, bias) - lse) * kLog2e) * (grad_weight - delta);
      }
      sum += segment_sum;
    }
    if (group.lane == 0) partial[index] = sum;
  }
}

__global__ void __launch_bounds__(kThreads)
    sum_slices_kernel(const float* partial, float* result, const int64_t slices, const int64_t entries) {
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t entry = int64_t(blockIdx.x) * kThreads + threadIdx.x; entry < entries; entry += step) {
    float sum = 0.f;
    for (int64_t slice = 0; slice < slices; ++slice) sum += partial[slice * entries + entry];
    result[entry] = sum;
  }
}

}  // namespace

void backward_bias(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, DataType dtype,
                   cudaStream_t stream) {
  const bool packed = rows_are_packed({&params.query, &params.key, &params.value, &gradients.grad_output},
                                      {params.dim, params.dim_value}, dtype);
  const int64_t entries = params.heads * params.rpb_size();
  const int64_t slices = std::clamp<int64_t>(kGroupsWanted / entries, 1, segment_count(params));
  float* result = static_cast<float*>(gradients.grad_rpb);
  const std::shared_ptr<float> scratch = slices > 1 ? allocate_scratch(slices * entries) : nullptr;
  dispatch(dtype, std::max(params.dim, params.dim_value), [&](auto element, auto lanes) {
    const dim3 grid = grid_for(slices * entries, lanes.value, 1);
    bias_kernel<decltype(element), lanes.value>
        <<<grid, kThreads, 0, stream>>>(params, gradients, packed, slices, scratch ? scratch.get() : result);
  });
  check_launch();
  if (!scratch) return;
  sum_slices_kernel<<<grid_for(entries, 1, 1), kThreads, 0, stream>>>(scratch.get(), result, slices, entries);
  check_launch();
}

}  // namespace visionattn
