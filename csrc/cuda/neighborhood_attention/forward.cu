// Generic forward pass: a group of lanes per query walks its window once with an online softmax.
#include "key_rows.cuh"
#include "launch.h"

namespace visionattn {
namespace {

constexpr int kKeys = 4;  // keys in flight

template <typename T, typename Lanes>
__global__ void __launch_bounds__(kThreads) forward_kernel(const __grid_constant__ NeighborhoodParams params) {
  const Group<Lanes> group;
  const Axis(&axes)[kMaxRank] = params.axes;
  const int channel = group.channel();
  const float scale = float(params.scale) * kLog2e;
  const int64_t tokens = params.tokens(), total = params.batch * params.heads * tokens;

  for (int64_t index = group.first(); index < total; index += group.step()) {
    const Site site(axes, params.heads, index);
    const Grouped at(axes, site.position);
    const T* query_row = static_cast<const T*>(params.query.data) + site_offset(params.query, site);
    const Channels query = group.load(query_row, channel, params.dim);
    float top = -kInfinity, sum = 0.f;  // logits are kept in units of log2
    Channels output;

    for_each_key_row<T>(params, site, at, [&](const KeyRow<T>& row) {
      for (int32_t first = 0; first < row.count; first += kKeys) {
        float logit[kKeys];
#pragma unroll
        for (int u = 0; u < kKeys; ++u) {
          const T* key = row.keys + min_of(first + u, row.count - 1) * row.key_step;
          logit[u] = group.dot(query, query_row, group.load(key, channel, params.dim), key, params.dim);
        }
        float new_top = top;
#pragma unroll
        for (int u = 0; u < kKeys; ++u) {
          logit[u] = group.sum(logit[u]) * scale;
          if (row.bias) logit[u] = fmaf(read_float(row.bias, min_of(first + u, row.count - 1)), kLog2e, logit[u]);
          if (first + u >= row.count) logit[u] = -kInfinity;
          new_top = fmaxf(new_top, logit[u]);
        }
        const float base = new_top == -kInfinity ? 0.f : new_top;
        const float shrink = exp2_fast(top - base);
        top = new_top;
        sum *= shrink;
        output.scale(shrink);
#pragma unroll
        for (int u = 0; u < kKeys; ++u) {
          const float weight = exp2_fast(logit[u] - base);
          if (first + u < row.count) {
            sum += weight;
            output.add(weight, group.load(row.values + (first + u) * row.value_step, channel, params.dim_value));
          }
        }
      }
    });

    output.scale(1.f / sum);
    T* output_row = static_cast<T*>(params.output.data) + site_offset(params.output, site);
    group.store(output_row, channel, params.dim_value, output);
    if (channel == 0) {
      static_cast<float*>(params.lse)[(site.batch * tokens + site.token) * params.heads + site.head] =
          (top + log2f(sum)) * kLn2;
    }
  }
}

}  // namespace

void generic_forward(const NeighborhoodParams& params, DataType dtype, cudaStream_t stream) {
  const bool packed = rows_are_packed(
      {&params.query, &params.key, &params.value, &params.output, &params.additional_key, &params.additional_value},
      {params.dim, params.dim_value}, dtype);
  const int64_t queries = params.batch * params.heads * params.tokens();
  dispatch(dtype, std::max(params.dim, params.dim_value), packed, [&](auto element, auto lanes) {
    forward_kernel<decltype(element), decltype(lanes)>
        <<<grid_for(queries, lanes.kCount, params.dim_value), kThreads, 0, stream>>>(params);
  });
  check_launch();
}

}  // namespace visionattn
