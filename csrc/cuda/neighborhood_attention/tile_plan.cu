// Chooses how to cut a case: enumerates boxes, estimates the time of each choice and keeps the best.
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
#ifdef VISIONATTN_TILE_TUNE
int32_t forced[7];
#endif
namespace {

struct Device {
  int32_t multiprocessors = 1, shared_block = 0, shared_multiprocessor = 0;
};

const Device& find_device(int index) {
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
  double block_sum = 0, warp_sum = 0;

  template <bool kInverse>
  void add(const Axis& axis, int32_t length, Interval rows, int32_t warp_rows, double count) {
    const int32_t columns = attended<kInverse>(axis, length, rows).size();
    block = std::max(block, columns);
    block_sum += columns * count;
    for (int32_t begin = rows.begin; begin < rows.end; begin += warp_rows) {
      const Interval warp_box{begin, min_of(begin + warp_rows, rows.end)};
      const int32_t width = attended<kInverse>(axis, length, warp_box).size();
      warp = std::max(warp, width);
      warp_sum += width * count;
    }
  }
};

// An axis cut into boxes: their classes, and what they meet where rows are queries and, for a backward pass, keys.
struct AxisCut {
  std::vector<AxisClass> classes;
  Extents extents, inverse;
  double blocks = 0, warps = 0;   // boxes of a block and of a warp
  int32_t tiles = 0, groups = 0;  // boxes of a block in the longest group, and groups
};

AxisCut cut_axis(const Axis& axis, int32_t warp_rows, int32_t warps, bool backward) {
  AxisCut cut;
  const int32_t size = warp_rows * warps, groups = min_of(axis.dilation, axis.length);
  cut.tiles = static_cast<int32_t>(divide_up(group_length(axis, 0), size));
  cut.groups = groups;
  const int32_t border = axis.kernel + axis.stride;  // farther from an end, windows don't feel it
  for (int32_t group = 0; group < groups;) {
    const int32_t length = group_length(axis, group);
    int32_t end = group + 1;
    while (end < groups && group_length(axis, end) == length) ++end;
    for (int32_t tile = 0; tile * size < length;) {
      const int32_t begin = tile * size, far = (length - border) / size;
      int32_t next = tile + 1;
      while (next * size < length && alike<false>(axis, length, begin, next * size, size) &&
             (!backward || alike<true>(axis, length, begin, next * size, size))) {
        next = begin >= border && next < far ? far : next + 1;
      }
      const Interval rows{begin, min_of(begin + size, length)};
      const double count = double(next - tile) * (end - group);
      cut.extents.add<false>(axis, length, rows, warp_rows, count);
      if (backward) cut.inverse.add<true>(axis, length, rows, warp_rows, count);
      cut.blocks += count;
      cut.warps += count * divide_up(rows.size(), warp_rows);
      cut.classes.push_back({tile, next - tile, group, end - group});
      tile = next;
    }
    group = end;
  }
  return cut;
}

// What the boxes come to over all axes: capacities, and means to estimate times from.
struct Totals {
  int64_t columns = 1, columns_inverse = 1, width = 1, width_inverse = 1, classes = 1, most_boxes = 1;
  double blocks = 1, warps = 1;  // of a head and a batch entry
  double mean_columns = 1, mean_columns_inverse = 1, mean_width_inverse = 1;
  bool listable = true;  // the classes fit the lists of a plan

  void add(const AxisCut& cut) {
    columns *= cut.extents.block;
    columns_inverse *= cut.inverse.block;
    width *= cut.extents.warp;
    width_inverse *= cut.inverse.warp;
    classes *= cut.classes.size();
    blocks *= cut.blocks;
    warps *= cut.warps;
    mean_columns *= cut.extents.block_sum / cut.blocks;
    mean_columns_inverse *= cut.inverse.block_sum / cut.blocks;
    listable = listable && cut.classes.size() <= kMaxAxisClasses;
    mean_width_inverse *= cut.inverse.warp_sum / cut.warps;
    int64_t along = 0;
    for (const AxisClass& c : cut.classes) along = std::max(along, int64_t(c.tiles) * c.groups);
    most_boxes *= along;
  }
};

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

// How work is divided: every block takes one box and one of `chunks` parts of the batch, or up to `most` boxes and all
// of the batch. `blocks` of them take as long as `turns` units one after the other.
struct Division {
  int64_t most = 1, chunks = 1;
  double blocks = 0, turns = INFINITY;
};

// Blocks should fill the device (`slots` at a time) in one wave or else be many; starting one takes `start` turns.
// There are `copies` of each block.
Division divide_work(const Totals& totals, int64_t batch, int64_t copies, int64_t slots, double start) {
  Division best;
  const auto consider = [&](int64_t most, int64_t chunks) {
    // About: rounding up is left out where a block takes several boxes.
    const double blocks = std::max(std::ceil(totals.blocks / most), double(totals.classes)) * chunks * copies;
    const double turns = double(divide_up(batch, chunks) * most) + start, waves = blocks / slots;
    const double time = waves <= 1 ? turns : turns * (std::ceil(waves) + waves + 0.5) / 2;
    if (time < best.turns) best = {most, chunks, blocks, time};
  };
  for (int64_t chunks = 1; chunks <= std::min<int64_t>(batch, 256); ++chunks) consider(1, chunks);
  for (int64_t most = 2; most <= std::min<int64_t>(totals.most_boxes, 128); most += 1 + most / 8) consider(most, 1);
  return best;
}

class Planner {
 public:
  Planner(const NeighborhoodParams& params, DataType dtype, bool backward, const Kernels& kernels, const Device& device)
      : params_(params), dtype_(dtype), backward_(backward), kernels_(kernels), device_(device) {
    dim_ = params.dim <= 32 ? 32 : params.dim <= 64 ? 64 : 128;
    bins_ = params.rpb == nullptr ? 1 : params.rpb_size();
  }

  Launch plan() {
    if (bins_ > 8192) return {};
#ifdef VISIONATTN_TILE_TUNE
    if (forced[0] > 0) {
      const Box3 rows{forced[0], forced[1], forced[2]}, warps{forced[3], forced[4], forced[5]};
      forced[6] < 10 ? consider(rows, warps) : consider_strips(rows, warps);
      return finish();
    }
#endif
    for_boxes([this](const Box3& rows, const Box3& warps) {
      consider(rows, warps);
      consider_strips(rows, warps);
    });
    return finish();
  }

 private:
  using Box3 = std::array<int32_t, kMaxRank>;

  const NeighborhoodParams& params_;
  DataType dtype_;
  bool backward_;
  const Kernels& kernels_;
  const Device& device_;
  int32_t dim_;
  int64_t bins_;
  std::map<std::array<int32_t, 3>, AxisCut> cuts_;  // by axis, rows of a warp and warps
  double lowest_ = INFINITY;
  Launch best_;
  Division division_;

  const AxisCut& cut(int axis, int32_t rows, int32_t warps) {
    const auto [found, added] = cuts_.try_emplace({axis, rows, warps});
    if (added) found->second = cut_axis(params_.axes[axis], rows, warps, backward_);
    return found->second;
  }

  // Calls visit(rows, warps) for every sensible box of rows of a warp and box of warps of a block.
  template <typename Visit>
  void for_boxes(Visit visit) const {
    constexpr int32_t kMaxWarps = 8;
    Box3 length, rows, warps, limit;
    for (int a = 0; a < kMaxRank; ++a) length[a] = group_length(params_.axes[a], 0);
    for (rows[0] = 1; rows[0] <= min_of(length[0], 4); ++rows[0]) {
      for (rows[1] = 1; rows[0] * rows[1] <= 8 && rows[1] <= length[1]; ++rows[1]) {
        const int32_t most = min_of(kRows / (rows[0] * rows[1]), length[2]);
        for (rows[2] = most; 4 * rows[2] >= 3 * most; --rows[2]) {
          if (rows[2] < most && length[2] % rows[2] != 0) continue;  // smaller boxes are for cutting the axis evenly
          for (int a = 0; a < kMaxRank; ++a) limit[a] = static_cast<int32_t>(divide_up(length[a], rows[a]));
          for (warps[0] = 1; warps[0] <= min_of(limit[0], kMaxWarps); ++warps[0]) {
            for (warps[1] = 1; warps[0] * warps[1] <= kMaxWarps && warps[1] <= limit[1]; ++warps[1]) {
              for (warps[2] = 1; warps[0] * warps[1] * warps[2] <= kMaxWarps && warps[2] <= limit[2]; ++warps[2]) {
                visit(rows, warps);
              }
            }
          }
        }
      }
    }
  }

  void consider(const Box3& rows, const Box3& warps) {
    Totals totals;
    for (int a = 0; a < kMaxRank; ++a) totals.add(cut(a, rows[a], warps[a]));
    const int64_t columns = std::max(totals.columns, totals.columns_inverse);
    const int64_t width = divide_up(totals.width, 16), width_inverse = divide_up(totals.width_inverse, 16);
    if (!totals.listable || totals.classes > kMaxClasses || columns * dim_ * 2 > 65536 ||
        std::max(width, width_inverse) > 31 || totals.most_boxes * params_.batch >= (int64_t(1) << 30)) {
      return;
    }
    const KernelChoice choice = kernels_.by_pairs(dtype_, dim_, static_cast<int32_t>(width));
    Launch launch;
    Plan& plan = launch.plan;
    std::copy(rows.begin(), rows.end(), plan.rows);
    std::copy(warps.begin(), warps.end(), plan.warps);
    plan.columns = static_cast<int32_t>(columns);
    plan.pairs = static_cast<int32_t>(std::max(width, backward_ ? width_inverse : 0));
    if (choice.whole) {
      plan.pairs = std::max(plan.pairs, choice.pairs);
    } else if (choice.pairs > 0) {
      plan.pairs = static_cast<int32_t>(divide_up(plan.pairs, choice.pairs)) * choice.pairs;
    }
    launch.dim = dim_;
    launch.kernel = choice.kernel;
    launch.threads = plan.thread_count();
    if (launch.threads > choice.threads) return;
    for (const int mode : {1, 2, 3}) {
#ifdef VISIONATTN_TILE_TUNE
      if (forced[0] > 0 && forced[6] != mode) continue;
#endif
      plan.stages = mode == 2 ? 2 : 1;
      plan.split = mode == 3;
      if (plan.split && (backward_ || !choice.whole)) continue;
      consider(launch, totals, choice);
    }
  }

  void consider(Launch& launch, const Totals& totals, const KernelChoice& choice) {
    launch.shared_bytes = shared_bytes(launch.plan, choice);
    consider(launch, totals, choice, unit_instructions(launch.plan, totals, choice));
  }

  // Boxes of warps with two tiles of rows are twice as high.
  void consider_strips(const Box3& tile_rows, const Box3& warps) {
    if (warps[2] > 1) return;  // all warps share the table
    const KernelChoice choice = kernels_.strip(dtype_, dim_);
    Box3 rows = tile_rows;
    rows[params_.axes[1].length > 1 ? 1 : 2] *= choice.tiles;
    Totals totals;
    for (int a = 0; a < kMaxRank; ++a) totals.add(cut(a, rows[a], warps[a]));
    totals.most_boxes = 1;
    const AxisCut &last = cut(2, rows[2], 1), &middle = cut(1, rows[1], warps[1]), &first = cut(0, rows[0], warps[0]);
    const int64_t longest = std::max(last.extents.block, last.inverse.block);
    const int64_t most_lines = std::max(int64_t(first.extents.block) * middle.extents.block,
                                        int64_t(first.inverse.block) * middle.inverse.block);
    Launch launch;
    Plan& plan = launch.plan;
    std::copy(rows.begin(), rows.end(), plan.rows);
    std::copy(warps.begin(), warps.end(), plan.warps);
    plan.tiles = choice.tiles;
    plan.plain = true;
    plan.stages = 2;
    if (longest > 1024) return;
    plan.pitch = static_cast<int32_t>(divide_up(longest, 16)) * 16;
    launch.dim = dim_;
    launch.kernel = choice.kernel;
    launch.threads = plan.thread_count();
    if (launch.threads > choice.threads) return;
    for (const int64_t bytes : {16384, 32768, 65536}) {
      plan.lines = static_cast<int32_t>(std::clamp<int64_t>(bytes / (plan.pitch * dim_ * 4), 1, most_lines));
      const int32_t distances = line_distances(params_);
      launch.shared_bytes = StripLayout(plan, dim_ * 2, distances, backward_, false, backward_ && bins_ > 1).total;
      if (backward_) {
        launch.shared_bytes =
            std::max(launch.shared_bytes, StripLayout(plan, dim_ * 2, distances, true, true, false).total);
      }
      consider(launch, totals, choice, strip_instructions(plan, totals, choice, first, middle, last));
    }
  }

  void consider(const Launch& launch, const Totals& totals, const KernelChoice& choice, double instructions) {
    if (launch.shared_bytes > device_.shared_block) return;
    const int32_t resident =
        std::min({device_.shared_multiprocessor / (launch.shared_bytes + 1024), choice.threads / launch.threads, 16});
    if (resident == 0) return;
    const Division division = divide_work(totals, params_.batch, params_.heads * (backward_ ? 2 : 1),
                                          int64_t(resident) * device_.multiprocessors,
                                          launch.plan.plain ? 0.5
                                          : backward_       ? 4
                                                            : 2);
    const double time = division.turns * resident * instructions / rate(launch.plan, totals, resident);
    if (time < lowest_) {
      lowest_ = time;
      best_ = launch;
      division_ = division;
    }
  }

  // Instructions per clock cycle: more with more warps, and with more blocks that don't wait for each other.
  double rate(const Plan& plan, const Totals& totals, int32_t resident) const {
    constexpr double kAlone[] = {0, 0.8, 0.9, 0.97, 1};
    const double warps = std::min(16.0, totals.warps / totals.blocks * resident);
    const double waiting = plan.stages == 2 ? 1 : plan.split || backward_ ? 0.95 : 0.88;
    const double conflicts = plan.warps[2] > 1 ? 0.94 : 1;
    return 2.2 * std::pow(warps / 16, 0.6) * kAlone[min_of(resident, 4)] * waiting * conflicts;
  }

  // Instructions of the warps of a block for one unit, as counted in profiles.
  double unit_instructions(const Plan& plan, const Totals& totals, const KernelChoice& choice) const {
    const double channels = dim_ / 32.0, warps = totals.warps / totals.blocks, rows = plan.row_count();
    const double held = choice.whole ? choice.pairs : plan.pairs;
    if (!backward_) {
      const double copies = 1.2 * channels * (2 * totals.mean_columns + rows) * (plan.split ? 1.25 : 1);
      return warps * (200 + held * (40 + 35 * channels)) + copies + 120;
    }
    const double held_inverse = std::ceil(totals.mean_width_inverse / 16 + 0.5);
    const double copies = 1.2 * channels * (totals.mean_columns + totals.mean_columns_inverse + 2 * rows);
    return warps * (300 + (held + held_inverse) / 2 * (40 + 60 * channels)) + copies + 200;
  }

  double strip_instructions(const Plan& plan, const Totals& totals, const KernelChoice& choice, const AxisCut& first,
                            const AxisCut& middle, const AxisCut& last) const {
    const double channels = dim_ / 32.0, warps = totals.warps / totals.blocks;
    // Pairs of column blocks of a warp, and columns of a block.
    const auto pairs = [&](Extents AxisCut::* e) {
      return (first.*e).warp_sum / first.warps * (middle.*e).warp_sum / middle.warps *
             std::ceil((last.*e).warp_sum / last.warps / 16);
    };
    const auto columns = [&](Extents AxisCut::* e) {
      return (first.*e).block_sum / first.blocks * (middle.*e).block_sum / middle.blocks *
             std::ceil((last.*e).block_sum / last.blocks / 16) * 16;
    };
    const double held = pairs(&AxisCut::extents), passing = columns(&AxisCut::extents);
    if (!backward_) {
      return warps * (300 + held * (60 + (55 + 27 * channels) * choice.tiles)) + passing * 3 * channels + 1500;
    }
    const double held_inverse = pairs(&AxisCut::inverse), passing_inverse = columns(&AxisCut::inverse);
    const double mean = (held + held_inverse) / 2, mean_passing = (passing + passing_inverse) / 2;
    return warps * (500 + mean * ((bins_ > 1 ? 130 : 100) + 60 * channels)) + mean_passing * 3 * channels + 2000;
  }

  int32_t shared_bytes(const Plan& plan, const KernelChoice& choice) const {
    const int32_t bins = static_cast<int32_t>(bins_);
    if (!backward_) return ForwardLayout(plan, dim_ * 2, bins).total;
    return std::max(BackwardLayout(plan, dim_ * 2, bins, false, choice.pairs == 0).total,
                    BackwardLayout(plan, dim_ * 2, bins, true, choice.pairs == 0).total);
  }

  Launch finish() {
    if (best_.kernel == nullptr) return {};
    Plan& plan = best_.plan;
    int64_t blocks = 1;
    for (int a = 0; a < kMaxRank; ++a) {
      const AxisCut& chosen = cut(a, plan.rows[a], plan.warps[a]);
      plan.tiles_along[a] = chosen.tiles;
      plan.class_counts[a] = plan.plain ? chosen.tiles * chosen.groups : static_cast<int32_t>(chosen.classes.size());
      blocks *= plan.class_counts[a];
      if (!plan.plain) std::copy(chosen.classes.begin(), chosen.classes.end(), plan.classes[a]);
    }
    plan.chunks = static_cast<int32_t>(division_.chunks);
    if (!plan.plain) blocks = deal_boxes(plan, division_.most);
    best_.blocks = blocks * plan.chunks * params_.heads * (backward_ ? 2 : 1);
    best_.supported = best_.blocks < (int64_t(1) << 31) &&
                      cudaFuncSetAttribute(best_.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           device_.shared_block) == cudaSuccess;
    return best_;
  }
};

}  // namespace

#ifdef VISIONATTN_TILE_TUNE
std::map<std::vector<int64_t>, Launch>* launches_for_tuning = nullptr;
extern "C" __attribute__((visibility("default"))) void tile_force(const int32_t* values) {
  for (int i = 0; i < 7; ++i) forced[i] = values[i];
  if (launches_for_tuning != nullptr) launches_for_tuning->clear();
}
#endif

const Launch& find_launch(const NeighborhoodParams& params, DataType dtype, bool backward, const Kernels& kernels) {
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
    found = launches.emplace(key, Planner(params, dtype, backward, kernels, find_device(device)).plan()).first;
#ifdef VISIONATTN_TILE_TUNE
    if (getenv("TILE_VERBOSE")) {
      const Plan& q = found->second.plan;
      printf(
          "   plan %s: rows %d,%d,%d warps %d,%d,%d stages %d split %d pairs %d columns %d pitch %d lines %d shared %d "
          "blocks %ld chunks "
          "%d\n",
          backward ? "b" : "f", q.rows[0], q.rows[1], q.rows[2], q.warps[0], q.warps[1], q.warps[2], q.stages, q.split,
          q.pairs, q.columns, q.pitch, q.lines, found->second.shared_bytes, long(found->second.blocks), q.chunks);
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
