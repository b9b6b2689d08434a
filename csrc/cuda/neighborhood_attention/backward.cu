// Generic backward pass: gradients of query (by query, over its window) and of key and value (by key, over the queries
// that attend to it).
#include "backward.cuh"
#include "key_rows.cuh"

namespace visionattn {
namespace {

constexpr int kTogether = 2;  // keys or queries in flight

template <typename T, typename Lanes>
__global__ void __launch_bounds__(kThreads) query_kernel(const __grid_constant__ NeighborhoodParams params,
                                                         const __grid_constant__ NeighborhoodGradients gradients) {
  const Group<Lanes> group;
  const int channel = group.channel();
  const int32_t dim = params.dim, dim_value = params.dim_value;
  const float scale = float(params.scale);
  const int64_t total = params.batch * params.heads * params.tokens();

  for (int64_t index = group.first(); index < total; index += group.step()) {
    const Site site(params.axes, params.heads, index);
    const Grouped at(params.axes, site.position);
    const T* query_row = static_cast<const T*>(params.query.data) + site_offset(params.query, site);
    const T* grad_output_row =
        static_cast<const T*>(gradients.grad_output.data) + site_offset(gradients.grad_output, site);
    const Channels query = group.load(query_row, channel, dim);
    const Channels grad_output = group.load(grad_output_row, channel, dim_value);

    const int64_t statistics = statistics_index(params, site.batch, site.token, site.head);
    const float lse = read_float(params.lse, statistics);

    // Gradient of the logits: weight * (grad_weight - delta), where delta is the weighted mean of grad_weight. It is
    // known only after the walk, hence two sums of keys. (grad_output * output has the same sum, but of a rounded
    // output.)
    float delta = 0.f;
    Channels plain, weighted;
    for_each_key_row<T>(params, site, at, [&](const KeyRow<T>& row) {
      for (int32_t first = 0; first < row.count; first += kTogether) {
        Channels key[kTogether];
        float logit[kTogether], grad_weight[kTogether];
#pragma unroll
        for (int u = 0; u < kTogether; ++u) {
          const int32_t n = min_of(first + u, row.count - 1);
          const T* key_row = row.keys + n * row.key_step;
          const T* value_row = row.values + n * row.value_step;
          key[u] = group.load(key_row, channel, dim);
          const Channels value = group.load(value_row, channel, dim_value);
          logit[u] = group.dot(query, query_row, key[u], key_row, dim);
          grad_weight[u] = group.dot(grad_output, grad_output_row, value, value_row, dim_value);
        }
#pragma unroll
        for (int u = 0; u < kTogether; ++u) {
          const float bias = row.bias ? read_float(row.bias, min_of(first + u, row.count - 1)) : 0.f;
          const float weight = exp2_fast((fmaf(group.sum(logit[u]), scale, bias) - lse) * kLog2e);
          const float weighted_grad = weight * group.sum(grad_weight[u]);
          if (first + u < row.count) {
            delta += weighted_grad;
            plain.add(weight, key[u]);
            weighted.add(weighted_grad, key[u]);
          }
        }
      }
    });
    if (gradients.grad_lse) delta -= read_float(gradients.grad_lse, statistics);
    if (channel == 0) static_cast<float*>(gradients.delta)[statistics] = delta;
    weighted.add(-delta, plain);
    weighted.scale(scale);
    T* result = static_cast<T*>(gradients.grad_query.data) + site_offset(gradients.grad_query, site);
    group.store(result, channel, dim, weighted);
  }
}

template <typename T, typename Lanes>
__global__ void __launch_bounds__(kThreads) key_kernel(const __grid_constant__ NeighborhoodParams params,
                                                       const __grid_constant__ NeighborhoodGradients gradients) {
  const Group<Lanes> group;
  const Axis(&axes)[kMaxRank] = params.axes;
  const View& grad_output_view = gradients.grad_output;
  const int channel = group.channel();
  const int32_t dim = params.dim, dim_value = params.dim_value;
  const int32_t per_kv = params.heads / params.heads_kv;
  const float scale = float(params.scale);
  const int64_t total = params.batch * params.heads_kv * params.tokens();
  const int64_t query_step = int64_t(axes[2].dilation) * params.query.spatial[2];
  const int64_t grad_output_step = int64_t(axes[2].dilation) * grad_output_view.spatial[2];
  const int64_t statistics_step = int64_t(axes[2].dilation) * params.heads;

  for (int64_t index = group.first(); index < total; index += group.step()) {
    const Site site(axes, params.heads_kv, index);
    const Grouped at(axes, site.position);
    const Box box = inverse_window_box(axes, at);
    const T* key_row = static_cast<const T*>(params.key.data) + site_offset(params.key, site);
    const T* value_row = static_cast<const T*>(params.value.data) + site_offset(params.value, site);
    const Channels key = group.load(key_row, channel, dim);
    const Channels value = group.load(value_row, channel, dim_value);
    Channels grad_key, grad_value;

    const int64_t rows = int64_t(box.span[0].size()) * box.span[1].size() * per_kv;
    int32_t i = box.span[0].begin, j = box.span[1].begin, head = site.head * per_kv;
    for (int64_t r = 0; r < rows; ++r) {
      const int32_t k = box.span[2].begin, count = box.span[2].size();
      const T* queries = static_cast<const T*>(params.query.data) + row_offset(params.query, site.batch, head) +
                         group_offset(params.query, axes, at, i, j, k);
      const T* grad_outputs = static_cast<const T*>(grad_output_view.data) +
                              row_offset(grad_output_view, site.batch, head) +
                              group_offset(grad_output_view, axes, at, i, j, k);
      const int64_t statistics = statistics_index(params, site.batch, group_token(axes, at, i, j, k), head);
      const float* lse = static_cast<const float*>(params.lse) + statistics;
      const float* delta = static_cast<const float*>(gradients.delta) + statistics;
      const float* bias = nullptr;  // of the first query; the others' precede it
      if (params.rpb) {
        bias = static_cast<const float*>(params.rpb) + head * params.rpb_size() +
               bias_index(axes, at.number[0] - i, at.number[1] - j, at.number[2] - k);
      }
      for (int32_t first = 0; first < count; first += kTogether) {
        Channels query[kTogether], grad_output[kTogether];
        float logit[kTogether], grad_weight[kTogether];
#pragma unroll
        for (int u = 0; u < kTogether; ++u) {
          const int32_t n = min_of(first + u, count - 1);
          const T* query_row = queries + n * query_step;
          const T* grad_output_row = grad_outputs + n * grad_output_step;
          query[u] = group.load(query_row, channel, dim);
          grad_output[u] = group.load(grad_output_row, channel, dim_value);
          logit[u] = group.dot(key, key_row, query[u], query_row, dim);
          grad_weight[u] = group.dot(value, value_row, grad_output[u], grad_output_row, dim_value);
        }
#pragma unroll
        for (int u = 0; u < kTogether; ++u) {
          const int32_t n = min_of(first + u, count - 1);
          const float shift = (bias ? read_float(bias, -n) : 0.f) - read_float(lse, n * statistics_step);
          const float weight = exp2_fast(fmaf(group.sum(logit[u]), scale, shift) * kLog2e);
          const float grad_logit = weight * (group.sum(grad_weight[u]) - read_float(delta, n * statistics_step));
          if (first + u < count) {
            grad_value.add(weight, grad_output[u]);
            grad_key.add(grad_logit, query[u]);
          }
        }
      }
      if (++j == box.span[1].end) {
        j = box.span[1].begin;
        if (++i == box.span[0].end) {
          i = box.span[0].begin;
          ++head;
        }
      }
    }
    grad_key.scale(scale);
    T* grad_key_row = static_cast<T*>(gradients.grad_key.data) + site_offset(gradients.grad_key, site);
    T* grad_value_row = static_cast<T*>(gradients.grad_value.data) + site_offset(gradients.grad_value, site);
    group.store(grad_key_row, channel, dim, grad_key);
    group.store(grad_value_row, channel, dim_value, grad_value);
  }
}

}  // namespace

void generic_backward(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, DataType dtype,
                      cudaStream_t stream) {
  const bool packed =
      rows_are_packed({&params.query, &params.key, &params.value, &params.additional_key, &params.additional_value,
                       &gradients.grad_output, &gradients.grad_query, &gradients.grad_key, &gradients.grad_value},
                      {params.dim, params.dim_value}, dtype);
  const int32_t widest = std::max(params.dim, params.dim_value);
  const int64_t sites = params.batch * params.tokens();
  dispatch(dtype, widest, packed, [&](auto element, auto lanes) {
    using T = decltype(element);
    query_kernel<T, decltype(lanes)>
        <<<grid_for(sites * params.heads, lanes.kCount, params.dim), kThreads, 0, stream>>>(params, gradients);
    check_launch();
    key_kernel<T, decltype(lanes)>
        <<<grid_for(sites * params.heads_kv, lanes.kCount, widest), kThreads, 0, stream>>>(params, gradients);
    check_launch();
  });
  if (params.additional > 0) backward_additional(params, gradients, dtype, stream);
  if (params.rpb) backward_bias(params, gradients, dtype, stream);
}

}  // namespace visionattn
