#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <mutex>
#include <vector>
#ifdef VISIONATTN_TILE_TUNE
#include <cstdio>
#include <cstdlib>
#endif

#include "tile_launch.cuh"

namespace visionattn::tile {
namespace {

struct Device {
  int32_t multiprocessors = 1, shared_block = 0, shared_multiprocessor = 0;
};

const Device& current_device(int index) {
  static std::map<int, Device> devices;
  Device& device = devices[index];
  if (device.shared_block == 0) {
    cudaDeviceGetAttribute(&device.multiprocessors, cudaDevAttrMultiProcessorCount, index);
    cudaDeviceGetAttribute(&device.shared_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
    cudaDeviceGetAttribute(&device.shared_multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor, index);
  }
  return device;
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether the rows of two full boxes meet columns equally far from them.
template <bool kInverse>
bool alike(const Axis& axis, int32_t length, int32_t begin, int32_t other, int32_t size) {
  if (begin + size > length || other + size > length) return false;
  for (int32_t i = 0; i < size; ++i) {
    const Interval a = attended<kInverse>(axis, length, begin + i), b = attended<kInverse>(axis, length, other + i);
    if (a.begin - begin != b.begin - other || a.end - begin != b.end - other) return false;
  }
  return true;
}

// How many columns boxes along an axis meet, boxes of a block and boxes of a warp: the most and the sum.
struct Extents {
  int32_t block = 0, warp = 0;
  double block_sum = 0, warp_sum = 0, blocks = 0, warps = 0;

  template <bool kInverse>
  void add(const Axis& axis, int32_t length, Interval rows, int32_t warp_rows, double count) {
    const int32_t columns = attended<kInverse>(axis, length, rows).size();
    block = std::max(block, columns);
    block_sum += columns * count;
    blocks += count;
    for (int32_t begin = rows.begin; begin < rows.end; begin += warp_rows) {
      const int32_t width =
          attended<kInverse>(axis, length, Interval{begin, min_of(begin + warp_rows, rows.end)}).size();
      warp = std::max(warp, width);
      warp_sum += width * count;
      warps += count;
    }
  }
};

// Sorts the boxes along an axis into classes. False if there are too many.
bool classify(Plan& plan, const Axis& axis, int a, bool backward, Extents& extents, Extents& inverse) {
  const int32_t size = plan.rows[a] * plan.warps[a], groups = min_of(axis.dilation, axis.length);
  int32_t count = 0;
  for (int32_t group = 0; group < groups;) {
    const int32_t length = group_length(axis, group);
    int32_t end = group + 1;
    while (end < groups && group_length(axis, end) == length) ++end;
    for (int32_t tile = 0; tile * size < length;) {
      if (count == kMaxAxisClasses) return false;
      const int32_t begin = tile * size;
      int32_t next = tile + 1;
      while (next * size < length && alike<false>(axis, length, begin, next * size, size) &&
             (!backward || alike<true>(axis, length, begin, next * size, size))) {
        ++next;
      }
      const Interval rows{begin, min_of(begin + size, length)};
      const double boxes = double(next - tile) * (end - group);
      extents.add<false>(axis, length, rows, plan.rows[a], boxes);
      if (backward) inverse.add<true>(axis, length, rows, plan.rows[a], boxes);
      plan.classes[a][count++] = {tile, next - tile, group, end - group};
      tile = next;
    }
    group = end;
  }
  plan.class_counts[a] = count;
  return true;
}

// What the boxes come to, over all axes: capacities, and means to estimate times from. Rows are queries or (inverse)
// keys.
struct Totals {
  int64_t columns = 1, columns_inverse = 1, width = 1, width_inverse = 1, classes = 1;
  double blocks = 1, warps = 1;  // of a head and a batch entry
  double mean_columns = 1, mean_columns_inverse = 1, mean_width_inverse = 1;
  bool valid = false;
};

Totals complete(Plan& plan, const NeighborhoodParams& params, bool backward) {
  Totals totals;
  for (int a = 0; a < kMaxRank; ++a) {
    Extents extents, inverse;
    if (!classify(plan, params.axes[a], a, backward, extents, inverse)) return totals;
    totals.columns *= extents.block;
    totals.width *= extents.warp;
    totals.classes *= plan.class_counts[a];
    totals.blocks *= extents.blocks;
    totals.warps *= extents.warps;
    totals.mean_columns *= extents.block_sum / extents.blocks;
    if (backward) {
      totals.columns_inverse *= inverse.block;
      totals.width_inverse *= inverse.warp;
      totals.mean_columns_inverse *= inverse.block_sum / inverse.blocks;
      totals.mean_width_inverse *= inverse.warp_sum / inverse.warps;
    }
  }
  const int64_t columns = std::max(totals.columns, totals.columns_inverse);
  totals.valid = totals.classes <= kMaxClasses && columns <= 2048;
  plan.columns = static_cast<int32_t>(std::min<int64_t>(columns, 2048));
  return totals;
}

// Deals the boxes of every class out to blocks, at most `most` to each. Returns the blocks of a head and a chunk.
int64_t deal_boxes(Plan& plan, int64_t most) {
  int64_t block = 0;
  int32_t index = 0;
  for (int32_t i = 0; i < plan.class_counts[0]; ++i) {
    for (int32_t j = 0; j < plan.class_counts[1]; ++j) {
      for (int32_t k = 0; k < plan.class_counts[2]; ++k) {
        int64_t boxes = 1;
        for (const AxisClass& c : {plan.classes[0][i], plan.classes[1][j], plan.classes[2][k]}) {
          boxes *= int64_t(c.tiles) * c.groups;
        }
        plan.first_block[index++] = static_cast<int32_t>(block);
        block += divide_up(boxes, most);
      }
    }
  }
  plan.first_block[index] = static_cast<int32_t>(block);
  return block;
}

// The most boxes of a class.
int64_t most_boxes(const Plan& plan) {
  int64_t most = 1;
  for (int a = 0; a < kMaxRank; ++a) {
    int64_t along = 0;
    for (int32_t i = 0; i < plan.class_counts[a]; ++i) {
      along = std::max(along, int64_t(plan.classes[a][i].tiles) * plan.classes[a][i].groups);
    }
    most *= along;
  }
  return most;
}

// Cuts the batch and deals out the boxes so that the blocks fill the device (`slots` blocks at a time) in one wave or
// else are many; to start a block takes as long as `start` turns. Every block works on one box and a part of the batch,
// or on several boxes and all of it. There are `copies` of each block.
struct Division {
  int64_t blocks;
  double turns;  // that the work takes
};

Division divide_work(Plan& plan, int64_t batch, int64_t copies, int64_t slots, double start) {
  const int64_t boxes = most_boxes(plan);
  double lowest = INFINITY;
  int64_t best_most = 1, best_chunks = 1;
  const auto consider = [&](int64_t most, int64_t chunks) {
    const double blocks = double(deal_boxes(plan, most)) * chunks * copies;
    const double turns = double(divide_up(batch, chunks) * most) + start, waves = blocks / slots;
    const double time = waves <= 1 ? turns : turns * (std::ceil(waves) + waves + 0.5) / 2;
    if (time < lowest) {
      lowest = time;
      best_most = most;
      best_chunks = chunks;
    }
  };
  for (int64_t chunks = 1; chunks <= std::min<int64_t>(batch, 256); ++chunks) {
    consider(1, chunks);
  }
  for (int64_t most = 2; most <= std::min<int64_t>(boxes, 128); ++most) consider(most, 1);
  plan.chunks = static_cast<int32_t>(best_chunks);
  return {deal_boxes(plan, best_most) * best_chunks * copies, lowest};
}

int32_t shared_bytes(const Plan& plan, const NeighborhoodParams& params, int32_t dim, bool backward,
                     const KernelChoice& choice) {
  const int32_t bins = params.rpb == nullptr ? 1 : static_cast<int32_t>(params.rpb_size());
  if (!backward) return ForwardLayout(plan, dim * 2, bins).total;
  return std::max(BackwardLayout(plan, dim * 2, bins, false, choice.pairs == 0).total,
                  BackwardLayout(plan, dim * 2, bins, true, choice.pairs == 0).total);
}

// Instructions of the warps of a block for one unit, as counted in profiles.
double unit_instructions(const Plan& plan, const Totals& totals, const KernelChoice& choice, int32_t dim,
                         bool backward) {
  const double channels = dim / 32.0, warps = totals.warps / totals.blocks, rows = plan.row_count();
  const double held = choice.whole ? choice.pairs : plan.pairs;
  if (!backward) {
    const double copies = 1.2 * channels * (2 * totals.mean_columns + rows) * (plan.split ? 1.25 : 1);
    return warps * (200 + held * (40 + 35 * channels)) + copies + 120;
  }
  const double held_inverse = std::ceil(totals.mean_width_inverse / 16 + 0.5);
  const double copies = 1.2 * channels * (totals.mean_columns + totals.mean_columns_inverse + 2 * rows);
  return warps * (300 + (held + held_inverse) / 2 * (40 + 60 * channels)) + copies + 200;
}

// Completes a plan whose boxes of rows and warps and whose stages are given. Returns the estimated time in clock
// cycles.
double carry_out(Launch& launch, Plan& plan, const NeighborhoodParams& params, DataType dtype, bool backward,
                 ChooseKernel choose, const Device& device) {
  const Totals totals = complete(plan, params, backward);
  if (!totals.valid) return INFINITY;
  const int32_t width = static_cast<int32_t>(divide_up(totals.width, 16));
  const KernelChoice choice = choose(dtype, launch.dim, width);
  if (choice.kernel == nullptr || plan.thread_count() > choice.max_threads) return INFINITY;
  plan.pairs = static_cast<int32_t>(std::max<int64_t>(width, backward ? divide_up(totals.width_inverse, 16) : 0));
  if (choice.whole) {
    plan.pairs = std::max(plan.pairs, choice.pairs);
  } else if (choice.pairs > 0) {
    plan.pairs = static_cast<int32_t>(divide_up(plan.pairs, choice.pairs)) * choice.pairs;
  }
  if (plan.split && (backward || !choice.whole)) return INFINITY;
  if (plan.columns * launch.dim * 2 > 65536 || plan.pairs > 31) return INFINITY;
  const int32_t bytes = shared_bytes(plan, params, launch.dim, backward, choice);
  if (bytes > device.shared_block) return INFINITY;
  if (cudaFuncSetAttribute(choice.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, device.shared_block) !=
      cudaSuccess) {
    cudaGetLastError();
    return INFINITY;
  }
  int32_t resident = 0;
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, choice.kernel, plan.thread_count(), bytes);
  if (resident == 0) return INFINITY;
  const Division division = divide_work(plan, params.batch, params.heads * (backward ? 2 : 1),
                                        int64_t(resident) * device.multiprocessors, backward ? 4 : 2);
  if (division.blocks >= (int64_t(1) << 31) || most_boxes(plan) * params.batch >= (int64_t(1) << 30)) return INFINITY;
  // Instructions per clock cycle: more with more warps, and with more blocks that don't wait for each other.
  const double alone[] = {0, 0.8, 0.9, 0.97};
  const double warps = std::min(16.0, totals.warps / totals.blocks * resident);
  const double rate = 2.2 * std::pow(warps / 16, 0.6) * (resident < 4 ? alone[resident] : 1) *
                      (plan.warps[2] > 1 ? 0.94 : 1) *
                      (plan.stages == 2         ? 1
                       : plan.split || backward ? 0.95
                                                : 0.88);
  launch.kernel = choice.kernel;
  launch.threads = plan.thread_count();
  launch.shared_bytes = bytes;
  launch.blocks = division.blocks;
  launch.plan = plan;
  launch.supported = true;
  return division.turns * resident * unit_instructions(plan, totals, choice, launch.dim, backward) / rate;
}

#ifdef VISIONATTN_TILE_TUNE
int32_t forced[7];
#endif

// Calls visit(rows, warps) for every sensible box of rows of a warp and box of warps of a block.
template <typename Visit>
void for_boxes(const NeighborhoodParams& params, int32_t max_warps, Visit visit) {
  int32_t length[kMaxRank];
  for (int a = 0; a < kMaxRank; ++a) length[a] = group_length(params.axes[a], 0);
  std::array<int32_t, kMaxRank> rows, warps;
  for (rows[0] = 1; rows[0] <= min_of(length[0], 4); ++rows[0]) {
    for (rows[1] = 1; rows[0] * rows[1] <= 8 && rows[1] <= length[1]; ++rows[1]) {
      const int32_t most = min_of(kRows / (rows[0] * rows[1]), length[2]);
      int32_t even = most;  // cuts the axis evenly
      while (length[2] % even != 0) --even;
      for (int32_t last = most; last >= even; last -= max_of(most - even, 1)) {
        if (last < most && 4 * last < 3 * most) continue;
        rows[2] = last;
        int32_t limit[kMaxRank];
        for (int a = 0; a < kMaxRank; ++a) limit[a] = static_cast<int32_t>(divide_up(length[a], rows[a]));
        for (warps[0] = 1; warps[0] <= min_of(limit[0], max_warps); ++warps[0]) {
          for (warps[1] = 1; warps[0] * warps[1] <= max_warps && warps[1] <= limit[1]; ++warps[1]) {
            for (warps[2] = 1; warps[0] * warps[1] * warps[2] <= max_warps && warps[2] <= limit[2]; ++warps[2]) {
              visit(rows, warps);
            }
          }
        }
      }
    }
  }
}

Launch make_launch(const NeighborhoodParams& params, DataType dtype, bool backward, ChooseKernel choose,
                   const Device& device) {
  Launch best;
  best.dim = params.dim <= 32 ? 32 : params.dim <= 64 ? 64 : 128;
  if (params.rpb != nullptr && params.rpb_size() > 8192) return best;
  const int32_t max_warps = best.dim == 128 ? 8 : best.dim == 64 || backward ? 12 : 16;
  double lowest = INFINITY;
  const auto consider = [&](const std::array<int32_t, kMaxRank>& rows, const std::array<int32_t, kMaxRank>& warps,
                            int32_t stages, bool split) {
    Launch launch;
    launch.dim = best.dim;
    Plan plan{};
    for (int a = 0; a < kMaxRank; ++a) {
      plan.rows[a] = rows[a];
      plan.warps[a] = warps[a];
    }
    plan.stages = stages;
    plan.split = split;
    const double time = carry_out(launch, plan, params, dtype, backward, choose, device);
    if (time < lowest) {
      lowest = time;
      best = launch;
    }
  };
#ifdef VISIONATTN_TILE_TUNE
  if (forced[0] > 0) {
    consider({forced[0], forced[1], forced[2]}, {forced[3], forced[4], forced[5]}, forced[6] == 2 ? 2 : 1,
             forced[6] == 3);
    return best;
  }
#endif
  for_boxes(params, max_warps, [&](const auto& rows, const auto& warps) {
    consider(rows, warps, 1, false);
    consider(rows, warps, 2, false);
    if (!backward) consider(rows, warps, 1, true);
  });
  return best;
}

}  // namespace

#ifdef VISIONATTN_TILE_TUNE
std::map<std::vector<int64_t>, Launch>* launches_for_tuning = nullptr;
extern "C" __attribute__((visibility("default"))) void tile_force(const int32_t* values) {
  for (int i = 0; i < 7; ++i) forced[i] = values[i];
  if (launches_for_tuning != nullptr) launches_for_tuning->clear();
}
#endif

const Launch& find_launch(const NeighborhoodParams& params, DataType dtype, bool backward, ChooseKernel choose) {
  static std::mutex mutex;
  static std::map<std::vector<int64_t>, Launch> launches;
#ifdef VISIONATTN_TILE_TUNE
  launches_for_tuning = &launches;
#endif
  int device = 0;
  cudaGetDevice(&device);
  std::vector<int64_t> key{device,          static_cast<int64_t>(dtype),
                           backward,        params.rpb != nullptr,
                           params.batch,    params.heads,
                           params.heads_kv, params.dim};
  for (const Axis& axis : params.axes) {
    key.insert(key.end(), {axis.length, axis.kernel, axis.stride, axis.dilation, axis.causal});
  }
  const std::lock_guard lock(mutex);
  auto found = launches.find(key);
  if (found == launches.end()) {
    found = launches.emplace(key, make_launch(params, dtype, backward, choose, current_device(device))).first;
#ifdef VISIONATTN_TILE_TUNE
    if (getenv("TILE_VERBOSE")) {
      const Plan& q = found->second.plan;
      printf(
          "   plan %s: rows %d,%d,%d warps %d,%d,%d stages %d split %d pairs %d columns %d shared %d blocks %ld chunks "
          "%d\n",
          backward ? "b" : "f", q.rows[0], q.rows[1], q.rows[2], q.warps[0], q.warps[1], q.warps[2], q.stages, q.split,
          q.pairs, q.columns, found->second.shared_bytes, long(found->second.blocks), q.chunks);
      fflush(stdout);
    }
#endif
  }
  return found->second;
}

bool readable(const NeighborhoodParams& params, const View& view) {
  if (reinterpret_cast<uintptr_t>(view.data) % 16 != 0 || view.batch % 8 != 0 || view.head % 8 != 0) return false;
  int64_t last = 0;
  for (int a = 0; a < kMaxRank; ++a) {
    if (params.axes[a].length == 1) continue;
    if (view.spatial[a] % 8 != 0 || view.spatial[a] < 0) return false;
    last += view.spatial[a] * (params.axes[a].length - 1);
  }
  return last < (int64_t(1) << 31) - 1024;  // elements; offsets in bytes take 32 bits
}

bool covered(const NeighborhoodParams& params, DataType dtype) {
  return (dtype == DataType::float16 || dtype == DataType::bfloat16) && params.dim == params.dim_value &&
         params.dim % 8 == 0 && params.dim <= 128 && params.additional == 0 && params.scale > 1e-6f &&
         params.scale < 1e6f && params.tokens() * params.heads < (int64_t(1) << 31);
}

}  // namespace visionattn::tile
