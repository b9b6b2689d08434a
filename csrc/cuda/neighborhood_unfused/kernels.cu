// Unfused neighborhood attention: a group of lanes per query (or key), one thread per slice and bias entry.
#include "../common/bias_sum.cuh"
#include "launch.h"

namespace visionattn {
namespace {

constexpr int kTogether = 4;  // rows in flight

template <typename T, int kLanes>
__global__ void __launch_bounds__(kThreads) qk_kernel(const __grid_constant__ UnfusedParams params, const bool packed) {
  const Group<kLanes> group;
  const Axis(&axes)[kMaxRank] = params.axes;
  const int channel = group.lane * kChannels;
  const int32_t dim = params.dim;
  const int64_t total = params.batch * params.heads * params.tokens();
  const int64_t key_step = int64_t(axes[2].dilation) * params.key.spatial[2];

  for (int64_t index = group.first(); index < total; index += group.step()) {
    const Site site(axes, params.heads, index);
    const Grouped at(axes, site.position);
    const Box box = window_box(axes, at);
    const T* query_row = static_cast<const T*>(params.query.data) + site_offset(params.query, site);
    const T* keys = static_cast<const T*>(params.key.data) + row_offset(params.key, site.batch, site.head);
    T* slots = static_cast<T*>(params.attention.data) + site_offset(params.attention, site);
    const Channels query = load_channels(query_row, channel, dim, packed);
    for (int32_t i = 0; i < axes[0].kernel; ++i) {
      for (int32_t j = 0; j < axes[1].kernel; ++j, slots += axes[2].kernel) {
        // Slots past the window of any axis are masked.
        const bool inside = i < box.span[0].size() && j < box.span[1].size();
        const int32_t count = inside ? box.span[2].size() : 0;
        const int32_t x = box.span[0].begin + i, y = box.span[1].begin + j, z = box.span[2].begin;
        const T* row = keys + group_offset(params.key, axes, at, x, y, z);
        const float* bias = nullptr;
        if (params.rpb && inside) {
          bias = static_cast<const float*>(params.rpb) + site.head * params.rpb_size() +
                 bias_index(axes, x - at.number[0], y - at.number[1], z - at.number[2]);
        }
        for (int32_t first = 0; first < axes[2].kernel; first += kTogether) {
          float logit = -kInfinity;  // of the key of this lane
          float sums[kTogether];
          if (first < count) {
#pragma unroll
            for (int u = 0; u < kTogether; ++u) {
              const T* key = row + min_of(first + u, count - 1) * key_step;
              sums[u] = group.dot(query, query_row, load_channels(key, channel, dim, packed), key, dim, packed);
            }
#pragma unroll
            for (int u = 0; u < kTogether; ++u) {
              const float sum = group.sum(sums[u]);
              if (group.lane == u && first + u < count) logit = bias ? sum + bias[first + u] : sum;
            }
          }
          const int32_t slot = first + group.lane;
          if (group.lane < kTogether && slot < axes[2].kernel) slots[slot] = narrow<T>(logit);
        }
      }
    }
  }
}

template <typename T, int kLanes>
__global__ void __launch_bounds__(kThreads) av_kernel(const __grid_constant__ UnfusedParams params, const bool packed) {
  const Group<kLanes> group;
  const Axis(&axes)[kMaxRank] = params.axes;
  const int channel = group.channel();
  const int64_t total = params.batch * params.heads * params.tokens();
  const int64_t value_step = int64_t(axes[2].dilation) * params.key.spatial[2];

  for (int64_t index = group.first(); index < total; index += group.step()) {
    const Site site(axes, params.heads, index);
    const Grouped at(axes, site.position);
    const Box box = window_box(axes, at);
    const T* values = static_cast<const T*>(params.key.data) + row_offset(params.key, site.batch, site.head);
    const T* slots = static_cast<const T*>(params.attention.data) + site_offset(params.attention, site);
    const int32_t count = box.span[2].size();
    Channels output;
    for_each_row(box, [&](int32_t i, int32_t j) {
      const T* row = values + group_offset(params.key, axes, at, i, j, box.span[2].begin);
      const int64_t line = int64_t(i - box.span[0].begin) * axes[1].kernel + j - box.span[1].begin;
      const T* weights = slots + line * axes[2].kernel;
#pragma unroll 4
      for (int32_t n = 0; n < count; ++n) {
        output.add(widen(weights[n]), load_channels(row + n * value_step, channel, params.dim, packed));
      }
    });
    T* result = static_cast<T*>(params.output.data) + site_offset(params.output, site);
    store_channels(result, channel, params.dim, packed, output);
  }
}

template <typename T, int kLanes>
__global__ void __launch_bounds__(kThreads)
    av_transposed_kernel(const __grid_constant__ UnfusedParams params, const bool packed) {
  const Group<kLanes> group;
  const Axis(&axes)[kMaxRank] = params.axes;
  const int channel = group.channel();
  const int64_t total = params.batch * params.heads * params.tokens();

  for (int64_t index = group.first(); index < total; index += group.step()) {
    const Site site(axes, params.heads, index);
    const Grouped at(axes, site.position);
    const Box box = inverse_window_box(axes, at);
    const T* inputs = static_cast<const T*>(params.query.data) + row_offset(params.query, site.batch, site.head);
    const T* weights =
        static_cast<const T*>(params.attention.data) + row_offset(params.attention, site.batch, site.head);
    // The slot for this key in the window of query `number`, on one axis.
    const auto slot = [&](int axis, int32_t number) {
      return at.number[axis] - window(axes[axis], at.length[axis], number).begin;
    };
    Channels output;
    for_each_row(box, [&](int32_t i, int32_t j) {
      const int64_t line = (int64_t(slot(0, i)) * axes[1].kernel + slot(1, j)) * axes[2].kernel;
#pragma unroll 4
      for (int32_t k = box.span[2].begin; k < box.span[2].end; ++k) {
        const float weight = widen(weights[group_offset(params.attention, axes, at, i, j, k) + line + slot(2, k)]);
        const T* row = inputs + group_offset(params.query, axes, at, i, j, k);
        output.add(weight, load_channels(row, channel, params.dim, packed));
      }
    });
    T* result = static_cast<T*>(params.output.data) + site_offset(params.output, site);
    store_channels(result, channel, params.dim, packed, output);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    rpb_gradient_kernel(const __grid_constant__ UnfusedParams params, const int64_t slices, float* partial) {
  const Axis(&axes)[kMaxRank] = params.axes;
  const View& view = params.attention;
  const int64_t entries = params.heads * params.rpb_size();
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x; index < slices * entries; index += step) {
    const int64_t slice = index / entries;
    const BiasEntry entry(axes, index - slice * entries);
    const auto weight = [&](int64_t batch, const int32_t (&position)[kMaxRank], const int32_t (&slot)[kMaxRank]) {
      const int64_t offset = row_offset(view, batch, entry.head) + position[0] * view.spatial[0] +
                             position[1] * view.spatial[1] + position[2] * view.spatial[2] +
                             (int64_t(slot[0]) * axes[1].kernel + slot[1]) * axes[2].kernel + slot[2];
      return widen(static_cast<const T*>(view.data)[offset]);
    };
    partial[index] = sum_slice(axes, params.batch, entry, slice, slices, weight);
  }
}

int64_t tokens_of(const UnfusedParams& params) { return params.batch * params.heads * params.tokens(); }

}  // namespace

void unfused_qk(const UnfusedParams& params, DataType dtype, cudaStream_t stream) {
  const bool packed = rows_are_packed({&params.query, &params.key}, {params.dim}, dtype);
  dispatch(dtype, params.dim, [&](auto element, auto lanes) {
    qk_kernel<decltype(element), lanes.value>
        <<<grid_for(tokens_of(params), lanes.value, 1), kThreads, 0, stream>>>(params, packed);
  });
  check_launch();
}

void unfused_av(const UnfusedParams& params, DataType dtype, cudaStream_t stream) {
  const bool packed = rows_are_packed({&params.key, &params.output}, {params.dim}, dtype);
  dispatch(dtype, params.dim, [&](auto element, auto lanes) {
    av_kernel<decltype(element), lanes.value>
        <<<grid_for(tokens_of(params), lanes.value, params.dim), kThreads, 0, stream>>>(params, packed);
  });
  check_launch();
}

void unfused_av_transposed(const UnfusedParams& params, DataType dtype, cudaStream_t stream) {
  const bool packed = rows_are_packed({&params.query, &params.output}, {params.dim}, dtype);
  dispatch(dtype, params.dim, [&](auto element, auto lanes) {
    av_transposed_kernel<decltype(element), lanes.value>
        <<<grid_for(tokens_of(params), lanes.value, params.dim), kThreads, 0, stream>>>(params, packed);
  });
  check_launch();
}

void unfused_rpb_gradient(const UnfusedParams& params, DataType dtype, cudaStream_t stream) {
  const int64_t entries = params.heads * params.rpb_size();
  const auto launch = [&](int64_t slices, float* partial) {
    dispatch(dtype, 1, [&](auto element, auto) {
      rpb_gradient_kernel<decltype(element)>
          <<<grid_for(slices * entries, 1, 1), kThreads, 0, stream>>>(params, slices, partial);
    });
  };
  sum_bias(entries, segment_count(params.axes, params.batch), static_cast<float*>(params.output.data), stream, launch);
}

}  // namespace visionattn
