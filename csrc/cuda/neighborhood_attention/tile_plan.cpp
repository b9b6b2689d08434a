// Chooses how to cut a case: enumerates boxes, estimates the time of each choice and keeps the best.
#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "tile_cut.h"
#include "tile_launch.cuh"
#include "tile_layout.cuh"

namespace visionattn::tile {
namespace {

struct Device {
  int32_t multiprocessors = 1, shared_block = 0, shared_multiprocessor = 0;
};

// Called by one thread at a time.
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

class Planner {
 public:
  Planner(const NeighborhoodParams& params, DataType dtype, bool backward, const Kernels& kernels, const Device& device)
      : params_(params), dtype_(dtype), backward_(backward), kernels_(kernels), device_(device) {
    dim_ = params.dim <= 32 ? 32 : params.dim <= 64 ? 64 : 128;
    element_ = size_of(dtype);
    bins_ = params.rpb == nullptr ? 1 : params.rpb_size();
  }

  Launch plan() {
    if (bins_ > 8192) return {};
    for_boxes([this](const Box3& rows, const Box3& warps) {
      consider(rows, warps);
      consider_lines(rows, warps);
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
  int32_t dim_, element_;
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
    constexpr int32_t kMaxWarps = 12;
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
    if (!totals.listable || totals.classes > kMaxClasses || columns * dim_ * element_ > 65536 ||
        std::max(width, width_inverse) > 31 || totals.most_boxes * params_.batch >= (int64_t(1) << 30)) {
      return;
    }
    const KernelChoice choice = kernels_.by_pairs(dtype_, dim_, static_cast<int32_t>(width));
    Launch launch;
    Plan& plan = launch.plan;
    std::copy(rows.begin(), rows.end(), plan.rows);
    std::copy(warps.begin(), warps.end(), plan.warps);
    plan.element = element_;
    plan.columns[0] = static_cast<int32_t>(totals.columns);
    plan.columns[1] = static_cast<int32_t>(totals.columns_inverse);
    plan.pairs = static_cast<int32_t>(std::max(width, backward_ ? width_inverse : 0));
    if (choice.whole) {
      plan.pairs = std::max(plan.pairs, choice.pairs);
    } else if (choice.pairs > 0) {
      plan.pairs = static_cast<int32_t>(divide_up(plan.pairs, choice.pairs)) * choice.pairs;
    }
    launch.dim = dim_;
    launch.kernel = choice.kernel;
    consider_modes(launch, totals, choice, [&] { return unit_instructions(plan, totals, choice); });
  }

  template <typename Instructions>
  void consider_modes(Launch& launch, const Totals& totals, const KernelChoice& choice, Instructions instructions) {
    Plan& plan = launch.plan;
    const int32_t most_teams = element_ == 4 ? 5 : 1;
    for (plan.teams = 1; plan.teams <= most_teams && plan.thread_count() <= choice.threads; ++plan.teams) {
      launch.threads = plan.thread_count();
      for (const int mode : {1, 2, 3}) {
        plan.stages = mode == 2 ? 2 : 1;
        plan.split = mode == 3;
        if (plan.split && (backward_ || !choice.whole)) continue;
        launch.shared_bytes = shared_bytes(plan, choice);
        consider(launch, totals, choice, instructions());
      }
    }
  }

  // Columns in lines, for maps of two axes.
  void consider_lines(const Box3& rows, const Box3& warps) {
    const AxisCut &middle = cut(1, rows[1], warps[1]), &last = cut(2, rows[2], warps[2]);
    const int32_t pairs = static_cast<int32_t>(divide_up(last.extents.warp, 16));
    const int32_t pairs_inverse = static_cast<int32_t>(divide_up(last.inverse.warp, 16));
    if (params_.axes[0].length > 1 || params_.axes[1].kernel == 1 || pairs > 1 || pairs_inverse > 2 ||
        std::max(middle.extents.warp, middle.inverse.warp) > 32) {
      return;
    }
    if (middle.extents.warp * last.extents.warp <= 7 * 16) return;  // listed columns fit into registers
    const KernelChoice choice = kernels_.lined(dtype_, dim_, middle.extents.warp * pairs);
    Totals totals;
    for (int a = 0; a < kMaxRank; ++a) totals.add(cut(a, rows[a], warps[a]));
    if (choice.kernel == nullptr || !totals.listable || totals.classes > kMaxClasses ||
        totals.most_boxes * params_.batch >= (int64_t(1) << 30)) {
      return;
    }
    Launch launch;
    Plan& plan = launch.plan;
    std::copy(rows.begin(), rows.end(), plan.rows);
    std::copy(warps.begin(), warps.end(), plan.warps);
    plan.element = element_;
    plan.columns[0] = middle.extents.block * last.extents.pitch;
    plan.columns[1] = middle.inverse.block * last.inverse.pitch;
    plan.line_pairs[0] = pairs;
    plan.line_pairs[1] = pairs_inverse;
    launch.dim = dim_;
    launch.kernel = choice.kernel;
    if (std::max(plan.columns[0], plan.columns[1]) >= 1 << 15) return;
    consider_modes(launch, totals, choice, [&] { return line_instructions(plan, totals, choice, middle, last); });
  }

  // Boxes of warps with two tiles of rows are twice as high.
  void consider_strips(const Box3& tile_rows, const Box3& warps) {
    if (warps[2] > 1) return;  // all warps share the table
    const KernelChoice choice = kernels_.strip(dtype_, dim_);
    if (choice.kernel == nullptr) return;
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
    plan.element = element_;
    plan.tiles = choice.tiles;
    plan.plain = true;
    plan.stages = 2;
    if (longest > 1024) return;
    plan.pitch = static_cast<int32_t>(divide_up(longest, 16)) * 16;
    launch.dim = dim_;
    launch.kernel = choice.kernel;
    launch.threads = plan.thread_count();
    if (launch.threads > choice.threads) return;
    for (const int64_t bytes : {16384, 24576, 32768, 49152, 65536, 98304}) {
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
    const Plan& plan = launch.plan;
    const bool lined = plan.line_pairs[0] > 0;
    // A block's start takes as long as some of its units, less where they are long or teams share it.
    const double start = plan.plain ? 0.5
                                    : (!backward_      ? 2
                                       : element_ == 2 ? 5
                                                       : 4) *
                                          (lined ? 0.6 : 1) * (1 + 1.0 / plan.teams) / 2;
    const Division division = divide_work(totals, params_.batch, params_.heads * (backward_ ? 2 : 1), resident,
                                          device_.multiprocessors, start, plan.teams, backward_ && element_ == 2);
    // What comes to a single buffer is waited for, if there are no other warps to work meanwhile.
    const int32_t teams = resident * plan.teams;
    const double bytes = lined ? 2.0 * totals.mean_columns * dim_ * element_ : 0;
    const double waiting = plan.stages == 2 ? 0 : bytes / 40 / teams;
    const double time = division.turns * (teams * instructions / rate(plan, totals, teams) + waiting);
    if (time < lowest_) {
      lowest_ = time;
      best_ = launch;
      division_ = division;
    }
  }

  // Instructions per clock cycle: more with more warps, and with more teams that don't wait for each other.
  double rate(const Plan& plan, const Totals& totals, int32_t teams) const {
    constexpr double kAlone[2][5] = {{0, 0.8, 0.9, 0.97, 1}, {0, 0.9, 0.95, 0.97, 1}};
    const double warps = std::min(16.0, totals.warps / totals.blocks * teams);
    if (plan.line_pairs[0] > 0) return 2.2 * std::pow(warps / 16, 0.4);  // long units, and waiting is counted apart
    const double waiting = plan.stages == 2 ? 1 : plan.split || backward_ ? 0.95 : 0.88;
    const double conflicts = plan.warps[2] > 1 ? 0.94 : 1;
    return 2.2 * std::pow(warps / 16, 0.5) * std::pow(std::min(1.0, warps / 6), 0.5) *
           kAlone[backward_ && element_ == 2][min_of(teams, 4)] * waiting * conflicts;
  }

  // Instructions of the warps of a block for one unit, as counted in profiles.
  double unit_instructions(const Plan& plan, const Totals& totals, const KernelChoice& choice) const {
    const double channels = dim_ / 32.0 * (element_ == 4 ? 3 : 1), warps = totals.warps / totals.blocks,
                 rows = plan.row_count();
    const double held = choice.whole ? choice.pairs : plan.pairs;
    if (!backward_) {
      const double copies = 1.2 * channels * (2 * totals.mean_columns + rows) * (plan.split ? 1.25 : 1);
      return warps * (200 + held * (57 + 18 * channels)) + copies + 120;
    }
    const double held_inverse = std::ceil(totals.mean_width_inverse / 16 + 0.5);
    const double copies = 1.2 * channels * (totals.mean_columns + totals.mean_columns_inverse + 2 * rows);
    return warps * (300 + (held + held_inverse) / 2 * (40 + 60 * channels)) + copies + 200;
  }

  double line_instructions(const Plan& plan, const Totals& totals, const KernelChoice& choice, const AxisCut& middle,
                           const AxisCut& last) const {
    const double channels = dim_ / 32.0 * (element_ == 4 ? 3 : 1), warps = totals.warps / totals.blocks,
                 rows = plan.row_count();
    const auto pairs = [&](Extents AxisCut::* e) {
      return (middle.*e).warp_sum / middle.warps * (last.*e).pair_sum / last.warps;
    };
    const auto columns = [&](Extents AxisCut::* e) {
      return (middle.*e).block_sum / middle.blocks * (last.*e).pitch_sum / last.blocks;
    };
    const double held = pairs(&AxisCut::extents), passing = columns(&AxisCut::extents);
    if (!backward_) {
      const double weighed = std::ceil(held / choice.pairs) * choice.pairs;
      return warps * (250 + weighed * (92 + 18 * channels)) + 1.2 * channels * (2 * passing + rows) + 120;
    }
    const double mean = (held + pairs(&AxisCut::inverse)) / 2,
                 mean_passing = (passing + columns(&AxisCut::inverse)) / 2;
    return 1.2 * (warps * (350 + mean * ((bins_ > 1 ? 80 : 74) + 33 * channels)) +
                  2.4 * channels * (mean_passing + rows) + 300);
  }

  double strip_instructions(const Plan& plan, const Totals& totals, const KernelChoice& choice, const AxisCut& first,
                            const AxisCut& middle, const AxisCut& last) const {
    const double channels = dim_ / 32.0 * (element_ == 4 ? 3 : 1), warps = totals.warps / totals.blocks;
    // Pairs of column blocks of a warp, and columns of a block.
    const auto pairs = [&](Extents AxisCut::* e) {
      return (first.*e).warp_sum / first.warps * (middle.*e).warp_sum / middle.warps *
             std::ceil((last.*e).warp_sum / last.warps / 16);
    };
    const auto columns = [&](Extents AxisCut::* e) {
      return (first.*e).block_sum / first.blocks * (middle.*e).block_sum / middle.blocks *
             std::ceil((last.*e).block_sum / last.blocks / 16) * 16;
    };
    // Pairs are taken some at a time, and the warps wait for each other at every strip.
    const double strip_pairs = plan.lines * plan.pitch / 16.0;
    const double waste = std::ceil(strip_pairs / choice.pairs) * choice.pairs / strip_pairs;
    const auto strips = [&](double passing) { return std::ceil(passing / (double(plan.lines) * plan.pitch)); };
    const double held = pairs(&AxisCut::extents) * waste, passing = columns(&AxisCut::extents);
    if (!backward_) {
      return 1.2 * (warps * (300 + held * (60 + (55 + 27 * channels) * choice.tiles) + strips(passing) * 150) +
                    passing * 2 * channels + 1500);
    }
    const double held_inverse = pairs(&AxisCut::inverse) * waste, passing_inverse = columns(&AxisCut::inverse);
    const double mean = (held + held_inverse) / 2, mean_passing = (passing + passing_inverse) / 2;
    return 1.6 * (warps * (500 + mean * ((bins_ > 1 ? 130 : 100) + 60 * channels) + strips(mean_passing) * 150) +
                  mean_passing * 2 * channels + 2000);
  }

  int32_t shared_bytes(const Plan& plan, const KernelChoice& choice) const {
    const int32_t bins = static_cast<int32_t>(bins_), distances = line_distances(params_);
    if (!backward_) return ForwardLayout(plan, dim_ * element_, bins, distances).total;
    return std::max(BackwardLayout(plan, dim_ * element_, bins, distances, false, choice.pairs == 0).total,
                    BackwardLayout(plan, dim_ * element_, bins, distances, true, choice.pairs == 0).total);
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
    cudaFuncAttributes attributes{};
    best_.overlaps = cudaFuncGetAttributes(&attributes, best_.kernel) == cudaSuccess && attributes.ptxVersion >= 90;
    best_.supported = best_.blocks < (int64_t(1) << 31) &&
                      cudaFuncSetAttribute(best_.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           device_.shared_block) == cudaSuccess;
    return best_;
  }
};

}  // namespace

Launch plan_launch(const NeighborhoodParams& params, DataType dtype, bool backward, const Kernels& kernels,
                   int device) {
  return Planner(params, dtype, backward, kernels, find_device(device)).plan();
}

}  // namespace visionattn::tile
