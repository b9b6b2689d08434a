// How an axis is cut into boxes, which of the boxes look alike, and how the work is divided among blocks. Host only.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "tile_plan.cuh"

namespace visionattn::tile {

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether the rows of two full boxes meet columns equally far from them.
inline bool alike(const Axis& axis, int32_t length, int32_t begin, int32_t other, int32_t size, bool inverse) {
  if (begin + size > length || other + size > length) return false;
  for (int32_t i = 0; i < size; ++i) {
    const Interval a = attended(axis, length, begin + i, inverse), b = attended(axis, length, other + i, inverse);
    if (a.begin - begin != b.begin - other || a.end - begin != b.end - other) return false;
  }
  return true;
}

// How many columns boxes along an axis meet, boxes of a block and boxes of a warp: the most and the sum. The pitch is
// that of a line, and pairs are a warp's on a line, if lines go along the axis.
struct Extents {
  int32_t block = 0, warp = 0, pitch = 0;
  double block_sum = 0, warp_sum = 0, pitch_sum = 0, pair_sum = 0;

  void add(const Axis& axis, int32_t length, Interval rows, int32_t warp_rows, double count, bool inverse) {
    const Interval columns = attended(axis, length, rows, inverse);
    const int32_t line = line_pitch(columns);
    block = std::max(block, columns.size());
    block_sum += columns.size() * count;
    pitch = std::max(pitch, line);
    pitch_sum += line * count;
    for (int32_t begin = rows.begin; begin < rows.end; begin += warp_rows) {
      const Interval warp_box{begin, min_of(begin + warp_rows, rows.end)};
      const int32_t width = attended(axis, length, warp_box, inverse).size();
      warp = std::max(warp, width);
      warp_sum += width * count;
      pair_sum += (width + 15) / 16 * count;
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

inline AxisCut cut_axis(const Axis& axis, int32_t warp_rows, int32_t warps, bool backward) {
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
      while (next * size < length && alike(axis, length, begin, next * size, size, false) &&
             (!backward || alike(axis, length, begin, next * size, size, true))) {
        next = begin >= border && next < far ? far : next + 1;
      }
      const Interval rows{begin, min_of(begin + size, length)};
      const double count = double(next - tile) * (end - group);
      cut.extents.add(axis, length, rows, warp_rows, count, false);
      if (backward) cut.inverse.add(axis, length, rows, warp_rows, count, true);
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
  bool listable = true;                    // the classes fit the lists of a plan
  std::vector<int64_t> class_boxes = {1};  // boxes of each class, if they fit

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
    listable = listable && cut.classes.size() <= kMaxAxisClasses && classes <= kMaxClasses;
    mean_width_inverse *= cut.inverse.warp_sum / cut.warps;
    int64_t along = 0;
    for (const AxisClass& c : cut.classes) along = std::max(along, int64_t(c.tiles) * c.groups);
    most_boxes *= along;
    if (!listable) return;
    std::vector<int64_t> product;
    for (const int64_t boxes : class_boxes) {
      for (const AxisClass& c : cut.classes) product.push_back(boxes * c.tiles * c.groups);
    }
    class_boxes = std::move(product);
  }
};

// Deals the boxes of every class out to blocks, at most `most` to each. Returns the blocks of a head and a chunk.
inline int64_t deal_boxes(Plan& plan, int64_t most) {
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

// Blocks should fill the device, `resident` at a time on each of its multiprocessors, in one wave or else be many;
// starting one takes `start` turns, and its teams work on a unit each. There are `copies` of each block. If blocks are
// `uneven`, as the two roles of a backward pass are, more waves even them out.
inline Division divide_work(const Totals& totals, int64_t batch, int64_t copies, int64_t resident,
                            int64_t multiprocessors, double start, int64_t teams, bool uneven) {
  const int64_t slots = resident * multiprocessors;
  Division best;
  const auto consider = [&](int64_t most, int64_t chunks) {
    double blocks = totals.blocks;
    if (most > 1) {
      blocks = 0;
      for (const int64_t boxes : totals.class_boxes) blocks += double(divide_up(boxes, most));
    }
    blocks *= chunks * copies;
    const double turns = double(divide_up(divide_up(batch, chunks) * most, teams)) + start;
    const double waves = blocks / slots;
    double time = uneven ? 1.1 * turns : turns;
    if (waves > 1 && most == 1) time = turns * (std::ceil(waves) + waves + (uneven ? 0 : 0.5)) / 2;
    if (waves > 1 && most > 1) {
      // Blocks of classes with few boxes are shorter, and fill gaps.
      const double work = totals.blocks * copies * batch / teams + blocks * start;
      time = std::max(time, work / slots + (uneven ? 0.3 : 0.6) * turns);
    }
    if (time < best.turns) best = {most, chunks, blocks, time};
  };
  for (int64_t chunks = 1; chunks <= std::min<int64_t>(batch, 256); ++chunks) consider(1, chunks);
  for (int64_t most = 2; most <= std::min<int64_t>(totals.most_boxes, 128); most += 1 + most / 8) consider(most, 1);
  return best;
}

}  // namespace visionattn::tile
