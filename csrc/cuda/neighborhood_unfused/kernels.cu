// Unfused neighborhood attention: a group of lanes per query (or key), one thread per slice and line of the bias.
#include "../common/bias_sum.cuh"
#include "launch.h"

namespace visionattn {
namespace {

constexpr int kTogether = 4;  // rows in flight

template <typename T, typename Lanes>
__global__ void __launch_bounds__(kThreads) qk_kernel(const __grid_constant__ UnfusedParams params) {
  const Group<Lanes> group;
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
    const Channels query = group.load(query_row, channel, dim);
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
              sums[u] = group.dot(query, query_row, group.load(key, channel, dim), key, dim);
            }
#pragma unroll
            for (int u = 0; u < kTogether; ++u) {
              const float sum = group.sum(sums[u]);
              if (group.lane == u && first + u < count) logit = bias ? sum + read_float(bias, first + u) : sum;
            }
          }
          const int32_t slot = first + group.lane;
          if (group.lane < kTogether && slot < axes[2].kernel) slots[slot] = narrow<T>(logit);
        }
      }
    }
  }
}

template <typename T, typename Lanes>
__global__ void __launch_bounds__(kThreads) av_kernel(const __grid_constant__ UnfusedParams params) {
  const Group<Lanes> group;
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
        output.add(widen(__ldg(weights + n)), group.load(row + n * value_step, channel, params.dim));
      }
    });
    T* result = static_cast<T*>(params.output.data) + site_offset(params.output, site);
    group.store(result, channel, params.dim, output);
  }
}

template <typename T, typename Lanes>
__global__ void __launch_bounds__(kThreads) av_transposed_kernel(const __grid_constant__ UnfusedParams params) {
  const Group<Lanes> group;
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
        const float weight =
            widen(__ldg(weights + group_offset(params.attention, axes, at, i, j, k) + line + slot(2, k)));
        const T* row = inputs + group_offset(params.query, axes, at, i, j, k);
        output.add(weight, group.load(row, channel, params.dim));
      }
    });
    T* result = static_cast<T*>(params.output.data) + site_offset(params.output, site);
    group.store(result, channel, params.dim, output);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    rpb_gradient_kernel(const __grid_constant__ UnfusedParams params, const BiasSizes sizes, const int64_t workers,
                        float* partial) {
  __shared__ float bins[kBins][kThreads];  // a column per thread
  const Axis(&axes)[kMaxRank] = params.axes;
  const View& view = params.attention;
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x; index < workers; index += step) {
    const BiasWorker worker(axes, sizes, index);
    for (int32_t b = 0; b < worker.last.size(); ++b) bins[b][threadIdx.x] = 0.f;
    const auto make_row = [&](int64_t batch, int32_t x, int32_t y, const int32_t (&slot)[2]) {
      const T* weights = static_cast<const T*>(view.data) + row_offset(view, batch, worker.head) + x * view.spatial[0] +
                         y * view.spatial[1] + (int64_t(slot[0]) * axes[1].kernel + slot[1]) * axes[2].kernel;
      return [weights, &view, &worker](int32_t z, int32_t number, const Interval& window, const Interval& keys) {
        const T* slots = weights + z * view.spatial[2];
        for (int32_t key = keys.begin; key < keys.end; ++key) {
          bins[key - number - worker.last.begin][threadIdx.x] += widen(__ldg(slots + key - window.begin));
        }
      };
    };
    for_each_query(axes, sizes, worker, make_row);
    float* target = partial + worker.slice * sizes.entries + worker.entry;
    for (int32_t b = 0; b < worker.last.size(); ++b) target[b] = bins[b][threadIdx.x];
  }
}

int64_t tokens_of(const UnfusedParams& params) { return params.batch * params.heads * params.tokens(); }

}  // namespace

void unfused_qk(const UnfusedParams& params, DataType dtype, cudaStream_t stream) {
  const bool packed = rows_are_packed({&params.query, &params.key}, {params.dim}, dtype);
  dispatch(dtype, params.dim, packed, [&](auto element, auto lanes) {
    qk_kernel<decltype(element), decltype(lanes)>
        <<<grid_for(tokens_of(params), lanes.kCount, 1), kThreads, 0, stream>>>(params);
  });
  check_launch();
}

void unfused_av(const UnfusedParams& params, DataType dtype, cudaStream_t stream) {
  const bool packed = rows_are_packed({&params.key, &params.output}, {params.dim}, dtype);
  dispatch(dtype, params.dim, packed, [&](auto element, auto lanes) {
    av_kernel<decltype(element), decltype(lanes)>
        <<<grid_for(tokens_of(params), lanes.kCount, params.dim), kThreads, 0, stream>>>(params);
  });
  check_launch();
}

void unfused_av_transposed(const UnfusedParams& params, DataType dtype, cudaStream_t stream) {
  const bool packed = rows_are_packed({&params.query, &params.output}, {params.dim}, dtype);
  dispatch(dtype, params.dim, packed, [&](auto element, auto lanes) {
    av_transposed_kernel<decltype(element), decltype(lanes)>
        <<<grid_for(tokens_of(params), lanes.kCount, params.dim), kThreads, 0, stream>>>(params);
  });
  check_launch();
}

void unfused_rpb_gradient(const UnfusedParams& params, DataType dtype, cudaStream_t stream) {
  const auto launch = [&](const BiasSizes& sizes, int64_t workers, float* partial) {
    dispatch(dtype, 1, true, [&](auto element, auto) {
      rpb_gradient_kernel<decltype(element)>
          <<<grid_for(workers, 1, 1), kThreads, 0, stream>>>(params, sizes, workers, partial);
    });
  };
  sum_bias(params.axes, params.batch, params.heads, static_cast<float*>(params.output.data), stream, launch);
}

}  // namespace visionattn
