// Gradient of the relative position bias: the sum of the logits' gradients by relative position.
#include "../common/bias_sum.cuh"
#include "backward.cuh"

namespace visionattn {
namespace {

constexpr int kTogether = 2;  // keys in flight

template <typename T, typename Lanes>
__global__ void __launch_bounds__(kThreads) bias_kernel(const __grid_constant__ NeighborhoodParams params,
                                                        const __grid_constant__ NeighborhoodGradients gradients,
                                                        const BiasSizes sizes, const int64_t workers, float* partial) {
  __shared__ float bins[kBins][Group<Lanes>::kPerBlock];  // a column per group, which its first lane keeps
  const Group<Lanes> group;
  const Axis(&axes)[kMaxRank] = params.axes;
  const int channel = group.lane * kChannels;
  const int32_t dim = params.dim, dim_value = params.dim_value;
  const float scale = float(params.scale);

  for (int64_t index = group.first(); index < workers; index += group.step()) {
    const BiasWorker worker(axes, sizes, index);
    const int32_t head = worker.head, head_kv = head / (params.heads / params.heads_kv);
    const float* bias = static_cast<const float*>(params.rpb) + worker.entry;
    if (group.lane == 0) {
      for (int32_t b = 0; b < worker.last.size(); ++b) bins[b][group.number] = 0.f;
    }

    const auto make_row = [&](int64_t batch, int32_t x, int32_t y, const int32_t (&)[2]) {
      // The query's row of the map or, `distance` dilated steps further on, the keys'.
      const auto row_of = [&](const View& view, int32_t view_head, int32_t steps) {
        return static_cast<const T*>(view.data) + row_offset(view, batch, view_head) +
               (x + int64_t(steps) * worker.distance[0] * axes[0].dilation) * view.spatial[0] +
               (y + int64_t(steps) * worker.distance[1] * axes[1].dilation) * view.spatial[1];
      };
      const T *queries = row_of(params.query, head, 0), *grad_outputs = row_of(gradients.grad_output, head, 0);
      const T *keys_row = row_of(params.key, head_kv, 1), *values_row = row_of(params.value, head_kv, 1);
      const int64_t statistics =
          statistics_index(params, batch, (int64_t(x) * axes[1].length + y) * axes[2].length, head);

      return
          [=, &params, &gradients, &group, &worker](int32_t z, int32_t number, const Interval&, const Interval& keys) {
            const T* query_row = queries + z * params.query.spatial[2];
            const T* grad_output_row = grad_outputs + z * gradients.grad_output.spatial[2];
            const Channels query = group.load(query_row, channel, dim);
            const Channels grad_output = group.load(grad_output_row, channel, dim_value);
            const float lse = read_float(params.lse, statistics + int64_t(z) * params.heads);
            const float delta = read_float(gradients.delta, statistics + int64_t(z) * params.heads);
            const int32_t dilation = params.axes[2].dilation;
            for (int32_t first = keys.begin; first < keys.end; first += kTogether) {
              float logit[kTogether], grad_weight[kTogether];
#pragma unroll
              for (int u = 0; u < kTogether; ++u) {
                const int64_t key_position = z + int64_t(min_of(first + u, keys.end - 1) - number) * dilation;
                const T* key_row = keys_row + key_position * params.key.spatial[2];
                const T* value_row = values_row + key_position * params.value.spatial[2];
                logit[u] = group.dot(query, query_row, group.load(key_row, channel, dim), key_row, dim);
                grad_weight[u] = group.dot(grad_output, grad_output_row, group.load(value_row, channel, dim_value),
                                           value_row, dim_value);
              }
#pragma unroll
              for (int u = 0; u < kTogether; ++u) {
                const float raw = group.sum(logit[u]), raw_grad = group.sum(grad_weight[u]);
                if (group.lane == 0 && first + u < keys.end) {
                  const int32_t bin = first + u - number - worker.last.begin;
                  const float weight = exp2_fast((fmaf(raw, scale, read_float(bias, bin)) - lse) * kLog2e);
                  bins[bin][group.number] += weight * (raw_grad - delta);
                }
              }
            }
          };
    };
    for_each_query(axes, sizes, worker, make_row);
    if (group.lane == 0) {
      float* target = partial + worker.slice * sizes.entries + worker.entry;
      for (int32_t b = 0; b < worker.last.size(); ++b) target[b] = bins[b][group.number];
    }
  }
}

}  // namespace

void backward_bias(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, DataType dtype,
                   cudaStream_t stream) {
  const bool packed = rows_are_packed({&params.query, &params.key, &params.value, &gradients.grad_output},
                                      {params.dim, params.dim_value}, dtype);
  const auto launch = [&](const BiasSizes& sizes, int64_t workers, float* partial) {
    dispatch(dtype, std::max(params.dim, params.dim_value), packed, [&](auto element, auto lanes) {
      bias_kernel<decltype(element), decltype(lanes)>
          <<<grid_for(workers, lanes.kCount, 1), kThreads, 0, stream>>>(params, gradients, sizes, workers, partial);
    });
  };
  sum_bias(params.axes, params.batch, params.heads, static_cast<float*>(gradients.grad_rpb), stream, launch);
}

}  // namespace visionattn
