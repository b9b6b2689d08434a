#include "wgmma_plan.cuh"

#include <algorithm>
#include <compare>
#include <map>
#include <mutex>
#include <vector>

namespace visionattn::wgmma {
namespace {

constexpr int32_t kMaxKernel = (1 << 15) - 2 * kTileRows;  // positions of columns take 15 bits

// Share of the time of a box of columns that both warpgroups spend if only one of them needs it.
constexpr double kCopying = 0.25;

// Sums over the tiles of an axis, by the extent of the boxes of columns.
class AxisCosts {
 public:
  AxisCosts(const Axis& axis, bool inverse, int32_t tile, int32_t largest_box)
      : boxes_(largest_box + 1), half_boxes_(largest_box + 1) {
    const int32_t length = axis.length / axis.dilation;
    const auto columns = [&](int32_t begin, int32_t end) {
      const Interval rows{begin, min_of(end, length)};
      if (rows.size() <= 0) return Interval{0, 0};
      return inverse ? met<true>(axis, length, rows) : met<false>(axis, length, rows);
    };
    struct Pattern {
      int32_t begin, middle[2], end;  // what both halves of a tile meet, and where the first ends and the second begins
      auto operator<=>(const Pattern&) const = default;
    };
    std::map<Pattern, int32_t> patterns;  // how often
    for (int32_t begin = 0; begin < length; begin += tile, ++tiles_) {
      const Interval all = columns(begin, begin + tile), first = columns(begin, begin + tile / 2);
      const Interval second = columns(begin + tile / 2, begin + tile);
      const bool halved = tile > 1 && second.size() > 0;
      ++patterns[{0,
                  {halved ? first.end - all.begin : all.size(), halved ? second.begin - all.begin : all.size()},
                  all.size()}];
      widest_ = std::max(widest_, all.size());
    }
    for (int32_t box = 1; box <= largest_box; ++box) {
      const auto up = [box](int32_t position) { return (position + box - 1) / box; };
      for (const auto& [pattern, count] : patterns) {
        boxes_[box] += int64_t(count) * up(pattern.end);
        half_boxes_[box] += int64_t(count) * (up(pattern.middle[0]) + up(pattern.end) - pattern.middle[1] / box);
      }
    }
  }

  int32_t tiles() const { return tiles_; }
  int32_t widest() const { return widest_; }
  // Boxes of columns that tiles meet.
  double boxes(int32_t extent) const { return static_cast<double>(boxes_[extent]); }
  // The same of halves of tiles.
  double half_boxes(int32_t extent) const { return static_cast<double>(half_boxes_[extent]); }

 private:
  std::vector<int64_t> boxes_, half_boxes_;
  int32_t tiles_ = 0, widest_ = 1;
};

Cut cut_case(const NeighborhoodParams& params, bool inverse, int32_t box_columns) {
  std::vector<AxisCosts> costs[kMaxRank];  // by the logarithm of the tile
  double needed = 1;                       // products of a row and a column
  for (int a = 0; a < kMaxRank; ++a) {
    const Axis& axis = params.axes[a];
    const int32_t length = axis.length / axis.dilation;
    for (int32_t tile = 1; tile <= kTileRows; tile *= 2) {
      costs[a].emplace_back(axis, inverse, tile, box_columns);
      if (tile >= length) break;
    }
    int64_t sum = 0;
    for (int32_t row = 0; row < length; ++row) sum += window(axis, length, row).size();
    needed *= static_cast<double>(sum);
  }
  Cut best;
  double lowest = 0;
  for (size_t i = 0; i < costs[0].size(); ++i) {
    for (size_t j = 0; j < costs[1].size(); ++j) {
      for (size_t k = 0; k < costs[2].size(); ++k) {
        if (1 << (i + j + k) > kTileRows) continue;
        const AxisCosts &first = costs[0][i], &middle = costs[1][j], &last = costs[2][k];
        const bool halved = 1 << (i + j + k) == kTileRows;  // along the first axis that isn't 1
        for (int32_t x = 1; x <= std::min(box_columns, last.widest()); ++x) {
          for (int32_t y = 1; y <= std::min(box_columns / x, middle.widest()); ++y) {
            const int32_t z = std::min(box_columns / (x * y), first.widest());
            const double boxes = first.boxes(z) * middle.boxes(y) * last.boxes(x);
            double group_boxes = 2 * boxes;  // of warpgroups
            if (halved && i > 0) {
              group_boxes = first.half_boxes(z) * middle.boxes(y) * last.boxes(x);
            } else if (halved && j > 0) {
              group_boxes = first.boxes(z) * middle.half_boxes(y) * last.boxes(x);
            } else if (halved) {
              group_boxes = first.boxes(z) * middle.boxes(y) * last.half_boxes(x);
            }
            const double cost = kCopying * boxes + (1 - kCopying) * group_boxes / 2;
            if (best.tiles > 0 && cost >= lowest) continue;
            lowest = cost;
            best.plan = {{1 << i, 1 << j, 1 << k}, {z, y, x}, {first.tiles(), middle.tiles(), last.tiles()}};
            best.tiles = int64_t(first.tiles()) * middle.tiles() * last.tiles();
          }
        }
      }
    }
  }
  for (const Axis& axis : params.axes) best.tiles *= axis.dilation;
  best.efficiency = needed / (lowest * kTileRows * box_columns);
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

bool worthwhile(const Cut& cut) { return cut.efficiency > 0.3; }

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
