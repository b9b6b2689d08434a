#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <mutex>
#include <vector>

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

int32_t divide_up(int32_t a, int32_t b) { return (a + b - 1) / b; }

// The most columns that boxes of `size` rows meet along an axis.
template <bool kInverse>
int32_t most_columns(const Axis& axis, int32_t size) {
  constexpr int32_t kExact = 256;  // boxes; beyond them a bound serves
  int32_t most = 0;
  const int32_t longest = group_length(axis, 0), shortest = group_length(axis, min_of(axis.dilation, axis.length) - 1);
  for (const int32_t length : {longest, shortest}) {
    if (divide_up(length, size) > kExact) {
      most = std::max(most, min_of(length, size + 2 * axis.kernel + 2 * axis.stride));
    } else {
      for (int32_t begin = 0; begin < length; begin += size) {
        most = std::max(most, attended<kInverse>(axis, length, {begin, min_of(begin + size, length)}).size());
      }
    }
    if (longest == shortest) break;
  }
  return most;
}

// Fills in what follows from the boxes of rows and warps.
void complete(Plan& plan, const NeighborhoodParams& params, bool backward) {
  int32_t columns = 1, columns_inverse = 1, width = 1, width_inverse = 1;
  for (int a = 0; a < kMaxRank; ++a) {
    const Axis& axis = params.axes[a];
    const int32_t size = plan.rows[a] * plan.warps[a];
    plan.tiles[a] = divide_up(group_length(axis, 0), size);
    plan.groups[a] = min_of(axis.dilation, axis.length);
    columns *= most_columns<false>(axis, size);
    width *= most_columns<false>(axis, plan.rows[a]);
    if (backward) {
      columns_inverse *= most_columns<true>(axis, size);
      width_inverse *= most_columns<true>(axis, plan.rows[a]);
    }
  }
  plan.columns = std::max(columns, backward ? columns_inverse : 0);
  plan.pairs = divide_up(std::max(width, backward ? width_inverse : 0), 16);
}

// Pairs of column blocks of a warp whose rows are queries.
int32_t query_pairs(const Plan& plan, const NeighborhoodParams& params) {
  int32_t width = 1;
  for (int a = 0; a < kMaxRank; ++a) width *= most_columns<false>(params.axes[a], plan.rows[a]);
  return divide_up(width, 16);
}

int32_t shared_bytes(const Plan& plan, int32_t dim, bool backward, bool sums_in_memory) {
  if (!backward) return ForwardLayout(plan, dim * 2).total;
  return std::max(BackwardLayout(plan, dim * 2, false, sums_in_memory).total,
                  BackwardLayout(plan, dim * 2, true, sums_in_memory).total);
}

// Estimated time of a plan, in arbitrary units, from typical (interior) column counts. It weighs what goes through the
// memory system against what the warps compute, and frowns on few warps per multiprocessor.
double estimate(const Plan& plan, const NeighborhoodParams& params, int32_t dim, bool backward, const Device& device) {
  double blocks = 1, boxes = 1, columns = 1, width = 1, rows = 1;
  for (int a = 0; a < kMaxRank; ++a) {
    const Axis& axis = params.axes[a];
    const int32_t length = group_length(axis, 0), size = plan.rows[a] * plan.warps[a];
    const int32_t margin = axis.kernel + axis.stride - 2;
    blocks *= divide_up(length, size);
    boxes *= divide_up(length, plan.rows[a]);
    columns *= min_of(length, size + margin);
    width *= min_of(length, plan.rows[a] + margin);
    rows *= min_of(length, size);
  }
  const double channels = dim / 32.0, pairs = std::ceil(width / 16);
  const double memory = blocks * (2.7 * channels * (2 * rows + 2 * columns) + 200);
  const double compute = boxes * (60 + 30 * pairs * (0.5 + 0.5 * channels));
  const double stage = (2 * columns + (backward ? 2 : 1) * plan.row_count()) * dim * 2;
  const double bytes = stage + plan.row_count() * pairs * 16 * (backward ? 2.5 : 2.5) + 4000;
  const double resident =
      std::min(16.0 / plan.warp_count(), std::floor(device.shared_multiprocessor / bytes)) * plan.warp_count();
  if (resident <= 0) return INFINITY;
  return (std::max(memory, compute) + 0.5 * std::min(memory, compute)) * std::pow(std::max(1.0, 14 / resident), 0.7);
}

#ifdef VISIONATTN_TILE_TUNE
int32_t forced[7];
#endif

Plan search(const NeighborhoodParams& params, int32_t dim, bool backward, int32_t max_warps, const Device& device) {
  int32_t length[kMaxRank];
  for (int a = 0; a < kMaxRank; ++a) length[a] = group_length(params.axes[a], 0);
  Plan best{}, plan{};
  best.stages = plan.stages = 1;
  best.chunks = plan.chunks = 1;
#ifdef VISIONATTN_TILE_TUNE
  if (forced[0] > 0) {
    for (int a = 0; a < kMaxRank; ++a) {
      best.rows[a] = forced[a];
      best.warps[a] = forced[3 + a];
    }
    best.stages = forced[6];
    return best;
  }
#endif
  double lowest = INFINITY;
  for (plan.rows[0] = 1; plan.rows[0] <= min_of(length[0], kRows); ++plan.rows[0]) {
    for (plan.rows[1] = 1; plan.rows[0] * plan.rows[1] <= kRows && plan.rows[1] <= length[1]; ++plan.rows[1]) {
      plan.rows[2] = min_of(kRows / (plan.rows[0] * plan.rows[1]), length[2]);
      int32_t limit[kMaxRank];
      for (int a = 0; a < kMaxRank; ++a) limit[a] = divide_up(length[a], plan.rows[a]);
      for (plan.warps[0] = 1; plan.warps[0] <= min_of(limit[0], max_warps); ++plan.warps[0]) {
        for (plan.warps[1] = 1; plan.warps[0] * plan.warps[1] <= max_warps && plan.warps[1] <= limit[1];
             ++plan.warps[1]) {
          for (plan.warps[2] = 1; plan.warp_count() <= max_warps && plan.warps[2] <= limit[2]; ++plan.warps[2]) {
            const double time = estimate(plan, params, dim, backward, device);
            if (time < lowest) {
              lowest = time;
              best = plan;
            }
          }
        }
      }
    }
  }
  return best;
}

Launch make_launch(const NeighborhoodParams& params, DataType dtype, bool backward, ChooseKernel choose,
                   const Device& device) {
  Launch launch;
  launch.dim = params.dim <= 32 ? 32 : params.dim <= 64 ? 64 : 128;
  const int32_t max_warps = launch.dim == 128 ? 8 : launch.dim == 64 || backward ? 12 : 16;
  Plan plan = search(params, launch.dim, backward, max_warps, device);
  if (plan.rows[0] == 0) return launch;
  complete(plan, params, backward);
  const KernelChoice choice = choose(dtype, launch.dim, query_pairs(plan, params));
  if (choice.kernel == nullptr || plan.warp_count() * 32 > choice.max_threads) return launch;
  if (choice.pairs > 0) {
    plan.pairs = backward ? std::max(plan.pairs, choice.pairs) : divide_up(plan.pairs, choice.pairs) * choice.pairs;
  }
  if (plan.columns > 1023 || plan.pairs > 64) return launch;
  const bool sums_in_memory = choice.pairs == 0;
  launch.shared_bytes = shared_bytes(plan, launch.dim, backward, sums_in_memory);
  if (launch.shared_bytes > device.shared_block) return launch;
  launch.kernel = choice.kernel;
  launch.pairs = choice.pairs;
  launch.threads = plan.warp_count() * 32;
  if (cudaFuncSetAttribute(launch.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, device.shared_block) !=
      cudaSuccess) {
    cudaGetLastError();
    return launch;
  }
  int32_t resident = 0;
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, launch.kernel, launch.threads, launch.shared_bytes);
  if (resident == 0) return launch;

  // Cut the batch so that the blocks fill the device in whole waves; starting a block costs about one batch entry.
  plan.chunks = 1;
  const int64_t places = plan.positions() * params.heads * (backward ? 2 : 1);
  double lowest = INFINITY;
  for (int64_t chunks = 1; chunks <= std::min<int64_t>(params.batch, 1024); ++chunks) {
    const double waves = std::ceil(double(places * chunks) / (double(resident) * device.multiprocessors));
    const double time = waves * (std::ceil(double(params.batch) / chunks) + 1);
    if (time < lowest) {
      lowest = time;
      plan.chunks = static_cast<int32_t>(chunks);
    }
  }
  launch.blocks = places * plan.chunks;
  launch.plan = plan;
  launch.supported = launch.blocks < (int64_t(1) << 31);
  return launch;
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
  std::vector<int64_t> key{device, static_cast<int64_t>(dtype), backward, params.batch, params.heads, params.dim};
  for (const Axis& axis : params.axes) {
    key.insert(key.end(), {axis.length, axis.kernel, axis.stride, axis.dilation, axis.causal});
  }
  const std::lock_guard lock(mutex);
  auto found = launches.find(key);
  if (found == launches.end()) {
    found = launches.emplace(key, make_launch(params, dtype, backward, choose, current_device(device))).first;
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
  return last < (int64_t(1) << 31) - 1024;
}

bool covered(const NeighborhoodParams& params, DataType dtype) {
  return (dtype == DataType::float16 || dtype == DataType::bfloat16) && params.dim == params.dim_value &&
         params.dim % 8 == 0 && params.dim <= 128 && params.additional == 0 && params.scale > 1e-6f &&
         params.scale < 1e6f && params.tokens() < (int64_t(1) << 31);
}

}  // namespace visionattn::tile
