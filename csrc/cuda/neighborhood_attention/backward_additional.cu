// Gradients of the additional keys and values: a block per token and key/value head sums over all queries.
#include "../common/rows.cuh"
#include "backward.cuh"

namespace visionattn {
namespace {

template <typename T, typename Lanes>
__global__ void __launch_bounds__(kThreads) additional_kernel(const __grid_constant__ NeighborhoodParams params,
                                                              const __grid_constant__ NeighborhoodGradients gradients) {
  constexpr int kGroups = Group<Lanes>::kPerBlock;
  constexpr int kWidth = Lanes::kCount * kChannels;
  __shared__ float partial[kGroups][kWidth];
  const Group<Lanes> group;
  const int channel = group.channel();
  const int32_t dim = params.dim, dim_value = params.dim_value;
  const int32_t per_kv = params.heads / params.heads_kv;
  const float scale = float(params.scale);
  const int64_t tokens = params.tokens();
  const int64_t total = params.batch * params.heads_kv * params.additional;

  // Adds up what the block's groups have, in their order, and writes the row.
  const auto reduce = [&](const Channels& mine, T* row, int32_t size) {
#pragma unroll
    for (int i = 0; i < kChannels; ++i) partial[group.number][group.lane * kChannels + i] = mine.value[i];
    __syncthreads();
    for (int c = int(threadIdx.x); c < kWidth; c += kThreads) {
      float sum = 0.f;
      for (int g = 0; g < kGroups; ++g) sum += partial[g][c];
      const int target = int(blockIdx.y) * kWidth + c;
      if (target < size) row[target] = narrow<T>(sum);
    }
    __syncthreads();
  };

  for (int64_t index = blockIdx.x; index < total; index += gridDim.x) {
    const int32_t number = int32_t(index % params.additional);
    const int64_t batch = index / params.additional / params.heads_kv;
    const int32_t head_kv = int32_t(index / params.additional - batch * params.heads_kv);
    const auto offset = [&](const View& view) { return row_offset(view, batch, head_kv) + number * view.spatial[0]; };
    const T* key_row = static_cast<const T*>(params.additional_key.data) + offset(params.additional_key);
    const T* value_row = static_cast<const T*>(params.additional_value.data) + offset(params.additional_value);
    const Channels key = group.load(key_row, channel, dim);
    const Channels value = group.load(value_row, channel, dim_value);
    Channels grad_key, grad_value;
    for (int64_t n = group.number; n < per_kv * tokens; n += kGroups) {
      Site site(params.axes, per_kv, n);
      site.batch = batch;
      site.head += head_kv * per_kv;
      const T* query_row = static_cast<const T*>(params.query.data) + site_offset(params.query, site);
      const T* grad_output_row =
          static_cast<const T*>(gradients.grad_output.data) + site_offset(gradients.grad_output, site);
      const Channels query = group.load(query_row, channel, dim);
      const Channels grad_output = group.load(grad_output_row, channel, dim_value);
      const float logit = group.sum(group.dot(key, key_row, query, query_row, dim));
      const float grad_weight = group.sum(group.dot(value, value_row, grad_output, grad_output_row, dim_value));
      const int64_t statistics = statistics_index(params, batch, site.token, site.head);
      const float lse = read_float(params.lse, statistics);
      const float delta = read_float(gradients.delta, statistics);
      const float weight = exp2_fast(fmaf(logit, scale, -lse) * kLog2e);
      grad_value.add(weight, grad_output);
      grad_key.add(weight * (grad_weight - delta), query);
    }
    grad_key.scale(scale);
    reduce(grad_key, static_cast<T*>(gradients.grad_additional_key.data) + offset(gradients.grad_additional_key), dim);
    reduce(grad_value, static_cast<T*>(gradients.grad_additional_value.data) + offset(gradients.grad_additional_value),
           dim_value);
  }
}

}  // namespace

void backward_additional(const NeighborhoodParams& params, const NeighborhoodGradients& gradients, DataType dtype,
                         cudaStream_t stream) {
  const bool packed =
      rows_are_packed({&params.query, &params.additional_key, &params.additional_value, &gradients.grad_output},
                      {params.dim, params.dim_value}, dtype);
  const int32_t widest = std::max(params.dim, params.dim_value);
  const int64_t blocks = params.batch * params.heads_kv * params.additional;
  dispatch(dtype, widest, packed, [&](auto element, auto lanes) {
    dim3 grid = grid_for(1, lanes.kCount, widest);
    grid.x = unsigned(std::min<int64_t>(blocks, int64_t(1) << 30));
    additional_kernel<decltype(element), decltype(lanes)><<<grid, kThreads, 0, stream>>>(params, gradients);
  });
  check_launch();
}

}  // namespace visionattn
