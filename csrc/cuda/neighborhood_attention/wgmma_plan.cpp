#include "wgmma_plan.cuh"

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <vector>

namespace visionattn::wgmma {
namespace {

constexpr int32_t kMaxKernel = (1 << 15) - 2 * kTileRows;  // positions of columns take 15 bits

// Share of the time of a box of columns that is spent even on a warpgroup that doesn't need it.
constexpr double kCopying = 0.25;

// Sums over the tiles of an axis, by the extent of the boxes of columns.
class AxisCosts {
 public:
  AxisCosts(const Axis& axis, bool inverse, int32_t tile, int32_t largest_box)
      : tile_(tile), boxes_(largest_box + 1), group_boxes_(largest_box + 1) {
    const int32_t length = axis.length / axis.dilation;
    const auto columns = [&](int32_t begin, int32_t end) {
      const Interval rows{begin, min_of(end, length)};
      if (rows.size() <= 0) return Interval{0, 0};
      return inverse ? met<true>(axis, length, rows) : met<false>(axis, length, rows);
    };
    // What a tile meets, then what its parts of equal size do, from the first column on; and how often.
    std::map<std::array<int32_t, 1 + 2 * kGroups>, int32_t> patterns;
    for (int32_t begin = 0; begin < length; begin += tile, ++tiles_) {
      const Interval all = columns(begin, begin + tile);
      std::array<int32_t, 1 + 2 * kGroups> pattern{all.size()};
      for (int32_t g = 0; tile % kGroups == 0 && g < kGroups; ++g) {
        const Interval part = columns(begin + tile / kGroups * g, begin + tile / kGroups * (g + 1));
        if (part.size() == 0) continue;
        pattern[1 + 2 * g] = part.begin - all.begin;
        pattern[2 + 2 * g] = part.end - all.begin;
      }
      ++patterns[pattern];
      widest_ = std::max(widest_, all.size());
    }
    for (int32_t box = 1; box <= largest_box; ++box) {
      const auto up = [box](int32_t position) { return (position + box - 1) / box; };
      for (const auto& [pattern, count] : patterns) {
        boxes_[box] += int64_t(count) * up(pattern[0]);
        for (int32_t g = 0; g < kGroups; ++g) {
          group_boxes_[box] += int64_t(count) * (up(pattern[2 + 2 * g]) - pattern[1 + 2 * g] / box);
        }
      }
    }
  }

  int32_t tile() const { return tile_; }
  int32_t tiles() const { return tiles_; }
  int32_t widest() const { return widest_; }
  // Boxes of columns that tiles meet, and that their parts do.
  double boxes(int32_t extent) const { return static_cast<double>(boxes_[extent]); }
  double group_boxes(int32_t extent) const { return static_cast<double>(group_boxes_[extent]); }

 private:
  int32_t tile_;
  std::vector<int64_t> boxes_, group_boxes_;
  int32_t tiles_ = 0, widest_ = 1;
};

Cut cut_case(const NeighborhoodParams& params, bool inverse, int32_t box_columns) {
  std::vector<AxisCosts> costs[kMaxRank];
  for (int a = 0; a < kMaxRank; ++a) {
    const int32_t length = params.axes[a].length / params.axes[a].dilation;
    for (int32_t tile = 1; tile <= kTileRows; tile *= 2) {
      costs[a].emplace_back(params.axes[a], inverse, tile, box_columns);
      if (tile >= length) break;
    }
  }
  Cut best;
  for (const AxisCosts& first : costs[0]) {
    for (const AxisCosts& middle : costs[1]) {
      for (const AxisCosts& last : costs[2]) {
        const int32_t tokens = first.tile() * middle.tile() * last.tile();
        if (tokens > kTileRows) continue;
        // A tile that is full is cut into the warpgroups' parts along its first axis.
        const AxisCosts& parted = first.tile() > 1 ? first : middle.tile() > 1 ? middle : last;
        const bool even = tokens == kTileRows;
        for (int32_t x = 1; x <= std::min(box_columns, last.widest()); ++x) {
          for (int32_t y = 1; y <= std::min(box_columns / x, middle.widest()); ++y) {
            const int32_t z = std::min(box_columns / (x * y), first.widest());
            const double boxes = first.boxes(z) * middle.boxes(y) * last.boxes(x);
            double group_boxes = kGroups * boxes;
            if (even) {
              const int32_t extent = &parted == &first ? z : &parted == &middle ? y : x;
              group_boxes = boxes / parted.boxes(extent) * parted.group_boxes(extent);
            }
            const double cost = kCopying * boxes + (1 - kCopying) * group_boxes / kGroups;
            if (best.tiles > 0 && cost >= best.boxes) continue;
            best.boxes = cost;
            best.plan = {
                {first.tile(), middle.tile(), last.tile()}, {z, y, x}, {first.tiles(), middle.tiles(), last.tiles()}};
            best.tiles = int64_t(first.tiles()) * middle.tiles() * last.tiles();
          }
        }
      }
    }
  }
  best.boxes /= static_cast<double>(best.tiles);
  for (const Axis& axis : params.axes) best.tiles *= axis.dilation;
  return best;
}

using Encode = decltype(&cuTensorMapEncodeTiled);

Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result;
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result);
  return error == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(function) : nullptr;
}

// `channels`: of all heads; `piece`: so many are copied at a time.
bool encode_map(CUtensorMap& map, CUtensorMapDataType type, int64_t element_bytes, const NeighborhoodParams& params,
                const View& view, int64_t channels, int64_t batch, uint32_t piece, CUtensorMapSwizzle swizzle,
                const int32_t (&extents)[kMaxRank]) {
  static const Encode encode = find_encode();
  if (encode == nullptr) return false;
  constexpr cuuint32_t kRank = kMaxRank + 2;
  constexpr int64_t kAlignment = 16, kLimit = int64_t(1) << 31;
  cuuint64_t sizes[kRank], strides[kRank - 1];
  cuuint32_t box[kRank] = {piece, 1, 1, 1, 1}, steps[kRank] = {1, 1, 1, 1, 1};
  int64_t first_axis = channels;
  for (int a = 0; a < kMaxRank; ++a) {
    const Axis& axis = params.axes[a];
    const int dimension = kMaxRank - a;
    first_axis += (axis.dilation - 1) * view.spatial[a];
    sizes[dimension] = axis.length / axis.dilation;
    strides[dimension - 1] = sizes[dimension] == 1 ? kAlignment : view.spatial[a] * axis.dilation * element_bytes;
    box[dimension] = extents[a];
  }
  if (first_axis < piece || first_axis >= kLimit) return false;
  sizes[0] = first_axis;
  sizes[kRank - 1] = batch;
  strides[kRank - 2] = batch == 1 ? kAlignment : view.batch * element_bytes;
  return encode(&map, type, kRank, view.data, sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace

bool covered(const NeighborhoodParams& params, const void* kernel) {
  if (params.rpb != nullptr || params.additional > 0 || params.dim != params.dim_value || !(params.scale > 1e-6) ||
      params.scale > 1e6) {
    return false;
  }
  for (const Axis& axis : params.axes) {
    if (axis.length % axis.dilation != 0 || axis.length < axis.dilation) return false;
    if (axis.kernel > kMaxKernel && axis.length / axis.dilation > kMaxKernel) return false;
  }
  // The body of the kernel, if there is one for this device, has static shared memory.
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  return attributes.sharedSizeBytes > 0;
}

uint32_t multiprocessors() {
  int device = 0, count = 1;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

const Cut& find_cut(const NeighborhoodParams& params, bool inverse, int32_t box_columns) {
  static std::mutex mutex;
  static std::map<std::vector<int32_t>, Cut> cuts;
  std::vector<int32_t> key{inverse, box_columns};
  for (const Axis& axis : params.axes) {
    key.insert(key.end(), {axis.length, axis.kernel, axis.stride, axis.dilation, axis.causal});
  }
  const std::lock_guard lock(mutex);
  auto found = cuts.find(key);
  if (found == cuts.end()) found = cuts.emplace(key, cut_case(params, inverse, box_columns)).first;
  return found->second;
}

bool aligned(const View& view) {
  bool result = reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.batch % 8 == 0 && view.head % 8 == 0;
  for (const int64_t stride : view.spatial) result = result && stride % 8 == 0;
  return result;
}

bool make_map(CUtensorMap& map, const NeighborhoodParams& params, const View& view, int32_t heads, bool half,
              const int32_t (&extents)[kMaxRank]) {
  const int64_t channels = params.dim + (heads - 1) * view.head;
  return encode_map(map, half ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, params, view,
                    channels, params.batch, kPieceChannels, CU_TENSOR_MAP_SWIZZLE_128B, extents);
}

bool make_statistics_map(CUtensorMap& map, const NeighborhoodParams& params, const View& view,
                         const int32_t (&extents)[kMaxRank]) {
  return encode_map(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4, params, view, kStatistics, params.batch * params.heads,
                    kStatistics, CU_TENSOR_MAP_SWIZZLE_NONE, extents);
}

}  // namespace visionattn::wgmma
